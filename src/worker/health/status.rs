//! What tasks tell the health routes, without waiting for one another.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::domain::ids::Slot;
use crate::http::{HealthSnapshot, LoopHeartbeat};
use crate::metrics::LinkState;

/// A link's state. Written by its task alone.
#[derive(Debug, Default)]
pub(in crate::worker) struct LinkStatus {
    sessions: AtomicUsize,
    connected: AtomicBool,
    queued: AtomicUsize,
    waiting: AtomicBool,
}

impl LinkStatus {
    pub(in crate::worker) fn set_sessions(&self, sessions: usize) {
        self.sessions.store(sessions, Ordering::Relaxed);
    }

    pub(in crate::worker) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether it waits for a permit to connect.
    pub(in crate::worker) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Whether it waits for a permit to connect.
    pub(in crate::worker) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Sessions that the link carries.
    pub(in crate::worker) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    pub(in crate::worker) fn set_queued(&self, queued: usize) {
        self.queued.store(queued, Ordering::Relaxed);
    }

    /// Requests that wait for their turn.
    pub(in crate::worker) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// How it is.
    pub(in crate::worker) fn state(&self) -> LinkState {
        if self.connected.load(Ordering::Relaxed) {
            LinkState::Up
        } else if self.sessions() > 0 {
            LinkState::Down
        } else {
            LinkState::Idle
        }
    }

    /// Whether it should be connected and is not.
    pub(in crate::worker) fn is_down(&self) -> bool {
        self.state() == LinkState::Down
    }
}

/// The worker's state, for the health routes.
#[derive(Debug)]
pub(in crate::worker) struct WorkerStatus {
    snapshot: watch::Sender<HealthSnapshot>,
    trouble: Mutex<Option<String>>,
    slots: Mutex<BTreeSet<Slot>>,
}

/// The coordinator goes round at least with every sweep; a database that answers nothing keeps it
/// in one round for half a minute at most.
const COORDINATOR_AGE_MAX: Duration = Duration::from_mins(1);

/// The main loop goes round four times a second; it waits for nothing but its turn on a processor.
const MAIN_AGE_MAX: Duration = Duration::from_secs(10);

impl WorkerStatus {
    pub(in crate::worker) fn new(snapshot: watch::Sender<HealthSnapshot>) -> Self {
        Self {
            snapshot,
            trouble: Mutex::new(None),
            slots: Mutex::default(),
        }
    }

    /// The coordinator went round.
    pub(in crate::worker) fn beat(&self) {
        self.beat_of("coordinator", COORDINATOR_AGE_MAX);
    }

    /// The loop that watches over all others went round.
    pub(in crate::worker) fn beat_main(&self) {
        self.beat_of("main", MAIN_AGE_MAX);
    }

    fn beat_of(&self, name: &'static str, age_max: Duration) {
        let at = Instant::now();
        self.snapshot.send_modify(|snapshot| {
            if !snapshot.draining {
                snapshot.loops.insert(name, LoopHeartbeat { at, age_max });
            }
        });
    }

    /// From now on loops end, as they should.
    pub(in crate::worker) fn set_draining(&self) {
        self.snapshot.send_modify(|snapshot| {
            snapshot.draining = true;
            snapshot.loops.clear();
        });
    }

    /// How many sessions this worker runs.
    pub(in crate::worker) fn set_sessions(&self, sessions: usize) {
        self.snapshot
            .send_modify(|snapshot| snapshot.active_sessions = sessions);
    }

    /// Which slots are held.
    pub(in crate::worker) fn set_slots(&self, slots: impl Iterator<Item = Slot>) {
        let mut held = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        held.clear();
        held.extend(slots);
    }

    /// Which slots are held.
    pub(in crate::worker) fn slots(&self) -> BTreeSet<Slot> {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why what is wanted cannot be read, if it can't.
    pub(in crate::worker) fn set_database_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// What the coordinator last said of the database.
    pub(in crate::worker) fn database_trouble(&self) -> Option<String> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes what the health routes say.
    pub(in crate::worker) fn modify(&self, change: impl FnOnce(&mut HealthSnapshot)) {
        self.snapshot.send_modify(change);
    }

    /// How many sessions this worker runs.
    pub(in crate::worker) fn sessions(&self) -> usize {
        self.snapshot.borrow().active_sessions
    }
}
