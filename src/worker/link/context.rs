//! What a link has whether or not it is connected: its sessions, and where their rows and requests go.

use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;

use super::roster::{CredentialRequest, RetryPolicy, Roster};
use crate::domain::clock::WallClock;
use crate::metrics::Metrics;
use crate::worker::handles::locks::LockHandle;
use crate::worker::handles::renewals::{RenewalReason, Renewals};
use crate::worker::handles::wakeups::Wakeups;
use crate::worker::health::status::LinkStatus;
use crate::worker::writing::outbox::Outbox;

/// The handles that all links share.
#[derive(Clone)]
pub(in crate::worker) struct LinkHandles {
    pub(in crate::worker) outbox: Arc<Outbox>,
    pub(in crate::worker) wakeups: Arc<Wakeups>,
    pub(in crate::worker) renewals: Renewals,
    pub(in crate::worker) locks: LockHandle,
    pub(in crate::worker) metrics: Arc<Metrics>,
}

/// The sessions of a link, and where their rows and requests go.
pub(super) struct LinkContext {
    /// The link's environment.
    pub(super) name: &'static str,
    pub(super) roster: Roster,
    pub(super) outbox: Arc<Outbox>,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) renewals: Renewals,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Arc<LinkStatus>,
    /// The claims were lost: a connection without sessions is closed at once.
    pub(super) claims_lost: bool,
    /// No session starts any more.
    pub(super) draining: bool,
}

impl LinkContext {
    pub(super) fn new(
        name: &'static str,
        policy: RetryPolicy,
        handles: LinkHandles,
        status: Arc<LinkStatus>,
    ) -> Self {
        let LinkHandles {
            outbox,
            wakeups,
            renewals,
            locks: _,
            metrics,
        } = handles;
        Self {
            name,
            roster: Roster::new(policy, read_clock()),
            outbox,
            wakeups,
            renewals,
            metrics,
            status,
            claims_lost: false,
            draining: false,
        }
    }

    /// The connection is gone, or could not be made: no row may stay live.
    pub(super) fn handle_disconnected(&mut self, reason: &str, is_fatal: bool) {
        self.status.set_connected(false);
        self.roster.handle_disconnected(reason, is_fatal);
        self.publish_status_updates();
    }

    /// Forwards the roster's requests for credentials.
    pub(super) fn forward_requests(&mut self) {
        for request in self.roster.take_credential_requests() {
            match request {
                CredentialRequest::Reload(key) => self.wakeups.wake_slot(key.user.slot()),
                CredentialRequest::Refresh(key, token) => {
                    self.renewals.request(key, RenewalReason::Refused(token));
                }
            }
        }
    }
}

/// Reads both clocks.
pub(super) fn read_clock() -> WallClock {
    WallClock::new(Instant::now(), OffsetDateTime::now_utc())
}
