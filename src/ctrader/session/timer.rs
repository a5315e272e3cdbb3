//! The timers of a session: what is due when, in one table.

use std::time::Instant;

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The first quotes: the session is live without them after this.
    FirstQuotes,
    /// An event that was jumped over: it is lost after this.
    Gap,
    /// The next snapshot after the first.
    SnapshotCheck,
    /// The next comparison with the server's P&L.
    Audit,
    /// The server is asked for its P&L, should ours still be unknown.
    PnlFallback,
    /// The server's P&L is too old to be shown in place of ours.
    PnlFallbackExpiry,
    /// A newer token is offered.
    Reauthorise,
    /// A history that did not explain the account is asked for again.
    History,
}

impl Timer {
    /// How many there are.
    const COUNT: usize = Self::History as usize + 1;
}

/// When each timer expires, if it is set.
#[derive(Debug, Default)]
pub(super) struct TimerTable {
    deadlines: [Option<Instant>; Timer::COUNT],
}

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.put(timer, Some(at));
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.put(timer, None);
    }

    pub(super) fn get(&self, timer: Timer) -> Option<Instant> {
        self.deadlines.get(timer as usize).copied().flatten()
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.get(timer).is_some()
    }

    pub(super) fn is_expired(&self, timer: Timer, now: Instant) -> bool {
        self.get(timer).is_some_and(|at| at <= now)
    }

    /// Whether a timer has expired; if so, it is stopped.
    pub(super) fn take_expired(&mut self, timer: Timer, now: Instant) -> bool {
        let expired = self.is_expired(timer, now);
        if expired {
            self.stop(timer);
        }
        expired
    }

    /// When the first of them expires.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    fn put(&mut self, timer: Timer, at: Option<Instant>) {
        if let Some(deadline) = self.deadlines.get_mut(timer as usize) {
            *deadline = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_of_those_that_are_set_is_next() {
        let now = Instant::now();
        let mut timers = TimerTable::default();
        assert_eq!(timers.next_timeout(), None);
        timers.set(Timer::History, now + Duration::from_secs(2));
        timers.set(Timer::FirstQuotes, now + Duration::from_secs(3));
        timers.set(Timer::Gap, now + Duration::from_secs(1));
        assert_eq!(timers.next_timeout(), timers.get(Timer::Gap));
        timers.stop(Timer::Gap);
        assert_eq!(timers.next_timeout(), timers.get(Timer::History));
    }

    #[test]
    fn a_timer_expires_once() {
        let now = Instant::now();
        let at = now + Duration::from_secs(1);
        let mut timers = TimerTable::default();
        timers.set(Timer::Audit, at);
        assert!(!timers.take_expired(Timer::Audit, now));
        assert!(timers.is_set(Timer::Audit));
        assert!(timers.take_expired(Timer::Audit, at));
        assert!(!timers.is_set(Timer::Audit) && !timers.take_expired(Timer::Audit, at));
    }
}
