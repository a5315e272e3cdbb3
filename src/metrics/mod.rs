//! What is counted, for `GET /metrics`. Names and labels are the contract's.
//!
//! Every series exists from the start, at zero: an alert needs no special case for what has not
//! happened yet. Nothing here is looked up by label where it is hot: links count in plain integers
//! and hand over sums, once a read ([`Metrics::stream_read`]); what others keep anyway is asked for
//! when somebody reads the metrics ([`Metrics::on_render`]).

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

pub use labels::{CacheRows, LinkState, RefreshOutcome};
use labels::{Labelled, Labels, Pairs};

/// Bounds of the drift's buckets, in units of the account's currency: a cent, a few, and what is wrong.
const DRIFT_BUCKETS: [f64; 7] = [0.0, 0.01, 0.05, 0.1, 1.0, 10.0, 100.0];

/// Bounds of a batch's write, seconds: a good one takes a few milliseconds, the statement timeout is 10 s.
const WRITE_BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];

/// Bounds from an event to its row, seconds: the interval of rows, 2 s, is the usual most.
const ROW_BUCKETS: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0, 60.0];

/// The environments of cTrader.
const ENVIRONMENTS: [&str; 2] = ["demo", "live"];

/// Why a connection to cTrader ended or did not come about.
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

/// Label values that belong to what is counted, and are said there.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// The states of sessions, as rows say them.
    pub statuses: [&'static str; 6],
    /// Messages of cTrader that answer nothing.
    pub events: &'static [&'static str],
    /// What becomes of requests to cTrader.
    pub requests: &'static [&'static str],
}

type Number = Gauge<f64, AtomicU64>;
type Sampler = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The counters of one process.
pub struct Metrics {
    registry: Registry,
    samplers: Mutex<Vec<Sampler>>,
    process: process::Process,
    statuses: [&'static str; 6],
    sessions: Labelled<Gauge>,
    slots: Gauge,
    commands: Pairs<Counter>,
    connections: Pairs<Gauge>,
    events: Labelled<Counter>,
    requests: Labelled<Counter>,
    queue: Gauge,
    reconnects: Pairs<Counter>,
    rows: Labelled<Counter>,
    write: Histogram,
    event_to_row: Histogram,
    row_age: Number,
    deals: Labelled<Counter>,
    drift: Histogram,
    refreshes: Labelled<Counter>,
}

impl Metrics {
    /// All at zero.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one metric after the other")]
    pub fn new(words: &Words) -> Self {
        let mut registry = Registry::default();
        let process = process::Process::new(&mut registry);
        let bridge = registry.sub_registry_with_prefix("bridge");
        let mut labels = Labels(bridge);
        let sessions = labels.one(
            "sessions",
            "Sessions of this worker, by what their rows say",
            "status",
            &words.statuses,
        );
        let commands = labels.two(
            "commands",
            "Commands, by what became of them",
            ("command", &["start", "stop", "unknown"]),
            ("outcome", &["applied", "retried", "dead"]),
        );
        let connections = labels.two(
            "ctrader_connections",
            "Connections to cTrader: up, down though there are sessions for it, or idle",
            ("environment", &ENVIRONMENTS),
            ("state", &LinkState::ALL.map(LinkState::as_str)),
        );
        let events = labels.one(
            "ctrader_events",
            "Messages of cTrader that answer nothing",
            "type",
            words.events,
        );
        let requests = labels.one(
            "ctrader_requests",
            "Requests to cTrader, by what became of them",
            "outcome",
            words.requests,
        );
        let reconnects = labels.two(
            "reconnects",
            "Connections to cTrader that ended or did not come about, by reason",
            ("environment", &ENVIRONMENTS),
            ("reason", &REASONS),
        );
        let rows = labels.one(
            "cache_rows",
            "Rows written, said to be still so, or refused by the fence",
            "kind",
            &CacheRows::KINDS,
        );
        let deals = labels.one(
            "deals",
            "Deals stored, by how they came to be known",
            "source",
            &["event", "gap"],
        );
        let refreshes = labels.one(
            "token_refresh",
            "Tokens renewed, by outcome",
            "outcome",
            &RefreshOutcome::ALL.map(RefreshOutcome::as_str),
        );
        let Labels(bridge) = labels;
        let slots = Gauge::default();
        bridge.register("slots_held", "Slots this worker has claimed", slots.clone());
        let queue = Gauge::default();
        bridge.register(
            "ctrader_request_queue",
            "Requests to cTrader that wait for their turn",
            queue.clone(),
        );
        let write = Histogram::new(WRITE_BUCKETS);
        bridge.register(
            "cache_write_seconds",
            "One round of rows to Postgres",
            write.clone(),
        );
        let event_to_row = Histogram::new(ROW_BUCKETS);
        bridge.register(
            "event_to_row_seconds",
            "From an event of cTrader to the row that shows it",
            event_to_row.clone(),
        );
        let row_age = Number::default();
        bridge.register(
            "row_age_seconds_max",
            "Age of the oldest row that says it is connected",
            row_age.clone(),
        );
        let drift = Histogram::new(DRIFT_BUCKETS);
        bridge.register(
            "pnl_drift",
            "Difference of our unrealised P&L to the server's, an account at a time, in its currency",
            drift.clone(),
        );
        Self {
            registry,
            samplers: Mutex::default(),
            process,
            statuses: words.statuses,
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
    // ── counted as it happens ────────────────────────────────────────────────────────────────

    /// Deals were stored that events told of, and deals that only the history did.
    pub fn deals_stored(&self, from_events: u64, from_gaps: u64) {
        self.deals.of("event").inc_by(from_events);
        self.deals.of("gap").inc_by(from_gaps);
    }

    /// An account's P&L was compared with the server's.
    pub fn audited(&self, drift: f64) {
        self.drift.observe(drift);
    }

    /// A token was to be renewed.
    pub fn refreshed(&self, outcome: RefreshOutcome) {
        self.refreshes.of(outcome.as_str()).inc();
    }

    /// What came in on a connection since the last time, by kind.
    pub fn stream_read(&self, events: impl IntoIterator<Item = (&'static str, u64)>) {
        for (kind, count) in events {
            self.events.of(kind).inc_by(count);
        }
    }

    /// What became of requests since the last time, by outcome.
    pub fn requests_ended(&self, requests: impl IntoIterator<Item = (&'static str, u64)>) {
        for (outcome, count) in requests {
            self.requests.of(outcome).inc_by(count);
        }
    }

    /// A connection ended, or did not come about.
    pub fn reconnects(&self, environment: &'static str, reason: &'static str) {
        self.reconnects.of(environment, reason).inc();
    }

    /// A round of rows was written.
    pub fn rows_written(&self, rows: CacheRows, took: Duration) {
        for (kind, count) in CacheRows::KINDS.into_iter().zip(rows.counts()) {
            self.rows.of(kind).inc_by(count);
        }
        self.write.observe(took.as_secs_f64());
    }

    /// A row shows an event by now.
    pub fn event_shown(&self, after: Duration) {
        self.event_to_row.observe(after.as_secs_f64());
    }

    // ── asked for when somebody reads ────────────────────────────────────────────────────────

    /// Has this called before each rendering, to set what is kept elsewhere. It must not wait.
    pub fn on_render(&self, sampler: impl Fn(&Self) + Send + Sync + 'static) {
        self.samplers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(sampler));
    }

    /// How many sessions have which status, in the order of a session's life.
    pub fn set_sessions(&self, counts: [usize; 6]) {
        for (status, count) in self.statuses.into_iter().zip(counts) {
            self.sessions.of(status).set(clamped(count));
        }
    }

    /// How many slots are held.
    pub fn set_slots_held(&self, slots: usize) {
        self.slots.set(clamped(slots));
    }

    /// How many commands there were with this outcome, in all.
    pub fn set_commands(&self, command: &'static str, outcome: &'static str, count: u64) {
        let counter = self.commands.of(command, outcome);
        counter.inner().store(count, Ordering::Relaxed);
    }

    /// How many connections are in this state.
    pub fn set_connections(&self, environment: &'static str, state: LinkState, count: usize) {
        self.connections
            .of(environment, state.as_str())
            .set(clamped(count));
    }

    /// How many requests wait.
    pub fn set_request_queue(&self, requests: usize) {
        self.queue.set(clamped(requests));
    }

    /// How old the oldest row of a connected session is.
    pub fn set_row_age_max(&self, age: Duration) {
        self.row_age.set(age.as_secs_f64());
    }

    /// All of it as Prometheus text.
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

fn clamped(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_has_the_contracts_names() {
        let metrics = Metrics::new(&Words {
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
