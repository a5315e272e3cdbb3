//! What a link counts for the metrics.

use super::context::LinkContext;
use super::driver::End;
use crate::ctrader::connection::{Connection, ConnectionError};
use crate::ws::SocketError;

impl LinkContext {
    /// What the connection counted since the last read.
    pub(super) fn count(&self, connection: &mut Connection) {
        let tally = connection.take_tally();
        self.metrics.stream_read(tally.events());
        self.metrics.requests_ended(tally.requests());
        self.status.set_queued(connection.queued());
    }

    /// Why a connection is over; `None`: it never began.
    pub(super) fn count_end(&self, end: Option<&End>) {
        self.status.set_queued(0);
        let reason = match end {
            None => "unreachable",
            Some(End::Socket(SocketError::Closed { .. })) => "closed",
            Some(End::Socket(SocketError::Broken(_))) => "broken",
            Some(End::Socket(SocketError::Stuck)) => "stuck",
            Some(End::Failed(ConnectionError::ApplicationRefused(_))) => "refused",
            Some(End::Failed(ConnectionError::Disconnected { .. })) => "disconnected",
            Some(End::Failed(ConnectionError::Unanswered)) => "unanswered",
            Some(End::Failed(ConnectionError::Silent)) => "silent",
            Some(End::Failed(ConnectionError::Malformed)) => "malformed",
            Some(End::PermitLost) => "unpermitted",
            // As it was meant to.
            Some(End::Idle | End::Drained(_)) => return,
        };
        self.metrics.reconnects(self.name, reason);
    }
}
