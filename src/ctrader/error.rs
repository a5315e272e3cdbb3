//! What cTrader's error codes mean for a session.
//!
//! A code is a string with an enum's name, from either of two enums or from none: it is classified
//! by its text, and what is not known backs off.

use std::time::Duration;

/// What to do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// What was asked for is already so.
    Success,
    /// Ask again soon: it was in somebody's way for a moment.
    RetrySoon,
    /// Ask again with growing pauses.
    BackOff,
    /// The application must authorise itself again, on a new connection.
    ReauthoriseApplication,
    /// The account must be authorised again.
    ReauthoriseAccount,
    /// The token must be refreshed, then the account authorised again.
    RefreshToken,
    /// Nothing helps until the account or its grant changes.
    GiveUp,
    /// The application itself is refused: stop trying for all accounts, and tell an operator.
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
    /// The server's own words; for the log at debug level only.
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
                "the authorisation does not cover this account: connect cTrader again".to_owned()
            }
            "RET_ACCOUNT_DISABLED" | "CHANNEL_IS_BLOCKED" => {
                "the account is disabled at the broker".to_owned()
            }
            "CANT_ROUTE_REQUEST" | "CH_SERVER_NOT_REACHABLE" => {
                "the broker's server cannot be reached".to_owned()
            }
            "SERVER_IS_UNDER_MAINTENANCE" => "cTrader is under maintenance".to_owned(),
            "CH_CLIENT_AUTH_FAILURE" | "CH_OA_CLIENT_NOT_FOUND" => {
                "cTrader refuses this application: its operator has been told".to_owned()
            }
            code => format!("cTrader refused: {code}"),
        }
    }
}

/// Classifies a code.
#[must_use]
pub fn disposition(code: &str) -> Disposition {
    match code {
        "ALREADY_LOGGED_IN" | "CH_CLIENT_ALREADY_AUTHENTICATED" | "ALREADY_SUBSCRIBED" => {
            Disposition::Success
        }
        "CONCURRENT_MODIFICATION" | "POSITION_LOCKED" | "PENDING_EXECUTION" => {
            Disposition::RetrySoon
        }
        "CH_CLIENT_NOT_AUTHENTICATED" => Disposition::ReauthoriseApplication,
        "CH_CLIENT_AUTH_FAILURE" | "CH_OA_CLIENT_NOT_FOUND" => Disposition::StopApplication,
        "ACCOUNT_NOT_AUTHORIZED" => Disposition::ReauthoriseAccount,
        "OA_AUTH_TOKEN_EXPIRED" | "CH_ACCESS_TOKEN_INVALID" => Disposition::RefreshToken,
        "RET_NO_SUCH_LOGIN"
        | "RET_ACCOUNT_DISABLED"
        | "CH_CTID_TRADER_ACCOUNT_NOT_FOUND"
        | "WRONG_PASSWORD" => Disposition::GiveUp,
        "UNSUPPORTED_MESSAGE"
        | "INVALID_REQUEST"
        | "ENTITY_NOT_FOUND"
        | "FRAME_TOO_LONG"
        | "INCORRECT_BOUNDARIES"
        | "NOT_SUBSCRIBED_TO_SPOTS"
        | "SYMBOL_NOT_FOUND"
        | "UNKNOWN_SYMBOL"
        | "TRADING_BAD_VOLUME"
        | "TRADING_BAD_STOPS"
        | "TRADING_BAD_PRICES"
        | "TRADING_BAD_STAKE"
        | "PROTECTION_IS_TOO_CLOSE_TO_MARKET"
        | "TRADING_BAD_EXPIRATION_DATE" => Disposition::CallerError,
        "MARKET_CLOSED"
        | "WORSE_GSL_NOT_ALLOWED"
        | "SYMBOL_HAS_HOLIDAY"
        | "NO_QUOTES"
        | "NOT_ENOUGH_MONEY"
        | "MAX_EXPOSURE_REACHED"
        | "POSITION_NOT_FOUND"
        | "ORDER_NOT_FOUND"
        | "POSITION_NOT_OPEN"
        | "TOO_MANY_POSITIONS"
        | "TRADING_DISABLED"
        | "TRADING_NOT_ALLOWED"
        | "UNABLE_TO_CANCEL_ORDER"
        | "UNABLE_TO_AMEND_ORDER"
        | "SHORT_SELLING_NOT_ALLOWED" => Disposition::TradingRefused,
        // UNKNOWN_ERROR, TIMEOUT_ERROR, CANT_ROUTE_REQUEST, BLOCKED_PAYLOAD_TYPE,
        // CONNECTIONS_LIMIT_EXCEEDED, CH_SERVER_NOT_REACHABLE, REQUEST_FREQUENCY_EXCEEDED,
        // SERVER_IS_UNDER_MAINTENANCE, CHANNEL_IS_BLOCKED, and what nobody has listed.
        _ => Disposition::BackOff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctrader::wire::{ProtoErrorCode, ProtoOaErrorCode};

    #[test]
    fn a_request_for_an_unauthorised_account_is_known_by_code_or_by_words() {
        let mut refusal = Refusal::with_code("INVALID_REQUEST");
        assert_eq!(refusal.disposition(), Disposition::CallerError);
        refusal.description = Some("Trading account is not authorized".to_owned());
        assert_eq!(refusal.disposition(), Disposition::ReauthoriseAccount);
        assert_eq!(
            disposition("ACCOUNT_NOT_AUTHORIZED"),
            Disposition::ReauthoriseAccount
        );
    }

    #[test]
    fn only_these_codes_of_the_schema_back_off() {
        let codes = (0..1_000)
            .filter_map(|n| ProtoErrorCode::try_from(n).ok())
            .map(|c| c.as_str_name());
        let oa = (0..1_000)
            .filter_map(|n| ProtoOaErrorCode::try_from(n).ok())
            .map(|c| c.as_str_name());
        let mut backing_off: Vec<_> = codes
            .chain(oa)
            .filter(|code| disposition(code) == Disposition::BackOff)
            .collect();
        backing_off.sort_unstable();
        assert_eq!(
            backing_off,
            [
                "BLOCKED_PAYLOAD_TYPE",
                "CANT_ROUTE_REQUEST",
                "CHANNEL_IS_BLOCKED",
                "CH_SERVER_NOT_REACHABLE",
                "CONNECTIONS_LIMIT_EXCEEDED",
                "REQUEST_FREQUENCY_EXCEEDED",
                "SERVER_IS_UNDER_MAINTENANCE",
                "TIMEOUT_ERROR",
                "UNKNOWN_ERROR",
            ]
        );
        assert_eq!(disposition("SOMETHING_NEW"), Disposition::BackOff);
    }
}
