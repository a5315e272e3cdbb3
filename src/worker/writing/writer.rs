//! The writer: takes what waits in the outbox and writes it in batches, one round at a time.
//!
//! While Postgres is slow or away the outbox coalesces. The writer tries again at its own pace, and a
//! socket never waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::domain::fence::HistoryMark;
use crate::domain::ids::SessionKey;
use crate::domain::row::RowWrite;
use crate::metrics::Metrics;
use crate::pg::PgError;
use crate::pg::cache::{self, WriteFailure, WriteReport};
use crate::pg::connect::{Database, within};
use crate::pg::deals::{self, DealWrite};
use crate::pg::history;
use crate::worker::handles::findings::{Finding, Findings};
use crate::worker::writing::outbox::{Outbox, Taken};
use crate::worker::writing::row_stats::RowStats;

/// The pause after a round that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How long the last rows are tried. The grace period may end that sooner.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes rows and deals.
pub(in crate::worker) struct Writer {
    pub(in crate::worker) database: Database,
    pub(in crate::worker) outbox: Arc<Outbox>,
    pub(in crate::worker) worker_id: String,
    pub(in crate::worker) metrics: Arc<Metrics>,
    pub(in crate::worker) row_stats: Arc<RowStats>,
    pub(in crate::worker) findings: Findings,
    /// Why rows cannot be written, if they can't.
    pub(in crate::worker) write_error: watch::Sender<Option<String>>,
}

impl Writer {
    /// Runs until `stop`, and then until nothing waits, or a round fails.
    pub(in crate::worker) async fn run(self, stop: CancellationToken) {
        loop {
            let last = tokio::select! {
                () = self.outbox.woken() => false,
                () = stop.cancelled() => true,
            };
            if last {
                return self.finish().await;
            }
            if !self.write_round().await {
                tokio::select! {
                    () = tokio::time::sleep(RETRY_PAUSE) => self.outbox.wake(),
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// Writes the last rows. Without them a session that has ended shows as live until another worker claims it.
    async fn finish(&self) {
        let until = Instant::now() + FINISH_TIMEOUT;
        while Instant::now() < until {
            if self.write_round().await {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        error!("the last rows could not be written");
    }

    /// Writes all that waits. Returns whether that worked.
    async fn write_round(&self) -> bool {
        let taken = self.outbox.take();
        if taken.is_empty() {
            return true;
        }
        let (unwritten, failure) = self.write(taken).await;
        let Some(failure) = failure else {
            self.write_error
                .send_if_modified(|write_error| write_error.take().is_some());
            return true;
        };
        warn!(rows = unwritten.rows.len(), deals = unwritten.deals.len(), error = %failure, "rows could not be written");
        self.write_error.send_replace(Some(failure.to_string()));
        self.outbox.put_back(unwritten);
        false
    }

    /// Writes rows, then deals, then the marks that confirm the deals. Returns what is left unwritten, and why.
    async fn write(&self, taken: Taken) -> (Taken, Option<PgError>) {
        let Taken {
            rows,
            deals,
            marks,
            barriers,
        } = taken;
        let (rows, failure) = self.write_rows(rows).await;
        let mut unwritten = Taken {
            rows,
            deals,
            marks,
            barriers,
        };
        if let Err(error) = self.write_deals(&unwritten.deals).await {
            return (unwritten, Some(error));
        }
        unwritten.deals.clear();
        if let Err(error) = self.write_marks(&unwritten.marks).await {
            return (unwritten, Some(error));
        }
        unwritten.marks.clear();
        if failure.is_none() {
            for waiter in unwritten.barriers.drain(..) {
                // The receiver may no longer wait.
                let _ = waiter.send(());
            }
        }
        (unwritten, failure)
    }

    async fn write_rows(&self, rows: Vec<RowWrite>) -> (Vec<RowWrite>, Option<PgError>) {
        if rows.is_empty() {
            return (rows, None);
        }
        let mut conn = match self.database.acquire().await {
            Ok(conn) => conn,
            Err(error) => return (rows, Some(error)),
        };
        let limit = self.database.reply_timeout();
        let began = Instant::now();
        let written = within(limit, async {
            Ok(cache::write(&mut conn, &rows, &self.worker_id).await)
        })
        .await;
        match conn.release(written) {
            Ok(report) => {
                self.row_stats
                    .record_written(&rows, &report, began.elapsed(), &self.metrics);
                self.report_findings(&rows, &report);
                rows_to_retry(rows, report)
            }
            Err(error) => (rows, Some(error)),
        }
    }

    /// Writes deals. If a value is invalid, they are written one by one, and the deal with that value is dropped.
    async fn write_deals(&self, deals: &[DealWrite]) -> Result<(), PgError> {
        match self.insert(deals).await {
            Err(error) if error.is_data_error() => {}
            done => return done,
        }
        for deal in deals.chunks(1) {
            match self.insert(deal).await {
                Err(error) if error.is_data_error() => {
                    let ids: Vec<i64> = deal.iter().map(|write| write.deal.deal_id.0).collect();
                    error!(deal = ?ids, error = %error, "a deal cannot be stored");
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn insert(&self, deals: &[DealWrite]) -> Result<(), PgError> {
        if deals.is_empty() {
            return Ok(());
        }
        let report = self
            .database
            .run(async |conn| deals::insert(conn, deals).await)
            .await?;
        let from_events = report.inserted - report.from_gaps;
        self.metrics.deals_stored(from_events, report.from_gaps);
        debug!(
            inserted = report.inserted,
            from_gaps = report.from_gaps,
            known = report.already_stored,
            fenced = report.fenced,
            "deals written"
        );
        Ok(())
    }

    async fn write_marks(&self, marks: &[HistoryMark]) -> Result<(), PgError> {
        if marks.is_empty() {
            return Ok(());
        }
        let report = self
            .database
            .run(async |conn| history::mark(conn, marks).await)
            .await?;
        debug!(
            marked = report.marked,
            fenced = report.fenced,
            "histories marked"
        );
        Ok(())
    }

    fn report_findings(&self, rows: &[RowWrite], report: &WriteReport) {
        if !report.fenced.is_empty() {
            warn!(
                rows = report.fenced.len(),
                "rows were fenced: their slots have another epoch"
            );
            let fenced: BTreeSet<&SessionKey> = report.fenced.iter().collect();
            let fenced = rows.iter().filter(|row| fenced.contains(&row.fence.key));
            let fenced = fenced
                .map(|row| (row.fence.key.clone(), row.fence.epoch))
                .collect();
            self.findings.report(Finding::Fenced(fenced));
        }
        if !report.missing.is_empty() {
            self.findings
                .report(Finding::Missing(report.missing.clone()));
        }
    }
}

/// Returns the rows to write again, and why they were not written. A row with invalid content would fail for ever: it
/// is dropped, and the next state of its session is written as usual.
fn rows_to_retry(rows: Vec<RowWrite>, report: WriteReport) -> (Vec<RowWrite>, Option<PgError>) {
    let mut rows_to_retry = BTreeSet::new();
    let mut why = None;
    for WriteFailure { keys, error } in report.failed {
        if error.is_data_error() {
            error!(rows = keys.len(), error = %error, "rows with invalid content were dropped");
        } else {
            rows_to_retry.extend(keys);
            why = Some(error);
        }
    }
    let rows = rows
        .into_iter()
        .filter(|row| rows_to_retry.contains(&row.fence.key))
        .collect();
    (rows, why)
}
