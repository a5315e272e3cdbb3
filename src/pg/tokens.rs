//! Refresh tokens: who may spend one, that it was spent, and the pair that it was spent for.
//!
//! A refresh token works once, and its answer is the only word of the next one. So it is leased before
//! it is used, said to be sent before it is sent, and the new pair is committed, here and in
//! `bridge.credentials`, before anybody uses it. A worker that dies between these steps leaves behind
//! how far it got.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use time::OffsetDateTime;

use super::PgError;
use crate::domain::ids::{AccountId, SessionKey, UserId};
use crate::domain::secret::Secret;

/// May a refresh token be spent?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// By the asker, for the time of the lease.
    Granted,
    /// Somebody is about to.
    Busy,
    /// Somebody has sent it, and no answer is known.
    Sent {
        /// When.
        at: OffsetDateTime,
    },
    /// It was spent for this pair, as it was given to [`complete`].
    Done {
        /// Opens the accounts.
        access_token: Secret,
        /// Gets the next pair.
        refresh_token: Secret,
        /// When the access token ends.
        expires_at: Option<OffsetDateTime>,
    },
    /// cTrader refused it.
    Refused {
        /// Why, fit to show a user.
        reason: String,
    },
}

/// A row of `bridge.credentials`, tokens as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Whose.
    pub user: UserId,
    /// For which account.
    pub account: AccountId,
    /// Opens the account.
    pub access_token: Secret,
    /// Gets the next pair.
    pub refresh_token: Secret,
    /// When the access token ends.
    pub expires_at: Option<OffsetDateTime>,
    /// Which environment.
    pub is_live: bool,
}

/// A row of `bridge.credentials` that gets the new pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Whose.
    pub user: UserId,
    /// For which account.
    pub account: AccountId,
    /// What is stored now: if it is another one by then, the row has a newer grant and stays.
    pub old_refresh_token: Secret,
    /// As it is to be stored.
    pub access_token: Secret,
    /// As it is to be stored.
    pub refresh_token: Secret,
}

/// Asks to spend a refresh token, known by its hash. Forgets what is older than 90 days.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn lease(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
    for_how_long: Duration,
) -> Result<Lease, PgError> {
    let granted: Option<i32> = sqlx::query_scalar(
        "-- tokens.lease
        with forgotten as (
            delete from bridge.token_refreshes
            where updated_at < clock_timestamp() - interval '90 days' and token_hash <> $1
        )
        insert into bridge.token_refreshes as t (token_hash, state, worker_id, leased_until)
        values ($1, 'leased', $2, clock_timestamp() + $3 * interval '1 millisecond')
        on conflict (token_hash) do update set
            worker_id = excluded.worker_id, leased_until = excluded.leased_until,
            updated_at = clock_timestamp()
        where t.state = 'leased' and t.leased_until < clock_timestamp()
        returning 1",
    )
    .bind(token_hash)
    .bind(worker)
    .bind(i64::try_from(for_how_long.as_millis()).unwrap_or(i64::MAX))
    .fetch_optional(&mut *conn)
    .await?;
    if granted.is_some() {
        return Ok(Lease::Granted);
    }
    let row = sqlx::query(
        "-- tokens.standing
        select state, sent_at, access_token, refresh_token, expires_at, reason
        from bridge.token_refreshes where token_hash = $1",
    )
    .bind(token_hash)
    .fetch_optional(conn)
    .await?;
    // It was there a moment ago: whoever had it has just let it go.
    row.map_or(Ok(Lease::Busy), |row| standing(&row))
}

fn standing(row: &PgRow) -> Result<Lease, PgError> {
    let secret = |column: &str| -> Result<Option<Secret>, PgError> {
        let text: Option<String> = row.try_get(column)?;
        Ok(text.map(Secret::new))
    };
    let state: &str = row.try_get("state")?;
    let sent_at: Option<OffsetDateTime> = row.try_get("sent_at")?;
    let reason: Option<String> = row.try_get("reason")?;
    let pair = secret("access_token")?.zip(secret("refresh_token")?);
    Ok(match (state, sent_at, pair) {
        ("sent", Some(at), _) => Lease::Sent { at },
        ("done", _, Some((access_token, refresh_token))) => Lease::Done {
            access_token,
            refresh_token,
            expires_at: row.try_get("expires_at")?,
        },
        ("refused", ..) => Lease::Refused {
            reason: reason.unwrap_or_default(),
        },
        _ => Lease::Busy,
    })
}

/// Says that a leased token is about to be sent; `false` if the lease is another's by now.
///
/// # Errors
/// When Postgres does not answer as it should: it may have been said all the same.
pub async fn mark_sent(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
) -> Result<bool, PgError> {
    let done = sqlx::query(
        "-- tokens.mark_sent
        update bridge.token_refreshes set
            state = 'sent', sent_at = clock_timestamp(), updated_at = clock_timestamp()
        where token_hash = $1 and worker_id = $2 and state = 'leased'",
    )
    .bind(token_hash)
    .bind(worker)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets a token go that surely was not spent.
///
/// # Errors
/// When Postgres does not answer as it should.
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

/// Lets a token go of which it was proven that it was not spent when it was said to be sent, at that
/// time; `false` if something else is known of it by now.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn release_unspent(
    conn: &mut PgConnection,
    token_hash: &str,
    sent_at: OffsetDateTime,
) -> Result<bool, PgError> {
    let done = sqlx::query(
        "-- tokens.release_unspent
        delete from bridge.token_refreshes
        where token_hash = $1 and state = 'sent' and sent_at = $2",
    )
    .bind(token_hash)
    .bind(sent_at)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Says that a token is of no use, unless it was spent.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn refuse(
    conn: &mut PgConnection,
    token_hash: &str,
    reason: &str,
) -> Result<(), PgError> {
    sqlx::query(
        "-- tokens.refuse
        update bridge.token_refreshes set
            state = 'refused', reason = $2, updated_at = clock_timestamp()
        where token_hash = $1 and state <> 'done'",
    )
    .bind(token_hash)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(())
}

/// The credentials of a session.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn credentials(
    conn: &mut PgConnection,
    key: &SessionKey,
) -> Result<Option<Stored>, PgError> {
    let row = sqlx::query(
        "-- tokens.credentials
        select user_id, account_id, access_token, refresh_token, expires_at, is_live
        from bridge.credentials where user_id = $1 and account_id = $2",
    )
    .bind(key.user.as_str())
    .bind(key.account.0)
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(stored).transpose()
}

/// All credentials that may be of the same grant: the user's own, and whoever's refresh token is stored
/// as the same text.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn siblings(
    conn: &mut PgConnection,
    user: &UserId,
    refresh_token: &Secret,
) -> Result<Vec<Stored>, PgError> {
    sqlx::query(
        "-- tokens.siblings
        select user_id, account_id, access_token, refresh_token, expires_at, is_live
        from bridge.credentials where user_id = $1 or refresh_token = $2
        order by user_id, account_id",
    )
    .bind(user.as_str())
    .bind(refresh_token.expose())
    .fetch_all(conn)
    .await?
    .iter()
    .map(stored)
    .collect()
}

fn stored(row: &PgRow) -> Result<Stored, PgError> {
    let user: String = row.try_get("user_id")?;
    Ok(Stored {
        user: UserId::new(user).map_err(|_| PgError::Foreign {
            table: "credentials",
            what: "a user id that is none",
        })?,
        account: AccountId(row.try_get("account_id")?),
        access_token: Secret::new(row.try_get::<String, _>("access_token")?),
        refresh_token: Secret::new(row.try_get::<String, _>("refresh_token")?),
        expires_at: row.try_get("expires_at")?,
        is_live: row.try_get("is_live")?,
    })
}

/// Commits a new pair, all or nothing: that the token was spent, what for, and the pair in each row of
/// credentials that still has the old one. The same again changes nothing.
///
/// # Errors
/// When Postgres does not answer as it should: it may be committed all the same.
pub async fn complete(
    conn: &mut PgConnection,
    token_hash: &str,
    worker: &str,
    pair: (&Secret, &Secret),
    expires_at: Option<OffsetDateTime>,
    rotations: &[Rotation],
) -> Result<u64, PgError> {
    let mut tx = conn.begin().await?;
    sqlx::query(
        "-- tokens.complete
        insert into bridge.token_refreshes as t (
            token_hash, state, worker_id, leased_until, access_token, refresh_token, expires_at
        ) values ($1, 'done', $2, clock_timestamp(), $3, $4, $5)
        on conflict (token_hash) do update set
            state = excluded.state, worker_id = excluded.worker_id,
            access_token = excluded.access_token, refresh_token = excluded.refresh_token,
            expires_at = excluded.expires_at, reason = null, updated_at = clock_timestamp()
        where t.state <> 'done'",
    )
    .bind(token_hash)
    .bind(worker)
    .bind(pair.0.expose())
    .bind(pair.1.expose())
    .bind(expires_at)
    .execute(&mut *tx)
    .await?;
    let column = |of: fn(&Rotation) -> &str| -> Vec<&str> { rotations.iter().map(of).collect() };
    let accounts: Vec<i64> = rotations.iter().map(|row| row.account.0).collect();
    let done = sqlx::query(
        "-- tokens.rotate
        update bridge.credentials c set
            access_token = i.access_token, refresh_token = i.refresh_token, expires_at = $6
        from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
            as i (user_id, account_id, old_refresh_token, access_token, refresh_token)
        where c.user_id = i.user_id and c.account_id = i.account_id
            and c.refresh_token = i.old_refresh_token",
    )
    .bind(column(|row| row.user.as_str()))
    .bind(accounts)
    .bind(column(|row| row.old_refresh_token.expose()))
    .bind(column(|row| row.access_token.expose()))
    .bind(column(|row| row.refresh_token.expose()))
    .bind(expires_at)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(done.rows_affected())
}
