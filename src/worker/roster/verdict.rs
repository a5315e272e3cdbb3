//! What the end of a session means: for when to try again, and for the user.

use crate::ctrader::connection::Down;
use crate::ctrader::error::Disposition;

/// Whether trying again soon is of no use: somebody has to do something first.
pub(super) fn needs_help(down: &Down) -> bool {
    match down {
        Down::Refused(refusal) => match refusal.disposition() {
            Disposition::GiveUp
            | Disposition::RefreshToken
            | Disposition::ReauthoriseAccount
            | Disposition::StopApplication => true,
            Disposition::Success
            | Disposition::RetrySoon
            | Disposition::BackOff
            | Disposition::ReauthoriseApplication
            | Disposition::CallerError
            | Disposition::TradingRefused => false,
        },
        Down::LoggedOut
        | Down::Dropped
        | Down::TokenInvalidated
        | Down::TimedOut
        | Down::Malformed(_)
        | Down::ForeignAuthorisation => false,
    }
}

/// What a user may read about it.
pub(super) fn for_user(down: &Down) -> String {
    match down {
        Down::Refused(refusal) => refusal.for_user(),
        Down::LoggedOut => "the session was closed".to_owned(),
        Down::Dropped => "cTrader dropped the session".to_owned(),
        Down::TokenInvalidated => "cTrader invalidated the authorisation".to_owned(),
        Down::TimedOut => "cTrader did not answer in time".to_owned(),
        Down::Malformed(_) => "cTrader sent something unreadable".to_owned(),
        Down::ForeignAuthorisation => "the account is in use by another authorisation".to_owned(),
    }
}
