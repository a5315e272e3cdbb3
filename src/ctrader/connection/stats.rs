//! What a connection counts: plain integers, taken away by the driver once a read.

use crate::ctrader::wire::ProtoOaPayloadType as Type;

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestEnd {
    Sent,
    Answered,
    Refused,
    Unanswered,
}

/// Counts since they were taken last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    events: [u64; Tally::EVENTS.len()],
    requests: [u64; Tally::REQUESTS.len()],
}

impl Tally {
    /// Kinds of messages that answer nothing, by the names that the metrics have.
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

    /// What becomes of requests, likewise.
    pub const REQUESTS: [&str; 4] = ["sent", "answered", "refused", "unanswered"];

    /// Messages that answer nothing, by kind; those that came.
    pub fn events(&self) -> impl Iterator<Item = (&'static str, u64)> {
        some(Self::EVENTS, self.events)
    }

    /// Requests, by what became of them; those with any.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        some(Self::REQUESTS, self.requests)
    }

    pub(super) fn pushed(&mut self, kind: Option<Type>) {
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

    pub(super) fn ended(&mut self, end: RequestEnd) {
        if let Some(count) = self.requests.get_mut(end as usize) {
            *count += 1;
        }
    }
}

fn some<const N: usize>(
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
    fn only_what_happened_is_told() {
        let mut tally = Tally::default();
        tally.pushed(Some(Type::ProtoOaSpotEvent));
        tally.pushed(Some(Type::ProtoOaSpotEvent));
        tally.pushed(None);
        tally.ended(RequestEnd::Refused);
        assert_eq!(
            tally.events().collect::<Vec<_>>(),
            [("spot", 2), ("other", 1)]
        );
        assert_eq!(tally.requests().collect::<Vec<_>>(), [("refused", 1)]);
    }
}
