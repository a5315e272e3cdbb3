//! What the model remembers: the database and the workers, as small as can be.
//!
//! A member's number is its worker and its lock connection in one: worker 0 has 1, 4, 7 …, worker 1 has 2,
//! 5, 8 …. An epoch of 0 is none.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use mahspeccy_bridge::domain::fleet::{HANDOVER_WITHIN, Handover, Member, SETTLED_AFTER};
use mahspeccy_bridge::domain::ids::Slot;

/// How many workers.
pub(super) const WORKERS: usize = 3;

/// How many slots.
pub(super) const SLOTS: usize = 2;

/// How many sessions a slot has. Whoever has both has a slot too many when there is another worker.
pub(super) const SESSIONS: [usize; SLOTS] = [6, 3];

/// What a worker takes: all there is.
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
    /// It has been there for [`HANDOVER_WITHIN`].
    pub(super) old: bool,
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
    /// A write that has passed the slot's fence, and has not come to the row yet: worker, slot, epoch.
    pub(super) in_flight: Option<(u8, u8, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Alive,
    /// SIGSTOP.
    Paused,
    /// Crashed, or gone in good order.
    Dead,
}

/// The lock connection, as it is and as its worker takes it to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    /// Silent. The server still holds its locks, and the worker has not given up yet.
    Cut,
    /// Ended by the server, its locks are free, and the worker has not noticed yet.
    Ended,
    /// The keeper knows, and connects anew.
    Gone,
}

/// What the keeper has published and the coordinator has not seen yet: a `watch`, the last value alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    None,
    Lost { given_up: bool },
    Held { suspended: bool },
}

/// What the links do with a slot's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    No,
    /// `Right::Offer`
    Standby {
        settled: bool,
    },
    /// `Right::Claim`
    Claim(u8),
    /// As before, but the claims were lost by an answer: it streams and writes nothing.
    Suspended(u8),
}

/// `coordinator::handover::Warm`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Warm {
    pub(super) epoch: u8,
    pub(super) ready: bool,
    /// Its sessions were looked at. The code does not know: see [`super::acts::Flaw::ReadyUnseen`].
    pub(super) seen: bool,
}

/// What is left to do of a round that has begun: each of them a statement, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Todo {
    pub(super) withdraw: Set,
    pub(super) let_go: Set,
    pub(super) decline: Set,
    pub(super) ready: Set,
    /// Claimed as the taker.
    pub(super) due: Set,
    /// Claimed because they were free.
    pub(super) wanted: Set,
    /// Their sessions are looked at.
    pub(super) agree: Set,
}

impl Todo {
    pub(super) const fn is_empty(&self) -> bool {
        (self.withdraw.0
            | self.let_go.0
            | self.decline.0
            | self.ready.0
            | self.due.0
            | self.wanted.0
            | self.agree.0)
            == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) life: Life,
    // The keeper's.
    pub(super) link: Link,
    /// Of the lock connection that it has, or had last.
    pub(super) session: u8,
    pub(super) suspended: bool,
    /// Slots that the coordinator has asked it to let go of.
    pub(super) releasing: Set,
    pub(super) news: News,
    // The coordinator's.
    /// The number that it goes by; 0: none.
    pub(super) number: u8,
    pub(super) draining: bool,
    pub(super) held: [u8; SLOTS],
    pub(super) warm: [Option<Warm>; SLOTS],
    /// The taker of each slot that it has offered; 0: none.
    pub(super) offered: [u8; SLOTS],
    pub(super) declined: Set,
    pub(super) todo: Todo,
    // The links', and the writer's.
    pub(super) run: [Run; SLOTS],
    /// Rows that wait to be written, by epoch; 0: none do.
    pub(super) outbox: [u8; SLOTS],
}

impl Worker {
    const fn new(number: u8) -> Self {
        Self {
            life: Life::Alive,
            link: Link::Up,
            session: number,
            suspended: false,
            releasing: Set(0),
            news: News::None,
            number,
            draining: false,
            held: [0; SLOTS],
            warm: [None; SLOTS],
            offered: [0; SLOTS],
            declined: Set(0),
            todo: Todo {
                withdraw: Set(0),
                let_go: Set(0),
                decline: Set(0),
                ready: Set(0),
                due: Set(0),
                wanted: Set(0),
                agree: Set(0),
            },
            run: [Run::No; SLOTS],
            outbox: [0; SLOTS],
        }
    }

    /// Nothing is left of it.
    pub(super) const fn dead() -> Self {
        Self {
            life: Life::Dead,
            link: Link::Gone,
            ..Self::new(0)
        }
    }

    /// The coordinator may begin a round: it is between two, and has a claim to go by.
    pub(super) fn is_idle(&self) -> bool {
        self.life == Life::Alive
            && self.todo.is_empty()
            && self.news == News::None
            && self.link != Link::Gone
    }
}

/// All there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) db: Database,
    pub(super) workers: [Worker; WORKERS],
    /// Disturbances that may still come.
    pub(super) left: u8,
    /// What went wrong, by [`super::acts::Wrong`].
    pub(super) wrong: u8,
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
    /// Everybody is there, and nobody has anything.
    pub(super) fn new(left: u8) -> Self {
        let mut state = Self {
            db: Database::default(),
            workers: [Worker::new(1), Worker::new(2), Worker::new(3)],
            left,
            wrong: 0,
        };
        for number in 1..=3 {
            state.db.members.add(number);
        }
        for slot in 0..SLOTS {
            state.db.desired.add(slot);
        }
        state
    }

    /// The first has run everything alone, and the others have just come.
    pub(super) fn alone(left: u8) -> Self {
        let mut state = Self::new(left);
        for slot in 0..SLOTS {
            state.db.epoch[slot] = 1;
            state.db.written[slot] = 1;
            state.db.locks[slot].add(1);
            let worker = &mut state.workers[0];
            worker.held[slot] = 1;
            worker.run[slot] = Run::Claim(1);
            worker.outbox[slot] = 1;
        }
        state
    }

    pub(super) fn is_member(&self, number: u8) -> bool {
        self.db.members.has(usize::from(number))
    }

    /// `pg::fleet::load`: who is alive by the locks. A row is taken to be up to date.
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
                    age: SETTLED_AFTER,
                }
            })
            .collect()
    }

    /// `Coordinator::me`
    pub(super) fn me(&self, me: usize) -> Member {
        let worker = &self.workers[me];
        let held = (0..SLOTS).filter(|slot| worker.held[*slot] != 0 && self.db.desired.has(*slot));
        Member {
            number: i32::from(worker.number),
            sessions: held.map(|slot| SESSIONS[slot]).sum(),
            sessions_max: SESSIONS_MAX,
            draining: worker.draining,
            age: SETTLED_AFTER,
        }
    }

    /// `Coordinator::members`
    pub(super) fn members_and(&self, me: usize) -> Vec<Member> {
        let me = self.me(me);
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
                    age: if row.old {
                        HANDOVER_WITHIN
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
                put(1 << 2 | u8::from(row.ready) << 1 | u8::from(row.old));
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
        put(self.left);
        put(self.wrong);
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
        let news = match self.news {
            News::None => 0,
            News::Lost { given_up } => 1 + u8::from(given_up),
            News::Held { suspended } => 3 + u8::from(suspended),
        };
        put(self.life as u8 | (self.link as u8) << 2 | news << 4);
        put(self.session << 4 | self.number);
        let flags = u8::from(self.suspended) << 1 | u8::from(self.draining);
        put(flags << 2 | low_byte(self.releasing));
        let [low, high] = self.declined.0.to_le_bytes();
        put(low);
        put(high);
        let todo = &self.todo;
        put(low_byte(todo.withdraw) | low_byte(todo.let_go) << 2 | low_byte(todo.decline) << 4);
        put(low_byte(todo.ready) | low_byte(todo.due) << 2 | low_byte(todo.wanted) << 4);
        put(low_byte(todo.agree));
        for slot in 0..SLOTS {
            put(self.held[slot]);
            let warm = self.warm[slot];
            put(warm.map_or(0, |warm| {
                warm.epoch << 3 | 4 | u8::from(warm.seen) << 1 | u8::from(warm.ready)
            }));
            put(self.offered[slot]);
            put(match self.run[slot] {
                Run::No => 0,
                Run::Standby { settled } => 1 + u8::from(settled),
                Run::Claim(epoch) => 64 | epoch,
                Run::Suspended(epoch) => 128 | epoch,
            });
            put(self.outbox[slot]);
        }
    }
}
