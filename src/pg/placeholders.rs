//! Placeholders: sessions of users whose primary account was not known when they were started.
//!
//! Once it is known, the slot's owner turns the placeholder into a session of that account.

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::commands::{CommandOrder, lock_user, primary_account, set_running};
use super::error::PgError;
use super::from_row::from_row;
use super::sessions::desired;
use crate::domain::ids::{SessionKey, Slot, UserId};
use crate::domain::status::Desired;

/// A user with a placeholder and credentials, and the epoch of the slot.
struct Candidate {
    user_id: String,
    epoch: i64,
}

from_row!(Candidate { user_id, epoch });

/// A placeholder's row.
struct PlaceholderRow {
    desired: String,
    command_issued_at: OffsetDateTime,
    command_id: Uuid,
}

from_row!(PlaceholderRow {
    desired,
    command_issued_at,
    command_id
});

/// Turns placeholder rows of users whose primary (or only) account is known by now into rows of that account, for slots
/// that still have these epochs. Returns the sessions of the new rows. Deletes the placeholder and its row of the cache.
/// If the account has a row already, the later command of the two decides.
///
/// # Errors
/// When Postgres does not reply as it should. Some users may be done then.
pub async fn resolve_primary(
    conn: &mut PgConnection,
    slots: &[(Slot, i64)],
) -> Result<Vec<SessionKey>, PgError> {
    let (numbers, epochs): (Vec<i32>, Vec<i64>) =
        slots.iter().map(|(slot, epoch)| (slot.0, *epoch)).unzip();
    let candidates: Vec<Candidate> = sqlx::query_as(
        "-- placeholders.candidates
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
    for candidate in candidates {
        let user = UserId::new(candidate.user_id)
            .map_err(|_| PgError::unexpected("sessions", "an invalid user id"))?;
        resolved.extend(resolve_user(conn, user, candidate.epoch).await?);
    }
    Ok(resolved)
}

async fn resolve_user(
    conn: &mut PgConnection,
    user: UserId,
    epoch: i64,
) -> Result<Option<SessionKey>, PgError> {
    let mut tx = conn.begin().await?;
    lock_user(&mut tx, &user).await?;
    // The share lock keeps the slot from changing hands before this is committed.
    let owned: Option<i32> = sqlx::query_scalar(
        "-- placeholders.owned
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
        "-- placeholders.delete_cache_row
        delete from public.ctrader_cache where user_key = $1 and account_id = 0",
    )
    .bind(user.key())
    .execute(&mut *tx)
    .await?;
    let placeholder: Option<PlaceholderRow> = sqlx::query_as(
        "-- placeholders.delete
        delete from bridge.sessions where user_id = $1 and account_id = 0
        returning desired, command_issued_at, command_id",
    )
    .bind(user.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let order = match placeholder {
        Some(row) if desired(&row.desired)? == Desired::Running => Some(CommandOrder {
            issued_at: row.command_issued_at,
            id: row.command_id,
        }),
        _ => None,
    };
    if let Some(order) = order {
        set_running(&mut tx, &user, account, order).await?;
    }
    tx.commit().await?;
    Ok(order.map(|_| SessionKey { user, account }))
}
