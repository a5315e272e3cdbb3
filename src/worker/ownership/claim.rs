//! Which slots are taken, and let go of: by the fleet's rules, with locks that decide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Coordinator;
use crate::domain::fleet::{self, FreeSlot, Member};
use crate::domain::ids::Slot;
use crate::pg::PgError;
use crate::pg::fleet as table;
use crate::worker::ownership::lock_keeper::{ClaimRequest, Membership};

/// A slot without work is kept that long: its last rows must be written under its epoch, and
/// whoever stops often starts again.
const IDLE_SLOT_AFTER: Duration = Duration::from_secs(10);

/// After an outage of the database, how long others may take to come back for what they had.
const OTHERS_RETURN_WITHIN: Duration = Duration::from_secs(3);

/// How long the keeper may take for a claim, once it holds a connection.
const CLAIM_WITHIN: Duration = Duration::from_secs(5);

impl Coordinator {
    /// How many sessions the held slots have.
    pub(super) fn sessions(&self) -> usize {
        let held = self.state.held.keys();
        held.filter_map(|slot| self.state.active.get(slot)).sum()
    }

    /// This worker, as the fleet's rules see it.
    pub(super) fn me(&self) -> Member {
        Member {
            number: self.number(),
            sessions: self.sessions(),
            sessions_max: self.takes_at_most(),
            draining: self.state.draining,
            age: fleet::SETTLED_AFTER,
        }
    }

    pub(super) fn number(&self) -> i32 {
        self.state.membership.map_or(0, |known| known.number)
    }

    fn takes_at_most(&self) -> usize {
        if *self.able.borrow() {
            self.sessions_max
        } else {
            0
        }
    }

    /// All who are alive, this worker as it is now.
    pub(super) fn members(&self) -> Vec<Member> {
        let me = self.me();
        let others = self.state.fleet.members.iter().copied();
        others
            .filter(|member| member.number != me.number)
            .chain([me])
            .collect()
    }

    /// Claims slots that have work and nobody holds.
    pub(super) async fn claim(&mut self) -> Result<BTreeSet<Slot>, PgError> {
        let (me, members) = (self.me(), self.members());
        let handovers = &self.state.fleet.handovers;
        let candidates: Vec<Slot> = self
            .state
            .active
            .keys()
            .filter(|slot| {
                !self.state.held.contains_key(slot)
                    && !self.state.warm.contains_key(slot)
                    && fleet::is_anybodys(**slot, me.number, &members, handovers)
            })
            .copied()
            .collect();
        let is_patient = self
            .state
            .patient_until
            .is_some_and(|until| until > Instant::now());
        if candidates.is_empty() || me.draining || me.sessions_max == 0 || is_patient {
            self.state.left_over.clear();
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
                sessions: self.state.active.get(&slot).copied().unwrap_or(0),
                is_left_over: self.state.left_over.contains(&slot),
            })
            .collect();
        let total = self.state.active.values().sum();
        let share = fleet::shares(&members, total)
            .get(&me.number)
            .copied()
            .unwrap_or(0);
        let wanted = fleet::claims(&me, share, &free);
        self.state.left_over = free
            .iter()
            .map(|free| free.slot)
            .filter(|slot| !wanted.contains(slot))
            .collect();
        // What does not fit is looked at again with the next sweep, not at once.
        if wanted.is_empty() && me.sessions >= me.sessions_max {
            self.state.left_over.clear();
        }
        let claimed = self.acquire(wanted).await.unwrap_or_default();
        if !claimed.is_empty() {
            info!(slots = claimed.len(), "slots claimed");
        }
        Ok(claimed.into_keys().collect())
    }

    /// Tries to get these slots; `None`: the keeper could not be asked.
    pub(super) async fn acquire(&mut self, slots: Vec<Slot>) -> Option<BTreeMap<Slot, i64>> {
        if slots.is_empty() {
            return Some(BTreeMap::new());
        }
        let generation = self.state.membership?.generation;
        let (answer, answered) = oneshot::channel();
        let request = ClaimRequest::Acquire(generation, slots, answer);
        self.claims.send(request).await.ok()?;
        // No answer: the keeper lost its connection, and says so by its state; what it should
        // claim after all it lets go again.
        let claimed = timeout(CLAIM_WITHIN, answered).await.ok()?.ok()?;
        // Deals that wait for a database that was away are written under the new claim.
        self.outbox.refence(&claimed);
        self.state.held.extend(claimed.iter().copied());
        Some(claimed.into_iter().collect())
    }

    /// The lock connection is another one, and what ran under the claims of the one before is suspended: it
    /// goes on where the slots are still to be had. The sessions go on with the look that follows.
    pub(super) async fn resume(&mut self, membership: Membership) {
        self.state.membership = Some(membership);
        self.state.patient_until = Some(Instant::now() + OTHERS_RETURN_WITHIN);
        self.state.reported = None;
        self.state.offered.clear();
        let warm: Vec<Slot> = self.state.warm.keys().copied().collect();
        for slot in warm {
            self.give_up(slot).await;
        }
        let before = std::mem::take(&mut self.state.held);
        let Some(claimed) = self.acquire(before.keys().copied().collect()).await else {
            // It was lost again; the next one is tried with the same.
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
                "slots claimed again, and some are other workers'"
            );
        }
        for slot in lost {
            self.give_up(slot).await;
        }
    }

    /// Lets go of slots that have had no work for a while.
    pub(super) async fn release_idle(&mut self) {
        let running = self.state.running.values();
        let busy: BTreeSet<Slot> = running.map(|running| running.slot).collect();
        let state = &mut self.state;
        let active = &state.active;
        state
            .idle_since
            .retain(|slot, _| !active.contains_key(slot) && !busy.contains(slot));
        let now = Instant::now();
        let mut idle = BTreeSet::new();
        for slot in state.held.keys() {
            if active.contains_key(slot) || busy.contains(slot) {
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
            state.forget_words(&idle);
            debug!(slots = idle.len(), "idle slots released");
            // The keeper is gone only when the claims are lost, and then nothing is to release.
            let idle = idle.into_iter().collect();
            let _ = self.claims.send(ClaimRequest::Release(idle)).await;
        }
    }

    /// Tells the fleet how much this worker has, when that has changed.
    pub(super) async fn report(&mut self) -> Result<(), PgError> {
        let (number, draining) = (self.number(), self.state.draining);
        let (sessions, most) = (self.sessions(), self.takes_at_most());
        if self.state.reported == Some((sessions, most, draining)) {
            return Ok(());
        }
        self.database
            .run(async |conn| table::update_member(conn, number, sessions, most, draining).await)
            .await?;
        self.state.reported = Some((sessions, most, draining));
        Ok(())
    }
}
