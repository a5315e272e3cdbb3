//! When to try again: pauses that double, with jitter, so that a fleet that lost the same server does not
//! come back to it all at once.

use std::time::Duration;

/// A schedule of pauses: each is up to twice as long as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    floor: Duration,
}

impl Backoff {
    /// Pauses of `base` at most before the first retry, and of `cap` at most before any.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            floor: Duration::ZERO,
        }
    }

    /// The same with no pause shorter than `floor`: a server that refuses at once is not asked in a loop.
    #[must_use]
    pub const fn with_floor(self, floor: Duration) -> Self {
        Self { floor, ..self }
    }

    /// The longest pause before retry number `attempt`, which counts from 1.
    #[must_use]
    pub fn ceiling(self, attempt: u32) -> Duration {
        // 2^16 times any base is beyond any cap.
        let doublings = attempt.saturating_sub(1).min(16);
        self.cap.min(self.base.saturating_mul(1 << doublings))
    }

    /// The pause before retry number `attempt` with full jitter: the ceiling's share `jitter`, which is
    /// between 0 and 1.
    #[must_use]
    pub fn pause(self, attempt: u32, jitter: f64) -> Duration {
        let pause = self.ceiling(attempt).mul_f64(jitter.clamp(0.0, 1.0));
        self.floor.max(pause)
    }
}

/// The schedule of connections to cTrader, and of sessions on them.
pub const RECONNECT: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1))
    .with_floor(Duration::from_millis(100));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_jitter_down_to_the_floor() {
        let longest: Vec<u64> = (1..=8)
            .map(|attempt| RECONNECT.pause(attempt, 1.0).as_secs())
            .collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(RECONNECT.pause(u32::MAX, 1.0), Duration::from_mins(1));
        assert_eq!(RECONNECT.pause(5, 0.0), Duration::from_millis(100));
        assert_eq!(RECONNECT.pause(2, 0.5), Duration::from_secs(1));
    }

    #[test]
    fn without_a_floor_a_pause_is_anything_up_to_its_ceiling() {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let ceilings = [
            200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000,
        ];
        for (attempt, ceiling) in (1..).zip(ceilings) {
            assert_eq!(backoff.ceiling(attempt), Duration::from_millis(ceiling));
            assert_eq!(backoff.pause(attempt, 0.0), Duration::ZERO);
            assert_eq!(backoff.pause(attempt, 1.0), backoff.ceiling(attempt));
        }
    }
}
