//! What a link counts for the metrics.

use super::context::LinkContext;
use super::driver::ConnectionEnd;
use crate::ctrader::connection::{Connection, ConnectionError};
use crate::ws::SocketError;

impl LinkContext {
    /// What the connection counted since the last read.
    pub(super) fn count(&self, connection: &mut Connection) {
        let stats = connection.take_stats();
        self.metrics.stream_read(stats.events());
        self.metrics.requests_ended(stats.requests());
        self.status.set_queued(connection.queued());
    }

    /// Why a connection is over; `None`: it never began.
    pub(super) fn count_end(&self, end: Option<&ConnectionEnd>) {
        self.status.set_queued(0);
        let reason = match end {
            None => "unreachable",
            Some(ConnectionEnd::Socket(SocketError::Closed { .. })) => "closed",
            Some(ConnectionEnd::Socket(SocketError::Broken(_))) => "broken",
            Some(ConnectionEnd::Socket(SocketError::Stuck)) => "stuck",
            Some(ConnectionEnd::Failed(ConnectionError::ApplicationRefused(_))) => "refused",
            Some(ConnectionEnd::Failed(ConnectionError::Disconnected { .. })) => "disconnected",
            Some(ConnectionEnd::Failed(ConnectionError::Unanswered)) => "unanswered",
            Some(ConnectionEnd::Failed(ConnectionError::Silent)) => "silent",
            Some(ConnectionEnd::Failed(ConnectionError::Malformed)) => "malformed",
            Some(ConnectionEnd::PermitLost) => "unpermitted",
            // As it was meant to.
            Some(ConnectionEnd::Idle | ConnectionEnd::Drained(_)) => return,
        };
        self.metrics.reconnects(self.name, reason);
    }
}
