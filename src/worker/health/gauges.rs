//! A worker's metrics, and what is asked of the tasks when somebody reads them.

use std::sync::Arc;

use crate::amqp::ConsumerHandle;
use crate::ctrader::connection;
use crate::domain::command::CommandKind;
use crate::domain::status::Status;
use crate::metrics::{LabelValues, LinkState, Metrics};
use crate::worker::health::status::{LinkStatus, WorkerStatus};
use crate::worker::writing::row_stats::RowStats;

/// A worker's metrics, all at zero.
#[must_use]
pub fn metrics() -> Metrics {
    Metrics::new(&LabelValues {
        statuses: Status::ALL.map(Status::as_str),
        events: &connection::Tally::EVENTS,
        requests: &connection::Tally::REQUESTS,
    })
}

/// Registers the gauges that are read from these when somebody reads the metrics.
pub(in crate::worker) fn register(
    metrics: &Metrics,
    status: &Arc<WorkerStatus>,
    links: &[(&'static str, Arc<LinkStatus>)],
    commands: &ConsumerHandle,
    row_stats: &Arc<RowStats>,
) {
    let (status, row_stats) = (Arc::clone(status), Arc::clone(row_stats));
    let (links, commands) = (links.to_vec(), commands.clone());
    metrics.on_render(move |metrics| {
        let slots = status.slots();
        row_stats.keep(&slots);
        metrics.set_sessions(row_stats.statuses());
        metrics.set_row_age_max(row_stats.age_max());
        metrics.set_slots_held(slots.len());
        let waiting = links.iter().map(|(_, link)| link.queued()).sum();
        metrics.set_request_queue(waiting);
        for environment in ["demo", "live"] {
            for state in LinkState::ALL {
                let of_it = links
                    .iter()
                    .filter(|(name, link)| *name == environment && link.state() == state);
                metrics.set_connections(environment, state, of_it.count());
            }
        }
        for ((kind, outcome), count) in commands.counts() {
            let command = kind.map_or("unknown", CommandKind::as_str);
            metrics.set_commands(command, outcome.as_str(), count);
        }
    });
}
