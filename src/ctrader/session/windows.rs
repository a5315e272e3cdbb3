//! A look into the history, in windows of time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ctrader::request::Window;

/// The widest window: one week, which cash operations must not exceed.
pub(super) const WINDOW_MS: i64 = 604_800_000;

/// The latest time that may be asked for.
pub(super) const TIME_MS_MAX: i64 = 2_147_483_646_000;

/// The server's clock may be ahead of ours by that.
pub(super) const CLOCK_SLACK_MS: i64 = 3_600_000;

/// How often a window is asked for that is refused or not answered.
pub(super) const TRIES_MAX: u32 = 12;

/// Bounds of the pause before the next try, which doubles.
pub(super) const TRY_AFTER: Duration = Duration::from_secs(1);
pub(super) const TRY_AFTER_MAX: Duration = Duration::from_mins(2);

/// A look into the history that is under way.
#[derive(Debug)]
pub(in crate::ctrader) struct History {
    pub(super) whole: Window,
    pub(super) through_ms: i64,
    pub(super) deals: VecDeque<Window>,
    pub(super) cash: VecDeque<Window>,
    pub(super) cash_asked: bool,
    pub(super) explanations: u32,
    /// When all is asked again.
    pub(super) again_at: Option<Instant>,
    pub(super) is_partial: bool,
    pub(super) is_over: bool,
    /// Another look that was asked for meanwhile.
    pub(super) next: Option<(i64, i64)>,
}

impl History {
    pub(super) fn new(from_ms: i64, wall_ms: i64) -> Self {
        let whole = Window {
            from_ms: from_ms.clamp(0, TIME_MS_MAX),
            to_ms: wall_ms.saturating_add(CLOCK_SLACK_MS).clamp(0, TIME_MS_MAX),
        };
        Self {
            whole,
            through_ms: wall_ms,
            deals: weeks(whole),
            cash: VecDeque::new(),
            cash_asked: false,
            explanations: 0,
            again_at: None,
            is_partial: false,
            is_over: false,
            next: None,
        }
    }

    pub(in crate::ctrader) const fn deadline(&self) -> Option<Instant> {
        self.again_at
    }
}

/// A time in windows of at most a week. They share their bounds: whether those are included is not
/// documented.
pub(super) fn weeks(whole: Window) -> VecDeque<Window> {
    let mut windows = VecDeque::new();
    let mut from_ms = whole.from_ms;
    loop {
        let to_ms = whole.to_ms.min(from_ms.saturating_add(WINDOW_MS));
        windows.push_back(Window { from_ms, to_ms });
        if to_ms >= whole.to_ms {
            return windows;
        }
        from_ms = to_ms;
    }
}

/// The two halves of a window; `None` when it is a single millisecond.
pub(super) fn halves(window: Window) -> Option<[Window; 2]> {
    let Window { from_ms, to_ms } = window;
    let half = |from_ms, to_ms| Window { from_ms, to_ms };
    match to_ms - from_ms {
        ..=0 => None,
        1 => Some([half(from_ms, from_ms), half(to_ms, to_ms)]),
        width => {
            let middle = from_ms + width / 2;
            Some([half(from_ms, middle), half(middle, to_ms)])
        }
    }
}

/// The pause before a window is asked for again that failed so often; `None`: no more.
pub(in crate::ctrader) fn pause(tries: u32) -> Option<Duration> {
    (tries <= TRIES_MAX)
        .then(|| TRY_AFTER_MAX.min(TRY_AFTER * 2u32.pow(tries.saturating_sub(1).min(16))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn window(from_ms: i64, to_ms: i64) -> Window {
        Window { from_ms, to_ms }
    }

    #[test]
    fn a_time_is_cut_into_weeks_without_a_hole() {
        let now = 1_750_000_000_000;
        assert_eq!(
            weeks(window(now - WINDOW_MS, now)),
            [window(now - WINDOW_MS, now)]
        );
        let first_look = weeks(window(now - WINDOW_MS, now + CLOCK_SLACK_MS));
        assert_eq!(
            first_look,
            [
                window(now - WINDOW_MS, now),
                window(now, now + CLOCK_SLACK_MS)
            ]
        );
        let year: Vec<Window> = weeks(window(now - 52 * WINDOW_MS - 1, now)).into();
        assert_eq!(year.len(), 53);
        for (earlier, later) in year.iter().zip(year.iter().skip(1)) {
            assert_eq!(earlier.to_ms, later.from_ms);
        }
    }

    #[test]
    fn halving_ends_with_single_milliseconds() {
        let mut windows = vec![window(0, 1_000)];
        let mut last = Vec::new();
        while let Some(next) = windows.pop() {
            match halves(next) {
                Some(parts) => windows.extend(parts),
                None => last.push(next.from_ms),
            }
            assert!(windows.len() < 100);
        }
        last.sort_unstable();
        last.dedup();
        assert_eq!(last, (0..=1_000).collect::<Vec<i64>>());
    }

    #[test]
    fn tries_get_rarer_and_end() {
        let seconds: Vec<u64> = (1..=TRIES_MAX)
            .filter_map(pause)
            .map(|pause| pause.as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 120, 120, 120, 120, 120]);
        assert_eq!(pause(TRIES_MAX + 1), None);
    }
}
