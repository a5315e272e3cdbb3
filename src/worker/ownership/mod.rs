//! Which slots this worker owns, and that it runs the sessions that the tables want there.
//!
//! It is level-triggered: a wakeup, a new claim or the sweep only tell where to look, and the rows tell what is
//! wanted. [`claim`] claims free slots and releases idle ones, [`handover`] gives and takes slots in good order,
//! and [`reconcile`] starts and stops sessions; `domain::fleet` has the rules by which slots are shared.
//! [`lock_keeper`] holds the locks, [`listener`] hears Postgres' notifications.

mod claim;
mod handover;
pub(in crate::worker) mod lock_keeper;
pub(in crate::worker) mod listener;
pub(in crate::worker) mod permits;
mod reconcile;
mod state;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::amqp::ConsumerHandle;
use crate::domain::ids::{SessionKey, Slot};
use crate::pg::PgError;
use crate::pg::connect::Database;
use crate::pg::{placeholders, sessions};
use crate::token_cipher::TokenCipher;
use crate::worker::handles::findings::Finding;
use crate::worker::handles::link::{LinkCommand, Links};
use crate::worker::handles::locks::{ClaimState, LockHandle};
use crate::worker::handles::renewals::Renewals;
use crate::worker::handles::wakeups::{Wakeup, Wakeups};
use crate::worker::health::status::WorkerStatus;
use crate::worker::writing::outbox::Outbox;
use state::Ownership;
pub(in crate::worker) use state::State;

/// How often slots with wanted sessions and without an owner are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// How often the fleet is read: what a dead worker leaves is claimed within two of these.
const FLEET_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Every how many sweeps the sessions of the held slots are read again, should a wakeup be lost.
const SWEEPS_PER_FULL_RELOAD: u32 = 5;

/// How many slots are read at once. All of them together would take more memory than the sessions that run, and
/// everything else would wait.
const SLOTS_PER_READ: usize = 64;

/// Owns slots and reconciles their sessions.
pub(in crate::worker) struct Coordinator {
    pub(in crate::worker) database: Database,
    pub(in crate::worker) links: Links,
    pub(in crate::worker) outbox: Arc<Outbox>,
    pub(in crate::worker) wakeups: Arc<Wakeups>,
    pub(in crate::worker) locks: LockHandle,
    pub(in crate::worker) consumer: ConsumerHandle,
    pub(in crate::worker) findings: mpsc::Receiver<Finding>,
    pub(in crate::worker) status: Arc<WorkerStatus>,
    pub(in crate::worker) sessions_max: usize,
    pub(in crate::worker) token_cipher: TokenCipher,
    pub(in crate::worker) renewals: Renewals,
    pub(in crate::worker) state: State,
}

/// What one pass covers.
#[derive(Debug, Default)]
struct Pass {
    wakeup: Wakeup,
    /// Whether it reads anew which slots have wanted sessions, and claims what is free.
    sweep: bool,
}

impl Coordinator {
    /// Runs until `stop`, or, once `draining`, until nothing is left that another worker would take. The
    /// sessions that are left go on: it is the caller's to drain the links.
    pub(in crate::worker) async fn run(
        mut self,
        draining: CancellationToken,
        stop: CancellationToken,
    ) {
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fleet_poll = interval(FLEET_POLL_INTERVAL);
        fleet_poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut claim_state = self.locks.claims.clone();
        claim_state.mark_changed();
        loop {
            self.status.beat();
            self.status.set_slots(self.state.held.keys().copied());
            let pass = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = claim_state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = claim_state.borrow_and_update().clone();
                    self.handle_claim_state(now).await
                }
                Some(finding) = self.findings.recv() => {
                    self.handle_finding(finding).await;
                    continue;
                }
                () = draining.cancelled(), if !self.state.draining => {
                    self.state.draining = true;
                    Pass { wakeup: Wakeup { fleet: true, ..Wakeup::default() }, sweep: true }
                }
                () = self.wakeups.wait() => {
                    let wakeup = self.wakeups.take();
                    let sweep = wakeup.all || !wakeup.slots.is_empty();
                    Pass { wakeup, sweep }
                }
                _ = sweep.tick() => {
                    self.state.sweeps += 1;
                    let all = self.state.sweeps.is_multiple_of(SWEEPS_PER_FULL_RELOAD);
                    Pass { wakeup: Wakeup { all, fleet: true, ..Wakeup::default() }, sweep: true }
                }
                _ = fleet_poll.tick() => {
                    Pass { wakeup: Wakeup { fleet: true, ..Wakeup::default() }, sweep: false }
                }
            };
            if !matches!(*claim_state.borrow(), ClaimState::Held(_)) {
                if self.state.draining {
                    // Nothing can be handed over.
                    return;
                }
                continue;
            }
            match self.converge(pass).await {
                Ok(()) => self.status.set_database_trouble(None),
                Err(error) => {
                    warn!(error = %error, "cannot read what is wanted");
                    self.wakeups.request_lock_check();
                    self.status.set_database_trouble(Some(error.to_string()));
                    // Nothing is forgotten: the next sweep covers everything.
                    self.state.sweeps = SWEEPS_PER_FULL_RELOAD - 1;
                }
            }
            if self.state.draining && !self.can_hand_over() {
                return;
            }
        }
    }

    /// The lock connection was lost or is another one.
    async fn handle_claim_state(&mut self, now: ClaimState) -> Pass {
        match now {
            ClaimState::Lost { given_up, .. } => {
                // The lock keeper has told the links; what was started since is told here.
                if given_up {
                    self.abandon_all().await;
                } else {
                    self.links.send_all(|| LinkCommand::Suspend).await;
                }
                Pass::default()
            }
            ClaimState::Held(membership) => {
                if self.state.membership == Some(membership) {
                    return Pass::default();
                }
                self.wakeups.set_number(membership.number);
                if membership.suspended {
                    self.resume(membership).await;
                } else {
                    self.abandon_all().await;
                    self.state.membership = Some(membership);
                }
                Pass {
                    wakeup: Wakeup {
                        all: true,
                        fleet: true,
                        ..Wakeup::default()
                    },
                    sweep: true,
                }
            }
        }
    }

    /// The claims are lost, and everything with them.
    async fn abandon_all(&mut self) {
        self.state = State {
            draining: self.state.draining,
            ..State::default()
        };
        self.links.send_all(|| LinkCommand::ReleaseAll).await;
        self.report_session_count();
    }

    /// One pass: claims free slots with wanted sessions, goes on with hand-overs, and reconciles the sessions of
    /// the slots that the pass covers.
    async fn converge(&mut self, pass: Pass) -> Result<(), PgError> {
        let Pass { mut wakeup, sweep } = pass;
        let mut sweep = sweep || !self.state.unclaimed_since_last_poll.is_empty();
        for key in &wakeup.standby_ready {
            if let Some(running) = self.state.running.get_mut(key) {
                running.standby_ready = true;
            }
        }
        for key in std::mem::take(&mut wakeup.released) {
            if self.handle_released(&key) {
                wakeup.slots.insert(key.user.slot());
            }
        }
        if wakeup.fleet || !wakeup.standby_ready.is_empty() {
            let before = self.state.fleet.members.len();
            let taken_over = self.poll_fleet().await?;
            sweep |= !taken_over.is_empty() || self.state.fleet.members.len() < before;
            wakeup.slots.extend(taken_over);
        }
        if sweep {
            self.state.wanted = self
                .database
                .run(async |conn| sessions::active_slots(conn).await)
                .await?
                .into_iter()
                .map(|(slot, sessions)| (slot, usize::try_from(sessions).unwrap_or(0)))
                .collect();
            wakeup.slots.extend(self.claim().await?);
            self.offer_slots().await?;
        } else if self.state.draining {
            self.offer_slots().await?;
        }
        self.reconcile_sessions(&wakeup).await?;
        if sweep {
            self.release_idle().await;
        }
        self.report_load().await?;
        self.apply_backpressure();
        Ok(())
    }

    async fn reconcile_sessions(&mut self, wakeup: &Wakeup) -> Result<(), PgError> {
        let is_due = |slot: &Slot| wakeup.all || wakeup.slots.contains(slot);
        let held: Vec<(Slot, i64)> = self
            .state
            .held
            .iter()
            .filter(|(slot, _)| is_due(slot))
            .map(|(slot, epoch)| (*slot, *epoch))
            .collect();
        let incoming = self
            .state
            .incoming
            .keys()
            .filter(|slot| is_due(slot))
            .copied();
        let slots: Vec<Slot> = held.iter().map(|(slot, _)| *slot).chain(incoming).collect();
        if slots.is_empty() {
            return Ok(());
        }
        self.database
            .run(async |conn| placeholders::resolve_primary(conn, &held).await)
            .await?;
        for slots in slots.chunks(SLOTS_PER_READ) {
            let records = self
                .database
                .run(async |conn| sessions::load(conn, slots).await)
                .await?;
            self.reconcile(slots, records).await;
        }
        Ok(())
    }

    /// Pauses the consumer while this worker is full: the commands stay in the queue, where another worker finds
    /// them and an autoscaler sees them.
    fn apply_backpressure(&self) {
        let (sessions, most) = (self.sessions(), self.sessions_max);
        if sessions >= most {
            if self.consumer.pause() {
                info!(sessions, "full: no more commands are taken");
            }
        } else if sessions + (most / 50).max(1) <= most && self.consumer.resume() {
            info!(sessions, "commands are taken again");
        }
    }

    async fn handle_finding(&mut self, finding: Finding) {
        match finding {
            Finding::Fenced(rows) => {
                let fenced = rows.into_iter().filter(|(key, epoch)| {
                    self.state
                        .running
                        .get(key)
                        .is_some_and(|running| running.ownership == Ownership::Owned(*epoch))
                });
                let slots: BTreeSet<Slot> = fenced.map(|(key, _)| key.user.slot()).collect();
                for slot in &slots {
                    self.abandon_slot(*slot).await;
                }
                if !slots.is_empty() {
                    warn!(
                        slots = slots.len(),
                        "rows were fenced: another worker owns these slots"
                    );
                    // What is still wanted of us comes back with a new claim and a new epoch.
                    self.locks.release(slots).await;
                }
            }
            Finding::Missing(keys) => {
                // Somebody deleted a row. Since the session seems to run under another command, the next
                // pass starts it again, and its link writes the row anew; or it stops the session.
                for key in keys {
                    if let Some(running) = self.state.running.get_mut(&key) {
                        running.command = Uuid::nil();
                    }
                    self.state.last_published.remove(&key);
                    self.wakeups.wake_slot(key.user.slot());
                }
            }
        }
        self.report_session_count();
    }

    /// Stops all sessions of a slot without a final status: another worker writes their rows.
    async fn abandon_slot(&mut self, slot: Slot) {
        self.state.held.remove(&slot);
        self.state.incoming.remove(&slot);
        for key in self.keys_of(&BTreeSet::from([slot])) {
            self.stop(&key, None).await;
        }
        self.state.forget_published(&BTreeSet::from([slot]));
    }

    /// The sessions of these slots that run.
    fn keys_of(&self, slots: &BTreeSet<Slot>) -> Vec<SessionKey> {
        self.state
            .running
            .iter()
            .filter(|(_, running)| slots.contains(&running.slot))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Tells the health routes how many sessions this worker runs.
    fn report_session_count(&self) {
        let running = self.state.running.values();
        let claimed = running.filter(|running| running.ownership != Ownership::Incoming);
        self.status.set_sessions(claimed.count());
    }
}
