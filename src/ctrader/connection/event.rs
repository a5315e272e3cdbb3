//! What comes out of a connection: bytes for the socket, and events for the driver.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ctrader::convert::Malformed;
use crate::ctrader::error::{Refusal, RequestError};
use crate::ctrader::session::{Audit, HistoryReport};
use crate::domain::deal::{Deal, Source};
use crate::domain::ids::AccountId;
use crate::domain::secret::Secret;

/// What to write to the socket.
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
    /// A response did not come.
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
        /// The server's own text.
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

/// A new pair of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// Opens the accounts of the grant.
    pub access: Secret,
    /// Gets the next pair, once.
    pub refresh: Secret,
    /// Seconds until the access token ends.
    pub expires_in_secs: i64,
}

/// What became of a refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// It was spent for this pair.
    Pair(TokenPair),
    /// cTrader refused it.
    Refused(Refusal),
    /// It was spent, and the response cannot be read.
    Unreadable,
    /// The connection ended before the request left: the token is as good as before.
    Unsent,
    /// The connection ended before the response came: whether the token is spent is unknown.
    Lost,
}

/// The accounts that a token covers, and whether each is a live one, as far as cTrader reports it.
pub type Covered = BTreeMap<AccountId, Option<bool>>;

/// What a connection reports to its driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The application is authorised.
    Ready,
    /// The account follows the stream from now on.
    Live(AccountId),
    /// The account's session is over.
    Down(AccountId, Down),
    /// An event of the account was lost: it follows nothing until it is live again.
    GapDetected(AccountId),
    /// A deal was executed.
    Deal(AccountId, Source, Box<Deal>),
    /// A later snapshot has other positions than the events made: there are deals that no event reported.
    SnapshotDiverged(AccountId),
    /// A fetch of the history is over (see [`super::Connection::fetch_history`]).
    History(AccountId, HistoryReport),
    /// The server's P&L was compared with ours.
    Audited(AccountId, Audit),
    /// What a token covers (see [`super::Connection::verify_token`]).
    TokenVerified(u64, Result<Covered, RequestError>),
    /// What became of a refresh token (see [`super::Connection::refresh_token`]).
    TokenRefreshed(u64, Refreshed),
    /// The socket is silent where it should not be (`false`), or is heard again (`true`).
    Following(bool),
    /// The connection is of no more use.
    Failed(ConnectionError),
}
