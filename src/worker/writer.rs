//! The writer: takes what waits in the outbox and writes it in batches, one round at a time.
//!
//! While Postgres is slow or away the outbox coalesces; the writer tries again, at its own pace,
//! and a socket never waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::outbox::Outbox;
use crate::domain::ids::SessionKey;
use crate::domain::row::RowWrite;
use crate::pg::PgError;
use crate::pg::cache::{self, Failure, WriteReport};
use crate::pg::connect::{Database, within};
use crate::pg::deals::{self, DealWrite};

/// The pause after a round that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How long the last rows are tried; the caller's grace may end it sooner.
const LAST_TRIES: Duration = Duration::from_secs(30);

/// What a write found out about its sessions.
#[derive(Debug)]
pub(super) enum Finding {
    /// Another worker has the slots of these sessions, which were written under these epochs.
    Fenced(Vec<(SessionKey, i64)>),
    /// The row is gone: it must be written whole.
    Missing(Vec<SessionKey>),
}

/// Writes rows and deals.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) outbox: Arc<Outbox>,
    pub(super) worker_id: String,
    /// A full channel drops findings: the next write of the same session finds the same.
    pub(super) findings: mpsc::Sender<Finding>,
    /// Why rows cannot be written, if they can't.
    pub(super) trouble: watch::Sender<Option<String>>,
}

impl Writer {
    /// Runs until `stop`, and then until nothing waits, or a round fails.
    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            let last = tokio::select! {
                () = self.outbox.woken() => false,
                () = stop.cancelled() => true,
            };
            if last {
                return self.finish().await;
            }
            if !self.round().await {
                tokio::select! {
                    () = tokio::time::sleep(RETRY_PAUSE) => self.outbox.wake(),
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// The last rows: without them a session that has ended looks live until somebody claims it.
    async fn finish(&self) {
        let until = Instant::now() + LAST_TRIES;
        while Instant::now() < until {
            if self.round().await {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        error!("the last rows could not be written");
    }

    /// Writes all that waits; whether that worked.
    async fn round(&self) -> bool {
        let (rows, deals) = self.outbox.take();
        if rows.is_empty() && deals.is_empty() {
            return true;
        }
        let outcome = self.write(&rows, &deals).await;
        let (rows, deals, failure) = match outcome {
            Ok((report, inserted)) => {
                let (rows, rows_failure) = again(rows, report);
                match inserted {
                    Ok(()) => (rows, Vec::new(), rows_failure),
                    Err(failure) if failure.is_about_data() => {
                        error!(deals = deals.len(), error = %failure, "deals were given up");
                        (rows, Vec::new(), rows_failure)
                    }
                    Err(failure) => (rows, deals, Some(failure)),
                }
            }
            Err(failure) => (rows, deals, Some(failure)),
        };
        let Some(failure) = failure else {
            self.trouble
                .send_if_modified(|trouble| trouble.take().is_some());
            return true;
        };
        warn!(rows = rows.len(), deals = deals.len(), error = %failure, "rows could not be written");
        self.trouble.send_replace(Some(failure.to_string()));
        self.outbox.put_back(rows, deals);
        false
    }

    async fn write(
        &self,
        rows: &[RowWrite],
        deals: &[DealWrite],
    ) -> Result<(WriteReport, Result<(), PgError>), PgError> {
        let mut lease = self.database.lease().await?;
        let limit = self.database.reply_timeout();
        let written = within(limit, async {
            Ok(cache::write(&mut lease, rows, &self.worker_id).await)
        })
        .await;
        let report = lease.settle(written)?;
        self.tell(rows, &report);
        if deals.is_empty() {
            return Ok((report, Ok(())));
        }
        let inserted = async {
            let mut lease = self.database.lease().await?;
            let inserted = within(limit, deals::insert(&mut lease, deals)).await;
            lease.settle(inserted)
        };
        let inserted = inserted.await.map(|inserted| {
            debug!(
                inserted = inserted.inserted,
                known = inserted.known,
                fenced = inserted.fenced,
                "deals written"
            );
        });
        Ok((report, inserted))
    }

    fn tell(&self, rows: &[RowWrite], report: &WriteReport) {
        if !report.fenced.is_empty() {
            warn!(
                rows = report.fenced.len(),
                "rows were fenced: their slots have another epoch"
            );
            let fenced: BTreeSet<&SessionKey> = report.fenced.iter().collect();
            let fenced = rows.iter().filter(|row| fenced.contains(&row.key));
            let fenced = fenced.map(|row| (row.key.clone(), row.epoch)).collect();
            // See the field.
            let _ = self.findings.try_send(Finding::Fenced(fenced));
        }
        if !report.missing.is_empty() {
            let _ = self
                .findings
                .try_send(Finding::Missing(report.missing.clone()));
        }
    }
}

/// The rows to be written again, and why they were not. A row whose content is at fault would
/// fail for ever: it is given up, and the next state of its session is written as it comes.
fn again(rows: Vec<RowWrite>, report: WriteReport) -> (Vec<RowWrite>, Option<PgError>) {
    let mut again = BTreeSet::new();
    let mut why = None;
    for Failure { keys, error } in report.failed {
        if error.is_about_data() {
            error!(rows = keys.len(), error = %error, "rows were given up");
        } else {
            again.extend(keys);
            why = Some(error);
        }
    }
    let rows = rows
        .into_iter()
        .filter(|row| again.contains(&row.key))
        .collect();
    (rows, why)
}
