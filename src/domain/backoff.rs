//! When to try again: exponential, with full jitter, so that a fleet that lost the same server
//! does not come back all at once.

use std::time::Duration;

/// The longest first pause.
const BASE: Duration = Duration::from_secs(1);

/// The longest pause of all.
const CAP: Duration = Duration::from_mins(1);

/// No pause is shorter: a server that refuses at once is not hammered.
const FLOOR: Duration = Duration::from_millis(100);

/// The pause before try number `attempt` (1 is the first again), for a `jitter` between 0 and 1.
#[must_use]
pub fn pause(attempt: u32, jitter: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let ceiling = CAP.min(BASE * 2u32.pow(doublings));
    FLOOR.max(ceiling.mul_f64(jitter.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_jitter_down_to_the_floor() {
        let longest: Vec<u64> = (1..=8)
            .map(|attempt| pause(attempt, 1.0).as_secs())
            .collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX, 1.0), CAP);
        assert_eq!(pause(5, 0.0), FLOOR);
        assert_eq!(pause(2, 0.5), Duration::from_secs(1));
    }
}
