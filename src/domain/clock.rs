//! The wall clock's time at moments of the monotonic clock.

use std::time::Instant;

use time::{Duration, OffsetDateTime};

/// A moment of the monotonic clock, and the wall clock's time then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallClock {
    moment: Instant,
    time: OffsetDateTime,
}

impl WallClock {
    /// Both clocks at one moment.
    #[must_use]
    pub const fn new(moment: Instant, time: OffsetDateTime) -> Self {
        Self { moment, time }
    }

    /// The same, of a time in milliseconds since the epoch; one that no calendar has is the epoch itself.
    #[must_use]
    pub fn from_unix_ms(moment: Instant, ms: i64) -> Self {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
        Self::new(moment, time.unwrap_or(OffsetDateTime::UNIX_EPOCH))
    }

    /// The moment at which both clocks were read.
    #[must_use]
    pub const fn moment(self) -> Instant {
        self.moment
    }

    /// The wall clock's time at a moment before or after that.
    #[must_use]
    pub fn at(self, moment: Instant) -> OffsetDateTime {
        let after = moment.saturating_duration_since(self.moment);
        let before = self.moment.saturating_duration_since(moment);
        let (after, before) = (Duration::try_from(after), Duration::try_from(before));
        let time = self.time.saturating_add(after.unwrap_or(Duration::MAX));
        time.saturating_sub(before.unwrap_or(Duration::MAX))
    }

    /// The same in milliseconds since the epoch.
    #[must_use]
    pub fn unix_ms(self, moment: Instant) -> i64 {
        let ms = self.at(moment).unix_timestamp_nanos() / 1_000_000;
        i64::try_from(ms).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_before_and_after_have_their_times() {
        let now = Instant::now() + Duration::from_secs(10);
        let clock = WallClock::new(now, OffsetDateTime::UNIX_EPOCH + Duration::from_secs(100));
        let earlier = now
            .checked_sub(Duration::from_millis(1_500))
            .expect("it is later than now");
        assert_eq!(clock.moment(), now);
        assert_eq!(clock.unix_ms(now), 100_000);
        assert_eq!(clock.unix_ms(now + Duration::from_millis(1_500)), 101_500);
        assert_eq!(clock.unix_ms(earlier), 98_500);
        assert_eq!(
            clock.at(now + Duration::from_micros(7)) - clock.at(now),
            Duration::from_micros(7)
        );
    }
}
