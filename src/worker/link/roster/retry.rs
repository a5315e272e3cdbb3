//! When a session or a connection that ended is tried again, and what its users read about it.

use std::time::Duration;

use crate::ctrader::connection::{ConnectionError, Down};
use crate::ctrader::error::{Disposition, Refusal};

/// The shortest pause after a refusal that sooner retries would only prolong.
const LONG_PAUSE: Duration = Duration::from_mins(2);

/// The shortest pause after a token was refused. A refreshed token is usually there sooner, and is tried at once;
/// otherwise the old one is tried again.
const TOKEN_REFRESH_PAUSE: Duration = Duration::from_secs(20);

/// The longest pause for an announced maintenance.
const MAINTENANCE_MAX: Duration = Duration::from_hours(24);

/// When sessions count as failed, and how long they pause then.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct RetryPolicy {
    /// Consecutive failures after which a session counts as failed.
    pub(in crate::worker) attempts_max: u32,
    /// The pause of a failed session.
    pub(in crate::worker) failed_pause: Duration,
}

/// Why there is no connection, for the sessions that start meanwhile.
#[derive(Debug)]
pub(super) struct Outage {
    /// Attempts to connect that failed so far.
    pub(super) attempts: u32,
    pub(super) error: String,
}

/// How a failed session is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum RetryDecision {
    /// Retry with growing pauses.
    Retry,
    /// The same, but no sooner than after this pause.
    RetryAfter(Duration),
    /// Somebody has to do something first: the session counts as failed, and is retried rarely.
    NeedsIntervention,
    /// Request another token, and retry.
    RefreshToken,
    /// Retry, unless the account turns out to belong to the other environment.
    CheckEnvironment,
}

impl RetryDecision {
    /// The shortest pause before the next attempt.
    pub(super) const fn pause_min(self) -> Duration {
        match self {
            Self::RetryAfter(pause) => pause,
            Self::RefreshToken => TOKEN_REFRESH_PAUSE,
            Self::Retry | Self::NeedsIntervention | Self::CheckEnvironment => Duration::ZERO,
        }
    }
}

/// How a session that is down is tried again. `wall_ms` is the wall clock's time in milliseconds since the epoch.
pub(super) fn decide_retry(down: &Down, wall_ms: i64) -> RetryDecision {
    match down {
        Down::Refused(refusal) => decide_retry_of_refused(refusal, wall_ms),
        Down::LoggedOut
        | Down::Dropped
        | Down::TokenInvalidated
        | Down::TimedOut
        | Down::Malformed(_)
        | Down::ForeignAuthorisation => RetryDecision::Retry,
    }
}

/// How something that cTrader refused is tried again.
fn decide_retry_of_refused(refusal: &Refusal, wall_ms: i64) -> RetryDecision {
    let left_ms = refusal.maintenance_end_ms.map_or(0, |end| end - wall_ms);
    if let Some(left_ms) = u64::try_from(left_ms).ok().filter(|left| *left > 0) {
        return RetryDecision::RetryAfter(Duration::from_millis(left_ms).min(MAINTENANCE_MAX));
    }
    if refusal.code == "CANT_ROUTE_REQUEST" {
        return RetryDecision::CheckEnvironment;
    }
    match refusal.disposition() {
        Disposition::GiveUp | Disposition::ReauthoriseAccount | Disposition::StopApplication => {
            RetryDecision::NeedsIntervention
        }
        Disposition::RefreshToken => RetryDecision::RefreshToken,
        Disposition::BackOffLong => RetryDecision::RetryAfter(LONG_PAUSE),
        Disposition::Success
        | Disposition::RetrySoon
        | Disposition::BackOff
        | Disposition::ReauthoriseApplication
        | Disposition::CallerError
        | Disposition::TradingRefused => RetryDecision::Retry,
    }
}

/// What a user may read about the end of a session.
pub(super) fn session_error_text(down: &Down) -> String {
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

// ── connections ──────────────────────────────────────────────────────────────────────────────────

/// Whether connecting again soon is of no use, and would do harm.
pub(in crate::worker) fn is_fatal(failure: &ConnectionError) -> bool {
    match failure {
        ConnectionError::ApplicationRefused(refusal) => {
            refusal.disposition() == Disposition::StopApplication
        }
        ConnectionError::Disconnected { reason } => reason
            .as_deref()
            .is_some_and(|reason| reason.to_ascii_lowercase().contains("block")),
        ConnectionError::Unanswered | ConnectionError::Silent | ConnectionError::Malformed => false,
    }
}

/// The shortest pause before the next attempt to connect, after this failure. `wall_ms` is the wall clock's time
/// in milliseconds since the epoch.
pub(in crate::worker) fn reconnect_pause_min(failure: &ConnectionError, wall_ms: i64) -> Duration {
    match failure {
        ConnectionError::ApplicationRefused(refusal) => {
            match decide_retry_of_refused(refusal, wall_ms) {
                RetryDecision::RetryAfter(pause) => pause,
                RetryDecision::Retry
                | RetryDecision::NeedsIntervention
                | RetryDecision::RefreshToken
                | RetryDecision::CheckEnvironment => Duration::ZERO,
            }
        }
        ConnectionError::Disconnected { .. }
        | ConnectionError::Unanswered
        | ConnectionError::Silent
        | ConnectionError::Malformed => Duration::ZERO,
    }
}

/// What a user may read about the end of a connection.
pub(in crate::worker) fn connection_error_text(failure: &ConnectionError) -> String {
    match failure {
        ConnectionError::ApplicationRefused(refusal) => refusal.for_user(),
        ConnectionError::Disconnected { .. } => "cTrader ended the connection".to_owned(),
        ConnectionError::Unanswered => "cTrader did not answer".to_owned(),
        ConnectionError::Silent => "cTrader has gone silent".to_owned(),
        ConnectionError::Malformed => "cTrader sent something unreadable".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maintenance_is_waited_for_up_to_a_day() {
        let mut refusal = Refusal::with_code("SERVER_IS_UNDER_MAINTENANCE");
        assert_eq!(
            decide_retry_of_refused(&refusal, 1_000),
            RetryDecision::Retry
        );
        refusal.maintenance_end_ms = Some(61_000);
        let minute = RetryDecision::RetryAfter(Duration::from_mins(1));
        assert_eq!(decide_retry_of_refused(&refusal, 1_000), minute);
        assert_eq!(
            decide_retry_of_refused(&refusal, 61_000),
            RetryDecision::Retry,
            "it is over"
        );
        refusal.maintenance_end_ms = Some(i64::MAX);
        assert_eq!(
            decide_retry_of_refused(&refusal, 1_000),
            RetryDecision::RetryAfter(MAINTENANCE_MAX)
        );
    }

    #[test]
    fn each_refusal_has_its_retry_decision() {
        for (code, decision) in [
            ("OA_AUTH_TOKEN_EXPIRED", RetryDecision::RefreshToken),
            ("CH_ACCESS_TOKEN_INVALID", RetryDecision::RefreshToken),
            ("ACCOUNT_NOT_AUTHORIZED", RetryDecision::NeedsIntervention),
            ("RET_ACCOUNT_DISABLED", RetryDecision::NeedsIntervention),
            ("CANT_ROUTE_REQUEST", RetryDecision::CheckEnvironment),
            ("CHANNEL_IS_BLOCKED", RetryDecision::RetryAfter(LONG_PAUSE)),
            ("CH_SERVER_NOT_REACHABLE", RetryDecision::Retry),
            ("SOMETHING_NEW", RetryDecision::Retry),
        ] {
            assert_eq!(
                decide_retry_of_refused(&Refusal::with_code(code), 0),
                decision,
                "{code}"
            );
        }
    }
}
