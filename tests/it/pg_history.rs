//! Marks move forward, under their slot's epoch alone; baselines are what is stored, digit for digit.

use mahspeccy_bridge::domain::fence::{Fence, HistoryMark};
use mahspeccy_bridge::domain::ids::PositionId;
use mahspeccy_bridge::domain::ledger::{LastSeen, Positions};
use mahspeccy_bridge::domain::row::{AccountRow, RowContent};
use mahspeccy_bridge::domain::status::Status;
use mahspeccy_bridge::pg::history::{Baseline, MarkReport, baselines, mark};
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::pg_rows::{account, dec, full_of, one, position, row, sessions, state, written};
use crate::pg_support::{claim, key, lease, migrated};

const USER: &str = "lance@lwk.space";
const EARLY: OffsetDateTime = datetime!(2026-11-23 05:42:00.000123 UTC);
const LATE: OffsetDateTime = datetime!(2026-11-23 05:43:00 UTC);

fn of(account: i64, epoch: i64, through: OffsetDateTime) -> HistoryMark {
    HistoryMark {
        fence: Fence::new(&key(USER, account), epoch),
        through,
    }
}

async fn marks(conn: &mut PgConnection) -> Vec<(i64, OffsetDateTime)> {
    sqlx::query_as("select account_id, through from bridge.history order by user_id, account_id")
        .fetch_all(conn)
        .await
        .expect("marks")
}

#[tokio::test]
async fn a_mark_only_moves_forward() {
    let database = migrated().await;
    let _lock = claim(&database, "a", &[USER]).await;
    let mut conn = lease(&database).await;
    let all = |marked| MarkReport { marked, fenced: 0 };
    assert_eq!(mark(&mut conn, &[]).await.expect("none"), all(0));
    for (through, expected) in [(EARLY, EARLY), (LATE, LATE), (EARLY, LATE), (LATE, LATE)] {
        let report = mark(&mut conn, &[of(1, 1, through)]).await.expect("a mark");
        assert_eq!(report, all(1));
        assert_eq!(marks(&mut conn).await, [(1, expected)]);
    }
}

#[tokio::test]
async fn of_several_marks_of_a_session_the_latest_counts() {
    let database = migrated().await;
    let _lock = claim(&database, "a", &[USER]).await;
    let mut conn = lease(&database).await;
    let batch = [
        of(1, 1, EARLY),
        of(2, 1, EARLY),
        of(1, 1, LATE),
        of(1, 1, EARLY),
    ];
    for _ in 0..2 {
        let report = mark(&mut conn, &batch).await.expect("marks");
        let expected = MarkReport {
            marked: 4,
            fenced: 0,
        };
        assert_eq!(report, expected);
        assert_eq!(marks(&mut conn).await, [(1, LATE), (2, EARLY)]);
    }
}

#[tokio::test]
async fn a_mark_of_a_lost_slot_is_left_to_the_new_owner() {
    let database = migrated().await;
    let _lock = claim(&database, "a", &[USER]).await;
    let mut conn = lease(&database).await;
    mark(&mut conn, &[of(1, 1, EARLY)]).await.expect("a mark");
    sqlx::raw_sql("update bridge.slots set epoch = epoch + 1")
        .execute(&mut *conn)
        .await
        .expect("epochs");
    let batch = [of(1, 1, LATE), of(3, 1, LATE), of(2, 2, LATE)];
    let report = mark(&mut conn, &batch).await.expect("marks");
    assert_eq!(
        report,
        MarkReport {
            marked: 1,
            fenced: 2
        }
    );
    assert_eq!(marks(&mut conn).await, [(1, EARLY), (2, LATE)]);
}

#[tokio::test]
async fn a_baseline_is_what_is_stored_of_a_session() {
    let (database, lance) = one().await;
    let stated = key(USER, 2);
    sessions(database.pool(), std::slice::from_ref(&stated)).await;
    let account = AccountRow {
        balance: dec("90071992547409930.10"),
        balance_version: Some(9_007_199_254_740_993),
        positions: vec![position(9_007_199_254_740_993), position(2)],
        ..account()
    };
    let writes = [
        row(&lance, 1, 1, full_of(account)),
        row(&stated, 1, 1, RowContent::State(state(Status::Connecting))),
    ];
    assert_eq!(written(&database, &writes).await.changed, 2);
    let mut conn = lease(&database).await;
    let only_marked = of(3, 1, LATE);
    let both = HistoryMark {
        fence: Fence::new(&lance, 1),
        through: EARLY,
    };
    mark(&mut conn, &[only_marked.clone(), both])
        .await
        .expect("marks");

    // The same account of another user, and the other way round, are other sessions.
    let unknown = [key("other@lwk.space", 5_150_705), key(USER, 4)];
    let keys = [
        unknown[0].clone(),
        only_marked.fence.key.clone(),
        lance.clone(),
        stated.clone(),
        unknown[1].clone(),
        lance.clone(),
    ];
    let empty = |key| Baseline {
        key,
        through: None,
        last_seen: LastSeen::default(),
    };
    let known = Baseline {
        key: lance,
        through: Some(EARLY),
        last_seen: LastSeen {
            version: Some(9_007_199_254_740_993),
            positions: Some(Positions::from_iter([
                (PositionId(9_007_199_254_740_993), Some(dec("100000"))),
                (PositionId(2), Some(dec("100000"))),
            ])),
        },
    };
    let [first, last] = unknown;
    assert_eq!(
        baselines(&mut conn, &keys).await.expect("baselines"),
        [
            empty(first),
            Baseline {
                through: Some(LATE),
                ..empty(only_marked.fence.key)
            },
            known.clone(),
            empty(stated),
            empty(last),
            known,
        ]
    );
    assert_eq!(baselines(&mut conn, &[]).await.expect("none"), []);
}

#[tokio::test]
async fn what_no_bridge_wrote_counts_as_absent() {
    let (database, lance) = one().await;
    let writes = [row(&lance, 1, 1, full_of(account()))];
    assert_eq!(written(&database, &writes).await.changed, 1);
    let mut conn = lease(&database).await;
    let seven = |volume| Positions::from_iter([(PositionId(7), volume)]);
    for (positions, expected) in [
        ("null", Positions::new()),
        ("7", Positions::new()),
        (r#"{"positionId": "7"}"#, Positions::new()),
        (
            r#"[null, 7, "7", [], {}, {"positionId": null}, {"positionId": "seven"}]"#,
            Positions::new(),
        ),
        (
            r#"[{"positionId": "99999999999999999999"}, {"positionId": "7"}]"#,
            seven(None),
        ),
        (r#"[{"positionId": "7", "volume": "much"}]"#, seven(None)),
        (
            r#"[{"positionId": "7", "volume": 10000.50}]"#,
            seven(Some(dec("10000.5"))),
        ),
    ] {
        for (balance, version) in [
            (Some("0.00"), Some(7)),
            (Some("100"), None),
            (None, Some(7)),
        ] {
            sqlx::query(
                "update public.ctrader_cache
                set positions = $1::jsonb, balance = $2::numeric, balance_version = $3",
            )
            .bind(positions)
            .bind(balance)
            .bind(version)
            .execute(&mut *conn)
            .await
            .expect("a row");
            let found = baselines(&mut conn, std::slice::from_ref(&lance))
                .await
                .expect("a baseline");
            let expected = Baseline {
                key: lance.clone(),
                through: None,
                last_seen: LastSeen {
                    version,
                    positions: balance.map(|_| expected.clone()),
                },
            };
            assert_eq!(found, [expected], "{positions} {balance:?}");
        }
    }
}
