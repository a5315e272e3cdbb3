//! Hand-over of slots, make before break.
//!
//! 1. The giver offers a slot to a taker.
//! 2. The taker opens the slot's sessions on its own connection, on standby. Once all of them stream, it reports
//!    ready.
//! 3. The giver writes its last rows, stops the sessions, and releases the slot.
//! 4. The taker claims the slot, and its sessions begin to write.
//!
//! Whatever fails in between, the slot's lock tells whose it is. An offer whose taker dies is made to another
//! worker. A slot whose giver dies is claimed by the taker, which streams it already.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, info};

use super::Coordinator;
use super::state::IncomingSlot;
use crate::domain::fleet::{self, HANDOVER_WITHIN, Handover, Member};
use crate::domain::ids::{SessionKey, Slot};
use crate::pg::PgError;
use crate::pg::fleet as table;

/// How long the last rows of a slot may take before it is released all the same.
const LAST_ROWS_TIMEOUT: Duration = Duration::from_secs(2);

/// A worker that declined is offered nothing for that long.
const DECLINED_FOR: Duration = Duration::from_secs(30);

impl Coordinator {
    /// Reads the fleet and goes on with every hand-over that this worker is part of. Returns the slots whose
    /// sessions are to be reconciled.
    pub(super) async fn poll_fleet(&mut self) -> Result<BTreeSet<Slot>, PgError> {
        let fleet = self
            .database
            .run(async |conn| {
                let fleet = table::load(conn).await?;
                if !fleet.dead.is_empty() {
                    table::delete_dead_members(conn, &fleet.dead).await?;
                }
                Ok(fleet)
            })
            .await?;
        self.state.fleet = fleet;
        let me = self.number();
        let alive: BTreeSet<i32> = self
            .state
            .fleet
            .members
            .iter()
            .map(|member| member.number)
            .collect();
        let handovers = self.state.fleet.handovers.clone();
        let (given, taken): (Vec<Handover>, Vec<Handover>) = handovers
            .into_iter()
            .filter(|handover| handover.giver == me || handover.taker == me)
            .partition(|handover| handover.giver == me);
        self.continue_giving(&given, &alive).await?;
        self.continue_taking(&taken, &alive).await
    }

    // ── the giver ────────────────────────────────────────────────────────────────────────────

    /// Offers what is more than this worker's share, or everything when draining.
    pub(super) async fn offer_slots(&mut self) -> Result<(), PgError> {
        let offers = self.plan_offers();
        if offers.is_empty() {
            return Ok(());
        }
        let me = self.number();
        self.database
            .run(async |conn| table::offer(conn, me, &offers).await)
            .await?;
        info!(slots = offers.len(), "slots offered to other workers");
        for offer in offers {
            self.state.offered.insert(offer.slot, offer.taker);
        }
        // They count as under way from now on; the next poll reads them as they are.
        self.wakeups.wake_fleet();
        Ok(())
    }

    fn plan_offers(&self) -> Vec<table::Offer> {
        let mine: Vec<(Slot, usize)> = self
            .state
            .held
            .keys()
            .filter(|slot| !self.state.offered.contains_key(slot))
            .filter_map(|slot| Some((*slot, *self.state.wanted.get(slot)?)))
            .collect();
        let declined = &self.state.declined;
        let members: Vec<Member> = self
            .members()
            .into_iter()
            .filter(|member| {
                let at = declined.get(&member.number);
                at.is_none_or(|at| at.elapsed() >= DECLINED_FOR)
            })
            .collect();
        let total = self.state.wanted.values().sum();
        let handovers = &self.state.fleet.handovers;
        fleet::offers(&self.this_member(), &members, &mine, handovers, total)
            .into_iter()
            .filter_map(|(slot, taker, sessions)| {
                Some(table::Offer {
                    slot,
                    epoch: *self.state.held.get(&slot)?,
                    taker,
                    sessions,
                })
            })
            .collect()
    }

    /// Whether a drain can go on: a hand-over is under way, or another worker would take what is left.
    pub(super) fn can_hand_over(&self) -> bool {
        !self.state.offered.is_empty() || !self.plan_offers().is_empty()
    }

    async fn continue_giving(
        &mut self,
        given: &[Handover],
        alive: &BTreeSet<i32>,
    ) -> Result<(), PgError> {
        let me = self.number();
        let (mut ready, mut withdrawn) = (BTreeSet::new(), Vec::new());
        for handover in given {
            if self.state.held.get(&handover.slot) != Some(&handover.epoch) {
                // Released already, and not taken yet.
                continue;
            }
            let is_dead = !alive.contains(&handover.taker);
            if is_dead || (!handover.ready && handover.age >= HANDOVER_WITHIN) {
                withdrawn.push(handover.slot);
                self.state.declined.insert(handover.taker, Instant::now());
            } else if handover.ready {
                ready.insert(handover.slot);
            }
        }
        if !withdrawn.is_empty() {
            debug!(slots = withdrawn.len(), "offers withdrawn");
            self.database
                .run(async |conn| table::withdraw(conn, me, &withdrawn).await)
                .await?;
        }
        let rows: BTreeSet<Slot> = given.iter().map(|handover| handover.slot).collect();
        for (slot, taker) in std::mem::take(&mut self.state.offered) {
            if withdrawn.contains(&slot) || !self.state.held.contains_key(&slot) {
                continue;
            }
            if rows.contains(&slot) {
                self.state.offered.insert(slot, taker);
            } else {
                self.state.declined.insert(taker, Instant::now());
            }
        }
        if !ready.is_empty() {
            self.release_handed_over(ready).await;
        }
        Ok(())
    }

    /// The takers stream: writes the last rows, and releases the slots.
    async fn release_handed_over(&mut self, slots: BTreeSet<Slot>) {
        let mut by_link: BTreeMap<usize, Vec<SessionKey>> = BTreeMap::new();
        for key in self.keys_of(&slots) {
            if let Some(running) = self.state.running.remove(&key) {
                by_link.entry(running.link).or_default().push(key);
            }
        }
        let last_rows = async {
            let mut replies = Vec::new();
            for (link, keys) in by_link {
                if let Some(link) = self.links.get(link) {
                    replies.extend(link.hand_over(keys).await);
                }
            }
            for reply in replies {
                // A link that has ended has no more rows.
                let _ = reply.await;
            }
            self.outbox.flushed().await
        };
        if timeout(LAST_ROWS_TIMEOUT, last_rows).await.is_err() {
            debug!("the last rows are not written yet: the slots are released all the same");
        }
        for slot in &slots {
            self.state.held.remove(slot);
            self.state.idle_since.remove(slot);
            self.state.offered.remove(slot);
        }
        self.state.forget_published(&slots);
        self.report_session_count();
        info!(slots = slots.len(), "slots handed over");
        self.locks.release(slots).await;
    }

    // ── the taker ────────────────────────────────────────────────────────────────────────────

    async fn continue_taking(
        &mut self,
        taken: &[Handover],
        alive: &BTreeSet<i32>,
    ) -> Result<BTreeSet<Slot>, PgError> {
        let me = self.number();
        let mut due = BTreeSet::new();
        let mut declined = Vec::new();
        let gone: Vec<Slot> = self
            .state
            .incoming
            .keys()
            .filter(|slot| !taken.iter().any(|offer| offer.slot == **slot))
            .copied()
            .collect();
        for slot in gone {
            debug!(%slot, "an offer was withdrawn");
            self.abandon_slot(slot).await;
        }
        for offer in taken {
            let slot = offer.slot;
            let known = self.state.incoming.get(&slot);
            if self.state.held.contains_key(&slot)
                || known.is_some_and(|incoming| incoming.is_of(offer))
            {
                continue;
            }
            // One that is known goes on: the giver got another epoch, no more.
            if known.is_none() && !self.accepts(offer.sessions) {
                declined.push(slot);
                continue;
            }
            let incoming = IncomingSlot {
                epoch: offer.epoch,
                sessions: offer.sessions,
                opened: known.is_some_and(|incoming| incoming.opened),
                ready: offer.ready,
            };
            self.state.incoming.insert(slot, incoming);
            due.insert(slot);
        }
        if !declined.is_empty() {
            info!(slots = declined.len(), "offers declined");
            self.database
                .run(async |conn| table::withdraw(conn, me, &declined).await)
                .await?;
        }
        // New ones are opened by the pass that follows, and only then can be ready.
        let mut claimable: Vec<Slot> = Vec::new();
        let mut ready: Vec<Slot> = Vec::new();
        for offer in taken {
            let Some(incoming) = self.state.incoming.get(&offer.slot) else {
                continue;
            };
            if incoming.ready || !alive.contains(&offer.giver) {
                claimable.push(offer.slot);
            } else if !due.contains(&offer.slot) && self.is_standby_ready(offer.slot) {
                ready.push(offer.slot);
            }
        }
        if !ready.is_empty() {
            self.database
                .run(async |conn| table::mark_ready(conn, me, &ready).await)
                .await?;
            for slot in &ready {
                if let Some(incoming) = self.state.incoming.get_mut(slot) {
                    incoming.ready = true;
                }
            }
        }
        // The giver has released some of them; the others are still locked.
        let taken_over = self.acquire(claimable).await.unwrap_or_default();
        if !taken_over.is_empty() {
            info!(slots = taken_over.len(), "slots taken over");
        }
        for slot in taken_over.into_keys() {
            self.state.incoming.remove(&slot);
            due.insert(slot);
        }
        Ok(due)
    }

    /// Whether this worker accepts so many more sessions.
    fn accepts(&self, sessions: usize) -> bool {
        let me = self.this_member();
        let incoming: usize = self
            .state
            .incoming
            .values()
            .map(|incoming| incoming.sessions)
            .sum();
        let have = me.sessions + incoming;
        !me.draining && me.sessions_max > 0 && (have + sessions <= me.sessions_max || have == 0)
    }

    /// Whether all standby sessions of a slot are ready.
    fn is_standby_ready(&self, slot: Slot) -> bool {
        let opened = self
            .state
            .incoming
            .get(&slot)
            .is_some_and(|incoming| incoming.opened);
        let mut running = self.state.running.values();
        opened && running.all(|running| running.slot != slot || running.standby_ready)
    }

    /// The sessions of these slots were read, and those that can be are being opened.
    pub(super) fn mark_opened(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(incoming) = self.state.incoming.get_mut(slot) {
                incoming.opened = true;
            }
        }
    }
}
