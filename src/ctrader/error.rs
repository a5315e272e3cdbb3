//! What cTrader's error codes mean for a session.
//!
//! A code is a string with an enum's name, from either of two enums or from none: it is classified
//! by its text in `TABLE`, and an unknown code backs off.

use std::time::Duration;

/// What a user may read about an account that their token does not cover.
pub const NOT_COVERED: &str =
    "the authorisation does not cover this account: connect cTrader again";

/// What to do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// What was asked for is already so.
    Success,
    /// Ask again soon, once: something was busy for a moment.
    RetrySoon,
    /// Ask again with growing pauses.
    BackOff,
    /// The same, and the pauses are minutes: asking sooner makes it worse.
    BackOffLong,
    /// The application must authorise itself again, on a new connection.
    ReauthoriseApplication,
    /// The account must be authorised again.
    ReauthoriseAccount,
    /// The token must be refreshed, then the account authorised again.
    RefreshToken,
    /// Nothing helps until the account or its grant changes.
    GiveUp,
    /// The application itself is refused: stop for all accounts, and tell an operator.
    StopApplication,
    /// We asked something wrong: asking again won't help.
    CallerError,
    /// A trading request was refused; the account's state is what it was.
    TradingRefused,
}

/// A refusal by cTrader (`ProtoErrorRes` or `ProtoOAErrorRes`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cTrader refused: {code}")]
pub struct Refusal {
    /// The error code's name.
    pub code: String,
    /// The server's own text; for the log at debug level only.
    pub description: Option<String>,
    /// The payload type is blocked for that long.
    pub retry_after: Option<Duration>,
    /// End of a maintenance, milliseconds since the epoch.
    pub maintenance_end_ms: Option<i64>,
}

impl Refusal {
    /// A refusal that has only a code.
    #[must_use]
    pub fn with_code(code: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            description: None,
            retry_after: None,
            maintenance_end_ms: None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        let unauthorised = self.code == "INVALID_REQUEST"
            && self
                .description
                .as_deref()
                .is_some_and(|text| text.to_ascii_lowercase().contains("not authorized"));
        if unauthorised {
            Disposition::ReauthoriseAccount
        } else {
            disposition(&self.code)
        }
    }

    /// What a user may read about it.
    #[must_use]
    pub fn for_user(&self) -> String {
        match self.code.as_str() {
            "OA_AUTH_TOKEN_EXPIRED" => {
                "the cTrader authorisation has expired: connect cTrader again".to_owned()
            }
            "CH_ACCESS_TOKEN_INVALID" => {
                "cTrader no longer accepts the authorisation: connect cTrader again".to_owned()
            }
            "ACCOUNT_NOT_AUTHORIZED" | "RET_NO_SUCH_LOGIN" | "CH_CTID_TRADER_ACCOUNT_NOT_FOUND" => {
                NOT_COVERED.to_owned()
            }
            "RET_ACCOUNT_DISABLED" | "CHANNEL_IS_BLOCKED" => {
                "the account is disabled at the broker".to_owned()
            }
            "CANT_ROUTE_REQUEST" | "CH_SERVER_NOT_REACHABLE" => {
                "the broker's server cannot be reached".to_owned()
            }
            "CONNECTIONS_LIMIT_EXCEEDED" => {
                "cTrader takes no more connections at the moment".to_owned()
            }
            "SERVER_IS_UNDER_MAINTENANCE" => "cTrader is under maintenance".to_owned(),
            "CH_CLIENT_AUTH_FAILURE" | "CH_OA_CLIENT_NOT_FOUND" => {
                "cTrader refuses this application: its operator has been told".to_owned()
            }
            code => format!("cTrader refused: {code}"),
        }
    }
}

/// Why a request got no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// cTrader refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A response came that cannot be read.
    #[error("cTrader refused: UNREADABLE_ANSWER")]
    Unreadable,
    /// No response came in time.
    #[error("cTrader refused: TIMEOUT_ERROR")]
    NoAnswer,
}

impl RequestError {
    /// What to do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Refused(refusal) => refusal.disposition(),
            Self::Unreadable => Disposition::BackOff,
            Self::NoAnswer => Disposition::RetrySoon,
        }
    }

    /// What a user may read about it.
    #[must_use]
    pub fn for_user(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.for_user(),
            Self::Unreadable | Self::NoAnswer => self.to_string(),
        }
    }

    /// Whether cTrader refused with one of these codes.
    #[must_use]
    pub fn has_code(&self, codes: &[&str]) -> bool {
        matches!(self, Self::Refused(refusal) if codes.contains(&refusal.code.as_str()))
    }
}

/// What each code means. Every code of the schema stands here, and those that were met without one.
const TABLE: &[(&str, Disposition)] = &[
    // ProtoErrorCode
    ("UNKNOWN_ERROR", Disposition::BackOff),
    ("UNSUPPORTED_MESSAGE", Disposition::CallerError),
    // But see `Refusal::disposition`.
    ("INVALID_REQUEST", Disposition::CallerError),
    ("WRONG_PASSWORD", Disposition::GiveUp),
    ("TIMEOUT_ERROR", Disposition::RetrySoon),
    ("ENTITY_NOT_FOUND", Disposition::CallerError),
    // Also what an account gets at the other environment's host, which its grant tells.
    ("CANT_ROUTE_REQUEST", Disposition::BackOff),
    ("FRAME_TOO_LONG", Disposition::CallerError),
    ("MARKET_CLOSED", Disposition::TradingRefused),
    ("CONCURRENT_MODIFICATION", Disposition::RetrySoon),
    // This payload type alone waits: see `Connection::handle_error`.
    ("BLOCKED_PAYLOAD_TYPE", Disposition::BackOff),
    // ProtoOAErrorCode
    ("OA_AUTH_TOKEN_EXPIRED", Disposition::RefreshToken),
    ("ACCOUNT_NOT_AUTHORIZED", Disposition::ReauthoriseAccount),
    ("RET_NO_SUCH_LOGIN", Disposition::GiveUp),
    ("ALREADY_LOGGED_IN", Disposition::Success),
    ("INCORRECT_BOUNDARIES", Disposition::CallerError),
    ("RET_ACCOUNT_DISABLED", Disposition::GiveUp),
    ("CONNECTIONS_LIMIT_EXCEEDED", Disposition::BackOffLong),
    ("WORSE_GSL_NOT_ALLOWED", Disposition::TradingRefused),
    ("SYMBOL_HAS_HOLIDAY", Disposition::TradingRefused),
    ("CH_CLIENT_AUTH_FAILURE", Disposition::StopApplication),
    (
        "CH_CLIENT_NOT_AUTHENTICATED",
        Disposition::ReauthoriseApplication,
    ),
    ("CH_CLIENT_ALREADY_AUTHENTICATED", Disposition::Success),
    ("CH_ACCESS_TOKEN_INVALID", Disposition::RefreshToken),
    ("CH_SERVER_NOT_REACHABLE", Disposition::BackOff),
    ("CH_CTID_TRADER_ACCOUNT_NOT_FOUND", Disposition::GiveUp),
    ("CH_OA_CLIENT_NOT_FOUND", Disposition::StopApplication),
    ("REQUEST_FREQUENCY_EXCEEDED", Disposition::BackOff),
    ("SERVER_IS_UNDER_MAINTENANCE", Disposition::BackOff),
    ("CHANNEL_IS_BLOCKED", Disposition::BackOffLong),
    ("NOT_SUBSCRIBED_TO_SPOTS", Disposition::CallerError),
    ("ALREADY_SUBSCRIBED", Disposition::Success),
    ("SYMBOL_NOT_FOUND", Disposition::CallerError),
    ("UNKNOWN_SYMBOL", Disposition::CallerError),
    ("NO_QUOTES", Disposition::TradingRefused),
    ("NOT_ENOUGH_MONEY", Disposition::TradingRefused),
    ("MAX_EXPOSURE_REACHED", Disposition::TradingRefused),
    ("POSITION_NOT_FOUND", Disposition::TradingRefused),
    ("ORDER_NOT_FOUND", Disposition::TradingRefused),
    ("POSITION_NOT_OPEN", Disposition::TradingRefused),
    ("POSITION_LOCKED", Disposition::RetrySoon),
    ("TOO_MANY_POSITIONS", Disposition::TradingRefused),
    ("TRADING_BAD_VOLUME", Disposition::CallerError),
    ("TRADING_BAD_STOPS", Disposition::CallerError),
    ("TRADING_BAD_PRICES", Disposition::CallerError),
    ("TRADING_BAD_STAKE", Disposition::CallerError),
    (
        "PROTECTION_IS_TOO_CLOSE_TO_MARKET",
        Disposition::CallerError,
    ),
    ("TRADING_BAD_EXPIRATION_DATE", Disposition::CallerError),
    ("PENDING_EXECUTION", Disposition::RetrySoon),
    ("TRADING_DISABLED", Disposition::TradingRefused),
    ("TRADING_NOT_ALLOWED", Disposition::TradingRefused),
    ("UNABLE_TO_CANCEL_ORDER", Disposition::TradingRefused),
    ("UNABLE_TO_AMEND_ORDER", Disposition::TradingRefused),
    ("SHORT_SELLING_NOT_ALLOWED", Disposition::TradingRefused),
    ("NOT_SUBSCRIBED_TO_PNL", Disposition::CallerError),
    // In no enum.
    (
        "POSITION_NOT_FOUND_OR_NOT_OPENED",
        Disposition::TradingRefused,
    ),
    ("ALREADY_CLOSED", Disposition::TradingRefused),
    (
        "NO_ENOUGH_MONEY_TO_OPEN_POSITION",
        Disposition::TradingRefused,
    ),
    ("ACCESS_DENIED", Disposition::RefreshToken),
];

/// Classifies a code.
#[must_use]
pub fn disposition(code: &str) -> Disposition {
    TABLE
        .iter()
        .find(|(known, _)| *known == code)
        .map_or(Disposition::BackOff, |(_, disposition)| *disposition)
}

#[cfg(test)]
mod tests;
