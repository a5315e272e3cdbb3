//! What tasks tell the health routes, without waiting for one another.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A link's state. Written by its task alone.
#[derive(Debug, Default)]
pub(super) struct LinkStatus {
    sessions: AtomicUsize,
    connected: AtomicBool,
}

impl LinkStatus {
    pub(super) fn set_sessions(&self, sessions: usize) {
        self.sessions.store(sessions, Ordering::Relaxed);
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Sessions that the link carries.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Whether it should be connected and is not.
    pub(super) fn is_down(&self) -> bool {
        self.sessions() > 0 && !self.connected.load(Ordering::Relaxed)
    }
}
