//! The end of a worker: what stops after what.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::shutdown::Stages;
use crate::worker::handles::links::Links;
use crate::worker::link::LinkCommand;

/// Kept of the grace for the last steps: the last rows and the claims.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// Kept of the grace, beside those, for the log-outs of what could not be handed over.
const LOG_OUTS: Duration = Duration::from_secs(5);

/// All tasks of a worker, in the order they stop.
pub(in crate::worker) struct Tasks {
    pub(in crate::worker) set: JoinSet<&'static str>,
    pub(in crate::worker) links: Links,
    pub(in crate::worker) consumer: CancellationToken,
    /// The coordinator hands over what it can, and ends.
    pub(in crate::worker) handing_over: CancellationToken,
    pub(in crate::worker) coordinator: CancellationToken,
    pub(in crate::worker) refresher: CancellationToken,
    pub(in crate::worker) writer: CancellationToken,
    pub(in crate::worker) keeper: CancellationToken,
    pub(in crate::worker) hints: CancellationToken,
}

/// Stops everything in order, within the grace, or at once after a second signal.
pub(in crate::worker) async fn drain(tasks: &mut Tasks, grace: Duration, stages: &Stages) {
    let started = tokio::time::Instant::now();
    let patient = started + grace.saturating_sub(LAST_STEPS);
    info!("draining");
    tasks.consumer.cancel();
    tasks.handing_over.cancel();
    let handed_over = started + grace.saturating_sub(LAST_STEPS + LOG_OUTS);
    wait_for(&mut tasks.set, "coordinator", handed_over, stages).await;
    tasks.coordinator.cancel();
    tasks.hints.cancel();
    let mut answers = Vec::new();
    for link in tasks.links.all() {
        let (done, answered) = oneshot::channel();
        if link.send(LinkCommand::Drain(done)).await.is_ok() {
            answers.push(answered);
        }
    }
    let links = async {
        for answered in answers {
            // A link that died has nothing to say any more.
            let _ = answered.await;
        }
    };
    tokio::select! {
        drained = timeout_at(patient, links) => if drained.is_err() {
            warn!("some accounts could not be logged out in time");
        },
        () = stages.hard.cancelled() => {}
    }
    // A new pair of tokens that came with the last words is committed before anything else ends.
    tasks.refresher.cancel();
    wait_for(&mut tasks.set, "refresher", patient, stages).await;
    tasks.writer.cancel();
    wait_for(&mut tasks.set, "writer", started + grace, stages).await;
    tasks.keeper.cancel();
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
