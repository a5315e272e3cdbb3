//! One socket's worth of the protocol: application authorisation, correlation, heartbeats, the
//! inbound watchdog, request deadlines, and the sessions of many accounts. No I/O, no clock.
//!
//! Drive it like this, one mutation at a time and a full drain after each:
//! - in: [`Connection::handle_message`], [`Connection::handle_pong`], [`Connection::handle_timeout`],
//!   [`Connection::open`], [`Connection::close`], [`Connection::fetch_history`],
//!   [`Connection::renew_token`], [`Connection::verify_token`], [`Connection::refresh_token`];
//! - out: [`Connection::poll_transmit`], [`Connection::poll_event`], then wait until
//!   [`Connection::poll_timeout`].
//!
//! Time must not go backwards. After [`Event::Failed`] nothing more comes out: the socket is to be
//! dropped, since nothing of it (authorisations, subscriptions, quotes) survives.

mod checks;
mod errors;
mod event;
mod lifecycle;
mod receive;
mod rows;
mod schedule;
mod sessions;
mod state;
mod stats;
mod tokens;

use std::time::Instant;

use bytes::Bytes;

pub use event::{ConnectionError, Covered, Down, Event, Refreshed, TokenPair, Transmit};
pub use state::{Connection, ConnectionConfig};
pub use stats::Tally;

use super::frame::{self, SPOT_EVENT};
pub use super::session::{Audit, HistoryReport};

impl Connection {
    // ── what comes in ────────────────────────────────────────────────────────────────────────

    /// Takes in one message of the socket.
    pub fn handle_message(&mut self, bytes: Bytes, now: Instant) {
        if self.failed {
            return;
        }
        self.heard(now);
        match frame::decode(bytes) {
            Ok(frame) => {
                self.handle_frame(&frame, now);
                // A quote asks for nothing, and comes too often to look each time at what else is due:
                // that has its time out.
                if frame.payload_type == SPOT_EVENT && self.throttle.is_empty() {
                    return;
                }
            }
            Err(_) => self.fail(ConnectionError::Malformed),
        }
        self.pump(now);
    }

    /// Takes in a sign of life below the protocol that is no pong.
    pub fn handle_other(&mut self, now: Instant) {
        self.heard(now);
    }

    /// Takes in a pong.
    pub fn handle_pong(&mut self, now: Instant) {
        self.liveness.handle_pong();
        self.heard(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.failed {
            return;
        }
        let overdue: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, p)| p.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            if let Some(pending) = self.pending.remove(&id) {
                self.handle_unanswered(pending.request, now);
            }
        }
        let was_following = self.liveness.is_following();
        if self.liveness.handle_timeout(now).is_err() {
            self.fail(ConnectionError::Silent);
            return;
        }
        if was_following && !self.liveness.is_following() {
            self.events.push_back(Event::Following(false));
        }
        for account in self.sessions.due(now) {
            self.handle_session_timeout(account, now);
        }
        self.pump(now);
    }

    // ── what goes out ────────────────────────────────────────────────────────────────────────

    /// The next thing to put on the socket.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Whether something happened that was not told yet.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the application is authorised and the socket is not suspiciously silent.
    #[must_use]
    pub fn is_following(&self) -> bool {
        self.ready && !self.failed && self.liveness.is_following()
    }

    /// How many requests wait for their turn.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.throttle.len()
    }

    /// What was counted since the last time.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }
}
