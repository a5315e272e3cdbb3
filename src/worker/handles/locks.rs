//! What is asked of the lock keeper, and what it tells of itself.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::domain::ids::Slot;

/// Requests that may wait; who asks for more waits.
const REQUESTS_MAX: usize = 16;

/// How long the lock keeper may take for a claim, once it holds a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether claims can be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worker) enum ClaimState {
    /// They can.
    Held(Membership),
    /// They can't.
    Lost {
        /// Why.
        reason: String,
        /// The sessions were given up as well, and not just suspended.
        given_up: bool,
    },
}

/// One lock connection, as the rest of the worker sees it: claims do not outlive it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct Membership {
    /// Another one for each lock connection.
    pub(in crate::worker) generation: u64,
    /// The worker's number in the fleet.
    pub(in crate::worker) number: i32,
    /// The sessions that ran under the claims of the previous connection are suspended, and may go on.
    pub(in crate::worker) suspended: bool,
}

/// What the lock keeper is asked for.
#[derive(Debug)]
pub(in crate::worker) enum LockRequest {
    /// Claim what is free of these slots, if the lock connection is still the one of this generation; the
    /// reply has the epochs of those that were claimed. Nobody would run what is claimed by another one.
    Acquire(u64, Vec<Slot>, oneshot::Sender<Vec<(Slot, i64)>>),
    /// Release slots.
    Release(Vec<Slot>),
    /// A link wants to connect: may it?
    Permit(usize, oneshot::Sender<bool>),
    /// A link has no connection any more.
    ReturnPermit(usize),
}

/// Sends requests to the lock keeper and sees its state.
#[derive(Debug, Clone)]
pub(in crate::worker) struct LockHandle {
    requests: mpsc::Sender<LockRequest>,
    /// Whether claims can be held.
    pub(in crate::worker) claims: watch::Receiver<ClaimState>,
    /// Whether the worker has a permit for a connection to cTrader: without one it claims nothing.
    pub(in crate::worker) has_permit: watch::Receiver<bool>,
}

/// The lock keeper's end of a [`LockHandle`].
#[derive(Debug)]
pub(in crate::worker) struct LockInbox {
    pub(in crate::worker) requests: mpsc::Receiver<LockRequest>,
    pub(in crate::worker) claims: watch::Sender<ClaimState>,
    pub(in crate::worker) has_permit: watch::Sender<bool>,
}

impl LockHandle {
    /// A handle and the lock keeper's end of it.
    pub(in crate::worker) fn channel() -> (Self, LockInbox) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let (claim_sender, claims) = watch::channel(ClaimState::Lost {
            reason: "not connected yet".to_owned(),
            given_up: true,
        });
        let (permit_sender, has_permit) = watch::channel(false);
        let handle = Self {
            requests: sender,
            claims,
            has_permit,
        };
        let inbox = LockInbox {
            requests,
            claims: claim_sender,
            has_permit: permit_sender,
        };
        (handle, inbox)
    }

    /// Claims what is free of these slots and returns the epochs; `None` if the lock keeper did not reply: it
    /// lost its connection, and its state says so. What it should claim after all it releases again.
    pub(in crate::worker) async fn acquire(
        &self,
        generation: u64,
        slots: Vec<Slot>,
    ) -> Option<Vec<(Slot, i64)>> {
        let (reply_to, reply) = oneshot::channel();
        let request = LockRequest::Acquire(generation, slots, reply_to);
        self.requests.send(request).await.ok()?;
        timeout(ACQUIRE_TIMEOUT, reply).await.ok()?.ok()
    }

    /// Releases slots. The lock keeper is gone only when the claims are lost: then nothing is to be released.
    pub(in crate::worker) async fn release(&self, slots: impl IntoIterator<Item = Slot>) {
        let slots = slots.into_iter().collect();
        let _ = self.requests.send(LockRequest::Release(slots)).await;
    }

    /// Asks whether a link may connect; `None` once the worker stops.
    pub(in crate::worker) async fn request_permit(&self, link: usize) -> Option<bool> {
        let (reply_to, reply) = oneshot::channel();
        let request = LockRequest::Permit(link, reply_to);
        self.requests.send(request).await.ok()?;
        reply.await.ok()
    }

    /// Returns a link's permit; `false` if too many requests wait: the link keeps it then.
    pub(in crate::worker) fn return_permit(&self, link: usize) -> bool {
        let request = LockRequest::ReturnPermit(link);
        self.requests.try_send(request).is_ok()
    }
}
