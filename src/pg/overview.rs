//! What operators see: every session, its owner, and its row in the cache.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use sqlx::postgres::PgConnection;

use super::claims::SLOT_LOCK_CLASS;
use super::error::PgError;
use super::from_row::from_row;

/// A session as the tables have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionOverview {
    /// Whose.
    pub user_id: String,
    /// Which account; `None` while the user's primary account is not known.
    #[serde(serialize_with = "id")]
    pub account_id: Option<i64>,
    /// The desired state of the latest command.
    pub desired: String,
    /// The status that its owner wrote.
    pub status: String,
    /// Why it is not live, fit to show a user.
    pub last_error: Option<String>,
    /// Consecutive failures.
    pub attempts: i32,
    /// The worker that holds the slot's lock now.
    pub worker_id: Option<String>,
    /// Whether it is an account of the demo environment, once that is known.
    pub is_demo: Option<bool>,
    /// Whether the row follows the stream.
    pub is_connected: bool,
    /// The age of the row, in seconds.
    pub age_seconds: Option<f64>,
    /// The currency of all amounts.
    pub currency: Option<String>,
    /// The balance, with the account's digits.
    #[serde(serialize_with = "amount")]
    pub balance: Option<String>,
    /// The equity, with the account's digits.
    #[serde(serialize_with = "amount")]
    pub equity: Option<String>,
    /// How many positions are open.
    pub positions: i32,
}

from_row!(SessionOverview {
    user_id,
    account_id,
    desired,
    status,
    last_error,
    attempts,
    worker_id,
    is_demo,
    is_connected,
    age_seconds,
    currency,
    balance,
    equity,
    positions,
});

/// A 64-bit id is a string in JSON.
#[expect(clippy::ref_option, reason = "what serde calls")]
fn id<S: Serializer>(id: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    id.map(|id| id.to_string()).serialize(serializer)
}

/// An amount is a number in JSON, digit by digit as Postgres has it.
#[expect(clippy::ref_option, reason = "what serde calls")]
fn amount<S: Serializer>(amount: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let number = amount
        .clone()
        .and_then(|text| RawValue::from_string(text).ok());
    number.serialize(serializer)
}

/// Returns every session, or those of one user, ordered by user and account.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn sessions(
    conn: &mut PgConnection,
    user: Option<&str>,
) -> Result<Vec<SessionOverview>, PgError> {
    Ok(sqlx::query_as(
        "-- overview.sessions
        with held as (
            select objid::bigint as slot from pg_locks
            where locktype = 'advisory' and classid = $1::bigint::oid and objsubid = 2 and granted
                and database = (select oid from pg_database where datname = current_database())
        )
        select s.user_id, nullif(s.account_id, 0) as account_id, s.desired, s.status, s.last_error, s.attempts,
            case when h.slot is not null then o.worker_id end as worker_id,
            c.is_demo, coalesce(c.is_connected, false) as is_connected,
            extract(epoch from clock_timestamp() - c.updated_at)::float8 as age_seconds,
            c.currency, c.balance::text as balance, c.equity::text as equity,
            coalesce(c.position_count, 0) as positions
        from bridge.sessions s
        join bridge.slots o on o.slot = s.slot
        left join held h on h.slot = s.slot
        left join public.ctrader_cache c
            on c.user_key = encode(sha256(convert_to(s.user_id, 'UTF8')), 'hex') and c.account_id = s.account_id
        where $2::text is null or s.user_id = $2
        order by s.user_id, s.account_id",
    )
    .bind(i64::from(SLOT_LOCK_CLASS))
    .bind(user)
    .fetch_all(conn)
    .await?)
}
