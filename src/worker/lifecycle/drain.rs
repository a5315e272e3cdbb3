//! The drain: stops the tasks in order, within the grace period.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tracing::{info, warn};

use super::tasks::Tasks;
use crate::shutdown::Stages;

/// Kept of the grace period for the last steps: the last rows and the claims.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// Kept of the grace period, beside those, for the log-outs of sessions that could not be handed over.
const LOG_OUTS: Duration = Duration::from_secs(5);

/// Stops everything in order, within the grace, or at once after a second signal.
pub(in crate::worker) async fn drain(tasks: &mut Tasks, grace: Duration, stages: &Stages) {
    let started = tokio::time::Instant::now();
    let links_until = started + grace.saturating_sub(LAST_STEPS);
    info!("draining");
    tasks.stop.consumer.cancel();
    tasks.stop.handing_over.cancel();
    let handover_until = started + grace.saturating_sub(LAST_STEPS + LOG_OUTS);
    wait_for(&mut tasks.set, "coordinator", handover_until, stages).await;
    tasks.stop.coordinator.cancel();
    tasks.stop.listener.cancel();
    let mut replies = Vec::new();
    for link in tasks.links.all() {
        replies.extend(link.drain().await);
    }
    let links = async {
        for reply in replies {
            // A link that died has nothing left to write.
            let _ = reply.await;
        }
    };
    tokio::select! {
        drained = timeout_at(links_until, links) => if drained.is_err() {
            warn!("some accounts could not be logged out in time");
        },
        () = stages.hard.cancelled() => {}
    }
    // A new pair of tokens that came with a link's last answers is committed before anything else ends.
    tasks.stop.refresher.cancel();
    wait_for(&mut tasks.set, "refresher", links_until, stages).await;
    tasks.stop.writer.cancel();
    wait_for(&mut tasks.set, "writer", started + grace, stages).await;
    tasks.stop.lock_keeper.cancel();
    let rest = async { while tasks.set.join_next().await.is_some() {} };
    tokio::select! {
        ended = timeout_at(started + grace, rest) => if ended.is_err() {
            warn!("the grace is over before everything had ended");
        },
        () = stages.hard.cancelled() => warn!("stopped before everything had ended"),
    }
    info!(
        ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "drained"
    );
}

/// Waits until that task has ended, among others that end meanwhile.
async fn wait_for(
    set: &mut JoinSet<&'static str>,
    name: &'static str,
    until: tokio::time::Instant,
    stages: &Stages,
) {
    let ended = async {
        while let Some(ended) = set.join_next().await {
            if matches!(ended, Ok(ended) if ended == name) {
                return;
            }
        }
    };
    tokio::select! {
        _ = timeout_at(until, ended) => {}
        () = stages.hard.cancelled() => {}
    }
}
