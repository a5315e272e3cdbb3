//! What a keeper, the writer and the server do: `src/worker/keeper.rs`, `src/pg/claims.rs`, `src/pg/cache`.

use super::acts::{Event, Flaw, FleetModel, Wrong};
use super::coordinator::{give_up, suspend};
use super::state::{Life, Link, News, Run, SLOTS, Set, State, Worker, next_number, worker_of};

impl FleetModel {
    /// `LockConnection::acquire`: those that are free are locked, and their epochs rise. Answers what is held
    /// then, also what was held before.
    pub(super) fn acquires(&self, state: &mut State, me: usize, slots: Set) -> Set {
        let mut got = Set::default();
        let worker = &state.workers[me];
        let link = worker.link;
        let is_late = worker.number != worker.session;
        match link {
            Link::Gone => return got,
            Link::Ended => {
                self.notices(state, me);
                return got;
            }
            Link::Up if is_late && self.flaw != Flaw::ServesLate => return got,
            // Requests are served in their order.
            Link::Up => self.releases(state, me),
            Link::Cut => {}
        }
        let number = usize::from(state.workers[me].session);
        for slot in slots.slots() {
            let is_held = state.db.locks[slot].has(number);
            if !is_held && (state.db.locks[slot].is_empty() || self.flaw.ignores_locks()) {
                self.changes_hands(state, me, slot);
            }
            // The answer of a silent server is not heard, whatever it did.
            if link == Link::Up && state.db.locks[slot].has(number) {
                state.workers[me].held[slot] = state.db.epoch[slot];
                got.add(slot);
            }
        }
        if link == Link::Cut {
            self.gives_up(state, me);
        }
        got
    }

    /// `begin_epochs`
    fn changes_hands(&self, state: &mut State, me: usize, slot: usize) {
        for (other, worker) in state.workers.iter().enumerate() {
            let writes = worker.run[slot] == Run::Claim(state.db.epoch[slot]);
            let is_cut =
                worker.link == Link::Cut || (worker.link == Link::Gone && !worker.suspended);
            if other == me || worker.life == Life::Dead || worker.held[slot] == 0 && !writes {
                continue;
            }
            if worker.life == Life::Paused {
                self.saw(Event::TakenFromPaused);
            } else if writes && is_cut && worker.number == worker.session {
                state.wrong |= Wrong::NotStopped as u8;
            }
        }
        if let Some(row) = state.row(slot)
            && row.taker == state.workers[me].session
            && row.ready
            && state.is_member(row.giver)
        {
            self.saw(Event::HandedOver);
        }
        state.db.locks[slot].add(usize::from(state.workers[me].session));
        if self.flaw != Flaw::EpochsKept {
            state.db.epoch[slot] += 1;
        }
        state.db.rows[slot] = None;
    }

    /// `LockConnection::release`, of what the coordinator has asked for.
    pub(super) fn releases(&self, state: &mut State, me: usize) {
        let number = usize::from(state.workers[me].session);
        let slots = std::mem::take(&mut state.workers[me].releasing);
        for slot in slots.slots() {
            state.db.locks[slot].remove(number);
        }
    }

    /// The lock connection was ended by the server: `lose`, not given up.
    pub(super) fn notices(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.link = Link::Gone;
        worker.suspended = true;
        worker.releasing = Set::default();
        worker.news = News::Lost { given_up: false };
        suspend(worker);
    }

    /// No answer in time: `lose`, given up. The server still knows the connection.
    pub(super) fn gives_up(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.link = Link::Gone;
        worker.suspended = false;
        worker.releasing = Set::default();
        worker.news = News::Lost { given_up: true };
        if self.flaw != Flaw::GoesOn {
            worker.run = [Run::No; SLOTS];
        }
        self.saw(Event::GaveUp);
    }

    /// `join`, on a new lock connection.
    pub(super) fn reconnects(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.link = Link::Up;
        worker.session = next_number(worker.session);
        worker.news = News::Held {
            suspended: worker.suspended,
        };
        worker.suspended = false;
        let number = usize::from(worker.session);
        state.db.members.add(number);
    }

    /// Whether the server gives a member's locks away. It does so at once where it was told, when a worker
    /// hangs after 10 s, and when it is cut off after 9 s: by then the worker has stopped, 5 s ago. Time is
    /// not in the model; this is what it is there for.
    pub(super) fn may_free(&self, state: &State, number: u8) -> bool {
        if !state.is_member(number) {
            return false;
        }
        let worker = &state.workers[worker_of(number)];
        let is_current = worker.session == number && worker.link != Link::Gone;
        match worker.life {
            Life::Dead | Life::Paused => true,
            Life::Alive if is_current => self.flaw == Flaw::FreedEarly && worker.link == Link::Cut,
            Life::Alive => {
                matches!(self.flaw, Flaw::GoesOn | Flaw::FreedMidRound) || worker.number != number
            }
        }
    }

    pub(super) fn frees(&self, state: &mut State, number: u8) {
        state.db.members.remove(usize::from(number));
        for locks in &mut state.db.locks {
            locks.remove(usize::from(number));
        }
        let worker = &mut state.workers[worker_of(number)];
        if worker.session == number && worker.life == Life::Paused && worker.link != Link::Gone {
            worker.link = Link::Ended;
        }
    }

    /// The writer takes what waits, and a fenced row makes the coordinator let go of its slot.
    pub(super) fn writes(&self, state: &mut State, me: usize, slot: usize) {
        let worker = &state.workers[me];
        let epoch = worker.outbox[slot];
        let known = matches!(worker.run[slot], Run::Claim(it) | Run::Suspended(it) if it == epoch);
        let goes_on = worker.run[slot] == Run::Claim(epoch);
        if self.passes(state, slot, epoch) {
            self.lands(state, me, slot, epoch);
            if !goes_on {
                state.workers[me].outbox[slot] = 0;
            }
            return;
        }
        if known && worker.is_idle() {
            self.saw(Event::Fenced);
            let worker = &mut state.workers[me];
            // `handle_finding`
            give_up(worker, slot);
            worker.releasing.add(slot);
            worker.outbox[slot] = 0;
        } else if !known {
            self.saw(Event::Fenced);
            state.workers[me].outbox[slot] = 0;
        }
    }

    /// Rows that wait for nothing are forgotten: of sessions that are gone, and either refused when they come
    /// or what is written already.
    pub(super) fn tidies(&self, state: &mut State) {
        if self.flaw.has_no_slot_fence() {
            return;
        }
        let db = &state.db;
        for (me, worker) in state.workers.iter_mut().enumerate() {
            for slot in 0..SLOTS {
                let epoch = worker.outbox[slot];
                let is_known =
                    matches!(worker.run[slot], Run::Claim(it) | Run::Suspended(it) if it == epoch);
                let is_written = db.written[slot] == epoch && usize::from(db.writer[slot]) == me;
                if epoch != 0 && !is_known && (db.epoch[slot] != epoch || is_written) {
                    worker.outbox[slot] = 0;
                }
            }
        }
    }

    /// The fence of the slot: `join bridge.slots o on o.epoch = i.epoch`.
    pub(super) fn passes(&self, state: &State, slot: usize, epoch: u8) -> bool {
        state.db.epoch[slot] == epoch || self.flaw.has_no_slot_fence()
    }

    /// The fence of the row: `where (c.epoch, c.seq) < (excluded.epoch, excluded.seq)`.
    pub(super) fn lands(&self, state: &mut State, me: usize, slot: usize, epoch: u8) {
        let writer = u8::try_from(me).expect("small");
        let db = &mut state.db;
        if epoch < db.written[slot] {
            if !self.flaw.has_no_row_fence() {
                self.saw(Event::RowRefused);
                return;
            }
            state.wrong |= Wrong::OlderAfterNewer as u8;
        }
        if epoch == db.written[slot] && writer != db.writer[slot] {
            state.wrong |= Wrong::TwoWriters as u8;
        }
        db.written[slot] = epoch;
        db.writer[slot] = writer;
    }

    /// A worker that suspended its sessions hears nothing of the server any more.
    pub(super) fn goes_silent(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.suspended = false;
        worker.news = News::Lost { given_up: true };
        worker.run = [Run::No; SLOTS];
    }

    /// The process ends in good order: sessions, last rows, claims.
    pub(super) fn exits(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        let number = worker.session;
        let is_joined = worker.link == Link::Up;
        *worker = Worker::dead();
        if is_joined {
            self.frees(state, number);
        }
        self.saw(Event::Drained);
    }
}
