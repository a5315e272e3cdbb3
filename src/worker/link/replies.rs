//! Who waits for what cTrader answers about tokens.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::ctrader::connection::{Connection, Covered, Refreshed};
use crate::ctrader::error::Refusal;

/// Tickets of [`PendingReplies`] begin here: those below are the roster's.
const FIRST_TICKET: u64 = 1 << 48;

/// One connection, and who waits for its answers about tokens.
pub(super) struct Exchange {
    pub(super) connection: Connection,
    pub(super) replies: PendingReplies,
    /// A session was live on it. Before that, a server may accept the application and still drop every
    /// connection.
    pub(super) reached_live: bool,
}

impl Exchange {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            replies: PendingReplies::default(),
            reached_live: false,
        }
    }
}

/// Who waits for what is asked about tokens, by ticket.
#[derive(Debug)]
pub(super) struct PendingReplies {
    next_ticket: u64,
    refreshes: BTreeMap<u64, oneshot::Sender<Refreshed>>,
    verifications: BTreeMap<u64, oneshot::Sender<Result<Covered, Refusal>>>,
}

impl Default for PendingReplies {
    fn default() -> Self {
        Self {
            next_ticket: FIRST_TICKET,
            refreshes: BTreeMap::new(),
            verifications: BTreeMap::new(),
        }
    }
}

impl PendingReplies {
    /// Returns the ticket of a refresh token that is about to be spent.
    pub(super) fn add_refresh(&mut self, reply_to: oneshot::Sender<Refreshed>) -> u64 {
        self.next_ticket += 1;
        self.refreshes.insert(self.next_ticket, reply_to);
        self.next_ticket
    }

    /// Returns the ticket of a question about an access token.
    pub(super) fn add_verification(
        &mut self,
        reply_to: oneshot::Sender<Result<Covered, Refusal>>,
    ) -> u64 {
        self.next_ticket += 1;
        self.verifications.insert(self.next_ticket, reply_to);
        self.next_ticket
    }

    /// Takes who waits for that refresh.
    pub(super) fn take_refresh(&mut self, ticket: u64) -> Option<oneshot::Sender<Refreshed>> {
        self.refreshes.remove(&ticket)
    }

    /// Takes who waits for that verification.
    pub(super) fn take_verification(
        &mut self,
        ticket: u64,
    ) -> Option<oneshot::Sender<Result<Covered, Refusal>>> {
        self.verifications.remove(&ticket)
    }

    /// Whether somebody waits for a new pair of tokens: its answer is the only word of it.
    pub(super) fn awaits_refresh(&self) -> bool {
        !self.refreshes.is_empty()
    }
}
