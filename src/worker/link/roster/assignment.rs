//! What the coordinator hands to a link: one session to run.

use crate::domain::fence::Fence;
use crate::domain::ledger::Known;
use crate::domain::secret::Secret;

/// A session that this worker shall run.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Assignment {
    pub(in crate::worker) fence: Fence,
    pub(in crate::worker) is_demo: bool,
    pub(in crate::worker) token: Secret,
    /// All its deals up to then are stored, milliseconds since the epoch; `None`: none ever were.
    pub(in crate::worker) through_ms: Option<i64>,
    /// What was known of the account when somebody last followed it.
    pub(in crate::worker) known: Known,
    /// It shall stream and write nothing: the slot is another worker's still, or its claim in doubt.
    pub(in crate::worker) standby: bool,
}
