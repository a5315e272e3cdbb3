//! What the coordinator knows: the slots that it holds, takes over or offers, and the sessions that links run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::domain::fence::Fence;
use crate::domain::fleet::Handover;
use crate::domain::ids::{SessionKey, Slot};
use crate::domain::row::SessionState;
use crate::domain::secret::Secret;
use crate::domain::status::Status;
use crate::pg::fleet::FleetView;
use crate::worker::handles::locks::Membership;

/// How long a row may take to show a status that was published.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(5);

/// By what right a session runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// This worker owns the slot, under this epoch.
    Owned(i64),
    /// Another worker still owns the slot, and is about to hand it over.
    Incoming,
}

impl Ownership {
    pub(super) const fn epoch(self) -> i64 {
        match self {
            Self::Owned(epoch) => epoch,
            Self::Incoming => Fence::UNCLAIMED_EPOCH,
        }
    }
}

/// A session that a link runs.
#[derive(Debug, Clone)]
pub(super) struct RunningSession {
    pub(super) slot: Slot,
    pub(super) link: usize,
    pub(super) ownership: Ownership,
    pub(super) command: Uuid,
    pub(super) token: Secret,
    /// It is on standby, and live with figures, or failed.
    pub(super) standby_ready: bool,
}

impl RunningSession {
    /// Whether the link has nothing to learn.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.link, self.ownership, self.command) == (other.link, other.ownership, other.command)
            && self.token == other.token
    }
}

/// The status that was published last of a session that no link runs.
#[derive(Debug)]
pub(super) struct PublishedStatus {
    pub(super) epoch: i64,
    /// The command that it follows.
    pub(super) command: Uuid,
    pub(super) state: SessionState,
    pub(super) at: Instant,
}

impl PublishedStatus {
    /// Whether `now` says the same, and the row, which has this status, shows it or soon will.
    pub(super) fn covers(&self, now: &Self, status: Status) -> bool {
        (self.epoch, self.command, &self.state) == (now.epoch, now.command, &now.state)
            && (status == self.state.status || self.at.elapsed() < PUBLISHED_WITHIN)
    }
}

/// A slot that another worker is about to hand over.
#[derive(Debug, Clone, Copy)]
pub(super) struct IncomingSlot {
    /// The giver's epoch.
    pub(super) epoch: i64,
    pub(super) sessions: usize,
    /// Its sessions were read, and are being opened. Until then none of them is known, and so none could be
    /// seen not to be ready.
    pub(super) opened: bool,
    /// The giver was told that all of them stream.
    pub(super) ready: bool,
}

impl IncomingSlot {
    pub(super) const fn is_of(&self, offer: &Handover) -> bool {
        self.epoch == offer.epoch && self.ready == offer.ready
    }
}

/// What the coordinator knows.
#[derive(Debug, Default)]
pub(in crate::worker) struct State {
    pub(super) membership: Option<Membership>,
    /// The slots that this worker owns, and their epochs.
    pub(super) held: BTreeMap<Slot, i64>,
    pub(super) incoming: BTreeMap<Slot, IncomingSlot>,
    pub(super) running: BTreeMap<SessionKey, RunningSession>,
    pub(super) last_published: BTreeMap<SessionKey, PublishedStatus>,
    /// Sessions that a link was told to stop and has not released yet, and whether they are to be reconciled
    /// once it has.
    pub(super) releasing: BTreeMap<SessionKey, bool>,
    pub(super) idle_since: BTreeMap<Slot, Instant>,
    pub(super) sweeps: u32,
    /// The slots with wanted sessions, and how many, as of the last sweep.
    pub(super) wanted: BTreeMap<Slot, usize>,
    pub(super) fleet: FleetView,
    /// Slots that were free with the last poll, and another worker's to claim first.
    pub(super) unclaimed_since_last_poll: BTreeSet<Slot>,
    /// Nothing else is claimed until then: after an outage other workers come back as well, for what they had.
    pub(super) claims_paused_until: Option<Instant>,
    /// The load that the fleet was told of this worker: sessions, the most it takes, whether it drains.
    pub(super) reported_load: Option<(usize, usize, bool)>,
    /// The slots that were offered and have not been taken yet, and to whom.
    pub(super) offered: BTreeMap<Slot, i32>,
    /// Which workers declined an offer, and when.
    pub(super) declined: BTreeMap<i32, Instant>,
    pub(super) draining: bool,
}

impl State {
    /// Forgets what was published of the sessions of these slots: they are another worker's. The epoch refuses
    /// what the links still write.
    pub(super) fn forget_published(&mut self, slots: &BTreeSet<Slot>) {
        self.last_published
            .retain(|key, _| !slots.contains(&key.user.slot()));
        self.releasing
            .retain(|key, _| !slots.contains(&key.user.slot()));
    }
}
