//! Time: what is due, what is scheduled, and when the shell has to come back.

use std::time::{Duration, Instant};

use crate::sim::state::broker::{Broker, HOUSEKEEPING};
use crate::sim::state::timer::Timer;

impl Broker {
    pub(crate) fn schedule(&mut self, delay: Duration, timer: Timer) {
        self.timer_seq += 1;
        self.timers
            .insert((self.now + delay, self.timer_seq), timer);
    }

    /// Moves the clock and runs the timers that are due by then.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            self.now = self.now.max(entry.key().0);
            match entry.remove() {
                Timer::Send(conn, frame) => self.send(conn, frame),
                Timer::Fill(fill) => self.fill_pending(&fill),
            }
        }
        self.now = self.now.max(now);
    }

    /// Time passed: does everything that is due.
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

    /// When [`Self::handle_timeout`] is wanted next.
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

    /// How many fills and late messages are still to come.
    pub fn scheduled(&self) -> usize {
        self.timers.len()
    }
}
