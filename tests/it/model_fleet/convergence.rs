//! Whether the fleet converges without further disturbances, which the checker's own `eventually` cannot prove.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::Model;

use super::state::{LockConnection, ProcessState, SLOTS, Sessions, State, WORKERS};
use super::steps::FleetModel;

/// The result for a state that was explored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// On the path that is being explored.
    Open,
    Converges,
    Fails,
}

/// The states that were followed to their end.
#[derive(Debug, Default)]
pub(super) struct Explored {
    verdicts: HashMap<u64, Verdict>,
    /// The first path that did not converge, backwards.
    failed: Vec<String>,
    is_reported: bool,
}

impl Explored {
    /// Whether every path from here without another disturbance ends, and ends in a converged state.
    pub(super) fn converges(&mut self, fleet: &FleetModel, state: &State) -> bool {
        let converges = self.follow(fleet, state);
        self.is_reported |= !converges;
        converges
    }

    fn follow(&mut self, fleet: &FleetModel, state: &State) -> bool {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        let key = hasher.finish();
        match self.verdicts.get(&key) {
            Some(Verdict::Converges) => return true,
            Some(Verdict::Fails) => return false,
            Some(Verdict::Open) => {
                self.fails(format!("for ever: {state:?}"));
                return false;
            }
            None => {}
        }
        self.verdicts.insert(key, Verdict::Open);
        let converges = self.converges_from(fleet, state);
        let verdict = if converges {
            Verdict::Converges
        } else {
            Verdict::Fails
        };
        self.verdicts.insert(key, verdict);
        converges
    }

    fn fails(&mut self, why: String) {
        if self.failed.is_empty() {
            self.failed.push(why);
        }
    }

    fn converges_from(&mut self, fleet: &FleetModel, state: &State) -> bool {
        let mut is_end = true;
        let mut steps = Vec::new();
        fleet.own_steps(state, &mut steps);
        for step in steps {
            let Some(next) = fleet.next_state(state, step) else {
                continue;
            };
            is_end = false;
            if !self.follow(fleet, &next) {
                if !self.is_reported {
                    self.failed.push(format!("{step:?}"));
                }
                return false;
            }
        }
        if is_end && !has_converged(state) {
            self.fails(format!("the end: {state:?}"));
            return false;
        }
        true
    }

    /// The first path that did not converge.
    pub(super) fn failure(&self) -> String {
        let steps: Vec<&str> = self.failed.iter().rev().map(String::as_str).collect();
        steps.join("\n")
    }
}

/// Every slot that is to run is run by one worker, and no other slot by any. Paused workers are left out; if no other
/// is alive, nothing is required.
fn has_converged(state: &State) -> bool {
    let alive: Vec<usize> = (0..WORKERS)
        .filter(|worker| state.workers[*worker].process == ProcessState::Alive)
        .collect();
    if alive.is_empty() {
        return true;
    }
    (0..SLOTS).all(|slot| {
        let epoch = state.db.epoch[slot];
        let mut running = alive
            .iter()
            .map(|worker| &state.workers[*worker])
            .filter(|worker| worker.sessions[slot] != Sessions::Stopped);
        if !state.db.desired.has(slot) {
            return running.next().is_none();
        }
        let Some(owner) = running.next() else {
            return false;
        };
        running.next().is_none()
            && owner.sessions[slot] == Sessions::Owned(epoch)
            && owner.held[slot] == epoch
            && owner.connection == LockConnection::Up
            && state.db.locks[slot].len() == 1
            && state.db.locks[slot].has(usize::from(owner.connection_number))
            && state.db.written[slot] == epoch
    })
}
