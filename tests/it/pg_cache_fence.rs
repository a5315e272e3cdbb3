//! A worker that has lost its slot changes nothing any more, wherever it was when it lost it.

use std::time::Duration;

use mahspeccy_bridge::domain::ids::Slot;
use mahspeccy_bridge::domain::row::RowContent;
use mahspeccy_bridge::domain::status::Status;
use mahspeccy_bridge::pg::cache::write;
use sqlx::postgres::{PgConnection, PgPool};

use crate::pg_rows::{account, batch, counts, full, many, one, row, state, text, written};
use crate::pg_support::{claim, lease, soon, user};
use crate::support::wait::eventually;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_write_behind_the_fence_changes_no_row() {
    let (database, key) = one().await;
    let contents = || {
        [
            full(),
            RowContent::State(state(Status::Failed)),
            RowContent::Heartbeat,
        ]
    };
    written(&database, &[row(&key, 1, 5, full())]).await;
    let all = "select (to_jsonb(c))::text || (select to_jsonb(s) from bridge.sessions s)::text from ctrader_cache c";
    let before = text(database.pool(), all).await;

    for content in contents() {
        for seq in [4, 5] {
            let report = written(&database, &[row(&key, 1, seq, content.clone())]).await;
            assert_eq!(counts(&report), (0, 0, 0, 1, 0), "{content:?}");
        }
    }
    // An epoch that is not the slot's, too low or (never seen) too high.
    for epoch in [0, 2] {
        for content in contents() {
            let report = written(&database, &[row(&key, epoch, 9, content)]).await;
            assert_eq!(counts(&report), (0, 0, 1, 0, 0));
            assert_eq!(report.fenced, std::slice::from_ref(&key));
        }
    }
    assert_eq!(text(database.pool(), all).await, before);

    // A new owner: the old one is fenced, and the new one counts from wherever it likes.
    claim(&database, "b", &["lance@lwk.space"])
        .await
        .close()
        .await
        .expect("a farewell");
    for content in contents() {
        let report = written(&database, &[row(&key, 1, 99, content)]).await;
        assert_eq!(counts(&report), (0, 0, 1, 0, 0));
    }
    assert_eq!(text(database.pool(), all).await, before);
    let report = written(&database, &[row(&key, 2, 1, full())]).await;
    assert_eq!(counts(&report), (1, 0, 0, 0, 0));
}

#[tokio::test]
async fn a_session_that_is_gone_is_not_written() {
    let (database, key) = one().await;
    sqlx::raw_sql("delete from bridge.sessions")
        .execute(database.pool())
        .await
        .expect("gone");
    let writes = [row(&key, 1, 1, full())];
    assert_eq!(counts(&written(&database, &writes).await), (0, 0, 0, 0, 1));
    let writes = [row(&key, 1, 1, RowContent::State(state(Status::Failed)))];
    assert_eq!(counts(&written(&database, &writes).await), (0, 0, 0, 0, 1));
}

#[tokio::test]
async fn a_slot_is_that_of_the_write() {
    let (database, key) = one().await;
    let other = Slot((key.user.slot().0 + 1) % 1024);
    let mut write = row(&key, 1, 1, full());
    write.fence.slot = other;
    assert_eq!(counts(&written(&database, &[write]).await), (0, 0, 1, 0, 0));
    assert_eq!(user("lance@lwk.space").slot(), key.user.slot());
}

async fn backend(conn: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(conn)
        .await
        .expect("a pid")
}

async fn blocked(pool: &PgPool, pid: i32) {
    eventually("the writer to stand in line", DEADLINE, async || {
        sqlx::query_scalar::<_, bool>("select cardinality(pg_blocking_pids($1)) > 0")
            .bind(pid)
            .fetch_one(pool)
            .await
            .expect("the row")
    })
    .await;
}

/// The old owner's statement has begun, and seen its epoch, when the slot changes hands.
#[tokio::test]
async fn an_owner_that_loses_its_slot_in_the_middle_of_a_write_does_not_tell_its_state() {
    for new_owner_wrote in [false, true] {
        let (database, key) = one().await;
        written(&database, &[row(&key, 1, 1, full())]).await;
        let mut holder = database.pool().begin().await.expect("a transaction");
        sqlx::raw_sql("select 1 from ctrader_cache for update")
            .execute(&mut *holder)
            .await
            .expect("a lock");

        let mut old = lease(&database).await;
        let pid = backend(&mut old).await;
        let writes = vec![row(&key, 1, 2, RowContent::State(state(Status::Stopped)))];
        let late = tokio::spawn(async move { write(&mut old, &writes, "a").await });
        blocked(database.pool(), pid).await;

        let lock = soon("the claim", claim(&database, "b", &["lance@lwk.space"])).await;
        assert_eq!(lock.held().values().copied().collect::<Vec<_>>(), [2]);
        sqlx::raw_sql("update bridge.sessions set status = 'connecting', worker_id = 'b'")
            .execute(database.pool())
            .await
            .expect("the new owner's state");
        if new_owner_wrote {
            sqlx::raw_sql("update ctrader_cache set epoch = 2, seq = 1, status = 'connecting'")
                .execute(&mut *holder)
                .await
                .expect("the new owner's row");
        }
        holder.commit().await.expect("a commit");

        let report = soon("the late write", late).await.expect("no panic");
        let told = "select status || ' ' || worker_id from bridge.sessions";
        assert_eq!(text(database.pool(), told).await, "connecting b");
        if new_owner_wrote {
            assert_eq!(counts(&report), (0, 0, 1, 0, 0));
            let shown = "select status || ' ' || epoch from ctrader_cache";
            assert_eq!(text(database.pool(), shown).await, "connecting 2");
        } else {
            // The row still has epoch 1: whatever the new owner writes is above it.
            let report = written(&database, &[row(&key, 2, 1, full())]).await;
            assert_eq!(counts(&report), (1, 0, 0, 0, 0));
        }
    }
}

/// The state is being published when the slot is to change hands: the new owner waits for that moment.
#[tokio::test]
async fn a_new_owner_comes_after_a_state_that_is_being_told() {
    let (database, key) = one().await;
    written(&database, &[row(&key, 1, 1, full())]).await;
    let mut old = lease(&database).await;
    sqlx::raw_sql("begin")
        .execute(&mut *old)
        .await
        .expect("a transaction");
    let writes = [row(&key, 1, 2, RowContent::State(state(Status::Stopped)))];
    let report = write(&mut old, &writes, "a").await;
    assert_eq!(counts(&report), (1, 0, 0, 0, 0));
    let pool = database.pool().clone();
    let database = std::sync::Arc::new(database);
    let claiming = tokio::spawn({
        let database = std::sync::Arc::clone(&database);
        async move {
            claim(&database, "b", &["lance@lwk.space"])
                .await
                .held()
                .len()
        }
    });
    eventually("the claim to stand in line", DEADLINE, async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database()
            and wait_event_type = 'Lock' and query like '-- claims.begin_epochs%'",
        )
        .fetch_one(&pool)
        .await
        .expect("the row");
        waiting == 1
    })
    .await;
    sqlx::raw_sql("commit")
        .execute(&mut *old)
        .await
        .expect("a commit");
    assert_eq!(soon("the claim", claiming).await.expect("no panic"), 1);
}

#[tokio::test]
async fn owners_that_write_at_once_leave_one_of_them_in_the_row() {
    let (database, keys) = many(60).await;
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..3_i64 {
        let keys = keys.clone();
        let mut conn = lease(&database).await;
        tasks.spawn(async move {
            for seq in 0..10 {
                // Two share an epoch here, which claims forbid: even then no row goes backwards.
                let writes = batch(&keys, seq * 3 + worker, |_| full());
                let report = write(&mut conn, &writes, &worker.to_string()).await;
                assert!(
                    report.failed.is_empty() && report.missing.is_empty(),
                    "{report:?}"
                );
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    let lowest = text(database.pool(), "select min(seq)::text from ctrader_cache").await;
    assert_eq!(lowest, "29");
}

#[tokio::test]
async fn a_state_is_told_although_a_command_changed_its_session_meanwhile() {
    for content in [
        RowContent::State(state(Status::Stopped)),
        RowContent::Full {
            state: state(Status::Stopped),
            connected: false,
            account: Box::new(account()),
        },
    ] {
        let (database, key) = one().await;
        assert_eq!(
            counts(&written(&database, &[row(&key, 1, 1, full())]).await),
            (1, 0, 0, 0, 0)
        );
        // As the consumer does that applies a stop.
        let mut command = database.pool().begin().await.expect("a transaction");
        sqlx::query(
            "update bridge.sessions set desired = 'stopped', command_id = gen_random_uuid()",
        )
        .execute(&mut *command)
        .await
        .expect("a command");
        let mut conn = lease(&database).await;
        let writes = [row(&key, 1, 2, content)];
        let told = tokio::spawn(async move { write(&mut conn, &writes, "a").await });
        eventually("the row to stand in line", DEADLINE, async || {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity where datname = current_database()
                and wait_event_type = 'Lock' and query like '-- cache.write%'",
            )
            .fetch_one(database.pool())
            .await
            .expect("the row");
            waiting == 1
        })
        .await;
        command.commit().await.expect("a commit");
        let report = soon("the write", told).await.expect("no panic");
        assert_eq!(counts(&report), (1, 0, 0, 0, 0));
        assert_eq!(
            text(
                database.pool(),
                "select s.desired || ' ' || s.status || ' ' || c.status
                from bridge.sessions s, ctrader_cache c"
            )
            .await,
            "stopped stopped stopped"
        );
    }
}
