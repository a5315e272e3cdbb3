//! The steps of a coordinator: `src/worker/ownership`, by the rules of `domain::fleet` themselves.
//!
//! A round begins with a poll, which decides what to do. Its statements then run one by one, and anything may happen
//! in between.

use mahspeccy_bridge::domain::fleet::{self, FreeSlot, Handover};

use super::flaw::Flaw;
use super::state::{
    ClaimChange, IncomingSlot, LockConnection, ProcessState, Row, SESSIONS, SLOTS, Sessions, Set,
    State, Worker, index, slot, worker_of,
};
use super::steps::{Disturbance, FleetModel, Milestone, Violation};

impl FleetModel {
    /// `poll_fleet`: reads the fleet, and decides about the hand-overs.
    pub(super) fn poll_fleet(&self, state: &mut State, me: usize) {
        let worker = &state.workers[me];
        let is_part = worker.incoming.iter().any(Option::is_some) || worker.offered != [0; SLOTS];
        if !is_part && state.db.rows == [None; SLOTS] {
            return;
        }
        let handovers = state.handovers();
        delete_dead_members(state);
        self.continue_giving(state, me, &handovers);
        self.continue_taking(state, me, &handovers);
    }

    /// `continue_giving`
    fn continue_giving(&self, state: &mut State, me: usize, handovers: &[Handover]) {
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
            if is_dead || (!handover.ready && handover.age >= fleet::HANDOVER_TIMEOUT) {
                worker.round.withdraw.add(slot);
                worker.declined.add(item(handover.taker));
                if is_dead {
                    self.reach(Milestone::TakerDied);
                }
            } else if handover.ready {
                worker.round.release.add(slot);
            }
        }
        for slot in 0..SLOTS {
            let taker = worker.offered[slot];
            if taker == 0 {
                continue;
            }
            if worker.round.withdraw.has(slot) || worker.held[slot] == 0 {
                worker.offered[slot] = 0;
            } else if !given.has(slot) {
                worker.offered[slot] = 0;
                worker.declined.add(usize::from(taker));
            }
        }
    }

    /// `continue_taking`
    fn continue_taking(&self, state: &mut State, me: usize, handovers: &[Handover]) {
        let number = i32::from(state.workers[me].number);
        let is_mine = |row: &&Handover| row.taker == number && row.giver != number;
        let taken: Vec<&Handover> = handovers.iter().filter(is_mine).collect();
        for slot in 0..SLOTS {
            let is_offered = taken.iter().any(|offer| index(offer.slot) == slot);
            if state.workers[me].incoming[slot].is_some() && !is_offered {
                abandon_slot(&mut state.workers[me], slot);
            }
        }
        let mut new = Set::default();
        for offer in &taken {
            let slot = index(offer.slot);
            let current = state.workers[me].incoming[slot];
            let incoming = IncomingSlot {
                epoch: u8::try_from(offer.epoch).expect("small"),
                ready: offer.ready,
                opened: current.is_some_and(|current| current.opened),
            };
            if state.workers[me].held[slot] != 0 || current == Some(incoming) {
                continue;
            }
            if current.is_none() && !accepts(state, me, offer.sessions) {
                state.workers[me].round.decline.add(slot);
                continue;
            }
            state.workers[me].incoming[slot] = Some(incoming);
            new.add(slot);
        }
        let db = &state.db;
        let worker = &mut state.workers[me];
        for offer in taken {
            let slot = index(offer.slot);
            let Some(incoming) = worker.incoming[slot] else {
                continue;
            };
            let is_orphan = !db.members.has(item(offer.giver));
            if incoming.ready || is_orphan {
                // An attempt at a locked slot fails, which changes nothing.
                if db.locks[slot].is_empty() || self.flaw.ignores_locks() {
                    worker.round.take_over.add(slot);
                    if is_orphan {
                        self.reach(Milestone::GiverDied);
                    }
                }
            } else if !new.has(slot)
                && is_standby_ready(worker.sessions[slot])
                && (incoming.opened || self.flaw == Flaw::ReadyUnopened)
            {
                worker.round.mark_ready.add(slot);
            }
        }
        // The reconciliation that follows opens the new ones.
        for slot in new.slots() {
            worker.round.reconcile.add(slot);
        }
    }

    /// The next statement that a poll has decided on.
    pub(super) fn run_statement(&self, state: &mut State, me: usize) {
        let round = state.workers[me].round;
        let done = &mut state.workers[me].round;
        if !round.withdraw.is_empty() {
            done.withdraw = Set::default();
            withdraw(state, me, round.withdraw);
        } else if !round.release.is_empty() {
            done.release = Set::default();
            self.release_handed_over(state, me, round.release);
        } else if !round.decline.is_empty() {
            done.decline = Set::default();
            withdraw(state, me, round.decline);
        } else if !round.mark_ready.is_empty() {
            done.mark_ready = Set::default();
            mark_ready(state, me, round.mark_ready);
        } else if !round.take_over.is_empty() {
            done.take_over = Set::default();
            for slot in self.acquire(state, me, round.take_over).slots() {
                state.workers[me].incoming[slot] = None;
                state.workers[me].round.reconcile.add(slot);
            }
        } else if !round.claim.is_empty() {
            done.claim = Set::default();
            for slot in self.acquire(state, me, round.claim).slots() {
                state.workers[me].round.reconcile.add(slot);
            }
        } else {
            done.reconcile = Set::default();
            for slot in round.reconcile.slots() {
                reconcile(state, me, slot);
            }
        }
    }

    /// `release_handed_over`: the taker streams. The last rows stay in the outbox if they are not written in time.
    fn release_handed_over(&self, state: &mut State, me: usize, slots: Set) {
        for slot in slots.slots() {
            let giver = &state.workers[me];
            if let Some(row) = state.row(slot)
                && (row.giver, row.epoch) == (giver.number, giver.held[slot])
            {
                let taker = &state.workers[worker_of(row.taker)];
                let is_there = taker.is_idle()
                    && taker.connection == LockConnection::Up
                    && taker.number == row.taker;
                let streams = taker.sessions[slot] != Sessions::Stopped
                    || giver.sessions[slot] == Sessions::Stopped;
                if is_there
                    && taker.incoming[slot].is_some()
                    && !self.has(Disturbance::DesiredChanges)
                    && !streams
                {
                    state.violations |= Violation::BreakBeforeMake as u8;
                }
            }
            let worker = &mut state.workers[me];
            worker.sessions[slot] = Sessions::Stopped;
            worker.held[slot] = 0;
            worker.offered[slot] = 0;
            worker.releasing.add(slot);
        }
    }

    /// `claim`: which of the free slots are wanted. `unclaimed_since_last_poll`: they were free at the last poll too.
    /// `is_stale`: the hand-overs were read before the offer was made.
    pub(super) fn claim(
        &self,
        state: &mut State,
        me: usize,
        unclaimed_since_last_poll: bool,
        is_stale: bool,
    ) {
        let is_free = |slot: usize| state.db.locks[slot].is_empty() || self.flaw.ignores_locks();
        if !state.db.desired.slots().any(is_free) {
            return;
        }
        let mine = state.this_member(me);
        let members = state.members_seen_by(me);
        let handovers = if is_stale {
            Vec::new()
        } else {
            state.handovers()
        };
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
                    && worker.incoming[*index].is_none()
                    && fleet::is_unreserved(slot(*index), mine.number, &members, &handovers)
                    // `pg::fleet::free_slots`
                    && is_free(*index)
            })
            .map(|index| FreeSlot {
                slot: slot(index),
                sessions: SESSIONS[index],
                unclaimed_since_last_poll,
            })
            .collect();
        if free.is_empty() {
            return;
        }
        let shares = fleet::shares(&members, state.total());
        let share = shares.get(&mine.number).copied().unwrap_or(0);
        for slot in fleet::claims(&mine, share, &free) {
            state.workers[me].round.claim.add(index(slot));
        }
    }

    /// `plan_offers`
    pub(super) fn plan_offers(&self, state: &State, me: usize) -> Vec<(usize, u8)> {
        let worker = &state.workers[me];
        let mine: Vec<_> = (0..SLOTS)
            .filter(|slot| worker.held[*slot] != 0 && worker.offered[*slot] == 0)
            .filter(|slot| state.db.desired.has(*slot))
            .map(|index| (slot(index), SESSIONS[index]))
            .collect();
        if mine.is_empty() {
            return Vec::new();
        }
        let mut members = state.members_seen_by(me);
        members.retain(|member| !worker.declined.has(item(member.number)));
        let handovers = state.handovers();
        fleet::offers(
            &state.this_member(me),
            &members,
            &mine,
            &handovers,
            state.total(),
        )
        .into_iter()
        .map(|(slot, taker, _)| (index(slot), u8::try_from(taker).expect("small")))
        .collect()
    }

    /// `offer_slots`. The database accepts an offer under the slot's current epoch.
    pub(super) fn offer_slots(&self, state: &mut State, me: usize) {
        for (slot, taker) in self.plan_offers(state, me) {
            let worker = &mut state.workers[me];
            worker.offered[slot] = taker;
            if worker.held[slot] == state.db.epoch[slot] {
                state.db.rows[slot] = Some(Row {
                    epoch: worker.held[slot],
                    giver: worker.number,
                    taker,
                    ready: false,
                    is_expired: false,
                });
            }
        }
    }

    /// `handle_claim_state`
    pub(super) fn handle_claim_state(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        let claim_change = std::mem::replace(&mut worker.claim_change, ClaimChange::None);
        match claim_change {
            ClaimChange::None => {}
            ClaimChange::Lost { given_up: true } => abandon_all(worker),
            ClaimChange::Lost { given_up: false } => suspend(worker),
            ClaimChange::Held { suspended: false } => {
                abandon_all(worker);
                worker.number = worker.connection_number;
            }
            ClaimChange::Held { suspended: true } => self.resume(state, me),
        }
    }

    /// `resume`
    fn resume(&self, state: &mut State, me: usize) {
        let worker = &mut state.workers[me];
        worker.number = worker.connection_number;
        worker.offered = [0; SLOTS];
        for slot in 0..SLOTS {
            if worker.incoming[slot].is_some() {
                abandon_slot(worker, slot);
            }
        }
        let mut before = Set::default();
        for slot in 0..SLOTS {
            if worker.held[slot] != 0 {
                before.add(slot);
            }
        }
        let acquired = self.acquire(state, me, before);
        for slot in before.slots() {
            if acquired.has(slot) {
                self.reach(Milestone::Resumed);
            } else {
                abandon_slot(&mut state.workers[me], slot);
            }
        }
        // The pass that follows covers everything.
        state.workers[me].round.reconcile = acquired;
    }

    /// `release_idle`
    pub(super) fn release_idle(&self, state: &mut State, me: usize, slot: usize) {
        let worker = &mut state.workers[me];
        if worker.held[slot] != 0
            && !state.db.desired.has(slot)
            && worker.sessions[slot] == Sessions::Stopped
        {
            worker.held[slot] = 0;
            worker.releasing.add(slot);
        }
    }

    /// Whether a draining worker may end: `can_hand_over` is false, or the claims are lost.
    pub(super) fn is_drained(&self, state: &State, me: usize) -> bool {
        let worker = &state.workers[me];
        if worker.process != ProcessState::Alive || !worker.draining || !worker.round.is_empty() {
            return false;
        }
        let is_offering = worker.offered.iter().any(|taker| *taker != 0);
        worker.connection == LockConnection::Gone
            || (worker.claim_change == ClaimChange::None
                && !is_offering
                && self.plan_offers(state, me).is_empty())
    }
}

/// `pg::fleet::delete_dead_members`: deletes the hand-overs of dead takers.
fn delete_dead_members(state: &mut State) {
    for slot in 0..SLOTS {
        let is_valid = state.db.rows[slot]
            .is_some_and(|row| state.is_member(row.taker) && row.epoch == state.db.epoch[slot]);
        if !is_valid {
            state.db.rows[slot] = None;
        }
    }
}

/// `accepts`: whether there is room for so many more sessions.
fn accepts(state: &State, me: usize, sessions: usize) -> bool {
    let incoming = &state.workers[me].incoming;
    let incoming = (0..SLOTS).filter(|slot| incoming[*slot].is_some());
    let incoming: usize = incoming.map(|slot| SESSIONS[slot]).sum();
    let mine = state.this_member(me);
    let have = mine.sessions + incoming;
    !mine.draining && (have + sessions <= mine.sessions_max || have == 0)
}

/// A member's number, as [`Set`]s have it.
fn item(number: i32) -> usize {
    usize::try_from(number).expect("small")
}

/// `abandon_all`: the claims are lost, and everything with them. The links stop all sessions.
pub(super) fn abandon_all(worker: &mut Worker) {
    worker.number = 0;
    worker.held = [0; SLOTS];
    worker.incoming = [None; SLOTS];
    worker.offered = [0; SLOTS];
    worker.declined = Set::default();
    worker.sessions = [Sessions::Stopped; SLOTS];
}

/// `LinkCommand::Suspend`
pub(super) fn suspend(worker: &mut Worker) {
    for sessions in &mut worker.sessions {
        if let Sessions::Owned(epoch) = *sessions {
            *sessions = Sessions::Suspended(epoch);
        }
    }
}

/// `abandon_slot`: all sessions of the slot stop without a final status.
pub(super) fn abandon_slot(worker: &mut Worker, slot: usize) {
    worker.held[slot] = 0;
    worker.incoming[slot] = None;
    worker.sessions[slot] = Sessions::Stopped;
}

/// `is_standby_ready`: without any session, the slot counts as ready.
fn is_standby_ready(sessions: Sessions) -> bool {
    match sessions {
        Sessions::Stopped => true,
        Sessions::Standby { ready } => ready,
        Sessions::Owned(_) | Sessions::Suspended(_) => false,
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

/// `pg::fleet::mark_ready`, and the taker's own record of it.
fn mark_ready(state: &mut State, me: usize, slots: Set) {
    let worker = &mut state.workers[me];
    for slot in slots.slots() {
        if let Some(row) = &mut state.db.rows[slot]
            && row.taker == worker.number
        {
            row.ready = true;
        }
        if let Some(incoming) = &mut worker.incoming[slot] {
            incoming.ready = true;
        }
    }
}

/// `reconcile`: starts and stops the sessions of a slot by their rows.
pub(super) fn reconcile(state: &mut State, me: usize, slot: usize) {
    let desired = state.db.desired.has(slot);
    let worker = &mut state.workers[me];
    let epoch = worker.held[slot];
    if epoch == 0 && worker.incoming[slot].is_none() {
        return;
    }
    if let Some(incoming) = &mut worker.incoming[slot] {
        incoming.opened = true;
    }
    worker.sessions[slot] = match worker.sessions[slot] {
        _ if !desired => Sessions::Stopped,
        Sessions::Owned(verdict) | Sessions::Suspended(verdict) if verdict == epoch => return,
        Sessions::Standby { ready } if epoch == 0 => Sessions::Standby { ready },
        _ if epoch == 0 => Sessions::Standby { ready: false },
        _ => {
            worker.outbox[slot] = epoch;
            Sessions::Owned(epoch)
        }
    };
}
