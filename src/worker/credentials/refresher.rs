//! Renews tokens: one at a time a grant, over the whole fleet.
//!
//! A refresh token works once, and only its answer tells the next one. So: lease it (`pg::token_refresh`), say
//! that it is sent, send it over a link, commit the new pair, and only then is it used, by whoever reads
//! `bridge.credentials`. The commit is tried until it works. An answer that comes late still counts;
//! when none comes, the token is never sent again unless cTrader itself proves that it was not spent,
//! by still taking the access token that a refresh would have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::ctrader::connection::{Refreshed, TokenPair};
use crate::ctrader::error::{Disposition, Refusal};
use crate::domain::ids::SessionKey;
use crate::domain::secret::Secret;
use crate::metrics::{Metrics, RefreshOutcome};
use crate::pg::PgError;
use crate::pg::connect::Database;
use crate::pg::credentials::{self, Credentials, CredentialsUpdate};
use crate::pg::token_refresh::{self, LeaseOutcome};
use crate::token_cipher::{TokenCipher, TokenError};
use crate::worker::handles::link::{LinkCommand, LinkHandle, Links};
use crate::worker::handles::renewals::{RenewalReason, RenewalRequest, expires_soon};

/// Renewals at the same time, so that a day on which many end does not take all connections.
const RENEWALS_IN_FLIGHT_MAX: usize = 8;

/// From the lease to the word that it is sent. Nothing but two statements happens in it.
const LEASE_FOR: Duration = Duration::from_secs(30);

/// An answer is awaited that long before others have their turn. It still counts after that.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// A token that was sent so long ago and has no answer will get none.
const LOST_AFTER: Duration = Duration::from_mins(2);

/// The same session is renewed ahead of its token's end no more often than that.
const AHEAD_EVERY: Duration = Duration::from_mins(10);

/// The pause between two tries to commit a new pair.
const COMMIT_PAUSE: Duration = Duration::from_millis(500);

/// What a user reads whose token was spent for a pair that nobody knows.
const LOST: &str = "the cTrader authorisation was lost while it was renewed: connect cTrader again";

/// Renews tokens.
#[derive(Clone)]
pub(in crate::worker) struct Refresher {
    pub(in crate::worker) database: Database,
    pub(in crate::worker) worker_id: String,
    pub(in crate::worker) token_cipher: TokenCipher,
    pub(in crate::worker) links: Links,
    pub(in crate::worker) metrics: Arc<Metrics>,
}

/// A grant, as one session's row has it.
struct Grant {
    stored: Credentials,
    access: Secret,
    refresh: Secret,
    hash: String,
}

/// Why nothing came of a request.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Refresher {
    /// Runs until `stop`, and then until what was begun is committed.
    pub(in crate::worker) async fn run(
        self,
        mut requests: mpsc::Receiver<RenewalRequest>,
        stop: CancellationToken,
    ) {
        let permits = Arc::new(Semaphore::new(RENEWALS_IN_FLIGHT_MAX));
        let mut ahead: BTreeMap<SessionKey, Instant> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let request = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                request = requests.recv() => match request {
                    Some(request) => request,
                    None => break,
                },
            };
            if matches!(request.reason, RenewalReason::ExpiresSoon) {
                let now = Instant::now();
                ahead.retain(|_, at| *at + AHEAD_EVERY > now);
                if ahead.contains_key(&request.key) {
                    continue;
                }
                ahead.insert(request.key.clone(), now);
            }
            let (refresher, permits) = (self.clone(), Arc::clone(&permits));
            tasks.spawn(async move {
                // Never closed.
                let Ok(permit) = permits.acquire_owned().await else { return };
                let key = request.key.clone();
                if let Err(trouble) = refresher.renew(request, permit).await {
                    refresher.metrics.refreshed(RefreshOutcome::Deferred);
                    warn!(account = %key.account, user = ?key.user, error = %trouble, "a token was not renewed");
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn renew(
        &self,
        request: RenewalRequest,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Trouble> {
        let Some(grant) = self.grant(&request.key).await? else {
            return Ok(());
        };
        // A newer one is stored already, and its session hears of it by the table's hint.
        let is_done = match &request.reason {
            RenewalReason::Refused(token) => *token != grant.access,
            RenewalReason::ExpiresSoon => !expires_soon(grant.stored.expires_at),
        };
        if is_done {
            return Ok(());
        }
        match self.lease(&grant.hash).await? {
            LeaseOutcome::Granted => self.spend(&request, grant, permit).await,
            LeaseOutcome::Busy => Ok(()),
            LeaseOutcome::Done {
                access_token,
                refresh_token,
                expires_at,
            } => {
                let pair = TokenPair {
                    access: self.token_cipher.open_for(&grant.hash, &access_token)?,
                    refresh: self.token_cipher.open_for(&grant.hash, &refresh_token)?,
                    expires_in_secs: 0,
                };
                self.commit(&grant, &pair, expires_at).await;
                self.metrics.refreshed(RefreshOutcome::Adopted);
                Ok(())
            }
            LeaseOutcome::Refused { reason } => {
                self.report_failure(&request, &grant, reason).await;
                Ok(())
            }
            LeaseOutcome::Sent { at } => self.handle_sent(&request, grant, at, permit).await,
        }
    }

    /// Somebody sent it, and no answer is known.
    async fn handle_sent(
        &self,
        request: &RenewalRequest,
        grant: Grant,
        at: OffsetDateTime,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Trouble> {
        if OffsetDateTime::now_utc() - at < LOST_AFTER {
            return Ok(());
        }
        match request.reason {
            // The old pair is dead, and so it was spent.
            RenewalReason::Refused(_) => {
                self.metrics.refreshed(RefreshOutcome::Lost);
                self.report_failure(request, &grant, LOST.to_owned()).await;
                Ok(())
            }
            RenewalReason::ExpiresSoon => {
                if !self.is_alive(&grant).await {
                    return Ok(());
                }
                let released = self
                    .database
                    .run(async |conn| {
                        token_refresh::release_proven_unsent(conn, &grant.hash, at).await
                    })
                    .await?;
                if released && self.lease(&grant.hash).await? == LeaseOutcome::Granted {
                    return self.spend(request, grant, permit).await;
                }
                Ok(())
            }
        }
    }

    /// Sends a leased token, and commits what it was spent for.
    async fn spend(
        &self,
        request: &RenewalRequest,
        grant: Grant,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Trouble> {
        let marked = self
            .database
            .run(async |conn| token_refresh::mark_sent(conn, &grant.hash, &self.worker_id).await)
            .await;
        let marked = match marked {
            Ok(marked) => marked,
            Err(error) => {
                // The mark may be there all the same. The token surely was not sent.
                self.release(&grant).await?;
                return Err(error.into());
            }
        };
        if !marked {
            return Ok(());
        }
        let reply = match self.link(&grant) {
            Some(link) => link.refresh(grant.refresh.clone()).await,
            None => None,
        };
        let refreshed = match reply {
            None => Refreshed::Unsent,
            Some(mut reply) => {
                if let Ok(replied) = timeout(REPLY_TIMEOUT, &mut reply).await {
                    replied.unwrap_or(Refreshed::Lost)
                } else {
                    warn!(account = %request.key.account, "cTrader has not answered to a refresh token yet: its answer still counts");
                    drop(permit);
                    reply.await.unwrap_or(Refreshed::Lost)
                }
            }
        };
        match refreshed {
            Refreshed::Pair(pair) => {
                let ends = OffsetDateTime::now_utc()
                    .checked_add(time::Duration::seconds(pair.expires_in_secs.max(0)));
                self.commit(&grant, &pair, ends).await;
                self.metrics.refreshed(RefreshOutcome::Renewed);
            }
            Refreshed::Unsent => {
                self.release(&grant).await?;
                self.metrics.refreshed(RefreshOutcome::Deferred);
            }
            Refreshed::Lost => {
                warn!(account = %request.key.account, "the answer to a refresh token is lost");
                self.metrics.refreshed(RefreshOutcome::Lost);
            }
            Refreshed::Refused(refusal) => self.handle_refused(request, &grant, &refusal).await?,
        }
        Ok(())
    }

    async fn handle_refused(
        &self,
        request: &RenewalRequest,
        grant: &Grant,
        refusal: &Refusal,
    ) -> Result<(), Trouble> {
        // It was not looked at: the same may work later.
        let unspent = matches!(
            refusal.disposition(),
            Disposition::RetrySoon
                | Disposition::BackOff
                | Disposition::BackOffLong
                | Disposition::ReauthoriseApplication
                | Disposition::StopApplication
        );
        if unspent && refusal.code != UNREADABLE {
            self.release(grant).await?;
            self.metrics.refreshed(RefreshOutcome::Deferred);
            return Ok(());
        }
        let reason = if refusal.code == UNREADABLE {
            LOST.to_owned()
        } else {
            refusal.for_user()
        };
        self.database
            .run(async |conn| token_refresh::refuse(conn, &grant.hash, &reason).await)
            .await?;
        warn!(account = %request.key.account, user = ?request.key.user, code = refusal.code, "cTrader refused to renew a token");
        self.metrics.refreshed(RefreshOutcome::Refused);
        self.report_failure(request, grant, reason).await;
        Ok(())
    }

    /// Commits a new pair, however long that takes: nobody else knows it.
    async fn commit(&self, grant: &Grant, pair: &TokenPair, expires_at: Option<OffsetDateTime>) {
        loop {
            match self.try_commit(grant, pair, expires_at).await {
                Ok(rows) => {
                    info!(account = %grant.stored.key.account, user = ?grant.stored.key.user, rows, "a new token is stored");
                    return;
                }
                Err(Trouble::Postgres(error)) if error.is_transient() => {
                    warn!(error = %error, "a new token cannot be stored yet");
                    sleep(COMMIT_PAUSE).await;
                }
                Err(trouble) => {
                    error!(account = %grant.stored.key.account, error = %trouble, "a new token cannot be stored");
                    sleep(COMMIT_PAUSE).await;
                }
            }
        }
    }

    async fn try_commit(
        &self,
        grant: &Grant,
        pair: &TokenPair,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<u64, Trouble> {
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

    /// What a session's row has, opened.
    async fn grant(&self, key: &SessionKey) -> Result<Option<Grant>, Trouble> {
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
        Ok(Some(Grant {
            stored,
            access,
            refresh,
            hash,
        }))
    }

    /// Whether cTrader still takes a grant's access token.
    async fn is_alive(&self, grant: &Grant) -> bool {
        let Some(link) = self.link(grant) else {
            return false;
        };
        let Some(reply) = link.verify(grant.access.clone()).await else {
            return false;
        };
        matches!(timeout(REPLY_TIMEOUT, reply).await, Ok(Ok(Ok(_))))
    }

    /// Tells the session's link that its token cannot be renewed: its row will say so, and what streams goes on.
    async fn report_failure(&self, request: &RenewalRequest, grant: &Grant, reason: String) {
        let command = LinkCommand::RenewalFailed {
            key: request.key.clone(),
            token: grant.access.clone(),
            reason,
        };
        if let Some(link) = self.link(grant) {
            // It has ended only when the worker stops.
            let _ = link.send(command).await;
        }
    }

    fn link(&self, grant: &Grant) -> Option<&LinkHandle> {
        self.links.of_token(grant.stored.is_live, &grant.access)
    }

    async fn lease(&self, hash: &str) -> Result<LeaseOutcome, PgError> {
        self.database
            .run(async |conn| token_refresh::lease(conn, hash, &self.worker_id, LEASE_FOR).await)
            .await
    }

    async fn release(&self, grant: &Grant) -> Result<(), PgError> {
        self.database
            .run(async |conn| token_refresh::release(conn, &grant.hash, &self.worker_id).await)
            .await
    }
}

/// The code of an answer that came and says nothing.
const UNREADABLE: &str = "UNREADABLE_ANSWER";
