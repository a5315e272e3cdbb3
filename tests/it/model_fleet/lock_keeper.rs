//! The steps of a lock keeper, a writer and the server: `src/worker/ownership/lock_keeper.rs`, `src/worker/writing`,
//! `src/pg/claims.rs`, `src/pg/cache`.

use super::flaw::Flaw;
use super::ownership::{abandon_slot, suspend};
use super::state::{
    ClaimChange, LockConnection, ProcessState, SLOTS, Sessions, Set, State, Worker, next_number,
    worker_of,
};
use super::steps::{FleetModel, Milestone, Violation};

impl FleetModel {
    /// `LockConnection::acquire`: locks the free slots and raises their epochs. Returns what is held then, also
    /// what was held before.
    pub(super) fn acquire(&self, state: &mut State, me: usize, slots: Set) -> Set {
        let mut acquired = Set::default();
        let worker = &state.workers[me];
        let connection = worker.connection;
        let is_stale = worker.number != worker.connection_number;
        match connection {
            LockConnection::Gone => return acquired,
            LockConnection::Ended => {
                self.suspend_claims(state, me);
                return acquired;
            }
            LockConnection::Up if is_stale && self.flaw != Flaw::ServesStaleRequests => {
                return acquired;
            }
            // Requests are served in their order.
            LockConnection::Up => self.release(state, me),
            LockConnection::Cut => {}
        }
        let number = usize::from(state.workers[me].connection_number);
        for slot in slots.slots() {
            let is_held = state.db.locks[slot].has(number);
            if !is_held && (state.db.locks[slot].is_empty() || self.flaw.ignores_locks()) {
                self.begin_epoch(state, me, slot);
            }
            // The reply of a silent server does not arrive, whatever the server did.
            if connection == LockConnection::Up && state.db.locks[slot].has(number) {
                state.workers[me].held[slot] = state.db.epoch[slot];
                acquired.add(slot);
            }
        }
        if connection == LockConnection::Cut {
            self.give_up_claims(state, me);
        }
        acquired
    }

    /// `begin_epochs`
    fn begin_epoch(&self, state: &mut State, me: usize, slot: usize) {
        for (other, worker) in state.workers.iter().enumerate() {
            let writes = worker.sessions[slot] == Sessions::Owned(state.db.epoch[slot]);
            let is_cut = worker.connection == LockConnection::Cut
                || (worker.connection == LockConnection::Gone && !worker.suspended);
            if other == me
                || worker.process == ProcessState::Dead
                || worker.held[slot] == 0 && !writes
            {
                continue;
            }
            if worker.process == ProcessState::Paused {
                self.reach(Milestone::TakenFromPaused);
            } else if writes && is_cut && worker.number == worker.connection_number {
                state.violations |= Violation::NotStopped as u8;
            }
        }
        if let Some(row) = state.row(slot)
            && row.taker == state.workers[me].connection_number
            && row.ready
            && state.is_member(row.giver)
        {
            self.reach(Milestone::HandedOver);
        }
        state.db.locks[slot].add(usize::from(state.workers[me].connection_number));
        if self.flaw != Flaw::EpochNotRaised {
            state.db.epoch[slot] += 1;
        }
        state.db.rows[slot] = None;
    }

    /// `LockConnection::release`, of what the coordinator has requested.
    pub(super) fn release(&self, state: &mut State, me: usize) {
        let number = usize::from(state.workers[me].connection_number);
        let slots = std::mem::take(&mut state.workers[me].releasing);
        for slot in slots.slots() {
            state.db.locks[slot].remove(number);
        }
    }

    /// The lock connection was ended by the server: `handle_lost`, not given up.
    pub(super) fn suspend_claims(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.connection = LockConnection::Gone;
        worker.suspended = true;
        worker.releasing = Set::default();
        worker.claim_change = ClaimChange::Lost { given_up: false };
        suspend(worker);
    }

    /// No reply in time: `handle_lost`, given up. The server still has the connection.
    pub(super) fn give_up_claims(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.connection = LockConnection::Gone;
        worker.suspended = false;
        worker.releasing = Set::default();
        worker.claim_change = ClaimChange::Lost { given_up: true };
        if self.flaw != Flaw::IgnoresSilence {
            worker.sessions = [Sessions::Stopped; SLOTS];
        }
        self.reach(Milestone::GaveUp);
    }

    /// `join`, on a new lock connection.
    pub(super) fn reconnect(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.connection = LockConnection::Up;
        worker.connection_number = next_number(worker.connection_number);
        worker.claim_change = ClaimChange::Held {
            suspended: worker.suspended,
        };
        worker.suspended = false;
        let number = usize::from(worker.connection_number);
        state.db.members.add(number);
    }

    /// Whether the server may release a member's locks: at once if the connection ended, after 10 s if the worker
    /// hangs, and after 9 s if it is cut off. By then the worker has stopped, 5 s ago. The model has no time; this
    /// guard is all that time guarantees.
    pub(super) fn may_free(&self, state: &State, number: u8) -> bool {
        if !state.is_member(number) {
            return false;
        }
        let worker = &state.workers[worker_of(number)];
        let is_current =
            worker.connection_number == number && worker.connection != LockConnection::Gone;
        match worker.process {
            ProcessState::Dead | ProcessState::Paused => true,
            ProcessState::Alive if is_current => {
                self.flaw == Flaw::FreedEarly && worker.connection == LockConnection::Cut
            }
            ProcessState::Alive => {
                matches!(self.flaw, Flaw::IgnoresSilence | Flaw::FreedMidRound)
                    || worker.number != number
            }
        }
    }

    pub(super) fn free_locks(&self, state: &mut State, number: u8) {
        state.db.members.remove(usize::from(number));
        for locks in &mut state.db.locks {
            locks.remove(usize::from(number));
        }
        let worker = &mut state.workers[worker_of(number)];
        if worker.connection_number == number
            && worker.process == ProcessState::Paused
            && worker.connection != LockConnection::Gone
        {
            worker.connection = LockConnection::Ended;
        }
    }

    /// The writer writes what waits. A fenced row makes the coordinator release its slot.
    pub(super) fn write(&self, state: &mut State, me: usize, slot: usize) {
        let worker = &state.workers[me];
        let epoch = worker.outbox[slot];
        let is_current = matches!(worker.sessions[slot], Sessions::Owned(it) | Sessions::Suspended(it) if it == epoch);
        let is_owned = worker.sessions[slot] == Sessions::Owned(epoch);
        if self.passes_slot_fence(state, slot, epoch) {
            self.land_write(state, me, slot, epoch);
            if !is_owned {
                state.workers[me].outbox[slot] = 0;
            }
            return;
        }
        if is_current && worker.is_idle() {
            self.reach(Milestone::Fenced);
            let worker = &mut state.workers[me];
            // `handle_finding`
            abandon_slot(worker, slot);
            worker.releasing.add(slot);
            worker.outbox[slot] = 0;
        } else if !is_current {
            self.reach(Milestone::Fenced);
            state.workers[me].outbox[slot] = 0;
        }
    }

    /// Drops pending rows that change nothing: of sessions that are gone, if they would be refused or are written
    /// already.
    pub(super) fn drop_obsolete_rows(&self, state: &mut State) {
        if self.flaw.has_no_slot_fence() {
            return;
        }
        let db = &state.db;
        for (me, worker) in state.workers.iter_mut().enumerate() {
            for slot in 0..SLOTS {
                let epoch = worker.outbox[slot];
                let is_current = matches!(worker.sessions[slot], Sessions::Owned(it) | Sessions::Suspended(it) if it == epoch);
                let is_written = db.written[slot] == epoch && usize::from(db.writer[slot]) == me;
                if epoch != 0 && !is_current && (db.epoch[slot] != epoch || is_written) {
                    worker.outbox[slot] = 0;
                }
            }
        }
    }

    /// The fence of the slot: `join bridge.slots o on o.epoch = i.epoch`.
    pub(super) fn passes_slot_fence(&self, state: &State, slot: usize, epoch: u8) -> bool {
        state.db.epoch[slot] == epoch || self.flaw.has_no_slot_fence()
    }

    /// The fence of the row: `where (c.epoch, c.seq) < (excluded.epoch, excluded.seq)`.
    pub(super) fn land_write(&self, state: &mut State, me: usize, slot: usize, epoch: u8) {
        let writer = u8::try_from(me).expect("small");
        let db = &mut state.db;
        if epoch < db.written[slot] {
            if !self.flaw.has_no_row_fence() {
                self.reach(Milestone::RowRefused);
                return;
            }
            state.violations |= Violation::OlderAfterNewer as u8;
        }
        if epoch == db.written[slot] && writer != db.writer[slot] {
            state.violations |= Violation::TwoWriters as u8;
        }
        db.written[slot] = epoch;
        db.writer[slot] = writer;
    }

    /// The server of a worker that suspended its sessions goes silent.
    pub(super) fn handle_server_silence(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.suspended = false;
        worker.claim_change = ClaimChange::Lost { given_up: true };
        worker.sessions = [Sessions::Stopped; SLOTS];
    }

    /// The process ends in good order: sessions, last rows, claims.
    pub(super) fn exit(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        let number = worker.connection_number;
        let is_joined = worker.connection == LockConnection::Up;
        *worker = Worker::dead();
        if is_joined {
            self.free_locks(state, number);
        }
        self.reach(Milestone::Drained);
    }
}
