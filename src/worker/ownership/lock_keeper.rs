//! The lock keeper: one task with one dedicated connection, which holds all of this worker's slot locks, its membership
//! in the fleet, and its permits for connections to cTrader.
//!
//! It checks the connection every [`PING_INTERVAL`] and waits [`REPLY_TIMEOUT`] for each reply. If Postgres does not
//! reply, the lock keeper gives up the claims, and every session with them, at most 4 s after the start of the last
//! check that worked. That is before the server can release the locks to another worker (after 9 s if this one is
//! unreachable, after 10 s if it is reachable but sends nothing).
//!
//! If the server ends the connection or refuses a new one, it most likely restarts, and nobody can claim anything
//! until it is back. The sessions are suspended then: they stream and write nothing, and continue under a new epoch if
//! the slots can still be claimed afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::permits::Permits;
use crate::domain::ids::Slot;
use crate::pg::PgError;
use crate::pg::claims::LockConnection;
use crate::pg::connect::PgConfig;
use crate::worker::handles::link::{LinkCommand, Links};
use crate::worker::handles::locks::{ClaimState, LockRequest, Membership};
use crate::worker::handles::wakeups::Wakeups;

/// How often the claims are checked.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long a check, or any other statement on the lock connection, may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause before the next try to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How long sessions stay suspended after the last reply of the server.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long sessions stay suspended in all.
const SUSPENDED_MAX: Duration = Duration::from_mins(5);

/// Slots of one request; claiming a thousand takes milliseconds, and the requester waits for the reply.
const REQUEST_SLOTS_MAX: usize = 1_024;

/// Holds the claims.
pub(in crate::worker) struct LockKeeper {
    pub(in crate::worker) config: PgConfig,
    pub(in crate::worker) worker_id: String,
    pub(in crate::worker) sessions_max: usize,
    /// All links. They get their commands directly when the claims are lost, since the coordinator may be waiting for
    /// the same database.
    pub(in crate::worker) links: Links,
    pub(in crate::worker) requests: mpsc::Receiver<LockRequest>,
    pub(in crate::worker) permits: Permits,
    /// Slots whose release failed, so that they are still held.
    pub(in crate::worker) unreleased: BTreeSet<Slot>,
    /// Requests for an immediate check, when something goes wrong with the database.
    pub(in crate::worker) wakeups: Arc<Wakeups>,
    pub(in crate::worker) state: watch::Sender<ClaimState>,
}

impl LockKeeper {
    /// Runs until `stop`; then all claims are released and the connection is closed.
    /// `first` is a lock connection that was opened already.
    pub(in crate::worker) async fn run(mut self, first: LockConnection, stop: CancellationToken) {
        let mut connection = Some(first);
        let mut generation = 0;
        let mut suspended = false;
        while !stop.is_cancelled() {
            let Some(mut held) = connection.take() else {
                (connection, suspended) = self.reconnect(suspended, &stop).await;
                continue;
            };
            let joined = self.join(&mut held, &mut generation, suspended).await;
            let lost = match joined {
                Ok(()) => match self.hold_claims(held, generation, &stop).await {
                    Ok(()) => return,
                    Err(lost) => lost,
                },
                Err(lost) => lost,
            };
            // If the server is silent, it may release the locks unnoticed.
            let silent = !lost.is_reply();
            suspended = !silent;
            self.handle_lost(&lost, silent).await;
        }
    }

    /// Tries failed releases again: nobody else can claim these slots until then.
    async fn retry_releases(&mut self, connection: &mut LockConnection) -> Result<(), PgError> {
        if self.unreleased.is_empty() {
            return Ok(());
        }
        let slots: Vec<Slot> = self.unreleased.iter().copied().collect();
        self.release(slots, connection).await
    }

    async fn release(
        &mut self,
        slots: Vec<Slot>,
        connection: &mut LockConnection,
    ) -> Result<(), PgError> {
        let released = within(connection.release(&slots)).await;
        check_connection(released, connection).await?;
        self.unreleased.extend(slots);
        let held = connection.held();
        self.unreleased.retain(|slot| held.contains_key(slot));
        Ok(())
    }

    /// Joins the fleet, and acquires the permits again.
    async fn join(
        &mut self,
        connection: &mut LockConnection,
        generation: &mut u64,
        suspended: bool,
    ) -> Result<(), PgError> {
        let number = within(connection.join(&self.worker_id, self.sessions_max)).await?;
        *generation += 1;
        self.unreleased.clear();
        for link in within(self.permits.reacquire(connection)).await? {
            if let Some(link) = self.links.get(link) {
                // A link that has ended has no connection.
                let _ = link.send(LinkCommand::PermitLost).await;
            }
        }
        self.state.send_replace(ClaimState::Held(Membership {
            generation: *generation,
            number,
            suspended,
        }));
        Ok(())
    }

    /// The claims are lost: the sessions are suspended, or given up.
    async fn handle_lost(&self, why: &PgError, give_up: bool) {
        if give_up {
            warn!(error = %why, "the claims are lost: all sessions are given up");
        } else {
            warn!(error = %why, "the claims are lost: all sessions are suspended");
        }
        self.state.send_replace(ClaimState::Lost {
            reason: why.to_string(),
            given_up: give_up,
        });
        let command = || {
            if give_up {
                LinkCommand::ReleaseAll
            } else {
                LinkCommand::Suspend
            }
        };
        self.links.send_all(command).await;
    }

    /// Connects again, however long it takes. Gives up the suspended sessions if the server has gone silent, or is
    /// away for too long. Returns whether they are still suspended.
    async fn reconnect(
        &mut self,
        mut suspended: bool,
        stop: &CancellationToken,
    ) -> (Option<LockConnection>, bool) {
        let lost_at = Instant::now();
        let mut last_reply_at = lost_at;
        loop {
            let config = self.config.clone();
            let mut connecting = Box::pin(LockConnection::connect(&config));
            let error = loop {
                let give_up_at = (last_reply_at + SILENCE_MAX).min(lost_at + SUSPENDED_MAX);
                tokio::select! {
                    biased;
                    connected = &mut connecting => match connected {
                        Ok(connection) => {
                            info!("the lock connection is back");
                            return (Some(connection), suspended);
                        }
                        Err(error) => break error,
                    },
                    () = sleep_until(give_up_at), if suspended => {
                        suspended = false;
                        self.handle_lost(&PgError::TimedOut(give_up_at - lost_at), true).await;
                    }
                    () = stop.cancelled() => return (None, suspended),
                    Some(request) = self.requests.recv() => reject(request),
                }
            };
            if error.is_reply() {
                last_reply_at = Instant::now();
            }
            warn!(error = %error, "no lock connection");
            self.state.send_replace(ClaimState::Lost {
                reason: error.to_string(),
                given_up: !suspended,
            });
            tokio::select! {
                () = tokio::time::sleep(RECONNECT_PAUSE) => {}
                () = stop.cancelled() => return (None, suspended),
            }
        }
    }

    async fn hold_claims(
        &mut self,
        mut connection: LockConnection,
        generation: u64,
        stop: &CancellationToken,
    ) -> Result<(), PgError> {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    let all: Vec<Slot> = connection.held().keys().copied().collect();
                    within(connection.release(&all)).await?;
                    info!(slots = all.len(), "claims released");
                    return within(connection.close()).await;
                }
                () = self.wakeups.lock_check_requested() => within(connection.ping()).await?,
                _ = pings.tick() => {
                    within(connection.ping()).await?;
                    self.retry_releases(&mut connection).await?;
                    let first = within(self.permits.acquire_first(&mut connection)).await;
                    check_connection(first, &mut connection).await?;
                }
                // Without the coordinator there are no requests, and the claims are kept all the same:
                // the last rows are written under them.
                Some(request) = self.requests.recv() => {
                    self.handle_request(request, generation, &mut connection).await?;
                }
            }
        }
    }

    async fn handle_request(
        &mut self,
        request: LockRequest,
        generation: u64,
        connection: &mut LockConnection,
    ) -> Result<(), PgError> {
        match request {
            LockRequest::Acquire(of, _, reply_to) if of != generation => {
                // The request was made under a lock connection that is gone.
                let _ = reply_to.send(Vec::new());
            }
            LockRequest::Acquire(_, slots, reply_to) => {
                self.unreleased.retain(|slot| !slots.contains(slot));
                for batch in slots.chunks(REQUEST_SLOTS_MAX) {
                    let acquired = within(connection.acquire(&self.worker_id, batch)).await;
                    check_connection(acquired, connection).await?;
                }
                // Also those that could not be released when they were to be.
                let held = connection.held();
                let claimed: Vec<(Slot, i64)> = slots
                    .iter()
                    .filter_map(|slot| held.get(slot).map(|epoch| (*slot, *epoch)))
                    .collect();
                // Nobody waits for the reply any more, so nobody would run these slots.
                if let Err(unwanted) = reply_to.send(claimed) {
                    let slots: Vec<Slot> = unwanted.iter().map(|(slot, _)| *slot).collect();
                    self.release(slots, connection).await?;
                }
            }
            LockRequest::Release(slots) => self.release(slots, connection).await?,
            LockRequest::Permit(link, reply_to) => {
                let granted = within(self.permits.acquire_for(link, connection)).await;
                let granted = check_connection(granted, connection).await?;
                // A link that no longer waits is being stopped.
                let _ = reply_to.send(granted);
            }
            LockRequest::ReturnPermit(link) => {
                let returned = within(self.permits.return_permit(link, connection)).await;
                check_connection(returned, connection).await?;
            }
        }
        Ok(())
    }
}

/// Rejects a request: there is no lock connection.
fn reject(request: LockRequest) {
    match request {
        LockRequest::Acquire(_, _, reply_to) => {
            let _ = reply_to.send(Vec::new());
        }
        LockRequest::Permit(_, reply_to) => {
            let _ = reply_to.send(false);
        }
        // The claims and permits are gone already.
        LockRequest::Release(_) | LockRequest::ReturnPermit(_) => {}
    }
}

/// Checks the connection after a statement that failed. A claim or a release may fail by itself (for example because
/// another transaction holds a row for too long) and leave all claims as they were; the sweep requests it again.
async fn check_connection<T: Default>(
    result: Result<T, PgError>,
    connection: &mut LockConnection,
) -> Result<T, PgError> {
    match result {
        Ok(done) => Ok(done),
        Err(PgError::TimedOut(limit)) => Err(PgError::TimedOut(limit)),
        Err(failed) => {
            within(connection.ping()).await?;
            warn!(error = %failed, "claims could not be changed");
            Ok(T::default())
        }
    }
}

async fn within<T>(statement: impl Future<Output = Result<T, PgError>>) -> Result<T, PgError> {
    timeout(REPLY_TIMEOUT, statement)
        .await
        .unwrap_or(Err(PgError::TimedOut(REPLY_TIMEOUT)))
}
