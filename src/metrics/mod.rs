//! The metrics of a worker, for `GET /metrics`. Their names and labels are published and stay as they are.
//!
//! Every series exists from the start, at zero: an alert needs no special case for what has not happened
//! yet. The hot path does no look-up by label: links count in plain integers and add their sums once per
//! read of a socket ([`Metrics::stream_read`]). Values that other modules keep anyway are sampled when the
//! metrics are rendered ([`Metrics::on_render`]).

mod family;
mod labels;
mod process;
mod text;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use family::{FamilyRegistry, LabelledFamily};
pub use labels::{CacheRows, LabelValues, LinkState, RefreshOutcome};

/// Buckets of the P&L drift, in units of the account's currency: rounding differs by cents, errors by more.
const DRIFT_BUCKETS: [f64; 7] = [0.0, 0.01, 0.05, 0.1, 1.0, 10.0, 100.0];

/// Buckets of the time to write a batch, in seconds: usually a few milliseconds; the statement timeout is 10 s.
const WRITE_BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];

/// Buckets of the time from an event to its row, in seconds: usually at most the write interval, 2 s.
const ROW_BUCKETS: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0, 60.0];

/// The environments of cTrader.
const ENVIRONMENTS: [&str; 2] = ["demo", "live"];

/// Why a connection to cTrader ended or could not be opened.
const REASONS: [&str; 10] = [
    "unreachable",
    "closed",
    "broken",
    "stuck",
    "refused",
    "disconnected",
    "unanswered",
    "silent",
    "malformed",
    "unpermitted",
];

type FloatGauge = Gauge<f64, AtomicU64>;
type Sampler = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The metrics of one process.
pub struct Metrics {
    registry: Registry,
    samplers: Mutex<Vec<Sampler>>,
    process: process::Process,
    statuses: [&'static str; 6],
    sessions: LabelledFamily<Gauge, 1>,
    slots: Gauge,
    commands: LabelledFamily<Counter, 2>,
    connections: LabelledFamily<Gauge, 2>,
    events: LabelledFamily<Counter, 1>,
    requests: LabelledFamily<Counter, 1>,
    queue: Gauge,
    reconnects: LabelledFamily<Counter, 2>,
    rows: LabelledFamily<Counter, 1>,
    write: Histogram,
    event_to_row: Histogram,
    row_age: FloatGauge,
    deals: LabelledFamily<Counter, 1>,
    drift: Histogram,
    refreshes: LabelledFamily<Counter, 1>,
}

impl Metrics {
    /// Registers every series, at zero.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one metric after the other")]
    pub fn new(values: &LabelValues) -> Self {
        let mut registry = Registry::default();
        let process = process::Process::new(&mut registry);
        let bridge = registry.sub_registry_with_prefix("bridge");
        let mut families = FamilyRegistry(bridge);
        let sessions = families.one_label(
            "sessions",
            "Sessions of this worker, by the status in their rows",
            "status",
            &values.statuses,
        );
        let commands = families.two_labels(
            "commands",
            "Commands received, by outcome",
            ("command", &["start", "stop", "unknown"]),
            ("outcome", &["applied", "retried", "dead"]),
        );
        let connections = families.two_labels(
            "ctrader_connections",
            "Connections to cTrader: up, down although sessions need them, or idle",
            ("environment", &ENVIRONMENTS),
            ("state", &LinkState::ALL.map(LinkState::as_str)),
        );
        let events = families.one_label(
            "ctrader_events",
            "Messages from cTrader that are no reply to a request, by type",
            "type",
            values.events,
        );
        let requests = families.one_label(
            "ctrader_requests",
            "Requests to cTrader, by outcome",
            "outcome",
            values.requests,
        );
        let reconnects = families.two_labels(
            "reconnects",
            "Connections to cTrader that ended or could not be opened, by reason",
            ("environment", &ENVIRONMENTS),
            ("reason", &REASONS),
        );
        let rows = families.one_label(
            "cache_rows",
            "Rows written with new content, written as unchanged, or refused by the fence",
            "kind",
            &CacheRows::KINDS,
        );
        let deals = families.one_label(
            "deals",
            "Deals stored, by where they were learnt from: an event or the history",
            "source",
            &["event", "gap"],
        );
        let refreshes = families.one_label(
            "token_refresh",
            "Token refreshes, by outcome",
            "outcome",
            &RefreshOutcome::ALL.map(RefreshOutcome::as_str),
        );
        let FamilyRegistry(bridge) = families;
        let slots = Gauge::default();
        bridge.register(
            "slots_held",
            "Slots that this worker has claimed",
            slots.clone(),
        );
        let queue = Gauge::default();
        bridge.register(
            "ctrader_request_queue",
            "Requests to cTrader that wait in the queue",
            queue.clone(),
        );
        let write = Histogram::new(WRITE_BUCKETS);
        bridge.register(
            "cache_write_seconds",
            "Seconds that one round of row writes to Postgres takes",
            write.clone(),
        );
        let event_to_row = Histogram::new(ROW_BUCKETS);
        bridge.register(
            "event_to_row_seconds",
            "Seconds from an event of cTrader to the row that shows it",
            event_to_row.clone(),
        );
        let row_age = FloatGauge::default();
        bridge.register(
            "row_age_seconds_max",
            "Age in seconds of the oldest row of a connected session",
            row_age.clone(),
        );
        let drift = Histogram::new(DRIFT_BUCKETS);
        bridge.register(
            "pnl_drift",
            "Difference between our unrealised P&L and the server's, for each account that is audited, in its currency",
            drift.clone(),
        );
        Self {
            registry,
            samplers: Mutex::default(),
            process,
            statuses: values.statuses,
            sessions,
            slots,
            commands,
            connections,
            events,
            requests,
            queue,
            reconnects,
            rows,
            write,
            event_to_row,
            row_age,
            deals,
            drift,
            refreshes,
        }
    }
}

impl Metrics {
    // ── counted when it happens ────────────────────────────────────────────────────────────────

    /// Adds stored deals: those that were learnt from events, and those that only the history had.
    pub fn deals_stored(&self, from_events: u64, from_gaps: u64) {
        self.deals.with_values(["event"]).inc_by(from_events);
        self.deals.with_values(["gap"]).inc_by(from_gaps);
    }

    /// Adds a comparison of an account's P&L with the server's: the difference, in its currency.
    pub fn audited(&self, drift: f64) {
        self.drift.observe(drift);
    }

    /// Adds a refresh of a token.
    pub fn refreshed(&self, outcome: RefreshOutcome) {
        self.refreshes.with_values([outcome.as_str()]).inc();
    }

    /// Adds what a connection received since the last call, by type.
    pub fn stream_read(&self, events: impl IntoIterator<Item = (&'static str, u64)>) {
        for (kind, count) in events {
            self.events.with_values([kind]).inc_by(count);
        }
    }

    /// Adds the requests that ended since the last call, by outcome.
    pub fn requests_ended(&self, requests: impl IntoIterator<Item = (&'static str, u64)>) {
        for (outcome, count) in requests {
            self.requests.with_values([outcome]).inc_by(count);
        }
    }

    /// Adds a connection that ended or could not be opened.
    pub fn reconnects(&self, environment: &'static str, reason: &'static str) {
        self.reconnects.with_values([environment, reason]).inc();
    }

    /// Adds a round of row writes.
    pub fn rows_written(&self, rows: CacheRows, took: Duration) {
        for (kind, count) in CacheRows::KINDS.into_iter().zip(rows.counts()) {
            self.rows.with_values([kind]).inc_by(count);
        }
        self.write.observe(took.as_secs_f64());
    }

    /// Adds an event that its row shows by now.
    pub fn event_shown(&self, after: Duration) {
        self.event_to_row.observe(after.as_secs_f64());
    }

    // ── sampled when somebody reads ──────────────────────────────────────────────────────────

    /// Registers a function that is called before each rendering, to set values that are kept elsewhere. It
    /// must not block.
    pub fn on_render(&self, sampler: impl Fn(&Self) + Send + Sync + 'static) {
        self.samplers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(sampler));
    }

    /// Sets the number of sessions by status, in the order of [`LabelValues::statuses`].
    pub fn set_sessions(&self, counts: [usize; 6]) {
        for (status, count) in self.statuses.into_iter().zip(counts) {
            self.sessions
                .with_values([status])
                .set(saturating_i64(count));
        }
    }

    /// Sets the number of slots held.
    pub fn set_slots_held(&self, slots: usize) {
        self.slots.set(saturating_i64(slots));
    }

    /// Sets the total of commands with this outcome.
    pub fn set_commands(&self, command: &'static str, outcome: &'static str, count: u64) {
        let counter = self.commands.with_values([command, outcome]);
        counter.inner().store(count, Ordering::Relaxed);
    }

    /// Sets the number of connections in this state.
    pub fn set_connections(&self, environment: &'static str, state: LinkState, count: usize) {
        self.connections
            .with_values([environment, state.as_str()])
            .set(saturating_i64(count));
    }

    /// Sets the number of requests that wait.
    pub fn set_request_queue(&self, requests: usize) {
        self.queue.set(saturating_i64(requests));
    }

    /// Sets the age of the oldest row of a connected session.
    pub fn set_row_age_max(&self, age: Duration) {
        self.row_age.set(age.as_secs_f64());
    }

    /// Returns all metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        {
            let samplers = self.samplers.lock().unwrap_or_else(PoisonError::into_inner);
            for sampler in samplers.iter() {
                sampler(self);
            }
        }
        self.process.sample();
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text::prometheus(&text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn saturating_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_published_names() {
        let metrics = Metrics::new(&LabelValues {
            statuses: [
                "pending",
                "connecting",
                "live",
                "reconnecting",
                "failed",
                "stopped",
            ],
            events: &["spot"],
            requests: &["answered"],
        });
        metrics.deals_stored(3, 1);
        metrics.audited(0.02);
        metrics.refreshed(RefreshOutcome::Renewed);
        metrics.stream_read([("spot", 7)]);
        metrics.requests_ended([("answered", 2)]);
        metrics.reconnects("demo", "closed");
        let rows = CacheRows {
            changed: 2,
            heartbeat: 5,
            fenced: 1,
        };
        metrics.rows_written(rows, Duration::from_millis(4));
        metrics.event_shown(Duration::from_millis(300));
        metrics.on_render(|metrics| {
            metrics.set_sessions([0, 1, 2, 0, 0, 0]);
            metrics.set_slots_held(3);
            metrics.set_commands("start", "applied", 4);
            metrics.set_connections("demo", LinkState::Up, 1);
            metrics.set_request_queue(9);
            metrics.set_row_age_max(Duration::from_millis(1500));
        });
        let text = metrics.render();
        for line in [
            "bridge_deals_total{source=\"event\"} 3",
            "bridge_deals_total{source=\"gap\"} 1",
            "bridge_pnl_drift_count 1",
            "bridge_token_refresh_total{outcome=\"renewed\"} 1",
            "bridge_ctrader_events_total{type=\"spot\"} 7",
            "bridge_ctrader_requests_total{outcome=\"answered\"} 2",
            "bridge_reconnects_total{environment=\"demo\",reason=\"closed\"} 1",
            "bridge_cache_rows_total{kind=\"heartbeat\"} 5",
            "bridge_cache_write_seconds_count 1",
            "bridge_event_to_row_seconds_bucket{le=\"0.5\"} 1",
            "bridge_sessions{status=\"live\"} 2",
            "bridge_sessions{status=\"failed\"} 0",
            "bridge_slots_held 3",
            "bridge_commands_total{command=\"start\",outcome=\"applied\"} 4",
            "bridge_commands_total{command=\"unknown\",outcome=\"dead\"} 0",
            "bridge_ctrader_connections{environment=\"demo\",state=\"up\"} 1",
            "bridge_ctrader_connections{environment=\"live\",state=\"down\"} 0",
            "bridge_ctrader_request_queue 9",
            "bridge_row_age_seconds_max 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
