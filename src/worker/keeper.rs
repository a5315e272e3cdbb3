//! The keeper of the claims: one task, one dedicated connection, all of this worker's slot locks.
//!
//! It renews every [`PING_EVERY`] and gives an answer no longer than [`ANSWER_WITHIN`]. So claims
//! that cannot be renewed are given up here, and every session with them, at most 4 s after the
//! start of the last renewal that worked: before the server can hand the locks to anybody else
//! (it waits 9 s for a silent client and 10 s for an idle one).

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::link::LinkCommand;
use crate::domain::ids::Slot;
use crate::pg::PgError;
use crate::pg::claims::LockConnection;
use crate::pg::connect::PgConfig;

/// How often the claims are proved.
const PING_EVERY: Duration = Duration::from_secs(2);

/// How long a proof, or any other use of the lock connection, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The pause before the next try to connect.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Slots of one request; claiming a thousand takes milliseconds, and the answer is awaited.
const REQUEST_SLOTS_MAX: usize = 1_024;

/// Whether claims can be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClaimState {
    /// They can. The number is another one for each lock connection: claims do not outlive it.
    Held(u64),
    /// They can't; whatever was held is given up.
    Lost(String),
}

/// What the coordinator asks for.
#[derive(Debug)]
pub(super) enum ClaimRequest {
    /// Claim what is free of these slots; the answer has the epochs of those that were got.
    Acquire(Vec<Slot>, oneshot::Sender<Vec<(Slot, i64)>>),
    /// Let slots go.
    Release(Vec<Slot>),
}

/// Holds the claims.
pub(super) struct Keeper {
    pub(super) config: PgConfig,
    pub(super) worker_id: String,
    /// Every link: told directly when the claims are lost, since the coordinator may be waiting
    /// for the same database.
    pub(super) links: Vec<mpsc::Sender<LinkCommand>>,
    pub(super) requests: mpsc::Receiver<ClaimRequest>,
    pub(super) state: watch::Sender<ClaimState>,
}

impl Keeper {
    /// Runs until `stop`; then all claims are released and the connection is closed.
    /// `first` is a lock connection that was opened already.
    pub(super) async fn run(mut self, first: LockConnection, stop: CancellationToken) {
        let mut connection = Some(first);
        let mut generation = 0;
        while !stop.is_cancelled() {
            let Some(held) = connection.take() else {
                connection = self.connect(&stop).await;
                continue;
            };
            generation += 1;
            self.state.send_replace(ClaimState::Held(generation));
            let Err(lost) = self.keep(held, &stop).await else {
                return;
            };
            warn!(error = %lost, "the claims are lost: all sessions are given up");
            self.state.send_replace(ClaimState::Lost(lost.to_string()));
            for link in &self.links {
                // A link that is gone carries nothing.
                let _ = link.send(LinkCommand::ReleaseAll).await;
            }
        }
    }

    async fn connect(&mut self, stop: &CancellationToken) -> Option<LockConnection> {
        match LockConnection::connect(&self.config).await {
            Ok(connection) => {
                info!("the lock connection is back");
                Some(connection)
            }
            Err(error) => {
                warn!(error = %error, "no lock connection");
                self.state.send_replace(ClaimState::Lost(error.to_string()));
                tokio::select! {
                    () = tokio::time::sleep(RECONNECT_PAUSE) => {}
                    () = stop.cancelled() => {}
                }
                None
            }
        }
    }

    async fn keep(
        &mut self,
        mut connection: LockConnection,
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
                _ = pings.tick() => within(connection.ping()).await?,
                // Without the coordinator there are no requests, and the claims are kept all the same:
                // the last rows are written under them.
                Some(request) = self.requests.recv() => match request {
                    ClaimRequest::Acquire(slots, answer) => {
                        for batch in slots.chunks(REQUEST_SLOTS_MAX) {
                            let got = within(connection.acquire(&self.worker_id, batch)).await;
                            unless_lost(got, &mut connection).await?;
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
                            let released = within(connection.release(&slots)).await;
                            unless_lost(released, &mut connection).await?;
                        }
                    }
                    ClaimRequest::Release(slots) => {
                        let released = within(connection.release(&slots)).await;
                        unless_lost(released, &mut connection).await?;
                    }
                },
            }
        }
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
