//! Whether everything comes right by itself: what the checker's own `eventually` cannot say.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::Model;

use super::acts::FleetModel;
use super::state::{Life, Link, Run, SLOTS, State, WORKERS};

/// What is known of states that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// On the path that is being followed.
    Open,
    Heals,
    Fails,
}

/// The states that were followed to their end.
#[derive(Debug, Default)]
pub(super) struct Followed {
    known: HashMap<u64, Known>,
    /// The first path that did not come right, backwards.
    failed: Vec<String>,
    is_told: bool,
}

impl Followed {
    /// Whether every way on from here, without another disturbance, ends, and ends well.
    pub(super) fn heals(&mut self, fleet: &FleetModel, state: &State) -> bool {
        let heals = self.follow(fleet, state);
        self.is_told |= !heals;
        heals
    }

    fn follow(&mut self, fleet: &FleetModel, state: &State) -> bool {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        let key = hasher.finish();
        match self.known.get(&key) {
            Some(Known::Heals) => return true,
            Some(Known::Fails) => return false,
            Some(Known::Open) => {
                self.fails(format!("for ever: {state:?}"));
                return false;
            }
            None => {}
        }
        self.known.insert(key, Known::Open);
        let heals = self.heals_from(fleet, state);
        let known = if heals { Known::Heals } else { Known::Fails };
        self.known.insert(key, known);
        heals
    }

    fn fails(&mut self, why: String) {
        if self.failed.is_empty() {
            self.failed.push(why);
        }
    }

    fn heals_from(&mut self, fleet: &FleetModel, state: &State) -> bool {
        let mut is_end = true;
        let mut acts = Vec::new();
        fleet.own_acts(state, &mut acts);
        for act in acts {
            let Some(next) = fleet.next_state(state, act) else {
                continue;
            };
            is_end = false;
            if !self.follow(fleet, &next) {
                if !self.is_told {
                    self.failed.push(format!("{act:?}"));
                }
                return false;
            }
        }
        if is_end && !is_well(state) {
            self.fails(format!("the end: {state:?}"));
            return false;
        }
        true
    }

    /// The first path that did not come right.
    pub(super) fn failure(&self) -> String {
        let steps: Vec<&str> = self.failed.iter().rev().map(String::as_str).collect();
        steps.join("\n")
    }
}

/// Every slot that is to run is run by one worker, and no other slot by any. Who is stopped is left out:
/// with nobody else there, nobody is asked for anything.
fn is_well(state: &State) -> bool {
    let there: Vec<usize> = (0..WORKERS)
        .filter(|worker| state.workers[*worker].life == Life::Alive)
        .collect();
    if there.is_empty() {
        return true;
    }
    (0..SLOTS).all(|slot| {
        let epoch = state.db.epoch[slot];
        let mut running = there
            .iter()
            .map(|worker| &state.workers[*worker])
            .filter(|worker| worker.run[slot] != Run::No);
        if !state.db.desired.has(slot) {
            return running.next().is_none();
        }
        let Some(owner) = running.next() else {
            return false;
        };
        running.next().is_none()
            && owner.run[slot] == Run::Claim(epoch)
            && owner.held[slot] == epoch
            && owner.link == Link::Up
            && state.db.locks[slot].len() == 1
            && state.db.locks[slot].has(usize::from(owner.session))
            && state.db.written[slot] == epoch
    })
}
