//! The fence: what a write of a session carries to prove that its worker still owns the session's slot.
//!
//! Each time a slot changes hands its epoch rises. A statement that writes compares the epoch of the fence with that
//! of the slot, so that whatever a former owner still sends changes nothing.

use time::OffsetDateTime;

use super::ids::{SessionKey, Slot};

/// A session, its slot, and the epoch at which a worker claimed that slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Which session.
    pub key: SessionKey,
    /// The slot of the session's user.
    pub slot: Slot,
    /// The epoch at which the worker claimed the slot.
    pub epoch: i64,
}

impl Fence {
    /// The epoch in the fence of a worker without a claim. A slot's first owner has epoch 1.
    pub const UNCLAIMED_EPOCH: i64 = 0;

    /// The fence of a session under this epoch of its slot.
    #[must_use]
    pub fn new(key: &SessionKey, epoch: i64) -> Self {
        Self {
            slot: key.user.slot(),
            key: key.clone(),
            epoch,
        }
    }
}

/// The statement that every deal of a session executed up to a time is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryMark {
    /// Which session, and under which claim.
    pub fence: Fence,
    /// Up to when.
    pub through: OffsetDateTime,
}

impl HistoryMark {
    /// A mark at a time in milliseconds since the Unix epoch. `None` beyond the year 9999.
    #[must_use]
    pub fn at_ms(fence: Fence, through_ms: i64) -> Option<Self> {
        let nanos = i128::from(through_ms) * 1_000_000;
        let through = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
        Some(Self { fence, through })
    }
}
