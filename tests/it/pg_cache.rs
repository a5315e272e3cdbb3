//! Rows are written whole, exactly, in batches, and cheaply.

use std::collections::HashMap;
use std::time::Duration;

use mahspeccy_bridge::domain::ids::SessionKey;
use mahspeccy_bridge::domain::row::{AccountRow, RowContent, SessionState};
use mahspeccy_bridge::domain::status::Status;
use mahspeccy_bridge::pg::cache::{CHUNK_ROWS, write};
use mahspeccy_bridge::pg::connect::{Database, PooledConnection};
use sqlx::Row as _;
use time::OffsetDateTime;

use crate::pg_rows::{
    EVENT_AT, account, batch, counts, dec, full, full_of, many, one, position, row, state, text,
    written,
};
use crate::pg_support::{config, lease, soon};
use crate::support::wait::eventually;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_full_row_says_every_column_exactly() {
    let (database, key) = one().await;
    let report = written(&database, &[row(&key, 1, 1, full())]).await;
    assert_eq!(counts(&report), (1, 0, 0, 0, 0));
    let row = sqlx::query(
        "select to_jsonb(c) - 'updated_at' - 'positions' - 'orders',
            now() - updated_at < '1 minute', positions, orders, event_at from ctrader_cache c",
    )
    .fetch_one(database.pool())
    .await
    .expect("a row");
    let figures: sqlx::types::Json<Box<serde_json::value::RawValue>> = row.get(0);
    // Text, so that digits after the point count; jsonb sorts keys by length.
    let expected = format!(
        r#"{{"seq": 1, "bonus": 0.00, "epoch": 1, "equity": 10008.55, "status": "live", "balance": 10000.00, "is_demo": true, "currency": "EUR", "event_at": "2026-11-23T05:42:00.000123+00:00", "user_key": "{}", "account_id": 5150705, "last_error": null, "free_margin": 9791.95, "order_count": 1, "used_margin": 216.60, "is_connected": true, "margin_level": 4620.7525, "trader_login": 3000041, "position_count": 1, "unrealized_net": 8.55, "balance_version": 7, "unrealized_gross": 12.10}}"#,
        key.user.key()
    );
    assert_eq!(figures.0.get(), expected);
    assert!(row.get::<bool, _>(1), "updated_at is the time of the write");
    assert_eq!(row.get::<OffsetDateTime, _>(4), EVENT_AT);
    let positions: serde_json::Value = row.get(2);
    assert_eq!(
        positions,
        serde_json::json!([{
            "positionId": "1", "symbol": "EURUSD", "symbolId": "1", "side": "BUY",
            "volume": 100_000, "lots": 1.0, "entryPrice": 1.083, "currentPrice": null,
            "stopLoss": null, "takeProfit": 1.2, "swap": -0.05, "commission": -3.5,
            "grossProfit": 12.1, "netProfit": 8.55, "usedMargin": 216.6,
            "openedAt": "2026-11-23T05:42:00.000123Z",
            "label": "a \"label\" \\u0000", "comment": "NUL \u{fffd} here",
        }])
    );
    let orders: serde_json::Value = row.get(3);
    assert_eq!(
        orders,
        serde_json::json!([{
            "orderId": "9007199254740993", "positionId": null, "symbol": null, "symbolId": "2",
            "side": "SELL", "type": "LIMIT", "volume": 1000.5, "lots": null, "limitPrice": 1.3,
            "stopPrice": null, "stopLoss": null, "takeProfit": null, "expiresAt": null,
            "createdAt": "2026-11-23T05:42:00.000123Z", "label": null, "comment": null,
        }])
    );
    let digits = "select (positions #>> '{0,lots}') || ' ' || (positions #>> '{0,entryPrice}') from ctrader_cache";
    assert_eq!(text(database.pool(), digits).await, "1.00 1.08300");

    // And once more, with everything that may be unknown unknown.
    let unknown = AccountRow {
        trader_login: None,
        currency: None,
        equity: None,
        unrealized_gross: None,
        unrealized_net: None,
        free_margin: None,
        bonus: None,
        margin_level: None,
        positions: vec![],
        orders: vec![],
        balance_version: None,
        ..account()
    };
    let report = written(&database, &[self::row(&key, 1, 2, full_of(unknown))]).await;
    assert_eq!(counts(&report), (1, 0, 0, 0, 0));
    let nulls = "select (select string_agg(key, ' ' order by key) from jsonb_each(to_jsonb(c)) where value = 'null')
        || ' | ' || positions || orders || position_count from ctrader_cache c";
    assert_eq!(
        text(database.pool(), nulls).await,
        "balance_version bonus currency equity free_margin last_error margin_level trader_login \
         unrealized_gross unrealized_net | [][]0"
    );
}

#[tokio::test]
async fn a_state_leaves_the_figures_as_they_were() {
    let (database, key) = one().await;
    written(&database, &[row(&key, 1, 1, full())]).await;
    let failed = SessionState {
        status: Status::Reconnecting,
        last_error: Some("the connection was lost\0".to_owned()),
        attempts: 3,
        is_demo: None,
    };
    sqlx::raw_sql("update ctrader_cache set is_demo = false")
        .execute(database.pool())
        .await
        .expect("live");
    let report = written(&database, &[row(&key, 1, 2, RowContent::State(failed))]).await;
    assert_eq!(counts(&report), (1, 0, 0, 0, 0));
    let shown = "select concat_ws(' ', is_demo, is_connected, status, last_error, balance, position_count, seq)
        from ctrader_cache";
    assert_eq!(
        text(database.pool(), shown).await,
        "f f reconnecting the connection was lost\u{fffd} 10000.00 1 2"
    );
    let told = "select concat_ws(' ', status, last_error, attempts, worker_id, desired) from bridge.sessions";
    assert_eq!(
        text(database.pool(), told).await,
        "reconnecting the connection was lost\u{fffd} 3 a running"
    );
}

#[tokio::test]
async fn a_state_can_be_the_first_that_is_said_of_a_session() {
    let (database, key) = one().await;
    let first = SessionState {
        is_demo: None,
        ..state(Status::Connecting)
    };
    written(&database, &[row(&key, 1, 1, RowContent::State(first))]).await;
    let shown = "select concat_ws(' ', is_demo, is_connected, status, balance, position_count, positions, orders)
        from ctrader_cache";
    assert_eq!(text(database.pool(), shown).await, "t f connecting 0 [] []");
}

#[tokio::test]
async fn a_session_row_is_touched_only_when_its_state_changes() {
    let (database, key) = one().await;
    let version = "select xmin::text from bridge.sessions";
    written(&database, &[row(&key, 1, 1, full())]).await;
    let first = text(database.pool(), version).await;
    written(&database, &[row(&key, 1, 2, full())]).await;
    written(&database, &[row(&key, 1, 3, RowContent::Heartbeat)]).await;
    assert_eq!(text(database.pool(), version).await, first);
    written(
        &database,
        &[row(&key, 1, 4, RowContent::State(state(Status::Stopped)))],
    )
    .await;
    assert_ne!(text(database.pool(), version).await, first);
}

#[tokio::test]
async fn a_heartbeat_moves_the_time_and_nothing_else() {
    let (database, key) = one().await;
    let report = written(&database, &[row(&key, 1, 1, RowContent::Heartbeat)]).await;
    assert_eq!(counts(&report), (0, 0, 0, 0, 1), "there is no row yet");
    assert_eq!(report.missing, std::slice::from_ref(&key));
    written(&database, &[row(&key, 1, 1, full())]).await;
    let rest = "select (to_jsonb(c) - 'updated_at' - 'seq')::text from ctrader_cache c";
    let before = text(database.pool(), rest).await;
    let since = text(
        database.pool(),
        "select updated_at::text from ctrader_cache",
    )
    .await;
    let report = written(&database, &[row(&key, 1, 2, RowContent::Heartbeat)]).await;
    assert_eq!(counts(&report), (0, 1, 0, 0, 0));
    assert_eq!(text(database.pool(), rest).await, before);
    let moved: bool = sqlx::query_scalar("select updated_at > $1::timestamptz from ctrader_cache")
        .bind(since)
        .fetch_one(database.pool())
        .await
        .expect("a time");
    assert!(moved);
}

#[tokio::test]
async fn the_last_of_several_writes_of_a_row_counts() {
    let (database, key) = one().await;
    let rich = |balance| {
        full_of(AccountRow {
            balance: dec(balance),
            ..account()
        })
    };
    let report = written(
        &database,
        &[
            row(&key, 1, 3, rich("3.00")),
            row(&key, 1, 5, RowContent::Heartbeat),
            row(&key, 1, 1, rich("1.00")),
            row(&key, 1, 4, RowContent::State(state(Status::Reconnecting))),
            row(&key, 1, 2, RowContent::State(state(Status::Failed))),
        ],
    )
    .await;
    assert_eq!(counts(&report), (2, 1, 0, 0, 0));
    let shown = "select concat_ws(' ', balance, status, is_connected, seq) from ctrader_cache";
    assert_eq!(text(database.pool(), shown).await, "3.00 reconnecting f 5");
}

#[tokio::test]
async fn a_large_batch_goes_in_chunks_and_only_the_fenced_rows_are_left_out() {
    let (database, keys) = many(2 * CHUNK_ROWS + 50).await;
    let lost = keys[17].user.slot();
    let theirs = keys.iter().filter(|key| key.user.slot() == lost).count();
    sqlx::query("update bridge.slots set epoch = 2 where slot = $1")
        .bind(lost.0)
        .execute(database.pool())
        .await
        .expect("an epoch");
    let contents = |number: usize| match number % 2 {
        0 => full(),
        _ => RowContent::State(state(Status::Connecting)),
    };
    let report = written(&database, &batch(&keys, 1, contents)).await;
    let passed = keys.len() - theirs;
    assert_eq!(counts(&report), (passed as u64, 0, theirs, 0, 0));
    assert!(report.fenced.contains(&keys[17]));
    let report = written(&database, &batch(&keys, 2, |_| RowContent::Heartbeat)).await;
    assert_eq!(counts(&report), (0, passed as u64, theirs, 0, 0));
    let rows: String = text(
        database.pool(),
        "select count(*)::text from ctrader_cache where seq = 2",
    )
    .await;
    assert_eq!(rows, passed.to_string());
}

#[tokio::test]
async fn a_row_that_postgres_rejects_does_not_hold_the_others_up() {
    let (database, keys) = many(CHUNK_ROWS + 30).await;
    sqlx::raw_sql("alter table ctrader_cache add check (currency <> 'BAD')")
        .execute(database.pool())
        .await
        .expect("a constraint");
    let bad = [3, 200, CHUNK_ROWS + 1];
    let contents = |number: usize| {
        let currency = if bad.contains(&number) { "BAD" } else { "EUR" };
        full_of(AccountRow {
            currency: Some(currency.into()),
            ..account()
        })
    };
    let report = written(&database, &batch(&keys, 1, contents)).await;
    assert_eq!(report.changed, (keys.len() - bad.len()) as u64);
    let mut failed: Vec<&SessionKey> = report
        .failed
        .iter()
        .flat_map(|failure| &failure.keys)
        .collect();
    failed.sort();
    let mut expected: Vec<&SessionKey> = bad.iter().map(|number| &keys[*number]).collect();
    expected.sort();
    assert_eq!(failed, expected);
}

#[tokio::test]
async fn a_connection_that_is_lost_fails_what_is_left_and_is_not_used_again() {
    let (database, keys) = many(CHUNK_ROWS + 1).await;
    let connections = Database::new(&config(&database), 1).expect("a pool");
    let mut lease = connections.acquire().await.expect("a lease");
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *lease)
        .await
        .expect("a pid");
    sqlx::query("select pg_terminate_backend($1)")
        .bind(pid)
        .execute(database.pool())
        .await
        .expect("ended");
    let writes = batch(&keys, 1, |_| full());
    let report = soon("a lost connection", write(&mut lease, &writes, "a")).await;
    let [failure] = report.failed.as_slice() else {
        panic!("{report:?}")
    };
    assert!(failure.error.is_transient());
    assert_eq!(failure.keys.len(), keys.len());
    lease.release(Ok(report)).expect("a report");

    let mut lease = connections.acquire().await.expect("a lease");
    let report = write(&mut lease, &writes, "a").await;
    assert_eq!(counts(&report), (keys.len() as u64, 0, 0, 0, 0));
}

/// All updates so far, and those of them that stayed on their page.
async fn updates(lease: &mut PooledConnection) -> (i64, i64) {
    // Counters of a backend are shown at its own pace, or when told to.
    sqlx::raw_sql("select pg_stat_force_next_flush()")
        .execute(&mut **lease)
        .await
        .expect("a flush");
    sqlx::query_as(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'ctrader_cache'",
    )
    .fetch_one(&mut **lease)
    .await
    .expect("counters")
}

#[tokio::test]
async fn updates_stay_on_their_page() {
    let (database, keys) = many(300).await;
    let mut lease = lease(&database).await;
    let large = || {
        full_of(AccountRow {
            positions: (0..4).map(position).collect(),
            ..account()
        })
    };
    let mut seqs = 0..;
    let mut seq = || seqs.next().expect("no end");
    write(&mut lease, &batch(&keys, seq(), |_| large()), "a").await;
    // While a transaction that writes is open anywhere on the server, as other tests have them, old
    // versions can't be cleared away. So it has to be seen once, not each time.
    eventually(
        "a while in which updates stay on their page",
        DEADLINE,
        async || {
            let before = updates(&mut lease).await;
            for round in 0..10 {
                let writes = batch(&keys, seq(), |number| match (round + number) % 3 {
                    0 => large(),
                    _ => RowContent::Heartbeat,
                });
                let report = write(&mut lease, &writes, "a").await;
                assert_eq!(report.changed + report.heartbeat, keys.len() as u64);
            }
            let after = updates(&mut lease).await;
            let (all, hot) = (after.0 - before.0, after.1 - before.1);
            println!("{hot} of {all} updates stayed on their page");
            assert_eq!(all, 3000);
            if hot > 2900 { Ok(()) } else { Err(hot) }
        },
    )
    .await;
}

#[tokio::test]
async fn a_statement_is_parsed_once_a_connection() {
    let (database, keys) = many(3).await;
    let mut conn = lease(&database).await;
    let mut seqs = 0..;
    for _ in 0..8 {
        for size in 1..=3 {
            let seq = seqs.next().expect("no end");
            write(&mut conn, &batch(&keys[..size], seq, |_| full()), "a").await;
        }
    }
    let prepared: HashMap<String, i64> = sqlx::query_as::<_, (String, i64)>(
        "select split_part(statement, E'\\n', 1), count(*) from pg_prepared_statements
        where statement like '-- cache.%' group by 1",
    )
    .fetch_all(&mut *conn)
    .await
    .expect("statements")
    .into_iter()
    .collect();
    assert_eq!(
        prepared,
        HashMap::from([("-- cache.write_full".to_owned(), 1)])
    );
}
