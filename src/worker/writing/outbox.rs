//! What is to be written: the latest state of each session, and every deal.
//!
//! Links put rows and deals, the writer takes them. A pending row is replaced by a newer one of the same session,
//! so a slow database costs freshness and never memory; deals wait in order, up to a bound. Marks state
//! up to when all deals were put, and are written after the deals that were put before them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::domain::fence::Fence;
use crate::domain::fence::HistoryMark;
use crate::domain::ids::{SessionKey, Slot};
use crate::domain::row::{RowContent, RowWrite};
use crate::pg::deals::DealWrite;

/// Deals that may wait for a database that is away; history fetches what did not fit.
const DEALS_MAX: usize = 100_000;

#[derive(Debug, Default)]
struct Pending {
    rows: HashMap<SessionKey, RowWrite>,
    deals: Vec<DealWrite>,
    marks: BTreeMap<SessionKey, HistoryMark>,
    /// Who waits until all that was put before is written.
    barriers: Vec<oneshot::Sender<()>>,
}

/// What the writer takes at once.
#[derive(Debug, Default)]
pub(in crate::worker) struct Taken {
    pub(in crate::worker) rows: Vec<RowWrite>,
    pub(in crate::worker) deals: Vec<DealWrite>,
    pub(in crate::worker) marks: Vec<HistoryMark>,
    pub(in crate::worker) barriers: Vec<oneshot::Sender<()>>,
}

impl Taken {
    pub(in crate::worker) fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.deals.is_empty()
            && self.marks.is_empty()
            && self.barriers.is_empty()
    }
}

/// The writer's inbox.
#[derive(Debug, Default)]
pub(in crate::worker) struct Outbox {
    pending: Mutex<Pending>,
    seq: AtomicI64,
    wake: Notify,
}

impl Outbox {
    /// Puts a row; it leaves with the next round, see [`Outbox::wake`].
    pub(in crate::worker) fn put(&self, fence: &Fence, content: RowContent) {
        // Under the lock: what is put later has the higher number.
        let mut pending = self.lock();
        let seq = self.next_seq();
        let newer = RowWrite {
            fence: fence.clone(),
            seq,
            content,
        };
        match pending.rows.entry(newer.fence.key.clone()) {
            Entry::Occupied(mut older) => merge(older.get_mut(), newer),
            Entry::Vacant(entry) => {
                entry.insert(newer);
            }
        }
    }

    /// Puts a deal; `false` when there is no more room.
    pub(in crate::worker) fn put_deal(&self, deal: DealWrite) -> bool {
        let mut pending = self.lock();
        let room = pending.deals.len() < DEALS_MAX;
        if room {
            pending.deals.push(deal);
        }
        room
    }

    /// Puts a history mark: all deals of a session up to a time were put.
    pub(in crate::worker) fn put_mark(&self, mark: HistoryMark) {
        self.lock().marks.insert(mark.fence.key.clone(), mark);
    }

    /// Lets the writer begin a round.
    pub(in crate::worker) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until somebody woke the writer.
    pub(in crate::worker) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes all that waits.
    pub(in crate::worker) fn take(&self) -> Taken {
        let pending = std::mem::take(&mut *self.lock());
        Taken {
            rows: pending.rows.into_values().collect(),
            deals: pending.deals,
            marks: pending.marks.into_values().collect(),
            barriers: pending.barriers,
        }
    }

    /// Returns a receiver that resolves once all that was put before is written.
    pub(in crate::worker) fn flushed(&self) -> oneshot::Receiver<()> {
        let (sender, flushed) = oneshot::channel();
        self.lock().barriers.push(sender);
        self.wake();
        flushed
    }

    /// Slots have changed hands from this worker to itself: deals that still wait stay valid.
    pub(in crate::worker) fn refence(&self, claimed: &[(Slot, i64)]) {
        let epochs: BTreeMap<Slot, i64> = claimed.iter().copied().collect();
        for deal in &mut self.lock().deals {
            if let Some(epoch) = epochs.get(&deal.fence.slot) {
                deal.fence.epoch = *epoch;
            }
        }
    }

    /// Puts back what could not be written, where nothing newer waits by now. A row gets a new
    /// `seq`: its write may have arrived all the same, and would fence this one.
    pub(in crate::worker) fn put_back(&self, taken: Taken) {
        let Taken {
            rows,
            mut deals,
            marks,
            barriers,
        } = taken;
        let mut pending = self.lock();
        for older in rows {
            match pending.rows.entry(older.fence.key.clone()) {
                Entry::Occupied(mut entry) => {
                    let newer = std::mem::replace(entry.get_mut(), older);
                    merge(entry.get_mut(), newer);
                }
                Entry::Vacant(entry) => {
                    entry.insert(RowWrite {
                        seq: self.next_seq(),
                        ..older
                    });
                }
            }
        }
        deals.append(&mut pending.deals);
        pending.deals = deals;
        pending.barriers.extend(barriers);
        for mark in marks {
            pending.marks.entry(mark.fence.key.clone()).or_insert(mark);
        }
        if pending.deals.len() > DEALS_MAX {
            // History has them, and no mark may suppress the request for them.
            pending.deals.truncate(DEALS_MAX);
            pending.marks.clear();
        }
    }

    fn next_seq(&self) -> i64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing in here can panic halfway through a change.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces the older row by the newer one, and keeps what the newer one does not repeat.
fn merge(row: &mut RowWrite, newer: RowWrite) {
    if row.fence.epoch > newer.fence.epoch {
        return;
    }
    if row.fence.epoch != newer.fence.epoch {
        *row = newer;
        return;
    }
    let old = std::mem::replace(&mut row.content, RowContent::Heartbeat);
    let content = match (old, newer.content) {
        // A heartbeat confirms the older content.
        (old @ (RowContent::Full { .. } | RowContent::State(_)), RowContent::Heartbeat) => old,
        // The figures were not written yet, and nothing newer is known of them.
        (RowContent::Full { state, account, .. }, RowContent::State(newer)) => RowContent::Full {
            state: newer.keeping_environment_of(&state),
            connected: false,
            account,
        },
        (RowContent::State(state), RowContent::State(newer)) => {
            RowContent::State(newer.keeping_environment_of(&state))
        }
        (_, content) => content,
    };
    *row = RowWrite { content, ..newer };
}

#[cfg(test)]
mod tests;
