//! Which slots this worker claims and releases: `domain::fleet` has the rules, and the locks decide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::Coordinator;
use crate::domain::fleet::{self, FreeSlot, Member};
use crate::domain::ids::Slot;
use crate::pg::PgError;
use crate::pg::fleet as table;
use crate::worker::handles::locks::Membership;

/// A slot without wanted sessions is kept for that long: its last rows must be written under its epoch, and a
/// user who stops a session often starts it again.
const IDLE_SLOT_AFTER: Duration = Duration::from_secs(10);

/// After an outage of the database, how long others may take to come back for what they had.
const OTHERS_RETURN_WITHIN: Duration = Duration::from_secs(3);

impl Coordinator {
    /// How many sessions the held slots have.
    pub(super) fn sessions(&self) -> usize {
        let held = self.state.held.keys();
        held.filter_map(|slot| self.state.wanted.get(slot)).sum()
    }

    /// This worker, as the fleet's rules see it.
    pub(super) fn this_member(&self) -> Member {
        Member {
            number: self.number(),
            sessions: self.sessions(),
            sessions_max: self.capacity(),
            draining: self.state.draining,
            age: fleet::SETTLED_AFTER,
        }
    }

    pub(super) fn number(&self) -> i32 {
        self.state.membership.map_or(0, |known| known.number)
    }

    fn capacity(&self) -> usize {
        if *self.locks.has_permit.borrow() {
            self.sessions_max
        } else {
            0
        }
    }

    /// All who are alive, this worker as it is now.
    pub(super) fn members(&self) -> Vec<Member> {
        let me = self.this_member();
        let others = self.state.fleet.members.iter().copied();
        others
            .filter(|member| member.number != me.number)
            .chain([me])
            .collect()
    }

    /// Claims slots that have wanted sessions and no owner.
    pub(super) async fn claim(&mut self) -> Result<BTreeSet<Slot>, PgError> {
        let (me, members) = (self.this_member(), self.members());
        let handovers = &self.state.fleet.handovers;
        let candidates: Vec<Slot> = self
            .state
            .wanted
            .keys()
            .filter(|slot| {
                !self.state.held.contains_key(slot)
                    && !self.state.incoming.contains_key(slot)
                    && fleet::is_anybodys(**slot, me.number, &members, handovers)
            })
            .copied()
            .collect();
        let is_paused = self
            .state
            .claims_paused_until
            .is_some_and(|until| until > Instant::now());
        if candidates.is_empty() || me.draining || me.sessions_max == 0 || is_paused {
            self.state.unclaimed_since_last_poll.clear();
            return Ok(BTreeSet::new());
        }
        let free = self
            .database
            .run(async |conn| table::free_slots(conn, &candidates).await)
            .await?;
        let free: Vec<FreeSlot> = free
            .into_iter()
            .map(|slot| FreeSlot {
                slot,
                sessions: self.state.wanted.get(&slot).copied().unwrap_or(0),
                is_left_over: self.state.unclaimed_since_last_poll.contains(&slot),
            })
            .collect();
        let total = self.state.wanted.values().sum();
        let share = fleet::shares(&members, total)
            .get(&me.number)
            .copied()
            .unwrap_or(0);
        let wanted = fleet::claims(&me, share, &free);
        self.state.unclaimed_since_last_poll = free
            .iter()
            .map(|free| free.slot)
            .filter(|slot| !wanted.contains(slot))
            .collect();
        // What does not fit is tried again with the next sweep, not at once.
        if wanted.is_empty() && me.sessions >= me.sessions_max {
            self.state.unclaimed_since_last_poll.clear();
        }
        let claimed = self.acquire(wanted).await.unwrap_or_default();
        if !claimed.is_empty() {
            info!(slots = claimed.len(), "slots claimed");
        }
        Ok(claimed.into_keys().collect())
    }

    /// Tries to claim these slots; `None`: the lock keeper did not reply.
    pub(super) async fn acquire(&mut self, slots: Vec<Slot>) -> Option<BTreeMap<Slot, i64>> {
        if slots.is_empty() {
            return Some(BTreeMap::new());
        }
        let generation = self.state.membership?.generation;
        let claimed = self.locks.acquire(generation, slots).await?;
        // Deals that wait for a database that was away are written under the new claim.
        self.outbox.refence(&claimed);
        self.state.held.extend(claimed.iter().copied());
        Some(claimed.into_iter().collect())
    }

    /// The lock connection is another one, and the sessions that ran under the claims of the previous one are
    /// suspended. Claims the same slots again; the pass that follows starts their sessions anew.
    pub(super) async fn resume(&mut self, membership: Membership) {
        self.state.membership = Some(membership);
        self.state.claims_paused_until = Some(Instant::now() + OTHERS_RETURN_WITHIN);
        self.state.reported_load = None;
        self.state.offered.clear();
        let incoming: Vec<Slot> = self.state.incoming.keys().copied().collect();
        for slot in incoming {
            self.abandon_slot(slot).await;
        }
        let before = std::mem::take(&mut self.state.held);
        let Some(claimed) = self.acquire(before.keys().copied().collect()).await else {
            // The connection was lost again; the same slots are claimed on the next one.
            self.state.held = before;
            return;
        };
        let lost: Vec<Slot> = before
            .into_keys()
            .filter(|slot| !claimed.contains_key(slot))
            .collect();
        if lost.is_empty() {
            info!(slots = claimed.len(), "slots claimed again");
        } else {
            warn!(
                slots = claimed.len(),
                lost = lost.len(),
                "slots claimed again; other workers own some of them by now"
            );
        }
        for slot in lost {
            self.abandon_slot(slot).await;
        }
    }

    /// Releases slots that have had no wanted sessions for a while.
    pub(super) async fn release_idle(&mut self) {
        let running = self.state.running.values();
        let busy: BTreeSet<Slot> = running.map(|running| running.slot).collect();
        let state = &mut self.state;
        let wanted = &state.wanted;
        state
            .idle_since
            .retain(|slot, _| !wanted.contains_key(slot) && !busy.contains(slot));
        let now = Instant::now();
        let mut idle = BTreeSet::new();
        for slot in state.held.keys() {
            if wanted.contains_key(slot) || busy.contains(slot) {
                continue;
            }
            if *state.idle_since.entry(*slot).or_insert(now) + IDLE_SLOT_AFTER <= now {
                idle.insert(*slot);
            }
        }
        for slot in &idle {
            state.held.remove(slot);
            state.idle_since.remove(slot);
        }
        if !idle.is_empty() {
            state.forget_published(&idle);
            debug!(slots = idle.len(), "idle slots released");
            self.locks.release(idle).await;
        }
    }

    /// Reports this worker's load to the fleet, if it has changed.
    pub(super) async fn report_load(&mut self) -> Result<(), PgError> {
        let (number, draining) = (self.number(), self.state.draining);
        let (sessions, most) = (self.sessions(), self.capacity());
        if self.state.reported_load == Some((sessions, most, draining)) {
            return Ok(());
        }
        self.database
            .run(async |conn| table::update_member(conn, number, sessions, most, draining).await)
            .await?;
        self.state.reported_load = Some((sessions, most, draining));
        Ok(())
    }
}
