//! Refresh tokens: who may send one, what came of it, and the stored pairs that follow from it.
//!
//! A refresh token works once, and only the answer knows what it was exchanged for. So whoever means to
//! send one leases it here by its hash, says so before it is sent, and says what came of it. Once it was
//! sent nobody sends it again, unless it was proven that the refresh never happened.
//!
//! The pairs are as they are stored, sealed or not: nothing here opens them.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use time::OffsetDateTime;

use super::PgError;
use crate::domain::ids::{AccountId, SessionKey, UserId};
use crate::domain::row::storable;
use crate::domain::secret::Secret;

/// How a refresh token stands for the one who asks to send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// It may be sent, by the one who asked and nobody else.
    Granted,
    /// Somebody else may send it for now.
    Busy,
    /// It was sent, and the answer is not known.
    Sent {
        /// When; tells this sending from any other.
        at: OffsetDateTime,
    },
    /// It was exchanged for this pair, which is as it was given to [`complete`].
    Done {
        /// Opens the accounts of the grant.
        access_token: Secret,
        /// Gets the next access token.
        refresh_token: Secret,
        /// When the access token ends.
        expires_at: Option<OffsetDateTime>,
    },
    /// cTrader did not take it, and will not.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Asks to send the refresh token with this hash, within `for_how_long` by the server's clock.
///
/// A lease that ran out without the token having been sent is taken over. While it runs, the worker that
/// has it gets no second one. A lease that is granted also deletes some rows that nothing happened to for
/// 90 days.
///
/// # Errors
/// When Postgres does not answer as it should. The lease may have been granted, and runs out then.
///
/// # Cancel safety
/// As with an error, and the connection is of no more use.
pub async fn lease(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
    for_how_long: Duration,
) -> Result<Lease, PgError> {
    let mut tx = conn.begin().await?;
    let granted = sqlx::query(
        "-- tokens.lease
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
    .bind(i64::try_from(for_how_long.as_millis()).unwrap_or(i64::MAX))
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let lease = if granted > 0 {
        sweep(&mut tx).await?;
        Lease::Granted
    } else {
        standing(&mut tx, token_hash).await?
    };
    tx.commit().await?;
    Ok(lease)
}

/// After the lease, and past rows that are in use: so it waits for nobody who might wait for it.
async fn sweep(tx: &mut PgConnection) -> Result<(), PgError> {
    sqlx::query(
        "-- tokens.sweep
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

/// The row is there: the insert that found it keeps it locked until the end of the transaction.
async fn standing(tx: &mut PgConnection, token_hash: &str) -> Result<Lease, PgError> {
    let row = sqlx::query(
        "-- tokens.standing
        select state, sent_at, access_token, refresh_token, expires_at, coalesce(reason, '') as reason
        from bridge.token_refreshes where token_hash = $1",
    )
    .bind(token_hash)
    .fetch_one(tx)
    .await?;
    Ok(match row.try_get("state")? {
        "leased" => Lease::Busy,
        "sent" => Lease::Sent {
            at: row.try_get("sent_at")?,
        },
        "done" => Lease::Done {
            access_token: secret(&row, "access_token")?,
            refresh_token: secret(&row, "refresh_token")?,
            expires_at: row.try_get("expires_at")?,
        },
        "refused" => Lease::Refused {
            reason: row.try_get("reason")?,
        },
        _ => return Err(foreign("token_refreshes", "a state that is none")),
    })
}

/// Says that the token is about to be sent: from now on nobody else may, whatever happens. False if it
/// is not this worker's lease any more. A lease that ran out is its own until it is taken over.
///
/// # Errors
/// It may have been said: the token must not be sent, and [`release`] takes it back.
///
/// # Cancel safety
/// As with an error, and the connection is of no more use.
pub async fn mark_sent(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
) -> Result<bool, PgError> {
    let marked = sqlx::query(
        "-- tokens.mark_sent
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

/// Gives the worker's own lease back, also after it was said that the token is sent: for a request that
/// surely was not executed.
///
/// # Errors
/// When Postgres does not answer as it should; may be called again.
pub async fn release(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
) -> Result<(), PgError> {
    sqlx::query(
        "-- tokens.release
        delete from bridge.token_refreshes
        where token_hash = $1 and worker_id = $2 and state in ('leased', 'sent')",
    )
    .bind(token_hash)
    .bind(worker)
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets a token be sent again of which it was proven that the refresh sent at `sent_at` never happened,
/// whoever sent it. False if it does not stand there as sent at that moment.
///
/// # Errors
/// When Postgres does not answer as it should; may be called again.
pub async fn release_unsent_proven(
    conn: &mut PgConnection,
    token_hash: &str,
    sent_at: OffsetDateTime,
) -> Result<bool, PgError> {
    let released = sqlx::query(
        "-- tokens.release_unsent_proven
        delete from bridge.token_refreshes
        where token_hash = $1 and state = 'sent' and sent_at = $2",
    )
    .bind(token_hash)
    .bind(sent_at)
    .execute(conn)
    .await?;
    Ok(released.rows_affected() > 0)
}

/// Says that cTrader does not take the token. A pair that it was exchanged for stays.
///
/// # Errors
/// When Postgres does not answer as it should; may be called again.
pub async fn refuse(
    conn: &mut PgConnection,
    token_hash: &str,
    reason: &str,
) -> Result<(), PgError> {
    sqlx::query(
        "-- tokens.refuse
        insert into bridge.token_refreshes as t (token_hash, state, worker_id, leased_until, reason)
        values ($1, 'refused', '', clock_timestamp(), $2)
        on conflict (token_hash) do update set
            state = excluded.state,
            reason = excluded.reason,
            updated_at = clock_timestamp()
        where t.state <> 'done'",
    )
    .bind(token_hash)
    .bind(storable(reason))
    .execute(conn)
    .await?;
    Ok(())
}

/// A row of `bridge.credentials`. Tokens are as they are stored, encrypted or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Whose.
    pub user: UserId,
    /// For which account.
    pub account: AccountId,
    /// Opens the account.
    pub access_token: Secret,
    /// Gets the next access token.
    pub refresh_token: Secret,
    /// When the access token ends.
    pub expires_at: Option<OffsetDateTime>,
    /// Differs after every change of the row.
    pub updated_at: OffsetDateTime,
    /// Which environment.
    pub is_live: bool,
}

/// The stored pair of a session.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn credentials(
    conn: &mut PgConnection,
    key: &SessionKey,
) -> Result<Option<Stored>, PgError> {
    sqlx::query(
        "-- tokens.credentials
        select user_id, account_id, access_token, refresh_token, expires_at, updated_at, is_live
        from bridge.credentials where user_id = $1 and account_id = $2",
    )
    .bind(key.user.as_str())
    .bind(key.account.0)
    .fetch_optional(conn)
    .await?
    .as_ref()
    .map(stored)
    .transpose()
}

/// Every stored pair that may be of the same grant: all of this user, and those of anybody whose refresh
/// token is stored as the same text.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn siblings(
    conn: &mut PgConnection,
    user: &UserId,
    refresh_token_as_stored: &Secret,
) -> Result<Vec<Stored>, PgError> {
    sqlx::query(
        "-- tokens.siblings
        select user_id, account_id, access_token, refresh_token, expires_at, updated_at, is_live
        from bridge.credentials where user_id = $1 or refresh_token = $2
        order by user_id, account_id",
    )
    .bind(user.as_str())
    .bind(refresh_token_as_stored.expose())
    .fetch_all(conn)
    .await?
    .iter()
    .map(stored)
    .collect()
}

fn stored(row: &PgRow) -> Result<Stored, PgError> {
    let user: String = row.try_get("user_id")?;
    Ok(Stored {
        user: UserId::new(user).map_err(|_| foreign("credentials", "a user id that is none"))?,
        account: AccountId(row.try_get("account_id")?),
        access_token: secret(row, "access_token")?,
        refresh_token: secret(row, "refresh_token")?,
        expires_at: row.try_get("expires_at")?,
        updated_at: row.try_get("updated_at")?,
        is_live: row.try_get("is_live")?,
    })
}

fn secret(row: &PgRow, column: &'static str) -> Result<Secret, PgError> {
    Ok(Secret::new(row.try_get::<String, _>(column)?))
}

fn foreign(table: &'static str, what: &'static str) -> PgError {
    PgError::Foreign { table, what }
}

/// The new pair of one row of `bridge.credentials`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Whose row.
    pub user: UserId,
    /// For which account.
    pub account: AccountId,
    /// The refresh token that the row must still have, as it is stored.
    pub old_refresh_token: Secret,
    /// The new access token, as it is to be stored.
    pub access_token: Secret,
    /// The new refresh token, as it is to be stored.
    pub refresh_token: Secret,
}

/// Stores what a refresh token was exchanged for, and gives it to the rows that had that token, all in
/// one transaction. A row that has another token by now, most likely of a newer grant, stays as it is.
/// Answers how many rows were given the new pair; their owners are notified by the table itself.
///
/// # Errors
/// Nothing was stored then; to call it again is right.
///
/// # Cancel safety
/// Given up in the middle, it may or may not have been stored; to call it again is right.
pub async fn complete(
    conn: &mut PgConnection,
    token_hash: &str,
    (access_token, refresh_token): (&Secret, &Secret),
    expires_at: Option<OffsetDateTime>,
    rotations: &[Rotation],
) -> Result<u64, PgError> {
    fn column<'r>(
        rotations: &'r [Rotation],
        of: impl FnMut(&'r Rotation) -> &'r str,
    ) -> Vec<&'r str> {
        rotations.iter().map(of).collect()
    }
    let accounts: Vec<i64> = rotations
        .iter()
        .map(|rotation| rotation.account.0)
        .collect();
    let mut tx = conn.begin().await?;
    sqlx::query(
        "-- tokens.done
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
    let rotated = sqlx::query(
        "-- tokens.rotate
        update bridge.credentials c set
            access_token = r.access_token,
            refresh_token = r.refresh_token,
            expires_at = $6
        from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
            as r (user_id, account_id, old_refresh_token, access_token, refresh_token)
        where c.user_id = r.user_id and c.account_id = r.account_id
            and c.refresh_token = r.old_refresh_token",
    )
    .bind(column(rotations, |rotation| rotation.user.as_str()))
    .bind(accounts)
    .bind(column(rotations, |rotation| {
        rotation.old_refresh_token.expose()
    }))
    .bind(column(rotations, |rotation| rotation.access_token.expose()))
    .bind(column(rotations, |rotation| {
        rotation.refresh_token.expose()
    }))
    .bind(expires_at)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    tx.commit().await?;
    Ok(rotated)
}
