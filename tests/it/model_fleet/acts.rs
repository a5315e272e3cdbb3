//! The steps of the model, and which of them can be taken when.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use stateright::{Model, Property};

use super::coordinator::agrees;
use super::healing::Followed;
use super::state::{Life, Link, NUMBERS, News, Run, SLOTS, Set, State, Todo, WORKERS, Worker};

/// What must never be, where a step shows it and a state does not: bits of [`State::wrong`].
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Wrong {
    TwoWriters = 1,
    OlderAfterNewer = 2,
    NotStopped = 4,
    BreakBeforeMake = 8,
}

impl Wrong {
    const fn is_in(self, state: &State) -> bool {
        state.wrong & self as u8 != 0
    }
}

/// What the model must get to see, or it proves little.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
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

/// What the model does other than it should, to see that it would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// Neither the slot's nor the row's.
    NoFences,
    /// The slot's alone.
    NoRowFence,
    LocksIgnored,
    EpochsKept,
    /// The server gives the locks of a silent worker away at once.
    FreedEarly,
    /// A worker that hears nothing goes on all the same.
    GoesOn,
    // These are in the code: see the tests.
    /// The server frees the locks of a worker that has given up while its coordinator is in a round yet.
    FreedMidRound,
    /// The keeper serves a round that began under another lock connection.
    ServesLate,
    /// A slot whose sessions were never opened counts as settled.
    ReadyUnseen,
    /// What could not be released is forgotten.
    ReleasesOnce,
}

impl Flaw {
    pub(super) const fn ignores_locks(self) -> bool {
        matches!(self, Self::LocksIgnored)
    }

    pub(super) const fn has_no_slot_fence(self) -> bool {
        matches!(self, Self::NoFences)
    }

    pub(super) const fn has_no_row_fence(self) -> bool {
        matches!(self, Self::NoFences | Self::NoRowFence)
    }
}

/// What disturbs the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// kill -9: nothing is left of the worker, and the server soon knows.
    Crash,
    /// SIGSTOP, and at any time later, or never, SIGCONT.
    Pause,
    /// The lock connection goes silent.
    Cut,
    /// The server ends the lock connection, and with it its locks.
    End,
    /// A server that had ended a connection is not heard of any more.
    Silence,
    /// SIGTERM.
    Drain,
    /// The second one, or the grace's end.
    CutShort,
    /// A slot's sessions are wanted no more, or again.
    Wish,
    /// A write passes the slot's fence, and comes to the row at any time later.
    SlowWrite,
    /// A claim goes by a look from before a hand-over was offered.
    LateLook,
    /// A statement of a round fails, and the rest of the round with it.
    RoundFails,
    /// A release fails and the connection does not.
    ReleaseFails,
    /// A hand-over takes longer than `HANDOVER_WITHIN`.
    Age,
}

/// A step. Workers, slots and numbers are as in [`State`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    // What happens by itself.
    Frees(u8),
    Lands,
    Notices(usize),
    GivesUp(usize),
    Reconnects(usize),
    Releases(usize),
    Hears(usize),
    Looks(usize),
    LooksForFree { me: usize, left_over: bool },
    Steps(usize),
    Offers(usize),
    Agrees(usize, usize),
    LetsIdleGo(usize, usize),
    Settles(usize, usize),
    Writes(usize, usize),
    Exits(usize),
    // What disturbs, or ends a disturbance.
    Wakes(usize),
    Worker(Trouble, usize),
    Slot(Trouble, usize),
    SlowWrite(usize, usize),
}

/// A fleet to be checked.
#[derive(Debug)]
pub(super) struct FleetModel {
    pub(super) begin: State,
    pub(super) troubles: &'static [Trouble],
    /// How many workers may be in the middle of a round at a time.
    pub(super) busy_max: usize,
    pub(super) flaw: Flaw,
    /// Whether all ways on are followed to their ends.
    pub(super) follows: bool,
    pub(super) seen: AtomicU32,
    pub(super) followed: Mutex<Followed>,
}

impl FleetModel {
    pub(super) fn saw(&self, event: Event) {
        self.seen.fetch_or(1 << event as u32, Ordering::Relaxed);
    }

    fn has_seen(&self, event: Event) -> bool {
        self.seen.load(Ordering::Relaxed) & 1 << event as u32 != 0
    }

    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    /// What happens by itself. A step that changes nothing may be among them.
    pub(super) fn own_acts(&self, state: &State, acts: &mut Vec<Act>) {
        let freed = (1..NUMBERS).filter(|number| self.may_free(state, *number));
        acts.extend(freed.map(Act::Frees));
        if state.db.in_flight.is_some() {
            acts.push(Act::Lands);
        }
        let is_busy = |worker: &&Worker| worker.life == Life::Alive && !worker.todo.is_empty();
        let may_begin = state.workers.iter().filter(is_busy).count() < self.busy_max;
        for (me, worker) in state.workers.iter().enumerate() {
            if worker.life != Life::Alive {
                continue;
            }
            match worker.link {
                Link::Ended => acts.push(Act::Notices(me)),
                Link::Cut => acts.push(Act::GivesUp(me)),
                Link::Gone => acts.push(Act::Reconnects(me)),
                Link::Up if !worker.releasing.is_empty() => acts.push(Act::Releases(me)),
                Link::Up => {}
            }
            for slot in 0..SLOTS {
                if worker.outbox[slot] != 0 {
                    acts.push(Act::Writes(me, slot));
                }
                if worker.run[slot] == (Run::Standby { settled: false }) {
                    acts.push(Act::Settles(me, slot));
                }
            }
            self.coordinator_acts(state, me, may_begin, acts);
        }
    }

    fn coordinator_acts(&self, state: &State, me: usize, may_begin: bool, acts: &mut Vec<Act>) {
        let worker = &state.workers[me];
        if !worker.todo.is_empty() {
            acts.push(Act::Steps(me));
            return;
        }
        if self.is_drained(state, me) {
            acts.push(Act::Exits(me));
        }
        match worker.news {
            News::Lost { .. } => acts.push(Act::Hears(me)),
            // Else the keeper has other news soon.
            News::Held { .. } if worker.link == Link::Up => acts.push(Act::Hears(me)),
            News::Held { .. } | News::None => {}
        }
        if !worker.is_idle() || worker.number == 0 {
            return;
        }
        if may_begin {
            acts.push(Act::Looks(me));
            acts.extend([false, true].map(|left_over| Act::LooksForFree { me, left_over }));
        }
        acts.push(Act::Offers(me));
        for slot in 0..SLOTS {
            if worker.held[slot] != 0 || worker.warm[slot].is_some() {
                acts.push(Act::Agrees(me, slot));
            }
            if worker.held[slot] != 0 && !state.db.desired.has(slot) {
                acts.push(Act::LetsIdleGo(me, slot));
            }
        }
    }

    fn disturbances(&self, state: &State, acts: &mut Vec<Act>) {
        for (me, worker) in state.workers.iter().enumerate() {
            if worker.life == Life::Paused {
                acts.push(Act::Wakes(me));
            }
        }
        if state.left == 0 {
            return;
        }
        for trouble in self.troubles {
            match trouble {
                Trouble::Wish => acts.extend((0..SLOTS).map(|slot| Act::Slot(*trouble, slot))),
                Trouble::Age => {
                    let is_young = |slot: &usize| state.row(*slot).is_some_and(|row| !row.old);
                    let young = (0..SLOTS).filter(is_young);
                    acts.extend(young.map(|slot| Act::Slot(*trouble, slot)));
                }
                Trouble::SlowWrite if state.db.in_flight.is_none() => {
                    let all = (0..WORKERS).flat_map(|me| (0..SLOTS).map(move |slot| (me, slot)));
                    let alive = all.filter(|(me, slot)| {
                        let worker = &state.workers[*me];
                        worker.life == Life::Alive && worker.outbox[*slot] != 0
                    });
                    acts.extend(alive.map(|(me, slot)| Act::SlowWrite(me, slot)));
                }
                Trouble::SlowWrite => {}
                Trouble::Crash
                | Trouble::Pause
                | Trouble::Cut
                | Trouble::End
                | Trouble::Silence
                | Trouble::Drain
                | Trouble::CutShort
                | Trouble::LateLook
                | Trouble::RoundFails
                | Trouble::ReleaseFails => {
                    let hit = (0..WORKERS).filter(|me| can_hit(*trouble, &state.workers[*me]));
                    acts.extend(hit.map(|me| Act::Worker(*trouble, me)));
                }
            }
        }
    }

    fn disturb(&self, state: &mut State, trouble: Trouble, me: usize) {
        let worker = &mut state.workers[me];
        match trouble {
            Trouble::Crash => *worker = Worker::dead(),
            Trouble::Pause => worker.life = Life::Paused,
            Trouble::Cut => worker.link = Link::Cut,
            Trouble::End => {
                worker.link = Link::Ended;
                let number = worker.session;
                self.frees(state, number);
            }
            Trouble::Silence => self.goes_silent(state, me),
            Trouble::Drain => worker.draining = true,
            Trouble::CutShort => self.exits(state, me),
            Trouble::LateLook => self.looks_for_free(state, me, true, true),
            Trouble::RoundFails => worker.todo = Todo::default(),
            Trouble::ReleaseFails if self.flaw == Flaw::ReleasesOnce => {
                worker.releasing = Set::default();
            }
            // It is tried again.
            Trouble::ReleaseFails => {}
            Trouble::Wish | Trouble::Age | Trouble::SlowWrite => unreachable!("of no worker"),
        }
    }

    fn act(&self, state: &mut State, act: Act) {
        match act {
            Act::Frees(number) => self.frees(state, number),
            Act::Lands => {
                if let Some((me, slot, epoch)) = state.db.in_flight.take() {
                    self.lands(state, usize::from(me), usize::from(slot), epoch);
                }
            }
            Act::Notices(me) => self.notices(state, me),
            Act::GivesUp(me) => self.gives_up(state, me),
            Act::Reconnects(me) => self.reconnects(state, me),
            Act::Releases(me) => self.releases(state, me),
            Act::Hears(me) => self.hears(state, me),
            Act::Looks(me) => self.looks(state, me),
            Act::LooksForFree { me, left_over } => self.looks_for_free(state, me, left_over, false),
            Act::Steps(me) => self.steps(state, me),
            Act::Offers(me) => self.offers(state, me),
            Act::Agrees(me, slot) => agrees(state, me, slot),
            Act::LetsIdleGo(me, slot) => self.lets_idle_go(state, me, slot),
            Act::Settles(me, slot) => state.workers[me].run[slot] = Run::Standby { settled: true },
            Act::Writes(me, slot) => self.writes(state, me, slot),
            Act::Exits(me) => self.exits(state, me),
            Act::Wakes(me) => state.workers[me].life = Life::Alive,
            Act::Worker(trouble, me) => self.disturb(state, trouble, me),
            Act::Slot(Trouble::Wish, slot) => state.db.desired.toggle(slot),
            Act::Slot(_, slot) => {
                if let Some(row) = &mut state.db.rows[slot] {
                    row.old = true;
                }
            }
            Act::SlowWrite(me, slot) => {
                let epoch = state.workers[me].outbox[slot];
                if self.passes(state, slot, epoch) {
                    let small = |index| u8::try_from(index).expect("small");
                    state.db.in_flight = Some((small(me), small(slot), epoch));
                }
            }
        }
    }
}

/// Whether a worker is in a state for that.
fn can_hit(trouble: Trouble, worker: &Worker) -> bool {
    let is_up = worker.link == Link::Up;
    worker.life == Life::Alive
        && match trouble {
            Trouble::Cut | Trouble::End => is_up,
            Trouble::ReleaseFails => is_up && !worker.releasing.is_empty(),
            Trouble::Silence => worker.link == Link::Gone && worker.suspended,
            Trouble::Drain => !worker.draining,
            Trouble::CutShort => worker.draining,
            Trouble::RoundFails => !worker.todo.is_empty(),
            Trouble::LateLook => worker.is_idle() && worker.number != 0,
            Trouble::Crash | Trouble::Pause => true,
            Trouble::Wish | Trouble::SlowWrite | Trouble::Age => false,
        }
}

impl Model for FleetModel {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        // What comes after something that must never be is of no interest.
        if state.wrong == 0 {
            self.own_acts(state, acts);
            self.disturbances(state, acts);
        }
    }

    fn next_state(&self, before: &State, act: Act) -> Option<State> {
        let mut next = *before;
        self.act(&mut next, act);
        self.tidies(&mut next);
        if next == *before {
            return None;
        }
        if matches!(act, Act::Worker(..) | Act::Slot(..) | Act::SlowWrite(..)) {
            next.left -= 1;
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::<Self>::always(ONE_WRITER, |_, state| !Wrong::TwoWriters.is_in(state)),
            Property::<Self>::always(IN_ORDER, |_, state| !Wrong::OlderAfterNewer.is_in(state)),
            Property::<Self>::always(ONE_HOLDER, |_, state| {
                state.db.locks.iter().all(|holders| holders.len() <= 1)
            }),
            Property::<Self>::always(STOPPED, |_, state| !Wrong::NotStopped.is_in(state)),
            Property::<Self>::always(HELD, |_, state| {
                state.workers.iter().all(|worker| is_right(state, worker))
            }),
            Property::<Self>::always(MADE, |_, state| !Wrong::BreakBeforeMake.is_in(state)),
        ];
        if self.follows {
            all.push(Property::<Self>::always(HEALS, |fleet, state| {
                fleet.followed.lock().expect("whole").heals(fleet, state)
            }));
            all.extend(sights());
        }
        all
    }
}

pub(super) const ONE_WRITER: &str = "an epoch has one accepted writer";
pub(super) const IN_ORDER: &str = "no older epoch is written after a newer one";
pub(super) const ONE_HOLDER: &str = "a lock has one holder";
pub(super) const STOPPED: &str = "who is cut off has stopped before another claims";
pub(super) const HELD: &str = "what is believed to be held is held, while the connection is up";
pub(super) const MADE: &str = "the taker streams before the giver lets go";
pub(super) const HEALS: &str = "left alone, the fleet runs what is to run";

/// A step shows them, and no state does: they are noted beside the states, or there would be many more.
fn sights() -> [Property<FleetModel>; 9] {
    type Sight = Property<FleetModel>;
    [
        Sight::sometimes("a hand-over completes", |fleet, _| {
            fleet.has_seen(Event::HandedOver)
        }),
        Sight::sometimes("a write is fenced", |fleet, _| {
            fleet.has_seen(Event::Fenced)
        }),
        Sight::sometimes("a write is refused by its row alone", |fleet, _| {
            fleet.has_seen(Event::RowRefused)
        }),
        Sight::sometimes("a stopped worker's slot is taken over", |fleet, _| {
            fleet.has_seen(Event::TakenFromPaused)
        }),
        Sight::sometimes("a giver dies amid a hand-over", |fleet, _| {
            fleet.has_seen(Event::GiverDied)
        }),
        Sight::sometimes("a taker dies amid a hand-over", |fleet, _| {
            fleet.has_seen(Event::TakerDied)
        }),
        Sight::sometimes("suspended sessions go on", |fleet, _| {
            fleet.has_seen(Event::Resumed)
        }),
        Sight::sometimes("a worker gives up by itself", |fleet, _| {
            fleet.has_seen(Event::GaveUp)
        }),
        Sight::sometimes("a worker is drained", |fleet, _| {
            fleet.has_seen(Event::Drained)
        }),
    ]
}

/// What a worker with a living lock connection believes to hold, it holds.
fn is_right(state: &State, worker: &Worker) -> bool {
    let knows = worker.life != Life::Dead && worker.link == Link::Up && worker.news == News::None;
    !knows
        || (0..SLOTS).all(|slot| {
            let is_locked = state.db.locks[slot].has(usize::from(worker.session));
            worker.held[slot] == 0 || (is_locked && worker.held[slot] == state.db.epoch[slot])
        })
}
