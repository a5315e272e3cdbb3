//! Hand-over, make before break. The giver offers a slot; the taker opens its sessions on its own connection,
//! where they stand by; once they stream there, it says so; the giver writes its last rows, lets go of the
//! sessions and of the slot; the taker claims it, and writes.
//!
//! Whatever fails in between, the slot's lock says whose it is: an offer whose taker dies is made to somebody
//! else, and a slot whose giver dies is claimed by the taker, which streams it already.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, info};

use super::Coordinator;
use crate::domain::fleet::{self, HANDOVER_WITHIN, Handover, Member};
use crate::domain::ids::{SessionKey, Slot};
use crate::pg::PgError;
use crate::pg::fleet as table;
use crate::worker::link::LinkCommand;
use crate::worker::ownership::lock_keeper::ClaimRequest;

/// How long the last rows of a slot may take before it is let go of all the same.
const LAST_ROWS_WITHIN: Duration = Duration::from_secs(2);

/// Who declined is offered nothing for that long.
const DECLINED_FOR: Duration = Duration::from_secs(30);

/// A slot that another worker is about to hand over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Warm {
    /// The giver's epoch.
    epoch: i64,
    sessions: usize,
    /// Its sessions were read, and are being opened: of none, all would be settled.
    opened: bool,
    /// The giver was told that all stream.
    ready: bool,
}

impl Warm {
    const fn is_of(&self, offer: &Handover) -> bool {
        self.epoch == offer.epoch && self.ready == offer.ready
    }
}

impl Coordinator {
    /// Looks at the fleet and goes on with every hand-over that this worker is part of. Answers the slots
    /// whose sessions are to be looked at.
    pub(super) async fn hand_over_and_take_over(&mut self) -> Result<BTreeSet<Slot>, PgError> {
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
        self.give(&given, &alive).await?;
        self.take(&taken, &alive).await
    }

    // ── the giver ────────────────────────────────────────────────────────────────────────────

    /// Offers what is too much, or everything when draining.
    pub(super) async fn offer(&mut self) -> Result<(), PgError> {
        let offers = self.plan();
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
        // They count as under way from now on; the next look has them as they are.
        self.hints.fleet();
        Ok(())
    }

    fn plan(&self) -> Vec<table::Offer> {
        let mine: Vec<(Slot, usize)> = self
            .state
            .held
            .keys()
            .filter(|slot| !self.state.offered.contains_key(slot))
            .filter_map(|slot| Some((*slot, *self.state.active.get(slot)?)))
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
        let total = self.state.active.values().sum();
        let handovers = &self.state.fleet.handovers;
        fleet::offers(&self.me(), &members, &mine, handovers, total)
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

    /// Whether a drain can go on: something is under way, or somebody would take what is left.
    pub(super) fn can_hand_over(&self) -> bool {
        !self.state.offered.is_empty() || !self.plan().is_empty()
    }

    async fn give(&mut self, given: &[Handover], alive: &BTreeSet<i32>) -> Result<(), PgError> {
        let me = self.number();
        let (mut ready, mut withdrawn) = (BTreeSet::new(), Vec::new());
        for handover in given {
            if self.state.held.get(&handover.slot) != Some(&handover.epoch) {
                // Let go of already, and not taken yet.
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
            self.let_go(ready).await;
        }
        Ok(())
    }

    /// The taker streams: last rows, and the slots are free.
    async fn let_go(&mut self, slots: BTreeSet<Slot>) {
        let mut by_link: BTreeMap<usize, Vec<SessionKey>> = BTreeMap::new();
        for key in self.keys_of(&slots) {
            if let Some(running) = self.state.running.remove(&key) {
                by_link.entry(running.link).or_default().push(key);
            }
        }
        let last_rows = async {
            let mut answers = Vec::new();
            for (link, keys) in by_link {
                let (asker, answer) = oneshot::channel();
                if self.tell(link, LinkCommand::HandOver(keys, asker)).await {
                    answers.push(answer);
                }
            }
            for answer in answers {
                // A link that is gone has no more rows.
                let _ = answer.await;
            }
            self.outbox.flushed().await
        };
        if timeout(LAST_ROWS_WITHIN, last_rows).await.is_err() {
            debug!("the last rows are not written yet: the slots are let go of all the same");
        }
        for slot in &slots {
            self.state.held.remove(slot);
            self.state.idle_since.remove(slot);
            self.state.offered.remove(slot);
        }
        self.state.forget_words(&slots);
        self.tell_sessions();
        info!(slots = slots.len(), "slots handed over");
        // The keeper is gone only when the claims are lost, and then nothing is to release.
        let _ = self
            .claims
            .send(ClaimRequest::Release(slots.into_iter().collect()))
            .await;
    }

    // ── the taker ────────────────────────────────────────────────────────────────────────────

    async fn take(
        &mut self,
        taken: &[Handover],
        alive: &BTreeSet<i32>,
    ) -> Result<BTreeSet<Slot>, PgError> {
        let me = self.number();
        let mut look = BTreeSet::new();
        let mut declined = Vec::new();
        let gone: Vec<Slot> = self
            .state
            .warm
            .keys()
            .filter(|slot| !taken.iter().any(|offer| offer.slot == **slot))
            .copied()
            .collect();
        for slot in gone {
            debug!(%slot, "an offer is gone");
            self.give_up(slot).await;
        }
        for offer in taken {
            let slot = offer.slot;
            let known = self.state.warm.get(&slot);
            if self.state.held.contains_key(&slot) || known.is_some_and(|warm| warm.is_of(offer)) {
                continue;
            }
            // One that is known goes on: the giver got another epoch, no more.
            if known.is_none() && !self.takes(offer.sessions) {
                declined.push(slot);
                continue;
            }
            let warm = Warm {
                epoch: offer.epoch,
                sessions: offer.sessions,
                opened: known.is_some_and(|warm| warm.opened),
                ready: offer.ready,
            };
            self.state.warm.insert(slot, warm);
            look.insert(slot);
        }
        if !declined.is_empty() {
            info!(slots = declined.len(), "offers declined");
            self.database
                .run(async |conn| table::withdraw(conn, me, &declined).await)
                .await?;
        }
        // New ones are opened by the look that follows, and only then can be ready.
        let mut due: Vec<Slot> = Vec::new();
        let mut ready: Vec<Slot> = Vec::new();
        for offer in taken {
            let Some(warm) = self.state.warm.get(&offer.slot) else {
                continue;
            };
            if warm.ready || !alive.contains(&offer.giver) {
                due.push(offer.slot);
            } else if !look.contains(&offer.slot) && self.is_settled(offer.slot) {
                ready.push(offer.slot);
            }
        }
        if !ready.is_empty() {
            self.database
                .run(async |conn| table::mark_ready(conn, me, &ready).await)
                .await?;
            for slot in &ready {
                if let Some(warm) = self.state.warm.get_mut(slot) {
                    warm.ready = true;
                }
            }
        }
        // Those that the giver has let go of; the others are locked.
        let taken_over = self.acquire(due).await.unwrap_or_default();
        if !taken_over.is_empty() {
            info!(slots = taken_over.len(), "slots taken over");
        }
        for slot in taken_over.into_keys() {
            self.state.warm.remove(&slot);
            look.insert(slot);
        }
        Ok(look)
    }

    /// Whether a worker in this state takes so many sessions more.
    fn takes(&self, sessions: usize) -> bool {
        let me = self.me();
        let warm: usize = self.state.warm.values().map(|warm| warm.sessions).sum();
        let have = me.sessions + warm;
        !me.draining && me.sessions_max > 0 && (have + sessions <= me.sessions_max || have == 0)
    }

    /// Whether all sessions of a slot are as far as they get.
    fn is_settled(&self, slot: Slot) -> bool {
        let opened = self.state.warm.get(&slot).is_some_and(|warm| warm.opened);
        let mut running = self.state.running.values();
        opened && running.all(|running| running.slot != slot || running.settled)
    }

    /// The sessions of these slots were read, and those that can be are being opened.
    pub(super) fn note_opened(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(warm) = self.state.warm.get_mut(slot) {
                warm.opened = true;
            }
        }
    }
}
