//! Questions to cTrader about what a token covers, until they are answered.

use std::collections::BTreeMap;

use crate::domain::ids::SessionKey;

/// Why a token is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenCheck {
    /// Its user wants to share the stream that another user's token authorised.
    Share,
    /// cTrader cannot route requests to its account, which may belong to the other environment.
    Environment,
}

/// The checks without an answer, by ticket.
#[derive(Debug, Default)]
pub(super) struct TokenChecks {
    pending: BTreeMap<u64, (SessionKey, TokenCheck)>,
    last_ticket: u64,
}

impl TokenChecks {
    /// Records a check. Returns its ticket, which the answer carries.
    pub(super) fn begin(&mut self, key: SessionKey, check: TokenCheck) -> u64 {
        self.last_ticket += 1;
        self.pending.insert(self.last_ticket, (key, check));
        self.last_ticket
    }

    /// Ends a check. Returns whose it is and why it was made, unless it was cancelled.
    pub(super) fn end(&mut self, ticket: u64) -> Option<(SessionKey, TokenCheck)> {
        self.pending.remove(&ticket)
    }

    /// Cancels the checks of a session: their answers will be ignored.
    pub(super) fn cancel(&mut self, key: &SessionKey) {
        self.pending.retain(|_, (waiting, _)| waiting != key);
    }

    /// Cancels all checks.
    pub(super) fn cancel_all(&mut self) {
        self.pending.clear();
    }
}
