//! What is due next, and what may be sent now.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::event::Transmit;
use super::state::{Connection, Pending};
use super::stats::RequestOutcome;
use crate::ctrader::frame::{self, HEARTBEAT_EVENT};
use crate::ctrader::request::{Purpose, Request};

/// How long a response may take, from the moment its request is sent.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

impl Connection {
    /// When [`Connection::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        // Their ids rise with the time at which they were sent.
        let unanswered = self.pending.values().find_map(|pending| pending.deadline);
        let delayed = self.delayed.iter().map(|(at, _)| *at).min();
        let others = [unanswered, delayed, self.sessions.next_due()];
        let own = [Some(self.liveness.poll_timeout()), self.throttle.next_at()];
        own.into_iter().chain(others).flatten().min()
    }

    /// Sends what the budget allows, and signs of life where they are due.
    pub(super) fn send_ready(&mut self, now: Instant) {
        if self.failed {
            return;
        }
        while let Some(at) = self.delayed.iter().position(|(at, _)| *at <= now) {
            let (_, request) = self.delayed.swap_remove(at);
            self.push(request);
        }
        while let Some(request) = self.throttle.pop(now) {
            self.note_sent(&request, now);
            self.stats.count_request(RequestOutcome::Sent);
            let id = self.ids.allocate();
            let tag = self.ids.tag(id);
            let bytes = frame::encode(
                request.class.payload_type,
                request.payload.clone(),
                Some(tag),
            );
            self.transmits.push_back(Transmit::Message(bytes));
            self.liveness.handle_outbound(now);
            self.pending.insert(
                id,
                Pending {
                    deadline: has_deadline(&request).then(|| now + REQUEST_DEADLINE),
                    request,
                },
            );
        }
        if self.liveness.heartbeat_due(now) {
            let heartbeat = frame::encode(HEARTBEAT_EVENT, Bytes::new(), None);
            self.transmits.push_back(Transmit::Message(heartbeat));
            self.liveness.handle_outbound(now);
        }
        if self.liveness.ping_due(now) {
            self.transmits.push_back(Transmit::Ping);
        }
    }
}

/// The response to a refresh token counts however late it comes: nothing else has the new pair.
const fn has_deadline(request: &Request) -> bool {
    !matches!(request.purpose, Purpose::Refresh { .. })
}
