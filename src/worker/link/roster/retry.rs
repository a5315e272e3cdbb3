//! What the end of a session means: for when to try again, and for the user.

use std::time::Duration;

use crate::ctrader::connection::Down;
use crate::ctrader::error::{Disposition, Refusal};

/// The shortest pause where asking sooner makes it worse.
const LONG_PAUSE: Duration = Duration::from_mins(2);

/// A new token is there sooner, or it takes longer than that and the old one is tried again.
const RENEWAL_PAUSE: Duration = Duration::from_secs(20);

/// No maintenance is believed to take longer.
const MAINTENANCE_MAX: Duration = Duration::from_hours(24);

/// What helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Remedy {
    /// Trying again, with growing pauses.
    Soon,
    /// The same, but no sooner than after that.
    NotBefore(Duration),
    /// Somebody has to do something first.
    Help,
    /// Another token.
    Renew,
    /// Trying again, if the account is not one of the other environment.
    Route,
}

impl Remedy {
    /// The shortest pause before the next try.
    pub(super) const fn pause_min(self) -> Duration {
        match self {
            Self::NotBefore(pause) => pause,
            Self::Renew => RENEWAL_PAUSE,
            Self::Soon | Self::Help | Self::Route => Duration::ZERO,
        }
    }
}

/// What helps a session that is down, at a time of the wall clock.
pub(super) fn remedy(down: &Down, wall_ms: i64) -> Remedy {
    match down {
        Down::Refused(refusal) => remedy_of(refusal, wall_ms),
        Down::LoggedOut
        | Down::Dropped
        | Down::TokenInvalidated
        | Down::TimedOut
        | Down::Malformed(_)
        | Down::ForeignAuthorisation => Remedy::Soon,
    }
}

/// What helps against a refusal.
pub(in crate::worker) fn remedy_of(refusal: &Refusal, wall_ms: i64) -> Remedy {
    let left_ms = refusal.maintenance_end_ms.map_or(0, |end| end - wall_ms);
    if let Some(left_ms) = u64::try_from(left_ms).ok().filter(|left| *left > 0) {
        return Remedy::NotBefore(Duration::from_millis(left_ms).min(MAINTENANCE_MAX));
    }
    if refusal.code == "CANT_ROUTE_REQUEST" {
        return Remedy::Route;
    }
    match refusal.disposition() {
        Disposition::GiveUp | Disposition::ReauthoriseAccount | Disposition::StopApplication => {
            Remedy::Help
        }
        Disposition::RefreshToken => Remedy::Renew,
        Disposition::BackOffLong => Remedy::NotBefore(LONG_PAUSE),
        Disposition::Success
        | Disposition::RetrySoon
        | Disposition::BackOff
        | Disposition::ReauthoriseApplication
        | Disposition::CallerError
        | Disposition::TradingRefused => Remedy::Soon,
    }
}

/// What a user may read about it.
pub(super) fn for_user(down: &Down) -> String {
    match down {
        Down::Refused(refusal) if refusal.disposition() == Disposition::RefreshToken => {
            "the cTrader authorisation is being renewed".to_owned()
        }
        Down::Refused(refusal) => refusal.for_user(),
        Down::LoggedOut => "the session was closed".to_owned(),
        Down::Dropped => "cTrader dropped the session".to_owned(),
        Down::TokenInvalidated => "cTrader invalidated the authorisation".to_owned(),
        Down::TimedOut => "cTrader did not answer in time".to_owned(),
        Down::Malformed(_) => "cTrader sent something unreadable".to_owned(),
        Down::ForeignAuthorisation => "the account is in use by another authorisation".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maintenance_is_waited_for_up_to_a_day() {
        let mut refusal = Refusal::with_code("SERVER_IS_UNDER_MAINTENANCE");
        assert_eq!(remedy_of(&refusal, 1_000), Remedy::Soon);
        refusal.maintenance_end_ms = Some(61_000);
        let minute = Remedy::NotBefore(Duration::from_mins(1));
        assert_eq!(remedy_of(&refusal, 1_000), minute);
        assert_eq!(remedy_of(&refusal, 61_000), Remedy::Soon, "it is over");
        refusal.maintenance_end_ms = Some(i64::MAX);
        assert_eq!(
            remedy_of(&refusal, 1_000),
            Remedy::NotBefore(MAINTENANCE_MAX)
        );
    }

    #[test]
    fn each_refusal_has_its_remedy() {
        for (code, remedy) in [
            ("OA_AUTH_TOKEN_EXPIRED", Remedy::Renew),
            ("CH_ACCESS_TOKEN_INVALID", Remedy::Renew),
            ("ACCOUNT_NOT_AUTHORIZED", Remedy::Help),
            ("RET_ACCOUNT_DISABLED", Remedy::Help),
            ("CANT_ROUTE_REQUEST", Remedy::Route),
            ("CHANNEL_IS_BLOCKED", Remedy::NotBefore(LONG_PAUSE)),
            ("CH_SERVER_NOT_REACHABLE", Remedy::Soon),
            ("SOMETHING_NEW", Remedy::Soon),
        ] {
            assert_eq!(remedy_of(&Refusal::with_code(code), 0), remedy, "{code}");
        }
    }
}
