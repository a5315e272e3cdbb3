//! The steps of the model, and which of them can be taken when.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use stateright::{Model, Property};

use super::convergence::Explored;
use super::flaw::Flaw;
use super::ownership::reconcile;
use super::state::{
    ClaimChange, LockConnection, NUMBERS, ProcessState, Round, SLOTS, Sessions, Set, State,
    WORKERS, Worker,
};

/// What must never happen, where a step shows it and a state does not: bits of [`State::violations`].
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Violation {
    TwoWriters = 1,
    OlderAfterNewer = 2,
    NotStopped = 4,
    BreakBeforeMake = 8,
}

impl Violation {
    const fn is_in(self, state: &State) -> bool {
        state.violations & self as u8 != 0
    }
}

/// What the model must reach, or it proves little.
#[derive(Debug, Clone, Copy)]
pub(super) enum Milestone {
    HandedOver,
    Fenced,
    RowRefused,
    TakenFromPaused,
    GiverDied,
    TakerDied,
    Resumed,
    GaveUp,
    Drained,
}

/// What disturbs the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// kill -9: the process is gone, and the server soon ends its connections.
    Crash,
    /// SIGSTOP, and at any time later, or never, SIGCONT.
    Pause,
    /// The lock connection goes silent.
    NetworkCut,
    /// The server ends the lock connection, and releases its locks.
    ServerEnds,
    /// A server that had ended a connection goes silent.
    ServerSilent,
    /// SIGTERM.
    Drain,
    /// A second signal, or the end of the grace period.
    SecondSignal,
    /// A command changes whether a slot's sessions are wanted.
    DesiredChanges,
    /// A write passes the slot's fence, and reaches the row at any time later.
    SlowWrite,
    /// A claim relies on a poll from before a hand-over was offered.
    StalePoll,
    /// A statement of a round fails, and the rest of the round with it.
    StatementFails,
    /// A release fails and the connection does not.
    ReleaseFails,
    /// A hand-over takes longer than `HANDOVER_TIMEOUT`.
    OfferExpires,
}

/// A step. Workers, slots and numbers are as in [`State`]. docs/claim-protocol.md maps each to functions of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    // What happens by itself.
    FreeLocks(u8),
    LandWrite,
    SuspendClaims(usize),
    GiveUpClaims(usize),
    Reconnect(usize),
    Release(usize),
    HandleClaimState(usize),
    PollFleet(usize),
    Claim {
        me: usize,
        unclaimed_since_last_poll: bool,
    },
    RunStatement(usize),
    OfferSlots(usize),
    Reconcile(usize, usize),
    ReleaseIdle(usize, usize),
    StandbyReady(usize, usize),
    Write(usize, usize),
    Exit(usize),
    // A disturbance, or its end.
    Wake(usize),
    Worker(Disturbance, usize),
    Slot(Disturbance, usize),
    SlowWrite(usize, usize),
}

/// A fleet to be checked.
#[derive(Debug)]
pub(super) struct FleetModel {
    pub(super) begin: State,
    pub(super) disturbances: &'static [Disturbance],
    /// How many workers may be in the middle of a round at a time.
    pub(super) rounds_max: usize,
    pub(super) flaw: Flaw,
    /// Whether all paths without another disturbance are followed to their ends.
    pub(super) checks_convergence: bool,
    pub(super) reached: AtomicU32,
    pub(super) explored: Mutex<Explored>,
}

impl FleetModel {
    pub(super) fn reach(&self, milestone: Milestone) {
        self.reached
            .fetch_or(1 << milestone as u32, Ordering::Relaxed);
    }

    fn has_reached(&self, milestone: Milestone) -> bool {
        self.reached.load(Ordering::Relaxed) & 1 << milestone as u32 != 0
    }

    pub(super) fn has(&self, disturbance: Disturbance) -> bool {
        self.disturbances.contains(&disturbance)
    }

    /// What happens by itself. A step may change nothing.
    pub(super) fn own_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let freed = (1..NUMBERS).filter(|number| self.may_free(state, *number));
        steps.extend(freed.map(Step::FreeLocks));
        if state.db.in_flight.is_some() {
            steps.push(Step::LandWrite);
        }
        let is_busy =
            |worker: &&Worker| worker.process == ProcessState::Alive && !worker.round.is_empty();
        let may_begin = state.workers.iter().filter(is_busy).count() < self.rounds_max;
        for (me, worker) in state.workers.iter().enumerate() {
            if worker.process != ProcessState::Alive {
                continue;
            }
            match worker.connection {
                LockConnection::Ended => steps.push(Step::SuspendClaims(me)),
                LockConnection::Cut => steps.push(Step::GiveUpClaims(me)),
                LockConnection::Gone => steps.push(Step::Reconnect(me)),
                LockConnection::Up if !worker.releasing.is_empty() => steps.push(Step::Release(me)),
                LockConnection::Up => {}
            }
            for slot in 0..SLOTS {
                if worker.outbox[slot] != 0 {
                    steps.push(Step::Write(me, slot));
                }
                if worker.sessions[slot] == (Sessions::Standby { ready: false }) {
                    steps.push(Step::StandbyReady(me, slot));
                }
            }
            self.coordinator_steps(state, me, may_begin, steps);
        }
    }

    fn coordinator_steps(&self, state: &State, me: usize, may_begin: bool, steps: &mut Vec<Step>) {
        let worker = &state.workers[me];
        if !worker.round.is_empty() {
            steps.push(Step::RunStatement(me));
            return;
        }
        if self.is_drained(state, me) {
            steps.push(Step::Exit(me));
        }
        match worker.claim_change {
            ClaimChange::Lost { .. } => steps.push(Step::HandleClaimState(me)),
            // Otherwise the lock keeper publishes another state soon.
            ClaimChange::Held { .. } if worker.connection == LockConnection::Up => {
                steps.push(Step::HandleClaimState(me));
            }
            ClaimChange::Held { .. } | ClaimChange::None => {}
        }
        if !worker.is_idle() || worker.number == 0 {
            return;
        }
        if may_begin {
            steps.push(Step::PollFleet(me));
            steps.extend([false, true].map(|unclaimed_since_last_poll| Step::Claim {
                me,
                unclaimed_since_last_poll,
            }));
        }
        steps.push(Step::OfferSlots(me));
        for slot in 0..SLOTS {
            if worker.held[slot] != 0 || worker.incoming[slot].is_some() {
                steps.push(Step::Reconcile(me, slot));
            }
            if worker.held[slot] != 0 && !state.db.desired.has(slot) {
                steps.push(Step::ReleaseIdle(me, slot));
            }
        }
    }

    fn disturbance_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for (me, worker) in state.workers.iter().enumerate() {
            if worker.process == ProcessState::Paused {
                steps.push(Step::Wake(me));
            }
        }
        if state.disturbances_left == 0 {
            return;
        }
        for disturbance in self.disturbances {
            match disturbance {
                Disturbance::DesiredChanges => {
                    steps.extend((0..SLOTS).map(|slot| Step::Slot(*disturbance, slot)));
                }
                Disturbance::OfferExpires => {
                    let is_pending =
                        |slot: &usize| state.row(*slot).is_some_and(|row| !row.is_expired);
                    let pending = (0..SLOTS).filter(is_pending);
                    steps.extend(pending.map(|slot| Step::Slot(*disturbance, slot)));
                }
                Disturbance::SlowWrite if state.db.in_flight.is_none() => {
                    let all = (0..WORKERS).flat_map(|me| (0..SLOTS).map(move |slot| (me, slot)));
                    let alive = all.filter(|(me, slot)| {
                        let worker = &state.workers[*me];
                        worker.process == ProcessState::Alive && worker.outbox[*slot] != 0
                    });
                    steps.extend(alive.map(|(me, slot)| Step::SlowWrite(me, slot)));
                }
                Disturbance::SlowWrite => {}
                Disturbance::Crash
                | Disturbance::Pause
                | Disturbance::NetworkCut
                | Disturbance::ServerEnds
                | Disturbance::ServerSilent
                | Disturbance::Drain
                | Disturbance::SecondSignal
                | Disturbance::StalePoll
                | Disturbance::StatementFails
                | Disturbance::ReleaseFails => {
                    let hit = (0..WORKERS).filter(|me| can_hit(*disturbance, &state.workers[*me]));
                    steps.extend(hit.map(|me| Step::Worker(*disturbance, me)));
                }
            }
        }
    }

    fn disturb(&self, state: &mut State, disturbance: Disturbance, me: usize) {
        let worker = &mut state.workers[me];
        match disturbance {
            Disturbance::Crash => *worker = Worker::dead(),
            Disturbance::Pause => worker.process = ProcessState::Paused,
            Disturbance::NetworkCut => worker.connection = LockConnection::Cut,
            Disturbance::ServerEnds => {
                worker.connection = LockConnection::Ended;
                let number = worker.connection_number;
                self.free_locks(state, number);
            }
            Disturbance::ServerSilent => self.handle_server_silence(state, me),
            Disturbance::Drain => worker.draining = true,
            Disturbance::SecondSignal => self.exit(state, me),
            Disturbance::StalePoll => self.claim(state, me, true, true),
            Disturbance::StatementFails => worker.round = Round::default(),
            Disturbance::ReleaseFails if self.flaw == Flaw::ReleaseNotRetried => {
                worker.releasing = Set::default();
            }
            // The release is tried again.
            Disturbance::ReleaseFails => {}
            Disturbance::DesiredChanges | Disturbance::OfferExpires | Disturbance::SlowWrite => {
                unreachable!("of no worker")
            }
        }
    }

    fn apply(&self, state: &mut State, step: Step) {
        match step {
            Step::FreeLocks(number) => self.free_locks(state, number),
            Step::LandWrite => {
                if let Some((me, slot, epoch)) = state.db.in_flight.take() {
                    self.land_write(state, usize::from(me), usize::from(slot), epoch);
                }
            }
            Step::SuspendClaims(me) => self.suspend_claims(state, me),
            Step::GiveUpClaims(me) => self.give_up_claims(state, me),
            Step::Reconnect(me) => self.reconnect(state, me),
            Step::Release(me) => self.release(state, me),
            Step::HandleClaimState(me) => self.handle_claim_state(state, me),
            Step::PollFleet(me) => self.poll_fleet(state, me),
            Step::Claim {
                me,
                unclaimed_since_last_poll,
            } => self.claim(state, me, unclaimed_since_last_poll, false),
            Step::RunStatement(me) => self.run_statement(state, me),
            Step::OfferSlots(me) => self.offer_slots(state, me),
            Step::Reconcile(me, slot) => reconcile(state, me, slot),
            Step::ReleaseIdle(me, slot) => self.release_idle(state, me, slot),
            Step::StandbyReady(me, slot) => {
                state.workers[me].sessions[slot] = Sessions::Standby { ready: true };
            }
            Step::Write(me, slot) => self.write(state, me, slot),
            Step::Exit(me) => self.exit(state, me),
            Step::Wake(me) => state.workers[me].process = ProcessState::Alive,
            Step::Worker(disturbance, me) => self.disturb(state, disturbance, me),
            Step::Slot(Disturbance::DesiredChanges, slot) => state.db.desired.toggle(slot),
            Step::Slot(_, slot) => {
                if let Some(row) = &mut state.db.rows[slot] {
                    row.is_expired = true;
                }
            }
            Step::SlowWrite(me, slot) => {
                let epoch = state.workers[me].outbox[slot];
                if self.passes_slot_fence(state, slot, epoch) {
                    let small = |index| u8::try_from(index).expect("small");
                    state.db.in_flight = Some((small(me), small(slot), epoch));
                }
            }
        }
    }
}

/// Whether a disturbance is possible in a worker's state.
fn can_hit(disturbance: Disturbance, worker: &Worker) -> bool {
    let is_up = worker.connection == LockConnection::Up;
    worker.process == ProcessState::Alive
        && match disturbance {
            Disturbance::NetworkCut | Disturbance::ServerEnds => is_up,
            Disturbance::ReleaseFails => is_up && !worker.releasing.is_empty(),
            Disturbance::ServerSilent => {
                worker.connection == LockConnection::Gone && worker.suspended
            }
            Disturbance::Drain => !worker.draining,
            Disturbance::SecondSignal => worker.draining,
            Disturbance::StatementFails => !worker.round.is_empty(),
            Disturbance::StalePoll => worker.is_idle() && worker.number != 0,
            Disturbance::Crash | Disturbance::Pause => true,
            Disturbance::DesiredChanges | Disturbance::SlowWrite | Disturbance::OfferExpires => {
                false
            }
        }
}

impl Model for FleetModel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        // Nothing is explored after a violation.
        if state.violations == 0 {
            self.own_steps(state, steps);
            self.disturbance_steps(state, steps);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut next = *before;
        self.apply(&mut next, step);
        self.drop_obsolete_rows(&mut next);
        if next == *before {
            return None;
        }
        if matches!(
            step,
            Step::Worker(..) | Step::Slot(..) | Step::SlowWrite(..)
        ) {
            next.disturbances_left -= 1;
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::<Self>::always(ONE_WRITER, |_, state| !Violation::TwoWriters.is_in(state)),
            Property::<Self>::always(IN_ORDER, |_, state| {
                !Violation::OlderAfterNewer.is_in(state)
            }),
            Property::<Self>::always(ONE_HOLDER, |_, state| {
                state.db.locks.iter().all(|holders| holders.len() <= 1)
            }),
            Property::<Self>::always(STOPPED, |_, state| !Violation::NotStopped.is_in(state)),
            Property::<Self>::always(HELD, |_, state| {
                state
                    .workers
                    .iter()
                    .all(|worker| holds_what_it_believes(state, worker))
            }),
            Property::<Self>::always(MADE, |_, state| !Violation::BreakBeforeMake.is_in(state)),
        ];
        if self.checks_convergence {
            all.push(Property::<Self>::always(CONVERGES, |fleet, state| {
                fleet
                    .explored
                    .lock()
                    .expect("whole")
                    .converges(fleet, state)
            }));
            all.extend(milestones());
        }
        all
    }
}

pub(super) const ONE_WRITER: &str = "an epoch has one accepted writer";
pub(super) const IN_ORDER: &str = "no older epoch is written after a newer one";
pub(super) const ONE_HOLDER: &str = "a lock has one holder";
pub(super) const STOPPED: &str = "a worker that is cut off has stopped before another claims";
pub(super) const HELD: &str = "a worker holds what it believes to hold, while the connection is up";
pub(super) const MADE: &str = "the taker streams before the giver releases the slot";
pub(super) const CONVERGES: &str = "without disturbances, the fleet runs every wanted session";

/// The milestones. Steps show them, not states, so they are recorded beside the states, which keeps those few.
fn milestones() -> [Property<FleetModel>; 9] {
    type Reachable = Property<FleetModel>;
    [
        Reachable::sometimes("a hand-over completes", |fleet, _| {
            fleet.has_reached(Milestone::HandedOver)
        }),
        Reachable::sometimes("a write is fenced", |fleet, _| {
            fleet.has_reached(Milestone::Fenced)
        }),
        Reachable::sometimes("a write is refused by its row alone", |fleet, _| {
            fleet.has_reached(Milestone::RowRefused)
        }),
        Reachable::sometimes("a stopped worker's slot is taken over", |fleet, _| {
            fleet.has_reached(Milestone::TakenFromPaused)
        }),
        Reachable::sometimes("a giver dies amid a hand-over", |fleet, _| {
            fleet.has_reached(Milestone::GiverDied)
        }),
        Reachable::sometimes("a taker dies amid a hand-over", |fleet, _| {
            fleet.has_reached(Milestone::TakerDied)
        }),
        Reachable::sometimes("suspended sessions go on", |fleet, _| {
            fleet.has_reached(Milestone::Resumed)
        }),
        Reachable::sometimes("a worker gives up by itself", |fleet, _| {
            fleet.has_reached(Milestone::GaveUp)
        }),
        Reachable::sometimes("a worker is drained", |fleet, _| {
            fleet.has_reached(Milestone::Drained)
        }),
    ]
}

/// Whether a worker whose lock connection is up holds what it believes to hold.
fn holds_what_it_believes(state: &State, worker: &Worker) -> bool {
    let knows = worker.process != ProcessState::Dead
        && worker.connection == LockConnection::Up
        && worker.claim_change == ClaimChange::None;
    !knows
        || (0..SLOTS).all(|slot| {
            let is_locked = state.db.locks[slot].has(usize::from(worker.connection_number));
            worker.held[slot] == 0 || (is_locked && worker.held[slot] == state.db.epoch[slot])
        })
}
