//! The flaws: deliberate errors of the model, each of which a property must find.

/// A deliberate error of the model, to show that a property finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// Writes have no fence.
    NoFences,
    /// Writes have the slot's fence only.
    NoRowFence,
    /// A slot is claimed although another worker holds its lock.
    LocksIgnored,
    /// A claim does not raise the epoch.
    EpochNotRaised,
    /// The server releases the locks of a silent worker at once.
    FreedEarly,
    /// A worker runs its sessions on although the server is silent.
    IgnoresSilence,
    // The code had these: see the tests.
    /// The server frees the locks of a worker that has given up while its coordinator is still in a round.
    FreedMidRound,
    /// The lock keeper serves a round that began under another lock connection.
    ServesStaleRequests,
    /// A slot whose sessions were never opened counts as ready.
    ReadyUnopened,
    /// A release that failed is not tried again.
    ReleaseNotRetried,
}

impl Flaw {
    pub(super) const fn ignores_locks(self) -> bool {
        matches!(self, Self::LocksIgnored)
    }

    pub(super) const fn has_no_slot_fence(self) -> bool {
        matches!(self, Self::NoFences)
    }

    pub(super) const fn has_no_row_fence(self) -> bool {
        matches!(self, Self::NoFences | Self::NoRowFence)
    }
}
