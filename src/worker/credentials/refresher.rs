//! Renews tokens: one renewal of a grant at a time, over the whole fleet.
//!
//! A refresh token works once, and only cTrader's response contains the next one. So a renewal leases the refresh
//! token, marks it as sent, sends it over a link and commits the new pair; only then is the pair used, by whoever
//! reads `bridge.credentials`. The commit is retried until it works. A late response still counts. If none comes,
//! the token is never sent again, unless cTrader proves that it was not used, by still accepting the access token
//! that a refresh would have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::grant::{GrantError, GrantStore, StoredGrant};
use crate::ctrader::connection::Refreshed;
use crate::ctrader::error::{Disposition, Refusal};
use crate::domain::ids::SessionKey;
use crate::metrics::{Metrics, RefreshOutcome};
use crate::pg::PgError;
use crate::pg::token_refresh::LeaseOutcome;
use crate::worker::handles::link::{LinkCommand, LinkHandle, Links};
use crate::worker::handles::renewals::{RenewalReason, RenewalRequest, expires_soon};

/// Renewals at the same time, so that a day on which many tokens expire does not use all connections.
const RENEWALS_IN_FLIGHT_MAX: usize = 8;

/// How long a renewal waits for the response before it lets others run. The response still counts after that.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// A token that was sent so long ago without a response will get none.
const LOST_AFTER: Duration = Duration::from_mins(2);

/// The shortest time between two renewals of one session before its token expires.
const RENEW_AHEAD_INTERVAL: Duration = Duration::from_mins(10);

/// What a user reads whose refresh token was used for a pair that nobody has.
const LOST_REASON: &str =
    "the cTrader authorisation was lost while it was renewed: connect cTrader again";

/// What the log shows in place of cTrader's error code for a response that cannot be read.
const UNREADABLE_CODE: &str = "unreadable";

/// Renews tokens.
#[derive(Clone)]
pub(in crate::worker) struct Refresher {
    pub(in crate::worker) grants: GrantStore,
    pub(in crate::worker) links: Links,
    pub(in crate::worker) metrics: Arc<Metrics>,
}

impl Refresher {
    /// Runs until `stop`, and then until the renewals under way are committed.
    pub(in crate::worker) async fn run(
        self,
        mut requests: mpsc::Receiver<RenewalRequest>,
        stop: CancellationToken,
    ) {
        let in_flight = Arc::new(Semaphore::new(RENEWALS_IN_FLIGHT_MAX));
        let mut renewed_ahead: BTreeMap<SessionKey, Instant> = BTreeMap::new();
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
                renewed_ahead.retain(|_, at| *at + RENEW_AHEAD_INTERVAL > now);
                if renewed_ahead.contains_key(&request.key) {
                    continue;
                }
                renewed_ahead.insert(request.key.clone(), now);
            }
            let (refresher, in_flight) = (self.clone(), Arc::clone(&in_flight));
            tasks.spawn(async move {
                // The semaphore is never closed.
                let Ok(permit) = in_flight.acquire_owned().await else { return };
                let key = request.key.clone();
                if let Err(error) = refresher.renew(request, permit).await {
                    refresher.metrics.refreshed(RefreshOutcome::Deferred);
                    warn!(account = %key.account, user = ?key.user, error = %error, "a token was not renewed");
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn renew(
        &self,
        request: RenewalRequest,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), GrantError> {
        let Some(grant) = self.grants.load(&request.key).await? else {
            return Ok(());
        };
        // If a newer token is stored already, a notification of the table reloads the session.
        let is_done = match &request.reason {
            RenewalReason::Refused(token) => *token != grant.access,
            RenewalReason::ExpiresSoon => !expires_soon(grant.stored.expires_at),
        };
        if is_done {
            return Ok(());
        }
        match self.grants.lease(&grant).await? {
            LeaseOutcome::Granted => self.refresh(&request, grant, permit).await,
            LeaseOutcome::Busy => Ok(()),
            LeaseOutcome::Done {
                access_token,
                refresh_token,
                expires_at,
            } => {
                let pair = self
                    .grants
                    .open_pair(&grant, &access_token, &refresh_token)?;
                self.grants.commit(&grant, &pair, expires_at).await;
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

    /// A worker sent the token at that time, and no response is recorded.
    async fn handle_sent(
        &self,
        request: &RenewalRequest,
        grant: StoredGrant,
        at: OffsetDateTime,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), GrantError> {
        if OffsetDateTime::now_utc() - at < LOST_AFTER {
            return Ok(());
        }
        match request.reason {
            // cTrader refuses the old access token, so the refresh token was used.
            RenewalReason::Refused(_) => {
                self.metrics.refreshed(RefreshOutcome::Lost);
                self.report_failure(request, &grant, LOST_REASON.to_owned())
                    .await;
                Ok(())
            }
            RenewalReason::ExpiresSoon => {
                if !self.is_access_token_valid(&grant).await {
                    return Ok(());
                }
                let released = self.grants.release_proven_unsent(&grant, at).await?;
                if released && self.grants.lease(&grant).await? == LeaseOutcome::Granted {
                    return self.refresh(request, grant, permit).await;
                }
                Ok(())
            }
        }
    }

    /// Sends a leased refresh token, and commits the new pair.
    async fn refresh(
        &self,
        request: &RenewalRequest,
        grant: StoredGrant,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), GrantError> {
        let marked = match self.grants.mark_sent(&grant).await {
            Ok(marked) => marked,
            Err(error) => {
                // The token may be marked all the same, but it certainly was not sent.
                self.grants.release(&grant).await?;
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
                    warn!(account = %request.key.account, "cTrader has not responded to a refresh token yet: a late response still counts");
                    drop(permit);
                    reply.await.unwrap_or(Refreshed::Lost)
                }
            }
        };
        match refreshed {
            Refreshed::Pair(pair) => {
                let expires_at = OffsetDateTime::now_utc()
                    .checked_add(time::Duration::seconds(pair.expires_in_secs.max(0)));
                self.grants.commit(&grant, &pair, expires_at).await;
                self.metrics.refreshed(RefreshOutcome::Renewed);
            }
            Refreshed::Unsent => {
                self.grants.release(&grant).await?;
                self.metrics.refreshed(RefreshOutcome::Deferred);
            }
            Refreshed::Lost => {
                warn!(account = %request.key.account, "the response to a refresh token is lost");
                self.metrics.refreshed(RefreshOutcome::Lost);
            }
            Refreshed::Refused(refusal) => self.handle_refused(request, &grant, &refusal).await?,
            Refreshed::Unreadable => {
                let reason = LOST_REASON.to_owned();
                self.record_refusal(request, &grant, UNREADABLE_CODE, reason)
                    .await?;
            }
        }
        Ok(())
    }

    async fn handle_refused(
        &self,
        request: &RenewalRequest,
        grant: &StoredGrant,
        refusal: &Refusal,
    ) -> Result<(), GrantError> {
        // cTrader did not process the token: the same one may work later.
        let is_unused = matches!(
            refusal.disposition(),
            Disposition::RetrySoon
                | Disposition::BackOff
                | Disposition::BackOffLong
                | Disposition::ReauthoriseApplication
                | Disposition::StopApplication
        );
        if is_unused {
            self.grants.release(grant).await?;
            self.metrics.refreshed(RefreshOutcome::Deferred);
            return Ok(());
        }
        self.record_refusal(request, grant, &refusal.code, refusal.for_user())
            .await?;
        Ok(())
    }

    /// Records that a refresh token was used without a new pair, and reports the reason to the session.
    async fn record_refusal(
        &self,
        request: &RenewalRequest,
        grant: &StoredGrant,
        code: &str,
        reason: String,
    ) -> Result<(), PgError> {
        self.grants.record_refusal(grant, &reason).await?;
        warn!(account = %request.key.account, user = ?request.key.user, code, "cTrader refused to renew a token");
        self.metrics.refreshed(RefreshOutcome::Refused);
        self.report_failure(request, grant, reason).await;
        Ok(())
    }

    /// Whether cTrader still accepts a grant's access token.
    async fn is_access_token_valid(&self, grant: &StoredGrant) -> bool {
        let Some(link) = self.link(grant) else {
            return false;
        };
        let Some(reply) = link.verify(grant.access.clone()).await else {
            return false;
        };
        matches!(timeout(REPLY_TIMEOUT, reply).await, Ok(Ok(Ok(_))))
    }

    /// Reports to the session's link that its token cannot be renewed. The link publishes the reason; a session
    /// that streams goes on.
    async fn report_failure(&self, request: &RenewalRequest, grant: &StoredGrant, reason: String) {
        let command = LinkCommand::RenewalFailed {
            key: request.key.clone(),
            token: grant.access.clone(),
            reason,
        };
        if let Some(link) = self.link(grant) {
            // A link ends only when the worker stops.
            let _ = link.send(command).await;
        }
    }

    fn link(&self, grant: &StoredGrant) -> Option<&LinkHandle> {
        self.links.of_token(grant.stored.is_live, &grant.access)
    }
}
