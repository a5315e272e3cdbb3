//! What a connection counts: plain integers, which the driver takes after each read of the socket.

use crate::ctrader::wire::ProtoOaPayloadType as Type;

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestOutcome {
    Sent,
    Answered,
    Refused,
    Unanswered,
}

/// Counts since they were taken last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    events: [u64; ConnectionStats::EVENTS.len()],
    requests: [u64; ConnectionStats::REQUESTS.len()],
}

impl ConnectionStats {
    /// Kinds of unsolicited messages, by their names in the metrics.
    pub const EVENTS: [&str; 10] = [
        "spot",
        "execution",
        "trader",
        "margin",
        "trailing_stop",
        "symbol",
        "account_disconnect",
        "token_invalidated",
        "client_disconnect",
        "other",
    ];

    /// What becomes of requests, by the names in the metrics.
    pub const REQUESTS: [&str; 4] = ["sent", "answered", "refused", "unanswered"];

    /// How many unsolicited messages of each kind came; kinds with none are left out.
    pub fn events(&self) -> impl Iterator<Item = (&'static str, u64)> {
        nonzero(Self::EVENTS, self.events)
    }

    /// How many requests had each outcome; outcomes with none are left out.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        nonzero(Self::REQUESTS, self.requests)
    }

    pub(super) fn count_event(&mut self, kind: Option<Type>) {
        let at = match kind {
            Some(Type::ProtoOaSpotEvent) => 0,
            Some(Type::ProtoOaExecutionEvent) => 1,
            Some(Type::ProtoOaTraderUpdateEvent) => 2,
            Some(Type::ProtoOaMarginChangedEvent) => 3,
            Some(Type::ProtoOaTrailingSlChangedEvent) => 4,
            Some(Type::ProtoOaSymbolChangedEvent) => 5,
            Some(Type::ProtoOaAccountDisconnectEvent) => 6,
            Some(Type::ProtoOaAccountsTokenInvalidatedEvent) => 7,
            Some(Type::ProtoOaClientDisconnectEvent) => 8,
            _ => 9,
        };
        if let Some(count) = self.events.get_mut(at) {
            *count += 1;
        }
    }

    pub(super) fn count_request(&mut self, outcome: RequestOutcome) {
        if let Some(count) = self.requests.get_mut(outcome as usize) {
            *count += 1;
        }
    }
}

fn nonzero<const N: usize>(
    names: [&'static str; N],
    counts: [u64; N],
) -> impl Iterator<Item = (&'static str, u64)> {
    names
        .into_iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_without_a_count_are_left_out() {
        let mut stats = ConnectionStats::default();
        stats.count_event(Some(Type::ProtoOaSpotEvent));
        stats.count_event(Some(Type::ProtoOaSpotEvent));
        stats.count_event(None);
        stats.count_request(RequestOutcome::Refused);
        assert_eq!(
            stats.events().collect::<Vec<_>>(),
            [("spot", 2), ("other", 1)]
        );
        assert_eq!(stats.requests().collect::<Vec<_>>(), [("refused", 1)]);
    }
}
