//! What the writer knows of the rows it wrote: how many sessions have which status, how old the oldest
//! row of a connected one is, and how long events took to show.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::domain::ids::{SessionKey, Slot};
use crate::domain::row::{RowContent, RowWrite};
use crate::domain::status::Status;
use crate::metrics::{CacheRows, Metrics};
use crate::pg::cache::WriteReport;

/// A row as it was written last.
#[derive(Debug, Clone, Copy)]
struct Written {
    slot: Slot,
    status: Status,
    connected: bool,
    at: Instant,
    event_at: Option<OffsetDateTime>,
}

/// The rows of this worker's sessions.
#[derive(Debug, Default)]
pub(in crate::worker) struct RowStats {
    rows: Mutex<HashMap<SessionKey, Written>>,
}

impl RowStats {
    /// Takes in what became of a batch, and tells the metrics.
    pub(in crate::worker) fn wrote(
        &self,
        batch: &[RowWrite],
        report: &WriteReport,
        took: Duration,
        metrics: &Metrics,
    ) {
        let counts = CacheRows {
            changed: report.changed,
            heartbeat: report.heartbeat,
            fenced: report.fenced.len() as u64,
        };
        metrics.rows_written(counts, took);
        let failed = report.failed.iter().flat_map(|failure| &failure.keys);
        let refused = [&report.stale, &report.missing].into_iter().flatten();
        let unwritten: BTreeSet<&SessionKey> = failed.chain(refused).collect();
        let (now, wall) = (Instant::now(), OffsetDateTime::now_utc());
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for write in batch
            .iter()
            .filter(|write| !unwritten.contains(&write.fence.key))
        {
            if let Some(after) = note(&mut rows, write, now, wall) {
                metrics.event_shown(after);
            }
        }
        // Another worker's by now.
        for key in &report.fenced {
            rows.remove(key);
        }
    }

    /// Forgets the sessions of all other slots: they were handed over, and are another worker's to count.
    pub(in crate::worker) fn keep(&self, slots: &BTreeSet<Slot>) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|_, row| slots.contains(&row.slot));
    }

    /// How many sessions have which status, in the order of a session's life.
    pub(in crate::worker) fn statuses(&self) -> [usize; 6] {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        Status::ALL.map(|status| rows.values().filter(|row| row.status == status).count())
    }

    /// The age of the oldest row that says it is connected.
    pub(in crate::worker) fn age_max(&self) -> Duration {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = rows.values().filter(|row| row.connected);
        connected
            .map(|row| row.at.elapsed())
            .max()
            .unwrap_or_default()
    }
}

/// Notes a write; answers how long ago the event was that it shows, if it shows a new one.
fn note(
    rows: &mut HashMap<SessionKey, Written>,
    write: &RowWrite,
    now: Instant,
    wall: OffsetDateTime,
) -> Option<Duration> {
    let (status, connected, event_at) = match &write.content {
        RowContent::Heartbeat => {
            if let Some(row) = rows.get_mut(&write.fence.key) {
                row.at = now;
            }
            return None;
        }
        RowContent::State(state) => (state.status, false, None),
        RowContent::Full {
            state,
            connected,
            account,
        } => (state.status, *connected, Some(account.event_at)),
    };
    // Let go of, or stopped: nobody's, or not this worker's for long.
    if matches!(status, Status::Pending | Status::Stopped) {
        rows.remove(&write.fence.key);
        return None;
    }
    let mut row = Written {
        slot: write.fence.slot,
        status,
        connected,
        at: now,
        event_at,
    };
    let before = match rows.entry(write.fence.key.clone()) {
        Entry::Occupied(mut before) => {
            row.event_at = event_at.or(before.get().event_at);
            Some(before.insert(row))
        }
        Entry::Vacant(place) => {
            place.insert(row);
            None
        }
    };
    // What the snapshot told may be of any age; so may what was read anew after a gap.
    let before = before.filter(|row| row.connected && connected)?;
    let (seen, event_at) = (before.event_at?, event_at?);
    (event_at > seen).then(|| Duration::try_from(wall - event_at).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fence::Fence;
    use crate::domain::ids::{AccountId, UserId};
    use crate::domain::row::SessionState;

    fn write(user: &str, status: Status) -> RowWrite {
        let key = SessionKey {
            user: UserId::new(user).expect("valid"),
            account: AccountId(1),
        };
        RowWrite {
            fence: Fence::new(&key, 1),
            seq: 1,
            content: RowContent::State(SessionState::of(status)),
        }
    }

    #[test]
    fn sessions_count_by_what_was_written_last() {
        let (row_stats, metrics) = (RowStats::default(), crate::worker::metrics());
        let report = WriteReport::default();
        let batch = [write("a", Status::Connecting), write("b", Status::Failed)];
        row_stats.wrote(&batch, &report, Duration::ZERO, &metrics);
        assert_eq!(row_stats.statuses(), [0, 1, 0, 0, 1, 0]);
        let held = [
            write("a", Status::Live).fence.slot,
            write("b", Status::Live).fence.slot,
        ];
        row_stats.keep(&held.into_iter().collect());
        assert_eq!(row_stats.statuses(), [0, 1, 0, 0, 1, 0]);
        let batch = [write("a", Status::Stopped)];
        row_stats.wrote(&batch, &report, Duration::ZERO, &metrics);
        assert_eq!(row_stats.statuses(), [0, 0, 0, 0, 1, 0]);
        row_stats.keep(&BTreeSet::new());
        assert_eq!(row_stats.statuses(), [0; 6]);
        row_stats.wrote(
            &[write("b", Status::Failed)],
            &report,
            Duration::ZERO,
            &metrics,
        );
        let report = WriteReport {
            fenced: vec![write("b", Status::Failed).fence.key],
            ..WriteReport::default()
        };
        row_stats.wrote(&[], &report, Duration::ZERO, &metrics);
        assert_eq!(row_stats.statuses(), [0; 6]);
        assert_eq!(row_stats.age_max(), Duration::ZERO);
    }
}
