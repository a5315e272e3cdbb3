//! What is to be written: the latest state of each session, and every deal.
//!
//! Links put, the writer takes. A row that waits is replaced by a newer one of the same session,
//! so a slow database costs freshness and never memory; deals wait in order, up to a bound.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::ids::{SessionKey, Slot};
use crate::domain::row::{RowContent, RowWrite};
use crate::pg::deals::DealWrite;

/// Deals that may wait for a database that is away; history fetches what did not fit.
const DEALS_MAX: usize = 100_000;

/// Who may write which session's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) key: SessionKey,
    pub(super) slot: Slot,
    pub(super) epoch: i64,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: BTreeMap<SessionKey, RowWrite>,
    deals: Vec<DealWrite>,
}

/// The writer's inbox.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    seq: AtomicI64,
    wake: Notify,
}

impl Outbox {
    /// Puts a row; it leaves with the next round, see [`Outbox::wake`].
    pub(super) fn put(&self, fence: &Fence, content: RowContent) {
        let Fence { key, slot, epoch } = fence.clone();
        // Under the lock: what is put later has the higher number.
        let mut waiting = self.lock();
        let seq = self.next_seq();
        let newer = RowWrite {
            key,
            slot,
            epoch,
            seq,
            content,
        };
        let merged = match waiting.rows.remove(&newer.key) {
            Some(older) => merge(older, newer),
            None => newer,
        };
        waiting.rows.insert(merged.key.clone(), merged);
    }

    /// Puts a deal; `false` when there is no more room.
    pub(super) fn put_deal(&self, deal: DealWrite) -> bool {
        let mut waiting = self.lock();
        let room = waiting.deals.len() < DEALS_MAX;
        if room {
            waiting.deals.push(deal);
        }
        room
    }

    /// Lets the writer begin a round.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until somebody woke the writer.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes all that waits.
    pub(super) fn take(&self) -> (Vec<RowWrite>, Vec<DealWrite>) {
        let waiting = std::mem::take(&mut *self.lock());
        (waiting.rows.into_values().collect(), waiting.deals)
    }

    /// Puts back what could not be written, where nothing newer waits by now. A row gets a new
    /// `seq`: its write may have arrived all the same, and would fence this one.
    pub(super) fn put_back(&self, rows: Vec<RowWrite>, mut deals: Vec<DealWrite>) {
        let mut waiting = self.lock();
        for older in rows {
            let merged = match waiting.rows.remove(&older.key) {
                Some(newer) => merge(older, newer),
                None => RowWrite {
                    seq: self.next_seq(),
                    ..older
                },
            };
            waiting.rows.insert(merged.key.clone(), merged);
        }
        deals.append(&mut waiting.deals);
        deals.truncate(DEALS_MAX);
        waiting.deals = deals;
    }

    fn next_seq(&self) -> i64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here can panic halfway through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newer row, with what the older one said and the newer does not say again.
fn merge(older: RowWrite, newer: RowWrite) -> RowWrite {
    if older.epoch > newer.epoch {
        return older;
    }
    let RowWrite {
        epoch,
        content: old,
        ..
    } = older;
    if epoch != newer.epoch {
        return newer;
    }
    let content = match (old, newer.content) {
        // Still so: the older content is what is so.
        (old @ (RowContent::Full { .. } | RowContent::State(_)), RowContent::Heartbeat) => old,
        // The figures were not written yet, and nothing newer is known of them.
        (RowContent::Full { account, .. }, RowContent::State(state)) => RowContent::Full {
            state,
            connected: false,
            account,
        },
        (_, content) => content,
    };
    RowWrite { content, ..newer }
}

#[cfg(test)]
mod tests;
