//! What comes out of a connection: bytes for the socket, and what the driver is told.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::ctrader::convert::Malformed;
use crate::ctrader::error::Refusal;
use crate::domain::deal::Deal;
use crate::domain::ids::AccountId;

/// What to put on the socket.
#[derive(Debug, Clone, PartialEq)]
pub enum Transmit {
    /// A binary message.
    Message(Bytes),
    /// A WebSocket ping.
    Ping,
}

/// Why a session is over. The connection has forgotten it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// As asked for.
    #[error("logged out")]
    LoggedOut,
    /// cTrader refused something it cannot do without.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// cTrader dropped this account.
    #[error("cTrader dropped the account's session")]
    Dropped,
    /// The token that authorised it is no longer good.
    #[error("the access token was invalidated")]
    TokenInvalidated,
    /// An answer did not come.
    #[error("cTrader did not answer in time")]
    TimedOut,
    /// A message about it made no sense.
    #[error("a message made no sense: {0}")]
    Malformed(#[from] Malformed),
    /// The account was authorised on this socket by another token.
    #[error("the account was authorised by another token")]
    ForeignAuthorisation,
}

/// Why a connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The application was refused.
    #[error("the application was refused: {0}")]
    ApplicationRefused(#[source] Refusal),
    /// cTrader ended the application's session.
    #[error("cTrader ended the session")]
    Disconnected {
        /// The server's own words.
        reason: Option<String>,
    },
    /// The application's authorisation was not answered.
    #[error("cTrader did not answer the application's authorisation")]
    Unanswered,
    /// Nothing came in for too long.
    #[error("nothing came in for too long")]
    Silent,
    /// A frame was no `ProtoMessage`.
    #[error("a frame was no message")]
    Malformed,
}

/// What a connection tells its driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The application is authorised.
    Ready,
    /// The account follows the stream from now on.
    Live(AccountId),
    /// The account's session is over.
    Down(AccountId, Down),
    /// A deal was executed.
    Deal(AccountId, Box<Deal>),
    /// Whether a token covers an account (see [`Connection::verify_token`]).
    TokenVerified(u64, Result<BTreeSet<AccountId>, Refusal>),
    /// The socket is silent where it should not be (`false`), or speaks again (`true`).
    Following(bool),
    /// The connection is of no more use.
    Failed(ConnectionError),
}
