//! What ownership should look at now: hints from Postgres, links and other tasks, gathered while it is busy.
//!
//! A hint only makes things quicker. What no hint tells is found by the regular sweep.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::ids::{SessionKey, Slot};

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::worker) struct Wakeup {
    /// Everything: hints may have been lost.
    pub(in crate::worker) all: bool,
    /// These slots.
    pub(in crate::worker) slots: BTreeSet<Slot>,
    /// The fleet and its hand-overs.
    pub(in crate::worker) fleet: bool,
    /// These standby sessions are ready: live with figures, or failed.
    pub(in crate::worker) standby_ready: Vec<SessionKey>,
    /// A link has released these sessions, and writes nothing of them any more.
    pub(in crate::worker) released: Vec<SessionKey>,
}

/// Gathers hints.
#[derive(Debug, Default)]
pub(in crate::worker) struct Wakeups {
    pending: Mutex<Wakeup>,
    wake: Notify,
    /// This worker's number in the fleet.
    number: AtomicI32,
    /// The claims are to be proved at once.
    lock_check: Notify,
}

impl Wakeups {
    /// Something may have changed in a slot.
    pub(in crate::worker) fn wake_slot(&self, slot: Slot) {
        self.lock().slots.insert(slot);
        self.wake.notify_one();
    }

    /// Standby sessions are ready.
    pub(in crate::worker) fn standby_ready(&self, keys: Vec<SessionKey>) {
        self.lock().standby_ready.extend(keys);
        self.wake.notify_one();
    }

    /// A link has released a session, after its final status.
    pub(in crate::worker) fn released(&self, key: SessionKey) {
        self.lock().released.push(key);
        self.wake.notify_one();
    }

    /// The hand-overs may have changed.
    pub(in crate::worker) fn wake_fleet(&self) {
        self.lock().fleet = true;
        self.wake.notify_one();
    }

    /// The hand-overs of the worker of this number may have changed.
    pub(in crate::worker) fn wake_fleet_of(&self, number: i32) {
        if number == self.number.load(Ordering::Relaxed) {
            self.wake_fleet();
        }
    }

    /// Sets this worker's number in the fleet, for [`Wakeups::wake_fleet_of`].
    pub(in crate::worker) fn set_number(&self, number: i32) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// Anything may have changed.
    pub(in crate::worker) fn wake_all(&self) {
        let mut pending = self.lock();
        pending.all = true;
        pending.fleet = true;
        drop(pending);
        self.wake.notify_one();
    }

    /// Waits for a hint.
    ///
    /// # Cancel safety
    /// A hint that comes while nobody waits wakes the next who does.
    pub(in crate::worker) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Something went wrong with the database: the claims may be lost with it, and are to be proved at once.
    pub(in crate::worker) fn request_lock_check(&self) {
        self.lock_check.notify_one();
    }

    /// Waits for such a request.
    ///
    /// # Cancel safety
    /// As [`Wakeups::wait`].
    pub(in crate::worker) async fn lock_check_requested(&self) {
        self.lock_check.notified().await;
    }

    /// Takes what was gathered.
    pub(in crate::worker) fn take(&self) -> Wakeup {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Wakeup> {
        // Nothing in here can panic halfway through a change.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
