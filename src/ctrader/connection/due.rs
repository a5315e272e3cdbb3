//! What is due next, and what may be sent now. Quotes come a hundred thousand times a second and change nothing
//! of what is due, so that is worked out again only after something else came.

use std::time::Instant;

use bytes::Bytes;

use super::tally::RequestEnd;
use super::{Connection, Pending, REQUEST_DEADLINE, Transmit, has_deadline};
use crate::ctrader::frame::{self, HEARTBEAT_EVENT};
use crate::ctrader::wire::ProtoOaPayloadType as Type;

/// What is known of when something is due.
#[derive(Debug, Clone, Copy)]
pub(super) enum Due {
    /// It was worked out since it last changed; `None`: nothing is.
    Known(Option<Instant>),
    /// It is to be worked out.
    Unknown,
}

/// Whether messages of that type leave what is due as it was.
pub(super) const fn is_quiet(payload_type: u32) -> bool {
    payload_type == frame::number(Type::ProtoOaSpotEvent) || payload_type == HEARTBEAT_EVENT
}

impl Connection {
    /// When [`Connection::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        let due = match self.due.get() {
            Due::Known(due) => due,
            Due::Unknown => self.look_for_due(),
        };
        self.due.set(Due::Known(due));
        let own = [Some(self.liveness.poll_timeout()), self.throttle.next_at()];
        own.into_iter().chain([due]).flatten().min()
    }

    fn look_for_due(&self) -> Option<Instant> {
        let deadlines = self.pending.values().filter_map(|pending| pending.deadline);
        let sessions = self
            .sessions
            .values()
            .filter_map(|session| session.deadline());
        let delayed = self.delayed.iter().map(|(at, _)| *at);
        deadlines.chain(sessions).chain(delayed).min()
    }

    /// Sends what the budget allows, and signs of life where they are due, after whatever may have changed what is due.
    pub(super) fn pump(&mut self, now: Instant) {
        self.due.set(Due::Unknown);
        self.pump_queue(now);
    }

    /// The same after a message that changed nothing of that.
    pub(super) fn pump_queue(&mut self, now: Instant) {
        if self.failed {
            return;
        }
        while let Some(at) = self.delayed.iter().position(|(at, _)| *at <= now) {
            let (_, request) = self.delayed.swap_remove(at);
            self.due.set(Due::Unknown);
            self.push(request);
        }
        while let Some(request) = self.throttle.pop(now) {
            self.due.set(Due::Unknown);
            self.note_sent(&request, now);
            self.tally.ended(RequestEnd::Sent);
            let id = self.ids.allocate();
            let tag = self.ids.tag(id);
            let bytes = frame::encode(request.payload_type, request.payload.clone(), Some(tag));
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
