//! What the writer finds out about sessions, for ownership.

use tokio::sync::mpsc;

use crate::domain::ids::SessionKey;

/// Findings that may wait. The writer drops what does not fit: the next write of the same session finds the
/// same.
const FINDINGS_MAX: usize = 64;

/// What a write found out about its sessions.
#[derive(Debug)]
pub(in crate::worker) enum Finding {
    /// Another worker owns the slots of these sessions, which were written under these epochs.
    Fenced(Vec<(SessionKey, i64)>),
    /// The row is gone: it must be written whole.
    Missing(Vec<SessionKey>),
}

/// Reports findings.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Findings(mpsc::Sender<Finding>);

impl Findings {
    /// Where findings are reported, and where they arrive.
    pub(in crate::worker) fn channel() -> (Self, mpsc::Receiver<Finding>) {
        let (sender, findings) = mpsc::channel(FINDINGS_MAX);
        (Self(sender), findings)
    }

    /// Reports a finding; drops it if too many wait.
    pub(in crate::worker) fn report(&self, finding: Finding) {
        let _ = self.0.try_send(finding);
    }
}
