//! What a coordinator does: `src/worker/coordinator`, by the rules of `domain::fleet` themselves.
//!
//! A round begins with a look, which decides; what it decided is carried out a statement at a time, and
//! anything may happen in between.

use mahspeccy_bridge::domain::fleet::{self, FreeSlot, Handover};

use super::acts::{Event, Flaw, FleetModel, Trouble, Wrong};
use super::state::{
    Life, Link, News, Row, Run, SESSIONS, SLOTS, Set, State, Warm, Worker, index, slot, worker_of,
};

impl FleetModel {
    /// `hand_over_and_take_over`: a look at the fleet, and what follows from it for the hand-overs.
    pub(super) fn looks(&self, state: &mut State, me: usize) {
        let worker = &state.workers[me];
        let is_part = worker.warm.iter().any(Option::is_some) || worker.offered != [0; SLOTS];
        if !is_part && state.db.rows == [None; SLOTS] {
            return;
        }
        let handovers = state.handovers();
        buries(state);
        self.gives(state, me, &handovers);
        self.takes(state, me, &handovers);
    }

    /// `give`
    fn gives(&self, state: &mut State, me: usize, handovers: &[Handover]) {
        let members = state.db.members;
        let worker = &mut state.workers[me];
        let number = i32::from(worker.number);
        let mut given = Set::default();
        for handover in handovers.iter().filter(|row| row.giver == number) {
            let slot = index(handover.slot);
            given.add(slot);
            if i64::from(worker.held[slot]) != handover.epoch {
                continue;
            }
            let is_dead = !members.has(item(handover.taker));
            if is_dead || (!handover.ready && handover.age >= fleet::HANDOVER_WITHIN) {
                worker.todo.withdraw.add(slot);
                worker.declined.add(item(handover.taker));
                if is_dead {
                    self.saw(Event::TakerDied);
                }
            } else if handover.ready {
                worker.todo.let_go.add(slot);
            }
        }
        for slot in 0..SLOTS {
            let taker = worker.offered[slot];
            if taker == 0 {
                continue;
            }
            if worker.todo.withdraw.has(slot) || worker.held[slot] == 0 {
                worker.offered[slot] = 0;
            } else if !given.has(slot) {
                worker.offered[slot] = 0;
                worker.declined.add(usize::from(taker));
            }
        }
    }

    /// `take`
    fn takes(&self, state: &mut State, me: usize, handovers: &[Handover]) {
        let number = i32::from(state.workers[me].number);
        let is_mine = |row: &&Handover| row.taker == number && row.giver != number;
        let taken: Vec<&Handover> = handovers.iter().filter(is_mine).collect();
        for slot in 0..SLOTS {
            let is_offered = taken.iter().any(|offer| index(offer.slot) == slot);
            if state.workers[me].warm[slot].is_some() && !is_offered {
                give_up(&mut state.workers[me], slot);
            }
        }
        let mut new = Set::default();
        for offer in &taken {
            let slot = index(offer.slot);
            let known = state.workers[me].warm[slot];
            let warm = Warm {
                epoch: u8::try_from(offer.epoch).expect("small"),
                ready: offer.ready,
                seen: known.is_some_and(|known| known.seen),
            };
            if state.workers[me].held[slot] != 0 || known == Some(warm) {
                continue;
            }
            if known.is_none() && !has_room(state, me, offer.sessions) {
                state.workers[me].todo.decline.add(slot);
                continue;
            }
            state.workers[me].warm[slot] = Some(warm);
            new.add(slot);
        }
        let db = &state.db;
        let worker = &mut state.workers[me];
        for offer in taken {
            let slot = index(offer.slot);
            let Some(warm) = worker.warm[slot] else {
                continue;
            };
            let is_orphan = !db.members.has(item(offer.giver));
            if warm.ready || is_orphan {
                // Locked ones are tried in vain, which changes nothing.
                if db.locks[slot].is_empty() || self.flaw.ignores_locks() {
                    worker.todo.due.add(slot);
                    if is_orphan {
                        self.saw(Event::GiverDied);
                    }
                }
            } else if !new.has(slot)
                && is_settled(worker.run[slot])
                && (warm.seen || self.flaw == Flaw::ReadyUnseen)
            {
                worker.todo.ready.add(slot);
            }
        }
        // The look that follows opens the new ones.
        for slot in new.slots() {
            worker.todo.agree.add(slot);
        }
    }

    /// The next of what a look has decided.
    pub(super) fn steps(&self, state: &mut State, me: usize) {
        let todo = state.workers[me].todo;
        let done = &mut state.workers[me].todo;
        if !todo.withdraw.is_empty() {
            done.withdraw = Set::default();
            withdraw(state, me, todo.withdraw);
        } else if !todo.let_go.is_empty() {
            done.let_go = Set::default();
            self.lets_go(state, me, todo.let_go);
        } else if !todo.decline.is_empty() {
            done.decline = Set::default();
            withdraw(state, me, todo.decline);
        } else if !todo.ready.is_empty() {
            done.ready = Set::default();
            is_ready(state, me, todo.ready);
        } else if !todo.due.is_empty() {
            done.due = Set::default();
            for slot in self.acquires(state, me, todo.due).slots() {
                state.workers[me].warm[slot] = None;
                state.workers[me].todo.agree.add(slot);
            }
        } else if !todo.wanted.is_empty() {
            done.wanted = Set::default();
            for slot in self.acquires(state, me, todo.wanted).slots() {
                state.workers[me].todo.agree.add(slot);
            }
        } else {
            done.agree = Set::default();
            for slot in todo.agree.slots() {
                agrees(state, me, slot);
            }
        }
    }

    /// `let_go`: the taker streams. The last rows stay in the outbox, should they not be written in time.
    fn lets_go(&self, state: &mut State, me: usize, slots: Set) {
        for slot in slots.slots() {
            let giver = &state.workers[me];
            if let Some(row) = state.row(slot)
                && (row.giver, row.epoch) == (giver.number, giver.held[slot])
            {
                let taker = &state.workers[worker_of(row.taker)];
                let is_there =
                    taker.is_idle() && taker.link == Link::Up && taker.number == row.taker;
                let streams = taker.run[slot] != Run::No || giver.run[slot] == Run::No;
                if is_there && taker.warm[slot].is_some() && !self.has(Trouble::Wish) && !streams {
                    state.wrong |= Wrong::BreakBeforeMake as u8;
                }
            }
            let worker = &mut state.workers[me];
            worker.run[slot] = Run::No;
            worker.held[slot] = 0;
            worker.offered[slot] = 0;
            worker.releasing.add(slot);
        }
    }

    /// `claim`: which of the free slots are wanted. `left_over`: they were free at the last look too.
    /// `late`: the hand-overs were looked at before the offer was made.
    pub(super) fn looks_for_free(&self, state: &mut State, me: usize, left_over: bool, late: bool) {
        let is_free = |slot: usize| state.db.locks[slot].is_empty() || self.flaw.ignores_locks();
        if !state.db.desired.slots().any(is_free) {
            return;
        }
        let mine = state.me(me);
        let members = state.members_and(me);
        let handovers = if late { Vec::new() } else { state.handovers() };
        let worker = &state.workers[me];
        if mine.draining {
            return;
        }
        let free: Vec<FreeSlot> = state
            .db
            .desired
            .slots()
            .filter(|index| {
                worker.held[*index] == 0
                    && worker.warm[*index].is_none()
                    && fleet::is_anybodys(slot(*index), mine.number, &members, &handovers)
                    // `pg::fleet::free_slots`
                    && is_free(*index)
            })
            .map(|index| FreeSlot {
                slot: slot(index),
                sessions: SESSIONS[index],
                is_left_over: left_over,
            })
            .collect();
        if free.is_empty() {
            return;
        }
        let shares = fleet::shares(&members, state.total());
        let share = shares.get(&mine.number).copied().unwrap_or(0);
        for slot in fleet::claims(&mine, share, &free) {
            state.workers[me].todo.wanted.add(index(slot));
        }
    }

    /// `plan`
    pub(super) fn plan(&self, state: &State, me: usize) -> Vec<(usize, u8)> {
        let worker = &state.workers[me];
        let mine: Vec<_> = (0..SLOTS)
            .filter(|slot| worker.held[*slot] != 0 && worker.offered[*slot] == 0)
            .filter(|slot| state.db.desired.has(*slot))
            .map(|index| (slot(index), SESSIONS[index]))
            .collect();
        if mine.is_empty() {
            return Vec::new();
        }
        let mut members = state.members_and(me);
        members.retain(|member| !worker.declined.has(item(member.number)));
        let handovers = state.handovers();
        fleet::offers(&state.me(me), &members, &mine, &handovers, state.total())
            .into_iter()
            .map(|(slot, taker, _)| (index(slot), u8::try_from(taker).expect("small")))
            .collect()
    }

    /// `offer`, which the database takes if the epoch is the slot's.
    pub(super) fn offers(&self, state: &mut State, me: usize) {
        for (slot, taker) in self.plan(state, me) {
            let worker = &mut state.workers[me];
            worker.offered[slot] = taker;
            if worker.held[slot] == state.db.epoch[slot] {
                state.db.rows[slot] = Some(Row {
                    epoch: worker.held[slot],
                    giver: worker.number,
                    taker,
                    ready: false,
                    old: false,
                });
            }
        }
    }

    /// `handle_claim_state`
    pub(super) fn hears(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        let news = std::mem::replace(&mut worker.news, News::None);
        match news {
            News::None => {}
            News::Lost { given_up: true } => forget(worker),
            News::Lost { given_up: false } => suspend(worker),
            News::Held { suspended: false } => {
                forget(worker);
                worker.number = worker.session;
            }
            News::Held { suspended: true } => self.resumes(state, me),
        }
    }

    /// `resume`
    fn resumes(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.number = worker.session;
        worker.offered = [0; SLOTS];
        for slot in 0..SLOTS {
            if worker.warm[slot].is_some() {
                give_up(worker, slot);
            }
        }
        let mut before = Set::default();
        for slot in 0..SLOTS {
            if worker.held[slot] != 0 {
                before.add(slot);
            }
        }
        let got = self.acquires(state, me, before);
        for slot in before.slots() {
            if got.has(slot) {
                self.saw(Event::Resumed);
            } else {
                give_up(&mut state.workers[me], slot);
            }
        }
        // The look that follows covers everything.
        state.workers[me].todo.agree = got;
    }

    /// `release_idle`
    pub(super) fn lets_idle_go(&self, state: &mut State, me: usize, slot: usize) {
        let worker = &mut state.workers[me];
        if worker.held[slot] != 0 && !state.db.desired.has(slot) && worker.run[slot] == Run::No {
            worker.held[slot] = 0;
            worker.releasing.add(slot);
        }
    }

    /// Whether a draining worker may go: `can_hand_over` says no, or the claims are lost.
    pub(super) fn is_drained(&self, state: &State, me: usize) -> bool {
        let worker = &state.workers[me];
        if worker.life != Life::Alive || !worker.draining || !worker.todo.is_empty() {
            return false;
        }
        let is_offering = worker.offered.iter().any(|taker| *taker != 0);
        worker.link == Link::Gone
            || (worker.news == News::None && !is_offering && self.plan(state, me).is_empty())
    }
}

/// `pg::fleet::delete_dead_members`: rows of hand-overs that lead to the dead.
fn buries(state: &mut State) {
    for slot in 0..SLOTS {
        let is_of_use = state.db.rows[slot]
            .is_some_and(|row| state.is_member(row.taker) && row.epoch == state.db.epoch[slot]);
        if !is_of_use {
            state.db.rows[slot] = None;
        }
    }
}

/// `takes`: whether there is room for so many sessions more.
fn has_room(state: &State, me: usize, sessions: usize) -> bool {
    let warm = &state.workers[me].warm;
    let incoming = (0..SLOTS).filter(|slot| warm[*slot].is_some());
    let incoming: usize = incoming.map(|slot| SESSIONS[slot]).sum();
    let mine = state.me(me);
    let have = mine.sessions + incoming;
    !mine.draining && (have + sessions <= mine.sessions_max || have == 0)
}

/// A member's number, as [`Set`]s have it.
fn item(number: i32) -> usize {
    usize::try_from(number).expect("small")
}

/// `forget`: the claims are lost, and everything with them. The links are told.
pub(super) fn forget(worker: &mut Worker) {
    worker.number = 0;
    worker.held = [0; SLOTS];
    worker.warm = [None; SLOTS];
    worker.offered = [0; SLOTS];
    worker.declined = Set::default();
    worker.run = [Run::No; SLOTS];
}

/// `LinkCommand::Suspend`
pub(super) fn suspend(worker: &mut Worker) {
    for run in &mut worker.run {
        if let Run::Claim(epoch) = *run {
            *run = Run::Suspended(epoch);
        }
    }
}

/// `give_up`: all sessions of the slot go without a word.
pub(super) fn give_up(worker: &mut Worker, slot: usize) {
    worker.held[slot] = 0;
    worker.warm[slot] = None;
    worker.run[slot] = Run::No;
}

/// `is_settled`: of no sessions, all are.
fn is_settled(run: Run) -> bool {
    match run {
        Run::No => true,
        Run::Standby { settled } => settled,
        Run::Claim(_) | Run::Suspended(_) => false,
    }
}

/// `pg::fleet::withdraw`
fn withdraw(state: &mut State, me: usize, slots: Set) {
    let number = state.workers[me].number;
    for slot in slots.slots() {
        if state.db.rows[slot].is_some_and(|row| row.giver == number || row.taker == number) {
            state.db.rows[slot] = None;
        }
    }
}

/// `pg::fleet::mark_ready`, and what the taker remembers of it.
fn is_ready(state: &mut State, me: usize, slots: Set) {
    let worker = &mut state.workers[me];
    for slot in slots.slots() {
        if let Some(row) = &mut state.db.rows[slot]
            && row.taker == worker.number
        {
            row.ready = true;
        }
        if let Some(warm) = &mut worker.warm[slot] {
            warm.ready = true;
        }
    }
}

/// `agree`: the sessions of a slot as their rows want them.
pub(super) fn agrees(state: &mut State, me: usize, slot: usize) {
    let desired = state.db.desired.has(slot);
    let worker = &mut state.workers[me];
    let epoch = worker.held[slot];
    if epoch == 0 && worker.warm[slot].is_none() {
        return;
    }
    if let Some(warm) = &mut worker.warm[slot] {
        warm.seen = true;
    }
    worker.run[slot] = match worker.run[slot] {
        _ if !desired => Run::No,
        Run::Claim(known) | Run::Suspended(known) if known == epoch => return,
        Run::Standby { settled } if epoch == 0 => Run::Standby { settled },
        _ if epoch == 0 => Run::Standby { settled: false },
        _ => {
            worker.outbox[slot] = epoch;
            Run::Claim(epoch)
        }
    };
}
