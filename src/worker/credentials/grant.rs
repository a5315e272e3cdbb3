//! Grants in Postgres: reads the pair of tokens of a session's row, leases its refresh token to one worker of the
//! fleet, and commits the pair that replaces it.

use std::time::Duration;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::ctrader::connection::TokenPair;
use crate::domain::ids::SessionKey;
use crate::domain::secret::Secret;
use crate::pg::PgError;
use crate::pg::connect::Database;
use crate::pg::credentials::{self, Credentials, CredentialsUpdate};
use crate::pg::token_refresh::{self, LeaseOutcome};
use crate::token_cipher::{TokenCipher, TokenError};

/// How long a lease lasts, until the token is marked as sent. Only two statements happen in between.
const LEASE_DURATION: Duration = Duration::from_secs(30);

/// The pause between two attempts to commit a new pair.
const COMMIT_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A grant, as one session's row has it.
pub(super) struct StoredGrant {
    pub(super) stored: Credentials,
    pub(super) access: Secret,
    pub(super) refresh: Secret,
    /// The SHA-256 of the refresh token. It names the grant in the whole fleet.
    hash: String,
}

/// Why a grant could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrantError {
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Reads and changes grants.
#[derive(Clone)]
pub(in crate::worker) struct GrantStore {
    pub(in crate::worker) database: Database,
    pub(in crate::worker) worker_id: String,
    pub(in crate::worker) token_cipher: TokenCipher,
}

impl GrantStore {
    /// Reads the grant of a session and opens its tokens; `None` if the session has no credentials.
    pub(super) async fn load(&self, key: &SessionKey) -> Result<Option<StoredGrant>, GrantError> {
        let stored = self
            .database
            .run(async |conn| credentials::load(conn, key).await)
            .await?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let access = self
            .token_cipher
            .open(&stored.key.user, &stored.access_token)?;
        let refresh = self
            .token_cipher
            .open(&stored.key.user, &stored.refresh_token)?;
        let hash = hex::encode(Sha256::digest(refresh.expose().as_bytes()));
        Ok(Some(StoredGrant {
            stored,
            access,
            refresh,
            hash,
        }))
    }

    /// Leases a refresh token, so that nobody else sends it.
    pub(super) async fn lease(&self, grant: &StoredGrant) -> Result<LeaseOutcome, PgError> {
        let (hash, worker_id) = (&grant.hash, &self.worker_id);
        self.database
            .run(async |conn| token_refresh::lease(conn, hash, worker_id, LEASE_DURATION).await)
            .await
    }

    /// Records that a leased refresh token is about to be sent. Returns `false` if the lease is lost.
    pub(super) async fn mark_sent(&self, grant: &StoredGrant) -> Result<bool, PgError> {
        self.database
            .run(async |conn| token_refresh::mark_sent(conn, &grant.hash, &self.worker_id).await)
            .await
    }

    /// Releases a lease: the refresh token was not used.
    pub(super) async fn release(&self, grant: &StoredGrant) -> Result<(), PgError> {
        self.database
            .run(async |conn| token_refresh::release(conn, &grant.hash, &self.worker_id).await)
            .await
    }

    /// Releases a refresh token that was marked as sent at that time, and that cTrader proved to be unused.
    /// Returns whether it was still marked so.
    pub(super) async fn release_proven_unsent(
        &self,
        grant: &StoredGrant,
        at: OffsetDateTime,
    ) -> Result<bool, PgError> {
        self.database
            .run(async |conn| token_refresh::release_proven_unsent(conn, &grant.hash, at).await)
            .await
    }

    /// Records that a refresh token was used without a new pair, and why.
    pub(super) async fn record_refusal(
        &self,
        grant: &StoredGrant,
        reason: &str,
    ) -> Result<(), PgError> {
        self.database
            .run(async |conn| token_refresh::refuse(conn, &grant.hash, reason).await)
            .await
    }

    /// Opens the pair that another worker received for a grant.
    pub(super) fn open_pair(
        &self,
        grant: &StoredGrant,
        access: &Secret,
        refresh: &Secret,
    ) -> Result<TokenPair, TokenError> {
        Ok(TokenPair {
            access: self.token_cipher.open_for(&grant.hash, access)?,
            refresh: self.token_cipher.open_for(&grant.hash, refresh)?,
            expires_in_secs: 0,
        })
    }

    /// Commits a new pair, however long that takes: nobody else has it.
    pub(super) async fn commit(
        &self,
        grant: &StoredGrant,
        pair: &TokenPair,
        expires_at: Option<OffsetDateTime>,
    ) {
        loop {
            match self.try_commit(grant, pair, expires_at).await {
                Ok(rows) => {
                    info!(account = %grant.stored.key.account, user = ?grant.stored.key.user, rows, "a new token is stored");
                    return;
                }
                Err(GrantError::Postgres(error)) if error.is_transient() => {
                    warn!(error = %error, "a new token cannot be stored yet");
                    sleep(COMMIT_RETRY_PAUSE).await;
                }
                Err(error) => {
                    error!(account = %grant.stored.key.account, error = %error, "a new token cannot be stored");
                    sleep(COMMIT_RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn try_commit(
        &self,
        grant: &StoredGrant,
        pair: &TokenPair,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<u64, GrantError> {
        let stored = &grant.stored;
        let same_grant = self
            .database
            .run(async |conn| {
                credentials::load_same_grant(conn, &stored.key.user, &stored.refresh_token).await
            })
            .await?;
        let mut updates = Vec::new();
        for row in same_grant {
            // A row of another grant, or one that this worker cannot open.
            if self
                .token_cipher
                .open(&row.key.user, &row.refresh_token)
                .ok()
                .as_ref()
                != Some(&grant.refresh)
            {
                continue;
            }
            updates.push(CredentialsUpdate {
                access_token: self.token_cipher.seal(&row.key.user, &pair.access)?,
                refresh_token: self.token_cipher.seal(&row.key.user, &pair.refresh)?,
                key: row.key,
                old_refresh_token: row.refresh_token,
            });
        }
        let access = self.token_cipher.seal_for(&grant.hash, &pair.access)?;
        let refresh = self.token_cipher.seal_for(&grant.hash, &pair.refresh)?;
        Ok(self
            .database
            .run(async |conn| {
                let hash = &grant.hash;
                token_refresh::complete(conn, hash, (&access, &refresh), expires_at, &updates).await
            })
            .await?)
    }
}
