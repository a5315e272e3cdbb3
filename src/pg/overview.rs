//! What operators look at: every session, its owner, and what its row says.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::PgError;
use super::claims::SLOT_SPACE;

/// A session as it stands in the tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// Whose.
    pub user_id: String,
    /// Which account; `None` while the user's primary account is not known.
    #[serde(serialize_with = "id")]
    pub account_id: Option<i64>,
    /// What the latest command wants.
    pub desired: String,
    /// What its owner makes of it.
    pub status: String,
    /// Why it is not live.
    pub last_error: Option<String>,
    /// Failures in a row.
    pub attempts: i32,
    /// The worker that holds the slot's lock at this moment.
    pub worker_id: Option<String>,
    /// Which environment, once that is known.
    pub is_demo: Option<bool>,
    /// Whether the row follows the stream.
    pub is_connected: bool,
    /// Since the row was written.
    pub age_seconds: Option<f64>,
    /// Of all amounts.
    pub currency: Option<String>,
    /// At the account's precision.
    #[serde(serialize_with = "amount")]
    pub balance: Option<String>,
    /// Likewise.
    #[serde(serialize_with = "amount")]
    pub equity: Option<String>,
    /// Open positions.
    pub positions: i32,
}

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

/// Every session, or those of one user, by user and account.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn sessions(
    conn: &mut PgConnection,
    user: Option<&str>,
) -> Result<Vec<Overview>, PgError> {
    sqlx::query(
        "-- overview.sessions
        with held as (
            select objid::bigint as slot from pg_locks
            where locktype = 'advisory' and classid = $1::bigint::oid and objsubid = 2 and granted
                and database = (select oid from pg_database where datname = current_database())
        )
        select s.user_id, s.account_id, s.desired, s.status, s.last_error, s.attempts,
            case when h.slot is not null then o.worker_id end as worker_id,
            c.is_demo, coalesce(c.is_connected, false) as is_connected,
            extract(epoch from clock_timestamp() - c.updated_at)::float8 as age,
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
    .bind(i64::from(SLOT_SPACE))
    .bind(user)
    .fetch_all(conn)
    .await?
    .iter()
    .map(overview)
    .collect()
}

fn overview(row: &PgRow) -> Result<Overview, PgError> {
    let account: i64 = row.try_get("account_id")?;
    Ok(Overview {
        user_id: row.try_get("user_id")?,
        account_id: (account != 0).then_some(account),
        desired: row.try_get("desired")?,
        status: row.try_get("status")?,
        last_error: row.try_get("last_error")?,
        attempts: row.try_get("attempts")?,
        worker_id: row.try_get("worker_id")?,
        is_demo: row.try_get("is_demo")?,
        is_connected: row.try_get("is_connected")?,
        age_seconds: row.try_get("age")?,
        currency: row.try_get("currency")?,
        balance: row.try_get("balance")?,
        equity: row.try_get("equity")?,
        positions: row.try_get("positions")?,
    })
}
