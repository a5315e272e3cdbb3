//! Reads and updates `bridge.credentials`: the stored tokens of each account.
//!
//! Tokens are read and written as they are stored, encrypted or not: nothing here opens or seals them.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;

use super::error::PgError;
use crate::domain::ids::{AccountId, SessionKey, UserId};
use crate::domain::secret::Secret;

/// A row of `bridge.credentials`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Whose, and for which account.
    pub key: SessionKey,
    /// Whether it is an account of the live environment, or else of the demo one.
    pub is_live: bool,
    /// Authorises the account.
    pub access_token: Secret,
    /// Gets the next access token.
    pub refresh_token: Secret,
    /// When the access token ends.
    pub expires_at: Option<OffsetDateTime>,
    /// Differs after every change of the row.
    pub updated_at: OffsetDateTime,
}

/// The new tokens of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsUpdate {
    /// Which row.
    pub key: SessionKey,
    /// The refresh token that the row must still have, as it is stored.
    pub old_refresh_token: Secret,
    /// The new access token, as it is to be stored.
    pub access_token: Secret,
    /// The new refresh token, as it is to be stored.
    pub refresh_token: Secret,
}

/// Returns the stored tokens of a session.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn load(
    conn: &mut PgConnection,
    key: &SessionKey,
) -> Result<Option<Credentials>, PgError> {
    sqlx::query(
        "-- credentials.load
        select user_id, account_id, access_token, refresh_token, expires_at, updated_at, is_live
        from bridge.credentials where user_id = $1 and account_id = $2",
    )
    .bind(key.user.as_str())
    .bind(key.account.0)
    .fetch_optional(conn)
    .await?
    .as_ref()
    .map(from_row)
    .transpose()
}

/// Returns every row that may belong to the same grant: all of this user, and those of anybody whose refresh token is
/// stored as the same text.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn load_same_grant(
    conn: &mut PgConnection,
    user: &UserId,
    refresh_token_as_stored: &Secret,
) -> Result<Vec<Credentials>, PgError> {
    sqlx::query(
        "-- credentials.load_same_grant
        select user_id, account_id, access_token, refresh_token, expires_at, updated_at, is_live
        from bridge.credentials where user_id = $1 or refresh_token = $2
        order by user_id, account_id",
    )
    .bind(user.as_str())
    .bind(refresh_token_as_stored.expose())
    .fetch_all(conn)
    .await?
    .iter()
    .map(from_row)
    .collect()
}

/// Reads the row's columns, which are named as in the table.
pub(super) fn from_row(row: &PgRow) -> Result<Credentials, PgError> {
    Ok(Credentials {
        key: session_key(row, "credentials")?,
        is_live: row.try_get("is_live")?,
        access_token: secret(row, "access_token")?,
        refresh_token: secret(row, "refresh_token")?,
        expires_at: row.try_get("expires_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

/// Reads the columns `user_id` and `account_id` of a row of this table.
pub(super) fn session_key(row: &PgRow, table: &'static str) -> Result<SessionKey, PgError> {
    let user: String = row.try_get("user_id")?;
    Ok(SessionKey {
        user: UserId::new(user).map_err(|_| PgError::unexpected(table, "an invalid user id"))?,
        account: AccountId(row.try_get("account_id")?),
    })
}

/// Reads a column that must not be shown.
pub(super) fn secret(row: &PgRow, column: &'static str) -> Result<Secret, PgError> {
    Ok(Secret::new(row.try_get::<String, _>(column)?))
}

/// Gives the new tokens to those rows that still have the old refresh token. Returns how many rows were updated.
pub(super) async fn update(
    conn: &mut PgConnection,
    updates: &[CredentialsUpdate],
    expires_at: Option<OffsetDateTime>,
) -> Result<u64, PgError> {
    fn column<'u>(
        updates: &'u [CredentialsUpdate],
        of: impl FnMut(&'u CredentialsUpdate) -> &'u str,
    ) -> Vec<&'u str> {
        updates.iter().map(of).collect()
    }
    let accounts: Vec<i64> = updates.iter().map(|update| update.key.account.0).collect();
    let result = sqlx::query(
        "-- credentials.update
        update bridge.credentials c set
            access_token = r.access_token,
            refresh_token = r.refresh_token,
            expires_at = $6
        from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
            as r (user_id, account_id, old_refresh_token, access_token, refresh_token)
        where c.user_id = r.user_id and c.account_id = r.account_id
            and c.refresh_token = r.old_refresh_token",
    )
    .bind(column(updates, |update| update.key.user.as_str()))
    .bind(accounts)
    .bind(column(updates, |update| update.old_refresh_token.expose()))
    .bind(column(updates, |update| update.access_token.expose()))
    .bind(column(updates, |update| update.refresh_token.expose()))
    .bind(expires_at)
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
