//! When to try again: exponential backoff with full jitter, so that a fleet that lost the same server does not come
//! back all at once.

use std::time::Duration;

/// How long to wait before each try of something that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    floor: Duration,
}

/// Waits for cTrader, of a connection as of a session. No pause is shorter than 100 ms, so that a server that refuses
/// at once is not hammered.
pub const CTRADER: Backoff = Backoff {
    floor: Duration::from_millis(100),
    ..Backoff::new(Duration::from_secs(1), Duration::from_mins(1))
};

impl Backoff {
    /// Waits at most `base` after the first failure, and at most twice as long after each further one, up to `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            floor: Duration::ZERO,
        }
    }

    /// The pause after this many failures in a row, at least 1. The pauses of a `jitter` that is evenly distributed
    /// between 0 and 1 are so too, between nothing and the ceiling of this try.
    #[must_use]
    pub fn pause(self, failures: u32, jitter: f64) -> Duration {
        let pause = self.ceiling(failures).mul_f64(jitter.clamp(0.0, 1.0));
        self.floor.max(pause)
    }

    fn ceiling(self, failures: u32) -> Duration {
        // 2^16 times any base is beyond any cap.
        let doublings = failures.saturating_sub(1).min(16);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_jitter_down_to_the_floor() {
        let longest: Vec<u64> = (1..=8)
            .map(|failures| CTRADER.pause(failures, 1.0).as_secs())
            .collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(CTRADER.pause(u32::MAX, 1.0), Duration::from_mins(1));
        assert_eq!(CTRADER.pause(5, 0.0), Duration::from_millis(100));
        assert_eq!(CTRADER.pause(2, 0.5), Duration::from_secs(1));
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_cap_and_without_a_floor_a_pause_may_be_nothing() {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        for (failures, ceiling) in (1..).zip([
            200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000,
        ]) {
            assert_eq!(backoff.pause(failures, 1.0), Duration::from_millis(ceiling));
            assert_eq!(backoff.pause(failures, 0.0), Duration::ZERO);
        }
        assert_eq!(backoff.pause(u32::MAX, 1.0), Duration::from_secs(30));
        assert_eq!(backoff.pause(1, 2.0), Duration::from_millis(200));
    }
}
