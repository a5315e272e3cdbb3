//! The keeper of the claims: one task, one dedicated connection, all of this worker's slot locks, its place
//! in the fleet, and its permits for connections to cTrader.
//!
//! It renews every [`PING_EVERY`] and gives an answer no longer than [`ANSWER_WITHIN`]. So claims
//! that cannot be renewed are given up here, and every session with them, at most 4 s after the
//! start of the last renewal that worked: before the server can hand the locks to anybody else
//! (it waits 9 s for a silent client and 10 s for an idle one).
//!
//! A server that ends the connection, or refuses a new one, is another matter: it restarts, most likely, and
//! nobody can claim anything meanwhile. The sessions are suspended then: they stream and write nothing, and
//! go on under a new epoch if the slots are still to be had once it is back.

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

/// How often the claims are proved.
const PING_EVERY: Duration = Duration::from_secs(2);

/// How long a proof, or any other use of the lock connection, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The pause before the next try to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Sessions stay suspended no longer than that after the server was last heard of.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// Nor longer than that in all.
const SUSPENDED_MAX: Duration = Duration::from_mins(5);

/// Slots of one request; claiming a thousand takes milliseconds, and the answer is awaited.
const REQUEST_SLOTS_MAX: usize = 1_024;

/// Holds the claims.
pub(in crate::worker) struct LockKeeper {
    pub(in crate::worker) config: PgConfig,
    pub(in crate::worker) worker_id: String,
    pub(in crate::worker) sessions_max: usize,
    /// Every link: told directly when the claims are lost, since the coordinator may be waiting
    /// for the same database.
    pub(in crate::worker) links: Links,
    pub(in crate::worker) requests: mpsc::Receiver<LockRequest>,
    pub(in crate::worker) permits: Permits,
    /// Slots that were to be let go of, and still are held.
    pub(in crate::worker) unreleased: BTreeSet<Slot>,
    /// Told when something goes wrong with the database: a proof is due then, and not in two seconds.
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
                Ok(()) => match self.keep(held, generation, &stop).await {
                    Ok(()) => return,
                    Err(lost) => lost,
                },
                Err(lost) => lost,
            };
            // Silence: the server may let go of the locks while it cannot be heard.
            let silent = !lost.is_reply();
            suspended = !silent;
            self.lose(&lost, silent).await;
        }
    }

    /// Tries again to let go of what could not be let go of: nobody else can have it until then.
    async fn release_left(&mut self, connection: &mut LockConnection) -> Result<(), PgError> {
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
        unless_lost(released, connection).await?;
        self.unreleased.extend(slots);
        let held = connection.held();
        self.unreleased.retain(|slot| held.contains_key(slot));
        Ok(())
    }

    /// Takes this worker's place in the fleet, and its permits.
    async fn join(
        &mut self,
        connection: &mut LockConnection,
        generation: &mut u64,
        suspended: bool,
    ) -> Result<(), PgError> {
        let number = within(connection.join(&self.worker_id, self.sessions_max)).await?;
        *generation += 1;
        self.unreleased.clear();
        for link in within(self.permits.renew(connection)).await? {
            if let Some(link) = self.links.get(link) {
                // One that is gone has no connection.
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
    async fn lose(&self, why: &PgError, give_up: bool) {
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

    /// Connects anew, however long it takes. Gives up what is suspended if the server has gone silent, or
    /// is away for too long; answers whether anything still is.
    async fn reconnect(
        &mut self,
        mut suspended: bool,
        stop: &CancellationToken,
    ) -> (Option<LockConnection>, bool) {
        let lost_at = Instant::now();
        let mut heard_at = lost_at;
        loop {
            let config = self.config.clone();
            let mut connecting = Box::pin(LockConnection::connect(&config));
            let error = loop {
                let give_up_at = (heard_at + QUIET_MAX).min(lost_at + SUSPENDED_MAX);
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
                        self.lose(&PgError::TimedOut(give_up_at - lost_at), true).await;
                    }
                    () = stop.cancelled() => return (None, suspended),
                    Some(request) = self.requests.recv() => refuse(request),
                }
            };
            if error.is_reply() {
                heard_at = Instant::now();
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

    async fn keep(
        &mut self,
        mut connection: LockConnection,
        generation: u64,
        stop: &CancellationToken,
    ) -> Result<(), PgError> {
        let mut pings = interval(PING_EVERY);
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
                    self.release_left(&mut connection).await?;
                    let first = within(self.permits.seek_first(&mut connection)).await;
                    unless_lost(first, &mut connection).await?;
                }
                // Without the coordinator there are no requests, and the claims are kept all the same:
                // the last rows are written under them.
                Some(request) = self.requests.recv() => {
                    self.serve(request, generation, &mut connection).await?;
                }
            }
        }
    }

    async fn serve(
        &mut self,
        request: LockRequest,
        generation: u64,
        connection: &mut LockConnection,
    ) -> Result<(), PgError> {
        match request {
            LockRequest::Acquire(of, _, answer) if of != generation => {
                // Asked for under a lock connection that is gone.
                let _ = answer.send(Vec::new());
            }
            LockRequest::Acquire(_, slots, answer) => {
                self.unreleased.retain(|slot| !slots.contains(slot));
                for batch in slots.chunks(REQUEST_SLOTS_MAX) {
                    let got = within(connection.acquire(&self.worker_id, batch)).await;
                    unless_lost(got, connection).await?;
                }
                // Also those that could not be released when they were to be.
                let held = connection.held();
                let claimed: Vec<(Slot, i64)> = slots
                    .iter()
                    .filter_map(|slot| held.get(slot).map(|epoch| (*slot, *epoch)))
                    .collect();
                // Nobody waits for the answer any more: nobody would run these slots.
                if let Err(unwanted) = answer.send(claimed) {
                    let slots: Vec<Slot> = unwanted.iter().map(|(slot, _)| *slot).collect();
                    self.release(slots, connection).await?;
                }
            }
            LockRequest::Release(slots) => self.release(slots, connection).await?,
            LockRequest::Permit(link, answer) => {
                let granted = within(self.permits.grant(link, connection)).await;
                let granted = unless_lost(granted, connection).await?;
                // Who no longer waits has been told to stop.
                let _ = answer.send(granted);
            }
            LockRequest::ReturnPermit(link) => {
                let returned = within(self.permits.take_back(link, connection)).await;
                unless_lost(returned, connection).await?;
            }
        }
        Ok(())
    }
}

/// Without a lock connection nothing can be had.
fn refuse(request: LockRequest) {
    match request {
        LockRequest::Acquire(_, _, answer) => {
            let _ = answer.send(Vec::new());
        }
        LockRequest::Permit(_, answer) => {
            let _ = answer.send(false);
        }
        // The claims are gone already. A permit that comes back is missed by nobody: it is asked for anew.
        LockRequest::Release(_) | LockRequest::ReturnPermit(_) => {}
    }
}

/// A claim or a release may fail by itself (somebody else holds a row for too long, say) and
/// leave all claims as they were: a proof tells. What was not done is asked for again by the sweep.
async fn unless_lost<T: Default>(
    answer: Result<T, PgError>,
    connection: &mut LockConnection,
) -> Result<T, PgError> {
    match answer {
        Ok(done) => Ok(done),
        Err(PgError::TimedOut(limit)) => Err(PgError::TimedOut(limit)),
        Err(failed) => {
            within(connection.ping()).await?;
            warn!(error = %failed, "claims could not be changed");
            Ok(T::default())
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, PgError>>) -> Result<T, PgError> {
    timeout(ANSWER_WITHIN, answer)
        .await
        .unwrap_or(Err(PgError::TimedOut(ANSWER_WITHIN)))
}
