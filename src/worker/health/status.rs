//! The state that tasks publish for the health routes, without waiting for one another.

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
    waits_for_permit: AtomicBool,
}

impl LinkStatus {
    pub(in crate::worker) fn set_sessions(&self, sessions: usize) {
        self.sessions.store(sessions, Ordering::Relaxed);
    }

    pub(in crate::worker) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether it waits for a permit to connect.
    pub(in crate::worker) fn set_waits_for_permit(&self, waiting: bool) {
        self.waits_for_permit.store(waiting, Ordering::Relaxed);
    }

    /// Whether it waits for a permit to connect.
    pub(in crate::worker) fn waits_for_permit(&self) -> bool {
        self.waits_for_permit.load(Ordering::Relaxed)
    }

    /// How many sessions the link runs.
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

    /// The state for the metrics.
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
    database_error: Mutex<Option<String>>,
    slots: Mutex<BTreeSet<Slot>>,
}

/// The coordinator's loop runs at least with every sweep. A database that does not respond keeps it in one pass for
/// half a minute at most.
const COORDINATOR_AGE_MAX: Duration = Duration::from_mins(1);

/// The main loop runs four times a second, and waits for nothing but a processor.
const MAIN_AGE_MAX: Duration = Duration::from_secs(10);

impl WorkerStatus {
    pub(in crate::worker) fn new(snapshot: watch::Sender<HealthSnapshot>) -> Self {
        Self {
            snapshot,
            database_error: Mutex::new(None),
            slots: Mutex::default(),
        }
    }

    /// Records that the coordinator's loop runs.
    pub(in crate::worker) fn record_heartbeat(&self) {
        self.record_heartbeat_of("coordinator", COORDINATOR_AGE_MAX);
    }

    /// Records that the supervisor's loop runs.
    pub(in crate::worker) fn record_main_heartbeat(&self) {
        self.record_heartbeat_of("main", MAIN_AGE_MAX);
    }

    fn record_heartbeat_of(&self, name: &'static str, age_max: Duration) {
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

    /// Sets the error with which the wanted sessions could not be read; `None`: they were read.
    pub(in crate::worker) fn set_database_error(&self, database_error: Option<String>) {
        *self
            .database_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = database_error;
    }

    /// The coordinator's last error of the database.
    pub(in crate::worker) fn database_error(&self) -> Option<String> {
        self.database_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes what the health routes show.
    pub(in crate::worker) fn modify(&self, change: impl FnOnce(&mut HealthSnapshot)) {
        self.snapshot.send_modify(change);
    }

    /// How many sessions this worker runs.
    pub(in crate::worker) fn sessions(&self) -> usize {
        self.snapshot.borrow().active_sessions
    }
}
