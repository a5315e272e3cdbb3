//! Who waits for cTrader's responses about tokens.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::ctrader::connection::{Connection, Covered, Refreshed};
use crate::ctrader::error::RequestError;

/// Tickets of [`PendingReplies`] begin here: those below are the roster's.
const FIRST_TICKET: u64 = 1 << 48;

/// One connection, and who waits for its responses about tokens.
pub(super) struct ActiveConnection {
    pub(super) connection: Connection,
    pub(super) replies: PendingReplies,
    /// A session was live on it. Before that, a server may accept the application and still drop every
    /// connection.
    pub(super) reached_live: bool,
}

impl ActiveConnection {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            replies: PendingReplies::default(),
            reached_live: false,
        }
    }
}

/// Who waits for a response about a token, by ticket.
#[derive(Debug)]
pub(super) struct PendingReplies {
    next_ticket: u64,
    refreshes: BTreeMap<u64, oneshot::Sender<Refreshed>>,
    verifications: BTreeMap<u64, oneshot::Sender<Result<Covered, RequestError>>>,
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

    /// Returns the ticket of the verification of an access token.
    pub(super) fn add_verification(
        &mut self,
        reply_to: oneshot::Sender<Result<Covered, RequestError>>,
    ) -> u64 {
        self.next_ticket += 1;
        self.verifications.insert(self.next_ticket, reply_to);
        self.next_ticket
    }

    /// Removes and returns who waits for that refresh.
    pub(super) fn take_refresh(&mut self, ticket: u64) -> Option<oneshot::Sender<Refreshed>> {
        self.refreshes.remove(&ticket)
    }

    /// Removes and returns who waits for that verification.
    pub(super) fn take_verification(
        &mut self,
        ticket: u64,
    ) -> Option<oneshot::Sender<Result<Covered, RequestError>>> {
        self.verifications.remove(&ticket)
    }

    /// Whether somebody waits for a new pair of tokens: only its response contains them.
    pub(super) fn awaits_refresh(&self) -> bool {
        !self.refreshes.is_empty()
    }
}
