//! Makes what this worker runs agree with what the tables want: level-triggered. A hint, a new
//! claim or the sweep only say where to look; the rows say what is to be.
//!
//! Which slots are this worker's is decided here too: [`claim`] takes what is free, [`handover`] gives and
//! takes what is not; by what rules, `domain::fleet` says.

mod claim;
mod handover;
pub(in crate::worker) mod lock_keeper;
pub(in crate::worker) mod permits;
mod reconcile;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::amqp::consumer::ConsumerHandle;
use crate::domain::ids::{SessionKey, Slot};
use crate::domain::secret::Secret;
use crate::pg::PgError;
use crate::pg::connect::Database;
use crate::pg::fleet::FleetView;
use crate::pg::{placeholders, sessions};
use crate::token_cipher::TokenCipher;
use crate::worker::credentials::refresher::RefreshRequest;
use crate::worker::handles::links::Links;
use crate::worker::handles::wakeups::{HintBox, Look};
use crate::worker::health::status::WorkerStatus;
use crate::worker::link::LinkCommand;
use crate::worker::ownership::lock_keeper::{ClaimRequest, ClaimState, Membership};
use crate::worker::writing::outbox::Outbox;
use crate::worker::writing::writer::Finding;
use handover::Warm;
use reconcile::{Right, Said};

/// How often slots with work and without an owner are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// How often the fleet is looked at: what a dead worker leaves is claimed within two of these.
const GLANCE_EVERY: Duration = Duration::from_millis(250);

/// Every how many sweeps the sessions of the held slots are read again, should a hint be lost.
const SWEEPS_PER_FULL_LOOK: u32 = 5;

/// How many slots' sessions are read at once: all of them together would take more memory than what they are
/// compared with, and everything else would wait.
const SLOTS_AT_ONCE: usize = 64;

/// A session that a link carries.
#[derive(Debug, Clone)]
struct Running {
    slot: Slot,
    link: usize,
    right: Right,
    command: Uuid,
    token: Secret,
    /// It stands by, and is as far as it gets.
    settled: bool,
}

impl Running {
    fn is_as(&self, other: &Self) -> bool {
        (self.link, self.right, self.command) == (other.link, other.right, other.command)
            && self.token == other.token
    }
}

/// What the coordinator is made of.
pub(in crate::worker) struct Coordinator {
    pub(in crate::worker) database: Database,
    pub(in crate::worker) links: Links,
    pub(in crate::worker) outbox: Arc<Outbox>,
    pub(in crate::worker) hints: Arc<HintBox>,
    pub(in crate::worker) claims: mpsc::Sender<ClaimRequest>,
    pub(in crate::worker) claim_state: watch::Receiver<ClaimState>,
    /// Whether there is a permit for a connection to cTrader: without one nothing is claimed.
    pub(in crate::worker) able: watch::Receiver<bool>,
    pub(in crate::worker) consumer: ConsumerHandle,
    pub(in crate::worker) findings: mpsc::Receiver<Finding>,
    pub(in crate::worker) status: Arc<WorkerStatus>,
    pub(in crate::worker) sessions_max: usize,
    pub(in crate::worker) token_cipher: TokenCipher,
    /// A full one loses nothing: a token that ends soon is asked for again with the next look.
    pub(in crate::worker) refresher: mpsc::Sender<RefreshRequest>,
    pub(in crate::worker) state: State,
}

/// What the coordinator knows of its own doings.
#[derive(Debug, Default)]
pub(in crate::worker) struct State {
    membership: Option<Membership>,
    held: BTreeMap<Slot, i64>,
    /// Slots that other workers are about to hand over.
    warm: BTreeMap<Slot, Warm>,
    running: BTreeMap<SessionKey, Running>,
    /// What was said last of sessions that no link carries.
    said: BTreeMap<SessionKey, Said>,
    /// Sessions that a link was told to let go of and has not yet, and whether something else is to be done
    /// about them.
    leaving: BTreeMap<SessionKey, bool>,
    idle_since: BTreeMap<Slot, Instant>,
    sweeps: u32,
    /// The slots with work, and how many sessions, as of the last look at them.
    active: BTreeMap<Slot, usize>,
    fleet: FleetView,
    /// Slots that were free and due to somebody else.
    left_over: BTreeSet<Slot>,
    /// Nothing else is claimed until then: after an outage others come back as well, and for what they had.
    patient_until: Option<Instant>,
    /// What the fleet was told of this worker.
    reported: Option<(usize, usize, bool)>,
    /// What was offered to whom, and has not been taken yet.
    offered: BTreeMap<Slot, i32>,
    /// Who declined an offer, and when.
    declined: BTreeMap<i32, Instant>,
    draining: bool,
}

impl State {
    /// What is said of the sessions of these slots is no longer ours to say: the epoch refuses what the links
    /// still do.
    fn forget_words(&mut self, slots: &BTreeSet<Slot>) {
        self.said.retain(|key, _| !slots.contains(&key.user.slot()));
        self.leaving
            .retain(|key, _| !slots.contains(&key.user.slot()));
    }
}

/// What a look is to cover.
#[derive(Debug, Default)]
struct Scope {
    look: Look,
    /// Which slots have work is read anew, and what is free is claimed.
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
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut glance = interval(GLANCE_EVERY);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut claim_state = self.claim_state.clone();
        claim_state.mark_changed();
        loop {
            self.status.beat();
            self.status.set_slots(self.state.held.keys().copied());
            let scope = tokio::select! {
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
                    Scope { look: Look { fleet: true, ..Look::default() }, sweep: true }
                }
                () = self.hints.wait() => {
                    let look = self.hints.take();
                    let sweep = look.all || !look.slots.is_empty();
                    Scope { look, sweep }
                }
                _ = sweep.tick() => {
                    self.state.sweeps += 1;
                    let all = self.state.sweeps.is_multiple_of(SWEEPS_PER_FULL_LOOK);
                    Scope { look: Look { all, fleet: true, ..Look::default() }, sweep: true }
                }
                _ = glance.tick() => {
                    Scope { look: Look { fleet: true, ..Look::default() }, sweep: false }
                }
            };
            if !matches!(*claim_state.borrow(), ClaimState::Held(_)) {
                if self.state.draining {
                    // Nothing can be handed over.
                    return;
                }
                continue;
            }
            match self.converge(scope).await {
                Ok(()) => self.status.set_database_trouble(None),
                Err(error) => {
                    warn!(error = %error, "cannot read what is wanted");
                    self.hints.doubt();
                    self.status.set_database_trouble(Some(error.to_string()));
                    // The sweep comes by again; nothing is forgotten, since it looks at all then.
                    self.state.sweeps = SWEEPS_PER_FULL_LOOK - 1;
                }
            }
            if self.state.draining && !self.can_hand_over() {
                return;
            }
        }
    }

    /// The lock connection was lost or is another one.
    async fn handle_claim_state(&mut self, now: ClaimState) -> Scope {
        match now {
            ClaimState::Lost { given_up, .. } => {
                // The keeper has told the links; what was started since is told here.
                if given_up {
                    self.forget().await;
                } else {
                    self.tell_all(|| LinkCommand::Suspend).await;
                }
                Scope::default()
            }
            ClaimState::Held(membership) => {
                if self.state.membership == Some(membership) {
                    return Scope::default();
                }
                self.hints.set_number(membership.number);
                if membership.suspended {
                    self.resume(membership).await;
                } else {
                    self.forget().await;
                    self.state.membership = Some(membership);
                }
                Scope {
                    look: Look {
                        all: true,
                        fleet: true,
                        ..Look::default()
                    },
                    sweep: true,
                }
            }
        }
    }

    /// The claims are lost, and everything with them.
    async fn forget(&mut self) {
        self.state = State {
            draining: self.state.draining,
            ..State::default()
        };
        self.tell_all(|| LinkCommand::ReleaseAll).await;
        self.tell_sessions();
    }

    /// Claims what has work and no owner, hands over and takes over, and makes the sessions of the slots
    /// looked at agree.
    async fn converge(&mut self, scope: Scope) -> Result<(), PgError> {
        let Scope { mut look, sweep } = scope;
        let mut sweep = sweep || !self.state.left_over.is_empty();
        for key in &look.settled {
            if let Some(running) = self.state.running.get_mut(key) {
                running.settled = true;
            }
        }
        for key in std::mem::take(&mut look.left) {
            if self.has_left(&key) {
                look.slots.insert(key.user.slot());
            }
        }
        if look.fleet || !look.settled.is_empty() {
            let before = self.state.fleet.members.len();
            let taken_over = self.hand_over_and_take_over().await?;
            sweep |= !taken_over.is_empty() || self.state.fleet.members.len() < before;
            look.slots.extend(taken_over);
        }
        if sweep {
            self.state.active = self
                .database
                .run(async |conn| sessions::active_slots(conn).await)
                .await?
                .into_iter()
                .map(|(slot, sessions)| (slot, usize::try_from(sessions).unwrap_or(0)))
                .collect();
            look.slots.extend(self.claim().await?);
            self.offer().await?;
        } else if self.state.draining {
            self.offer().await?;
        }
        self.look_at_sessions(&look).await?;
        if sweep {
            self.release_idle().await;
        }
        self.report().await?;
        self.apply_backpressure();
        Ok(())
    }

    async fn look_at_sessions(&mut self, look: &Look) -> Result<(), PgError> {
        let is_looked_at = |slot: &Slot| look.all || look.slots.contains(slot);
        let held: Vec<(Slot, i64)> = self
            .state
            .held
            .iter()
            .filter(|(slot, _)| is_looked_at(slot))
            .map(|(slot, epoch)| (*slot, *epoch))
            .collect();
        let warm = self
            .state
            .warm
            .keys()
            .filter(|slot| is_looked_at(slot))
            .copied();
        let slots: Vec<Slot> = held.iter().map(|(slot, _)| *slot).chain(warm).collect();
        if slots.is_empty() {
            return Ok(());
        }
        self.database
            .run(async |conn| placeholders::resolve_primary(conn, &held).await)
            .await?;
        for slots in slots.chunks(SLOTS_AT_ONCE) {
            let records = self
                .database
                .run(async |conn| sessions::load(conn, slots).await)
                .await?;
            self.agree(slots, records).await;
        }
        Ok(())
    }

    /// A worker that is full leaves commands in the queue, where another one finds them, and whoever starts
    /// more workers sees them.
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
                        .is_some_and(|running| running.right == Right::Claim(*epoch))
                });
                let slots: BTreeSet<Slot> = fenced.map(|(key, _)| key.user.slot()).collect();
                for slot in &slots {
                    self.give_up(*slot).await;
                }
                if !slots.is_empty() {
                    warn!(
                        slots = slots.len(),
                        "fenced: the sessions are another worker's"
                    );
                    // What is still wanted of us comes back with a new claim and a new epoch.
                    let _ = self
                        .claims
                        .send(ClaimRequest::Release(slots.into_iter().collect()))
                        .await;
                }
            }
            Finding::Missing(keys) => {
                // Somebody deleted a row: another command than the one that runs makes the next look
                // tell the link again, which writes it anew; or lets go of it.
                for key in keys {
                    if let Some(running) = self.state.running.get_mut(&key) {
                        running.command = Uuid::nil();
                    }
                    self.state.said.remove(&key);
                    self.hints.slot(key.user.slot());
                }
            }
        }
        self.tell_sessions();
    }

    /// Lets all sessions of a slot go without a word: what is to be said of them, somebody else says.
    async fn give_up(&mut self, slot: Slot) {
        self.state.held.remove(&slot);
        self.state.warm.remove(&slot);
        for key in self.keys_of(&BTreeSet::from([slot])) {
            self.stop(&key, None).await;
        }
        self.state.forget_words(&BTreeSet::from([slot]));
    }

    /// The sessions of these slots that links carry.
    fn keys_of(&self, slots: &BTreeSet<Slot>) -> Vec<SessionKey> {
        self.state
            .running
            .iter()
            .filter(|(_, running)| slots.contains(&running.slot))
            .map(|(key, _)| key.clone())
            .collect()
    }

    async fn tell_all(&self, command: impl Fn() -> LinkCommand) {
        for link in self.links.all() {
            // It is gone only when the worker stops.
            let _ = link.send(command()).await;
        }
    }

    /// Tells the health routes how many sessions this worker runs.
    fn tell_sessions(&self) {
        let running = self.state.running.values();
        let claimed = running.filter(|running| running.right != Right::Offer);
        self.status.set_sessions(claimed.count());
    }
}
