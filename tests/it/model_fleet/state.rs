//! The state of the model: the database and the workers, as small as possible.
//!
//! A member's number is its worker and its lock connection in one: worker 0 has 1, 4, 7 …, worker 1 has 2,
//! 5, 8 …. An epoch of 0 is none.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use mahspeccy_bridge::domain::fleet::{HANDOVER_TIMEOUT, Handover, Member, TAKER_AGE_MIN};
use mahspeccy_bridge::domain::ids::Slot;

/// How many workers.
pub(super) const WORKERS: usize = 3;

/// How many slots.
pub(super) const SLOTS: usize = 2;

/// How many sessions a slot has. Whoever has both has a slot too many when there is another worker.
pub(super) const SESSIONS: [usize; SLOTS] = [6, 3];

/// The capacity of a worker: all sessions that there are.
const SESSIONS_MAX: usize = 9;

/// Numbers are below it: three workers with five lock connections each.
pub(super) const NUMBERS: u8 = 16;

/// A set of slots, or of members by number.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Set(pub(super) u16);

impl Set {
    pub(super) const fn has(self, item: usize) -> bool {
        self.0 & (1 << item) != 0
    }

    pub(super) const fn add(&mut self, item: usize) {
        self.0 |= 1 << item;
    }

    pub(super) const fn remove(&mut self, item: usize) {
        self.0 &= !(1 << item);
    }

    pub(super) const fn toggle(&mut self, item: usize) {
        self.0 ^= 1 << item;
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The slots among them.
    pub(super) fn slots(self) -> impl Iterator<Item = usize> {
        (0..SLOTS).filter(move |slot| self.has(*slot))
    }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items = (0..16_usize).filter(|item| self.has(*item));
        f.debug_set().entries(items).finish()
    }
}

/// A row of `bridge.handovers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) epoch: u8,
    pub(super) giver: u8,
    pub(super) taker: u8,
    pub(super) ready: bool,
    /// It has been there for [`HANDOVER_TIMEOUT`].
    pub(super) is_expired: bool,
}

/// What Postgres holds, and its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Database {
    /// `bridge.slots.epoch`
    pub(super) epoch: [u8; SLOTS],
    /// Who holds the slot's advisory lock: one member at most, unless a flaw lets more.
    pub(super) locks: [Set; SLOTS],
    /// Members whose lock connection lives on the server.
    pub(super) members: Set,
    /// `bridge.handovers`
    pub(super) rows: [Option<Row>; SLOTS],
    /// The cache row of a slot: the epoch of the last accepted write.
    pub(super) written: [u8; SLOTS],
    /// And the worker that wrote it.
    pub(super) writer: [u8; SLOTS],
    /// Slots whose sessions are to run.
    pub(super) desired: Set,
    /// A write that has passed the slot's fence, and has not reached the row yet: worker, slot, epoch.
    pub(super) in_flight: Option<(u8, u8, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessState {
    Alive,
    /// SIGSTOP.
    Paused,
    /// Crashed, or ended in good order.
    Dead,
}

/// The lock connection: its real state, and what its worker knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockConnection {
    Up,
    /// Silent. The server still holds its locks, and the worker has not given up yet.
    Cut,
    /// Ended by the server, its locks are free, and the worker has not noticed yet.
    Ended,
    /// The lock keeper knows, and connects again.
    Gone,
}

/// The claim state that the lock keeper published and the coordinator has not handled yet: a `watch`, so the last value
/// only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimChange {
    None,
    Lost { given_up: bool },
    Held { suspended: bool },
}

/// How the links run a slot's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sessions {
    Stopped,
    /// `Ownership::Incoming`
    Standby {
        ready: bool,
    },
    /// `Ownership::Owned`
    Owned(u8),
    /// Owned before, but the server ended the lock connection: they stream and write nothing.
    Suspended(u8),
}

/// `ownership::state::IncomingSlot`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IncomingSlot {
    pub(super) epoch: u8,
    pub(super) ready: bool,
    /// Its sessions were read. See [`super::flaw::Flaw::ReadyUnopened`].
    pub(super) opened: bool,
}

/// The statements that a round has still to run, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Round {
    pub(super) withdraw: Set,
    pub(super) release: Set,
    pub(super) decline: Set,
    pub(super) mark_ready: Set,
    /// To be claimed as the taker.
    pub(super) take_over: Set,
    /// To be claimed because they are free.
    pub(super) claim: Set,
    /// Slots whose sessions are to be reconciled.
    pub(super) reconcile: Set,
}

impl Round {
    pub(super) const fn is_empty(&self) -> bool {
        (self.withdraw.0
            | self.release.0
            | self.decline.0
            | self.mark_ready.0
            | self.take_over.0
            | self.claim.0
            | self.reconcile.0)
            == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) process: ProcessState,
    // The lock keeper's.
    pub(super) connection: LockConnection,
    /// The number of its current or last lock connection.
    pub(super) connection_number: u8,
    pub(super) suspended: bool,
    /// Slots that the coordinator has requested to release.
    pub(super) releasing: Set,
    pub(super) claim_change: ClaimChange,
    // The coordinator's.
    /// The worker's number in the fleet, as the coordinator knows it; 0: none.
    pub(super) number: u8,
    pub(super) draining: bool,
    pub(super) held: [u8; SLOTS],
    pub(super) incoming: [Option<IncomingSlot>; SLOTS],
    /// The taker of each slot that it has offered; 0: none.
    pub(super) offered: [u8; SLOTS],
    pub(super) declined: Set,
    pub(super) round: Round,
    // The links', and the writer's.
    pub(super) sessions: [Sessions; SLOTS],
    /// Rows that wait to be written, by epoch; 0: none do.
    pub(super) outbox: [u8; SLOTS],
}

impl Worker {
    const fn new(number: u8) -> Self {
        Self {
            process: ProcessState::Alive,
            connection: LockConnection::Up,
            connection_number: number,
            suspended: false,
            releasing: Set(0),
            claim_change: ClaimChange::None,
            number,
            draining: false,
            held: [0; SLOTS],
            incoming: [None; SLOTS],
            offered: [0; SLOTS],
            declined: Set(0),
            round: Round {
                withdraw: Set(0),
                release: Set(0),
                decline: Set(0),
                mark_ready: Set(0),
                take_over: Set(0),
                claim: Set(0),
                reconcile: Set(0),
            },
            sessions: [Sessions::Stopped; SLOTS],
            outbox: [0; SLOTS],
        }
    }

    /// A process that is gone.
    pub(super) const fn dead() -> Self {
        Self {
            process: ProcessState::Dead,
            connection: LockConnection::Gone,
            ..Self::new(0)
        }
    }

    /// Whether the coordinator may begin a round: it is between two, and has a lock connection.
    pub(super) fn is_idle(&self) -> bool {
        self.process == ProcessState::Alive
            && self.round.is_empty()
            && self.claim_change == ClaimChange::None
            && self.connection != LockConnection::Gone
    }
}

/// The state of the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) db: Database,
    pub(super) workers: [Worker; WORKERS],
    /// Disturbances that may still come.
    pub(super) disturbances_left: u8,
    /// What went wrong, as bits of [`super::steps::Violation`].
    pub(super) violations: u8,
}

/// One hash of few bytes: the checker does little else.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(&self.packed());
    }
}

/// The worker that has, or had, a number.
pub(super) fn worker_of(number: u8) -> usize {
    usize::from(number - 1) % WORKERS
}

/// The number of a worker's next lock connection.
pub(super) const fn next_number(number: u8) -> u8 {
    let next = number + 3;
    assert!(next < NUMBERS, "more lock connections than numbers");
    next
}

pub(super) fn slot(index: usize) -> Slot {
    Slot(i32::try_from(index).expect("small"))
}

pub(super) fn index(slot: Slot) -> usize {
    usize::try_from(slot.0).expect("small")
}

impl State {
    /// All workers are there, and none owns a slot.
    pub(super) fn new(disturbances_left: u8) -> Self {
        let mut state = Self {
            db: Database::default(),
            workers: [Worker::new(1), Worker::new(2), Worker::new(3)],
            disturbances_left,
            violations: 0,
        };
        for number in 1..=3 {
            state.db.members.add(number);
        }
        for slot in 0..SLOTS {
            state.db.desired.add(slot);
        }
        state
    }

    /// The first worker owns everything, and the others have just started.
    pub(super) fn alone(disturbances_left: u8) -> Self {
        let mut state = Self::new(disturbances_left);
        for slot in 0..SLOTS {
            state.db.epoch[slot] = 1;
            state.db.written[slot] = 1;
            state.db.locks[slot].add(1);
            let worker = &mut state.workers[0];
            worker.held[slot] = 1;
            worker.sessions[slot] = Sessions::Owned(1);
            worker.outbox[slot] = 1;
        }
        state
    }

    pub(super) fn is_member(&self, number: u8) -> bool {
        self.db.members.has(usize::from(number))
    }

    /// `pg::fleet::load`: who is alive by the locks. Rows are assumed to be up to date.
    pub(super) fn members(&self) -> Vec<Member> {
        (1..NUMBERS)
            .filter(|number| self.is_member(*number))
            .map(|number| {
                let has = |slot: &usize| self.db.locks[*slot].has(usize::from(number));
                let slots = (0..SLOTS)
                    .filter(has)
                    .filter(|slot| self.db.desired.has(*slot));
                Member {
                    number: i32::from(number),
                    sessions: slots.map(|slot| SESSIONS[slot]).sum(),
                    sessions_max: SESSIONS_MAX,
                    draining: self.workers[worker_of(number)].draining,
                    age: TAKER_AGE_MIN,
                }
            })
            .collect()
    }

    /// `Coordinator::this_member`
    pub(super) fn this_member(&self, me: usize) -> Member {
        let worker = &self.workers[me];
        let held = (0..SLOTS).filter(|slot| worker.held[*slot] != 0 && self.db.desired.has(*slot));
        Member {
            number: i32::from(worker.number),
            sessions: held.map(|slot| SESSIONS[slot]).sum(),
            sessions_max: SESSIONS_MAX,
            draining: worker.draining,
            age: TAKER_AGE_MIN,
        }
    }

    /// `Coordinator::members`
    pub(super) fn members_seen_by(&self, me: usize) -> Vec<Member> {
        let me = self.this_member(me);
        let others = self.members().into_iter();
        others
            .filter(|member| member.number != me.number)
            .chain([me])
            .collect()
    }

    /// The hand-overs whose epoch is the slot's.
    pub(super) fn handovers(&self) -> Vec<Handover> {
        (0..SLOTS)
            .filter_map(|index| {
                let row = self.row(index)?;
                Some(Handover {
                    slot: slot(index),
                    epoch: i64::from(row.epoch),
                    giver: i32::from(row.giver),
                    taker: i32::from(row.taker),
                    sessions: SESSIONS[index],
                    ready: row.ready,
                    age: if row.is_expired {
                        HANDOVER_TIMEOUT
                    } else {
                        Duration::ZERO
                    },
                })
            })
            .collect()
    }

    pub(super) fn row(&self, slot: usize) -> Option<Row> {
        self.db.rows[slot].filter(|row| row.epoch == self.db.epoch[slot])
    }

    /// All sessions of slots that are to run, as `sessions::active_slots` has them.
    pub(super) fn total(&self) -> usize {
        self.db.desired.slots().map(|slot| SESSIONS[slot]).sum()
    }

    fn packed(&self) -> [u8; 74] {
        let mut bytes = [0; 74];
        let mut at = 0;
        let mut put = |byte: u8| {
            bytes[at] = byte;
            at += 1;
        };
        let db = &self.db;
        for slot in 0..SLOTS {
            put(db.epoch[slot]);
            let [low, high] = db.locks[slot].0.to_le_bytes();
            put(low);
            put(high);
            put(db.written[slot] << 4 | db.writer[slot]);
            if let Some(row) = db.rows[slot] {
                put(row.epoch);
                put(row.giver << 4 | row.taker);
                put(1 << 2 | u8::from(row.ready) << 1 | u8::from(row.is_expired));
            } else {
                put(0);
                put(0);
                put(0);
            }
        }
        let [low, high] = db.members.0.to_le_bytes();
        put(low);
        put(high);
        let (worker, slot, epoch) = db.in_flight.unwrap_or_default();
        put(epoch);
        put(low_byte(db.desired) << 6 | worker << 4 | slot << 3);
        put(self.disturbances_left);
        put(self.violations);
        for worker in &self.workers {
            worker.pack(&mut put);
        }
        bytes
    }
}

fn low_byte(set: Set) -> u8 {
    set.0.to_le_bytes()[0]
}

impl Worker {
    fn pack(&self, put: &mut impl FnMut(u8)) {
        let claim_change = match self.claim_change {
            ClaimChange::None => 0,
            ClaimChange::Lost { given_up } => 1 + u8::from(given_up),
            ClaimChange::Held { suspended } => 3 + u8::from(suspended),
        };
        put(self.process as u8 | (self.connection as u8) << 2 | claim_change << 4);
        put(self.connection_number << 4 | self.number);
        let flags = u8::from(self.suspended) << 1 | u8::from(self.draining);
        put(flags << 2 | low_byte(self.releasing));
        let [low, high] = self.declined.0.to_le_bytes();
        put(low);
        put(high);
        let round = &self.round;
        put(low_byte(round.withdraw) | low_byte(round.release) << 2 | low_byte(round.decline) << 4);
        put(low_byte(round.mark_ready)
            | low_byte(round.take_over) << 2
            | low_byte(round.claim) << 4);
        put(low_byte(round.reconcile));
        for slot in 0..SLOTS {
            put(self.held[slot]);
            let incoming = self.incoming[slot];
            put(incoming.map_or(0, |incoming| {
                incoming.epoch << 3 | 4 | u8::from(incoming.opened) << 1 | u8::from(incoming.ready)
            }));
            put(self.offered[slot]);
            put(match self.sessions[slot] {
                Sessions::Stopped => 0,
                Sessions::Standby { ready } => 1 + u8::from(ready),
                Sessions::Owned(epoch) => 64 | epoch,
                Sessions::Suspended(epoch) => 128 | epoch,
            });
            put(self.outbox[slot]);
        }
    }
}
