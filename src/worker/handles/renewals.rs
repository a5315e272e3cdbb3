//! Requests to renew the token of a session.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::domain::ids::SessionKey;
use crate::domain::secret::Secret;

/// Requests that may wait.
const REQUESTS_MAX: usize = 1_024;

/// A token is renewed that long before it expires.
const RENEW_AHEAD: Duration = Duration::from_hours(24);

/// Why a token is to be renewed.
#[derive(Debug, Clone)]
pub(in crate::worker) enum RenewalReason {
    /// It expires soon.
    ExpiresSoon,
    /// cTrader refused this access token.
    Refused(Secret),
}

/// Whether a token that expires at that time is to be renewed ahead of it.
pub(in crate::worker) fn expires_soon(expires_at: Option<OffsetDateTime>) -> bool {
    expires_at.is_some_and(|at| at <= OffsetDateTime::now_utc() + RENEW_AHEAD)
}

/// A session whose token is to be renewed.
#[derive(Debug, Clone)]
pub(in crate::worker) struct RenewalRequest {
    pub(in crate::worker) key: SessionKey,
    pub(in crate::worker) reason: RenewalReason,
}

/// Requests renewals.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Renewals(mpsc::Sender<RenewalRequest>);

impl Renewals {
    /// Where renewals are requested, and where the requests arrive.
    pub(in crate::worker) fn channel() -> (Self, mpsc::Receiver<RenewalRequest>) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        (Self(sender), requests)
    }

    /// Requests a renewal; drops the request if too many wait. That loses nothing: a session whose token was
    /// refused asks again with its next attempt, and one whose token expires soon with the next full reload.
    pub(in crate::worker) fn request(&self, key: SessionKey, reason: RenewalReason) {
        let _ = self.0.try_send(RenewalRequest { key, reason });
    }
}
