//! Leases of refresh tokens: which worker may send one, and what it was exchanged for.
//!
//! A refresh token works once, and only the reply to it has the next one. So a worker that is about to send one leases it
//! here by its hash, marks it as sent before it sends it, and stores the outcome. Once a token was sent nobody sends it
//! again, unless it was proven that the refresh never happened.
//!
//! Tokens are read and written as they are stored, encrypted or not: nothing here opens or seals them.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use time::OffsetDateTime;

use super::credentials::{self, CredentialsUpdate, secret};
use super::error::PgError;
use super::text::storable_text;
use crate::domain::secret::Secret;

/// Whether a worker may send a refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// The worker that asked may send it, and nobody else.
    Granted,
    /// Another worker has the lease for now.
    Busy,
    /// It was sent, and the reply is not known.
    Sent {
        /// When; identifies this attempt.
        at: OffsetDateTime,
    },
    /// It was exchanged for these tokens, which are as they were given to [`complete`].
    Done {
        /// Authorises the accounts of the grant.
        access_token: Secret,
        /// Gets the next access token.
        refresh_token: Secret,
        /// When the access token ends.
        expires_at: Option<OffsetDateTime>,
    },
    /// cTrader refused it for good.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Asks for the lease of the refresh token with this hash, for the duration of `ttl` by the server's clock.
///
/// A lease that expired before the token was sent is granted to whoever asks next. Until it expires, it is granted to
/// nobody, not even to the worker that has it. A granted lease also deletes some rows that did not change for 90 days.
///
/// # Errors
/// When Postgres does not reply as it should. The lease may have been granted; it expires then.
///
/// # Cancel safety
/// As with an error, and the connection cannot be used any more.
pub async fn lease(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
    ttl: Duration,
) -> Result<LeaseOutcome, PgError> {
    let mut tx = conn.begin().await?;
    let granted = sqlx::query(
        "-- token_refresh.lease
        insert into bridge.token_refreshes as t (token_hash, state, worker_id, leased_until)
        values ($1, 'leased', $2, clock_timestamp() + $3 * interval '1 millisecond')
        on conflict (token_hash) do update set
            worker_id = excluded.worker_id,
            leased_until = excluded.leased_until,
            updated_at = clock_timestamp()
        where t.state = 'leased' and t.leased_until <= clock_timestamp()",
    )
    .bind(token_hash)
    .bind(worker)
    .bind(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let outcome = if granted > 0 {
        delete_old_rows(&mut tx).await?;
        LeaseOutcome::Granted
    } else {
        current_outcome(&mut tx, token_hash).await?
    };
    tx.commit().await?;
    Ok(outcome)
}

/// Deletes old rows. It runs after the lease was granted and skips locked rows, so it cannot deadlock.
async fn delete_old_rows(tx: &mut PgConnection) -> Result<(), PgError> {
    sqlx::query(
        "-- token_refresh.delete_old_rows
        delete from bridge.token_refreshes where token_hash = any (array(
            select token_hash from bridge.token_refreshes
            where updated_at < now() - interval '90 days'
            order by updated_at limit 100
            for update skip locked
        ))",
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Reads the outcome from the row. The row exists: the insert that conflicted with it keeps it locked until the end of
/// the transaction.
async fn current_outcome(tx: &mut PgConnection, token_hash: &str) -> Result<LeaseOutcome, PgError> {
    let row = sqlx::query(
        "-- token_refresh.current_outcome
        select state, sent_at, access_token, refresh_token, expires_at, coalesce(reason, '') as reason
        from bridge.token_refreshes where token_hash = $1",
    )
    .bind(token_hash)
    .fetch_one(tx)
    .await?;
    Ok(match row.try_get("state")? {
        "leased" => LeaseOutcome::Busy,
        "sent" => LeaseOutcome::Sent {
            at: row.try_get("sent_at")?,
        },
        "done" => LeaseOutcome::Done {
            access_token: secret(&row, "access_token")?,
            refresh_token: secret(&row, "refresh_token")?,
            expires_at: row.try_get("expires_at")?,
        },
        "refused" => LeaseOutcome::Refused {
            reason: row.try_get("reason")?,
        },
        _ => return Err(PgError::unexpected("token_refreshes", "an unknown state")),
    })
}

/// Marks the token as sent: from now on nobody else may send it, whatever happens. Returns `false` if this worker does not
/// have the lease any more. An expired lease counts until it is granted to another worker.
///
/// # Errors
/// The token may be marked all the same: it must not be sent, and [`release`] removes the mark.
///
/// # Cancel safety
/// As with an error, and the connection cannot be used any more.
pub async fn mark_sent(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
) -> Result<bool, PgError> {
    let marked = sqlx::query(
        "-- token_refresh.mark_sent
        update bridge.token_refreshes set
            state = 'sent', sent_at = clock_timestamp(), updated_at = clock_timestamp()
        where token_hash = $1 and worker_id = $2 and state = 'leased'",
    )
    .bind(token_hash)
    .bind(worker)
    .execute(conn)
    .await?;
    Ok(marked.rows_affected() > 0)
}

/// Releases the worker's own lease, even after the token was marked as sent: for a request that surely was not executed.
///
/// # Errors
/// When Postgres does not reply as it should; may be called again.
pub async fn release(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
) -> Result<(), PgError> {
    sqlx::query(
        "-- token_refresh.release
        delete from bridge.token_refreshes
        where token_hash = $1 and worker_id = $2 and state in ('leased', 'sent')",
    )
    .bind(token_hash)
    .bind(worker)
    .execute(conn)
    .await?;
    Ok(())
}

/// Releases a token that was marked as sent at `sent_at`, by any worker, after it was proven that the refresh never
/// happened. Returns `false` if the token is not marked as sent at that moment.
///
/// # Errors
/// When Postgres does not reply as it should; may be called again.
pub async fn release_proven_unsent(
    conn: &mut PgConnection,
    token_hash: &str,
    sent_at: OffsetDateTime,
) -> Result<bool, PgError> {
    let released = sqlx::query(
        "-- token_refresh.release_proven_unsent
        delete from bridge.token_refreshes
        where token_hash = $1 and state = 'sent' and sent_at = $2",
    )
    .bind(token_hash)
    .bind(sent_at)
    .execute(conn)
    .await?;
    Ok(released.rows_affected() > 0)
}

/// Stores that cTrader refused the token for good. Tokens that it was exchanged for stay.
///
/// # Errors
/// When Postgres does not reply as it should; may be called again.
pub async fn refuse(
    conn: &mut PgConnection,
    token_hash: &str,
    reason: &str,
) -> Result<(), PgError> {
    sqlx::query(
        "-- token_refresh.refuse
        insert into bridge.token_refreshes as t (token_hash, state, worker_id, leased_until, reason)
        values ($1, 'refused', '', clock_timestamp(), $2)
        on conflict (token_hash) do update set
            state = excluded.state,
            reason = excluded.reason,
            updated_at = clock_timestamp()
        where t.state <> 'done'",
    )
    .bind(token_hash)
    .bind(storable_text(reason))
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores what a refresh token was exchanged for, and updates the credentials that had that token, all in one
/// transaction. Credentials that have another token by now, most likely of a newer grant, stay as they are. Returns how
/// many were updated; a trigger of the table notifies their owners.
///
/// # Errors
/// Nothing was stored. It may be called again.
///
/// # Cancel safety
/// Dropped before it returns, it may or may not have stored the tokens. It may be called again.
pub async fn complete(
    conn: &mut PgConnection,
    token_hash: &str,
    (access_token, refresh_token): (&Secret, &Secret),
    expires_at: Option<OffsetDateTime>,
    updates: &[CredentialsUpdate],
) -> Result<u64, PgError> {
    let mut tx = conn.begin().await?;
    sqlx::query(
        "-- token_refresh.complete
        insert into bridge.token_refreshes
            (token_hash, state, worker_id, leased_until, access_token, refresh_token, expires_at)
        values ($1, 'done', '', clock_timestamp(), $2, $3, $4)
        on conflict (token_hash) do update set
            state = excluded.state,
            access_token = excluded.access_token,
            refresh_token = excluded.refresh_token,
            expires_at = excluded.expires_at,
            reason = null,
            updated_at = clock_timestamp()",
    )
    .bind(token_hash)
    .bind(access_token.expose())
    .bind(refresh_token.expose())
    .bind(expires_at)
    .execute(&mut *tx)
    .await?;
    let rows = credentials::update(&mut tx, updates, expires_at).await?;
    tx.commit().await?;
    Ok(rows)
}
