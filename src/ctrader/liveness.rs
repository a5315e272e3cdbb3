//! Whether the other end is still there, and how we show that we are.
//!
//! cTrader cuts a client off that is silent for about 30 s, so a heartbeat leaves after 10 s of own
//! silence. The server sends one of its own only when it was idle for 25 to 30 s: far too late to
//! call a row live. So an idle socket is pinged. Once the server has answered a ping, silence is a
//! sign: first that rows no longer follow, then that the link is dead. A server that answers no
//! pings is given up after a minute of silence.

use std::time::{Duration, Instant};

/// A heartbeat leaves after that long without anything from us.
const HEARTBEAT_AFTER: Duration = Duration::from_secs(10);

/// A ping leaves after that long without anything from the other end, and again each time.
const PING_EVERY: Duration = Duration::from_millis(700);

/// The link is suspect after that long without anything, if the other end answers pings: three
/// pings unanswered. Rows must show that within three seconds.
const SUSPECT_AFTER: Duration = Duration::from_millis(2_200);

/// The link is dead after that long without anything, if the other end answers pings.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// The link is dead after that long without anything, if it does not: two of the server's own
/// heartbeats were missed.
const DEAD_WITHOUT_PONG_AFTER: Duration = Duration::from_mins(1);

/// The link is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dead;

/// Both directions' silence.
#[derive(Debug)]
pub(super) struct Liveness {
    inbound: Instant,
    outbound: Instant,
    pinged: Option<Instant>,
    answers_pings: bool,
    suspect: bool,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            inbound: now,
            outbound: now,
            pinged: None,
            answers_pings: false,
            suspect: false,
        }
    }

    pub(super) fn handle_inbound(&mut self, now: Instant) {
        self.inbound = now;
        self.suspect = false;
    }

    pub(super) fn handle_pong(&mut self) {
        self.answers_pings = true;
    }

    pub(super) fn handle_outbound(&mut self, now: Instant) {
        self.outbound = now;
    }

    /// Whether the other end may be taken to be there.
    pub(super) fn is_following(&self) -> bool {
        !self.suspect
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Dead> {
        let silent = now.saturating_duration_since(self.inbound);
        self.suspect |= self.answers_pings && silent >= SUSPECT_AFTER;
        if silent >= self.dead_after() {
            Err(Dead)
        } else {
            Ok(())
        }
    }

    pub(super) fn heartbeat_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.outbound) >= HEARTBEAT_AFTER
    }

    /// Whether a ping is due; if so, it counts as sent. The first leaves at once, to learn whether
    /// pings are answered.
    pub(super) fn ping_due(&mut self, now: Instant) -> bool {
        let due = now >= self.ping_at();
        if due {
            self.pinged = Some(now);
        }
        due
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let suspect = (self.answers_pings && !self.suspect).then(|| self.inbound + SUSPECT_AFTER);
        let others = [self.outbound + HEARTBEAT_AFTER, self.ping_at()];
        others
            .into_iter()
            .chain(suspect)
            .fold(self.inbound + self.dead_after(), Instant::min)
    }

    fn ping_at(&self) -> Instant {
        match self.pinged {
            None => self.inbound,
            Some(pinged) => self.inbound.max(pinged) + PING_EVERY,
        }
    }

    fn dead_after(&self) -> Duration {
        if self.answers_pings {
            DEAD_AFTER
        } else {
            DEAD_WITHOUT_PONG_AFTER
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the timers until `until`, and tells when what happened.
    fn run(
        liveness: &mut Liveness,
        start: Instant,
        until: Duration,
    ) -> Vec<(Duration, &'static str)> {
        let mut seen = Vec::new();
        loop {
            let now = liveness.poll_timeout();
            if now > start + until {
                return seen;
            }
            let was_following = liveness.is_following();
            if liveness.handle_timeout(now).is_err() {
                seen.push((now - start, "dead"));
                return seen;
            }
            if was_following && !liveness.is_following() {
                seen.push((now - start, "suspect"));
            }
            if liveness.heartbeat_due(now) {
                liveness.handle_outbound(now);
                seen.push((now - start, "heartbeat"));
            }
            liveness.ping_due(now);
        }
    }

    #[test]
    fn a_link_that_answers_pings_is_suspect_after_three_of_them() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert!(liveness.ping_due(start), "the first at once");
        liveness.handle_pong();
        let seen = run(&mut liveness, start, Duration::from_mins(1));
        assert_eq!(
            seen,
            [(SUSPECT_AFTER, "suspect"), (DEAD_AFTER, "dead")],
            "and is dead before a heartbeat would leave"
        );
    }

    #[test]
    fn a_link_that_answers_no_pings_lives_on_heartbeats() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let seen = run(&mut liveness, start, Duration::from_secs(90));
        let beats = seen.iter().filter(|(_, what)| *what == "heartbeat").count();
        assert_eq!(beats, 5, "10 s apart, up to the minute");
        assert_eq!(seen.last(), Some(&(DEAD_WITHOUT_PONG_AFTER, "dead")));
    }

    #[test]
    fn anything_that_comes_in_ends_the_suspicion() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.handle_pong();
        run(&mut liveness, start, SUSPECT_AFTER);
        assert!(!liveness.is_following());
        liveness.handle_inbound(start + SUSPECT_AFTER);
        assert!(liveness.is_following());
    }
}
