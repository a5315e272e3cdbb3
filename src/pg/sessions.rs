//! Reads `bridge.sessions` for the owners of slots: which slots have work, and what the work is.
//!
//! A session has work when it is wanted running, or wanted stopped and not stopped yet.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::credentials::{self, Credentials, session_key};
use super::error::PgError;
use super::from_row::from_row;
use crate::domain::ids::{SessionKey, Slot};
use crate::domain::status::{Desired, Status};

/// A session with work, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Which session; [`SessionKey::PRIMARY`] stands for an account that is not known yet.
    pub key: SessionKey,
    /// The slot of its user.
    pub slot: Slot,
    /// The desired state of the latest command.
    pub desired: Desired,
    /// The status that its last owner wrote.
    pub status: Status,
    /// The latest command.
    pub command_id: Uuid,
    /// When the latest command was issued.
    pub command_issued_at: OffsetDateTime,
    /// The stored tokens; `None` as long as the user has not connected the account.
    pub credentials: Option<Credentials>,
}

/// A row of [`active_slots`].
struct ActiveSlot {
    slot: i32,
    sessions: i64,
}

from_row!(ActiveSlot { slot, sessions });

/// Returns the slots that have work, and how many sessions with work each has.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn active_slots(conn: &mut PgConnection) -> Result<Vec<(Slot, i64)>, PgError> {
    let rows: Vec<ActiveSlot> = sqlx::query_as(
        "-- sessions.active_slots
        select slot, count(*) as sessions from bridge.sessions
        where desired = 'running' or status <> 'stopped'
        group by slot order by slot",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (Slot(row.slot), row.sessions))
        .collect())
}

/// Returns every session of these slots that has work.
///
/// # Errors
/// When Postgres does not reply as it should.
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
    .map(from_row)
    .collect()
}

fn from_row(row: &PgRow) -> Result<SessionRecord, PgError> {
    // The join found credentials if a column of theirs that cannot be null is not.
    let has_credentials = row.try_get::<Option<bool>, _>("is_live")?.is_some();
    let credentials = has_credentials.then(|| credentials::from_row(row));
    Ok(SessionRecord {
        key: session_key(row, "sessions")?,
        slot: Slot(row.try_get("slot")?),
        desired: desired(row.try_get("desired")?)?,
        status: status(row.try_get("status")?)?,
        command_id: row.try_get("command_id")?,
        command_issued_at: row.try_get("command_issued_at")?,
        credentials: credentials.transpose()?,
    })
}

/// Parses the column `desired`.
pub(super) fn desired(word: &str) -> Result<Desired, PgError> {
    Desired::parse(word).ok_or(PgError::unexpected("sessions", "an unknown desired state"))
}

fn status(word: &str) -> Result<Status, PgError> {
    Status::parse(word).ok_or(PgError::unexpected("sessions", "an unknown status"))
}
