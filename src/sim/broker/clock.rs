//! Time: what is due, what is scheduled, and when the shell has to come back.

use std::time::{Duration, Instant};

use crate::sim::state::broker::{Broker, HOUSEKEEPING};
use crate::sim::state::timer::TimerAction;

impl Broker {
    pub(crate) fn schedule(&mut self, delay: Duration, action: TimerAction) {
        self.timer_seq += 1;
        self.timers
            .insert((self.now + delay, self.timer_seq), action);
    }

    /// Moves the clock to `now` and runs the timers that are due by then, each at its own time.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            self.now = self.now.max(entry.key().0);
            match entry.remove() {
                TimerAction::Send(conn, frame) => self.send(conn, frame),
                TimerAction::Fill(fill) => self.fill_pending(&fill),
            }
        }
        self.now = self.now.max(now);
    }

    /// Does everything that is due at `now`: timers, liveness and margin checks, the market.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if now >= self.housekeeping_at {
            self.housekeeping_at = now + HOUSEKEEPING;
            self.check_liveness();
            self.check_margin_levels();
        }
        if self.market_running {
            self.run_market();
            self.run_activity();
        }
    }

    /// Returns when [`Self::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let market = if self.market_running {
            self.next_tick()
        } else {
            None
        };
        [timer, market, Some(self.housekeeping_at)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns how many fills and delayed messages are scheduled.
    pub fn scheduled(&self) -> usize {
        self.timers.len()
    }
}
