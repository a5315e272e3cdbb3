//! Rows to write, and databases with the sessions that they belong to.

use mahspeccy_bridge::domain::decimal::Decimal;
use mahspeccy_bridge::domain::fence::Fence;
use mahspeccy_bridge::domain::ids::{OrderId, PositionId, SessionKey, SymbolId};
use mahspeccy_bridge::domain::row::{
    AccountRow, OrderRow, PositionRow, RowContent, RowWrite, SessionState,
};
use mahspeccy_bridge::domain::status::Status;
use mahspeccy_bridge::pg::cache::{WriteReport, write};
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::pg_support::{claim, key, lease, migrated};
use crate::support::postgres::TestDatabase;

pub(crate) const EVENT_AT: OffsetDateTime = datetime!(2026-11-23 05:42:00.000123 UTC);

pub(crate) fn dec(text: &str) -> Decimal {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let units = format!("{whole}{part}").parse().expect("digits");
    Decimal::new(units, u8::try_from(part.len()).expect("few digits"))
}

pub(crate) fn state(status: Status) -> SessionState {
    SessionState {
        status,
        last_error: None,
        attempts: 0,
        is_demo: Some(true),
    }
}

pub(crate) fn position(id: i64) -> PositionRow {
    PositionRow {
        position_id: PositionId(id),
        symbol: Some("EURUSD".into()),
        symbol_id: SymbolId(1),
        side: "BUY",
        volume: dec("100000"),
        lots: Some(dec("1.00")),
        entry_price: Some(dec("1.08300")),
        current_price: None,
        stop_loss: None,
        take_profit: Some(dec("1.20000")),
        swap: dec("-0.05"),
        commission: dec("-3.50"),
        gross_profit: Some(dec("12.10")),
        net_profit: Some(dec("8.55")),
        used_margin: dec("216.60"),
        opened_at: Some(EVENT_AT),
        label: Some("a \"label\" \\u0000".into()),
        comment: Some("NUL \0 here".into()),
    }
}

pub(crate) fn order() -> OrderRow {
    OrderRow {
        order_id: OrderId(9_007_199_254_740_993),
        position_id: None,
        symbol: None,
        symbol_id: SymbolId(2),
        side: "SELL",
        order_type: "LIMIT",
        volume: dec("1000.5"),
        lots: None,
        limit_price: Some(dec("1.30000")),
        stop_price: None,
        stop_loss: None,
        take_profit: None,
        expires_at: None,
        created_at: Some(EVENT_AT),
        label: None,
        comment: None,
    }
}

pub(crate) fn account() -> AccountRow {
    AccountRow {
        trader_login: Some(3_000_041),
        currency: Some("EUR".into()),
        balance: dec("10000.00"),
        equity: Some(dec("10008.55")),
        unrealized_gross: Some(dec("12.10")),
        unrealized_net: Some(dec("8.55")),
        used_margin: dec("216.60"),
        free_margin: Some(dec("9791.95")),
        bonus: Some(dec("0.00")),
        margin_level: Some(dec("4620.7525")),
        positions: vec![position(1)],
        orders: vec![order()],
        balance_version: Some(7),
        event_at: EVENT_AT,
    }
}

pub(crate) fn full_of(account: AccountRow) -> RowContent {
    RowContent::Full {
        state: state(Status::Live),
        connected: true,
        account: Box::new(account),
    }
}

pub(crate) fn full() -> RowContent {
    full_of(account())
}

pub(crate) fn row(key: &SessionKey, epoch: i64, seq: i64, content: RowContent) -> RowWrite {
    RowWrite {
        fence: Fence::new(key, epoch),
        seq,
        content,
    }
}

/// A running session for each of these users.
pub(crate) async fn sessions(pool: &PgPool, keys: &[SessionKey]) {
    for key in keys {
        sqlx::query(
            "insert into bridge.sessions (user_id, account_id, desired, command_id, command_issued_at, status)
            values ($1, $2, 'running', gen_random_uuid(), now(), 'pending')",
        )
        .bind(key.user.as_str())
        .bind(key.account.0)
        .execute(pool)
        .await
        .expect("a session");
    }
}

/// One user whose slot was claimed once.
pub(crate) async fn one() -> (TestDatabase, SessionKey) {
    let database = migrated().await;
    let key = key("lance@lwk.space", 5_150_705);
    sessions(database.pool(), std::slice::from_ref(&key)).await;
    // Closing it frees the lock; the epoch stays 1.
    claim(&database, "a", &["lance@lwk.space"])
        .await
        .close()
        .await
        .expect("a farewell");
    (database, key)
}

pub(crate) async fn written(database: &TestDatabase, writes: &[RowWrite]) -> WriteReport {
    let mut conn = lease(database).await;
    write(&mut conn, writes, "a").await
}

/// (changed, heartbeat, fenced, stale, missing); nothing failed.
pub(crate) fn counts(report: &WriteReport) -> (u64, u64, usize, usize, usize) {
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let WriteReport {
        changed,
        heartbeat,
        fenced,
        stale,
        missing,
        ..
    } = report;
    (
        *changed,
        *heartbeat,
        fenced.len(),
        stale.len(),
        missing.len(),
    )
}

pub(crate) async fn text(pool: &PgPool, sql: &'static str) -> String {
    sqlx::query_scalar(sql)
        .fetch_one(pool)
        .await
        .unwrap_or_else(|err| panic!("{sql}: {err}"))
}

/// `count` users in as many slots as it takes, all claimed once.
pub(crate) async fn many(count: usize) -> (TestDatabase, Vec<SessionKey>) {
    let database = migrated().await;
    let keys: Vec<SessionKey> = (0..count)
        .map(|number| key(&format!("user {number}"), 1_000_000))
        .collect();
    let ids: Vec<&str> = keys.iter().map(|key| key.user.as_str()).collect();
    sqlx::query(
        "insert into bridge.sessions (user_id, account_id, desired, command_id, command_issued_at, status)
        select id, 1000000, 'running', gen_random_uuid(), now(), 'pending' from unnest($1::text[]) as id",
    )
    .bind(&ids)
    .execute(database.pool())
    .await
    .expect("sessions");
    claim(&database, "a", &ids)
        .await
        .close()
        .await
        .expect("a farewell");
    (database, keys)
}

pub(crate) fn batch(
    keys: &[SessionKey],
    seq: i64,
    content: impl Fn(usize) -> RowContent,
) -> Vec<RowWrite> {
    keys.iter()
        .enumerate()
        .map(|(number, key)| row(key, 1, seq, content(number)))
        .collect()
}
