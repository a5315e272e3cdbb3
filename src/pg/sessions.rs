//! `bridge.sessions` as its owners see it: which slots have work, and what the work is.

use std::fmt;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use time::OffsetDateTime;
use uuid::Uuid;

use super::PgError;
use super::commands::{lock_user, primary_account, set_running};
use crate::domain::ids::{AccountId, SessionKey, Slot, UserId};
use crate::domain::secret::Secret;
use crate::domain::status::{Desired, Status};

/// A session with work, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Which session; [`SessionKey::PRIMARY`] stands for an account that is not known yet.
    pub key: SessionKey,
    /// The slot of its user.
    pub slot: Slot,
    /// What the latest command wants.
    pub desired: Desired,
    /// What its last owner made of it.
    pub status: Status,
    /// The latest command.
    pub command_id: Uuid,
    /// When that was issued.
    pub command_issued_at: OffsetDateTime,
    /// How to get in; `None` as long as the user has not connected the account.
    pub credentials: Option<Credentials>,
}

/// A row of `bridge.credentials`. Tokens are as they are stored, encrypted or not.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Which environment.
    pub is_live: bool,
    /// Opens the account.
    pub access_token: Secret,
    /// Gets the next access token.
    pub refresh_token: Secret,
    /// When the access token ends.
    pub expires_at: Option<OffsetDateTime>,
    /// Differs after every change of the row.
    pub updated_at: OffsetDateTime,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("is_live", &self.is_live)
            .field("expires_at", &self.expires_at)
            .field("updated_at", &self.updated_at)
            .finish_non_exhaustive()
    }
}

/// The slots that have work, and how many sessions each: wanted running, or wanted stopped and not
/// stopped yet.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn active_slots(conn: &mut PgConnection) -> Result<Vec<(Slot, i64)>, PgError> {
    let rows: Vec<(i32, i64)> = sqlx::query_as(
        "-- sessions.active_slots
        select slot, count(*) from bridge.sessions
        where desired = 'running' or status <> 'stopped'
        group by slot order by slot",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(slot, count)| (Slot(slot), count))
        .collect())
}

/// Every session of these slots that has work.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn load(conn: &mut PgConnection, slots: &[Slot]) -> Result<Vec<SessionRecord>, PgError> {
    let slots: Vec<i32> = slots.iter().map(|slot| slot.0).collect();
    sqlx::query(
        "-- sessions.load
        select s.user_id, s.account_id, s.slot, s.desired, s.status, s.command_id, s.command_issued_at,
            c.is_live, c.access_token, c.refresh_token, c.expires_at, c.updated_at
        from bridge.sessions s
        left join bridge.credentials c on c.user_id = s.user_id and c.account_id = s.account_id
        where s.slot = any ($1) and (s.desired = 'running' or s.status <> 'stopped')
        order by s.user_id, s.account_id",
    )
    .bind(slots)
    .fetch_all(conn)
    .await?
    .iter()
    .map(record)
    .collect()
}

fn record(row: &PgRow) -> Result<SessionRecord, PgError> {
    let user: String = row.try_get("user_id")?;
    let desired: &str = row.try_get("desired")?;
    let status: &str = row.try_get("status")?;
    let is_live: Option<bool> = row.try_get("is_live")?;
    let credentials = is_live
        .map(|is_live| {
            Ok::<_, PgError>(Credentials {
                is_live,
                access_token: Secret::new(row.try_get::<String, _>("access_token")?),
                refresh_token: Secret::new(row.try_get::<String, _>("refresh_token")?),
                expires_at: row.try_get("expires_at")?,
                updated_at: row.try_get("updated_at")?,
            })
        })
        .transpose()?;
    Ok(SessionRecord {
        key: SessionKey {
            user: UserId::new(user).map_err(|_| foreign("a user id that is none"))?,
            account: AccountId(row.try_get("account_id")?),
        },
        slot: Slot(row.try_get("slot")?),
        desired: parse_desired(desired)?,
        status: parse_status(status)?,
        command_id: row.try_get("command_id")?,
        command_issued_at: row.try_get("command_issued_at")?,
        credentials,
    })
}

fn foreign(what: &'static str) -> PgError {
    PgError::Foreign {
        table: "sessions",
        what,
    }
}

pub(super) fn parse_desired(word: &str) -> Result<Desired, PgError> {
    [Desired::Running, Desired::Stopped]
        .into_iter()
        .find(|desired| desired.as_str() == word)
        .ok_or_else(|| foreign("a desired state that is none"))
}

fn parse_status(word: &str) -> Result<Status, PgError> {
    Status::ALL
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or_else(|| foreign("a status that is none"))
}

/// Turns placeholder rows of users whose primary (or sole) account is known by now into rows of that
/// account, for slots that are still held at these epochs, and answers those rows. The placeholder goes,
/// and its cache row with it. If the account has a row already, the later command of the two counts.
///
/// # Errors
/// When Postgres does not answer as it should; some users may be done then.
pub async fn resolve_primary(
    conn: &mut PgConnection,
    slots: &[(Slot, i64)],
) -> Result<Vec<SessionKey>, PgError> {
    let (numbers, epochs): (Vec<i32>, Vec<i64>) =
        slots.iter().map(|(slot, epoch)| (slot.0, *epoch)).unzip();
    let candidates: Vec<(String, i64)> = sqlx::query_as(
        "-- sessions.resolvable
        select s.user_id, held.epoch
        from unnest($1::int[], $2::bigint[]) as held (slot, epoch)
        join bridge.sessions s on s.slot = held.slot and s.account_id = 0
        where exists (select from bridge.credentials c where c.user_id = s.user_id)
        order by s.user_id",
    )
    .bind(numbers)
    .bind(epochs)
    .fetch_all(&mut *conn)
    .await?;
    let mut resolved = Vec::new();
    for (user, epoch) in candidates {
        let user = UserId::new(user).map_err(|_| foreign("a user id that is none"))?;
        resolved.extend(resolve(conn, user, epoch).await?);
    }
    Ok(resolved)
}

async fn resolve(
    conn: &mut PgConnection,
    user: UserId,
    epoch: i64,
) -> Result<Option<SessionKey>, PgError> {
    let mut tx = conn.begin().await?;
    lock_user(&mut tx, &user).await?;
    // The share lock keeps the slot from changing hands before this is committed.
    let owned: Option<i32> = sqlx::query_scalar(
        "-- sessions.owned
        select 1 from bridge.slots where slot = $1 and epoch = $2 for share",
    )
    .bind(user.slot().0)
    .bind(epoch)
    .fetch_optional(&mut *tx)
    .await?;
    let account = primary_account(&mut tx, &user).await?;
    let (Some(_), Some(account)) = (owned, account) else {
        return Ok(None);
    };
    sqlx::query(
        "-- sessions.drop_placeholder_row
        delete from public.ctrader_cache where user_key = $1 and account_id = 0",
    )
    .bind(user.key())
    .execute(&mut *tx)
    .await?;
    let placeholder: Option<(String, OffsetDateTime, Uuid)> = sqlx::query_as(
        "-- sessions.drop_placeholder
        delete from bridge.sessions where user_id = $1 and account_id = 0
        returning desired, command_issued_at, command_id",
    )
    .bind(user.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let place = match placeholder {
        Some((desired, issued_at, id)) if parse_desired(&desired)? == Desired::Running => {
            Some((issued_at, id))
        }
        _ => None,
    };
    if let Some(place) = place {
        set_running(&mut tx, &user, account, place).await?;
    }
    tx.commit().await?;
    Ok(place.map(|_| SessionKey { user, account }))
}
