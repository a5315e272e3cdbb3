//! The life of a worker: start-up, the wiring of its tasks, supervision, drain.

mod apply_command;
mod drain;
mod start;
mod supervise;
mod tasks;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::http::{Health, HealthSnapshot};
use crate::shutdown::Stages;
use crate::worker::config::{StartError, WorkerConfig};
use crate::worker::health::gauges;
use crate::worker::health::server::HealthThread;
use crate::worker::health::status::WorkerStatus;
use crate::ws::dial::Dialer;
use drain::drain;
use start::wait_for_postgres;
use tasks::{Foundation, Tasks};

/// Runs a worker until it is told to stop, or has been idle for long enough.
///
/// # Errors
/// When a dependency stays away past the start-up deadline or can't ever be used, or a task died.
pub async fn run(config: WorkerConfig, stages: Stages) -> Result<(), StartError> {
    let dialer = Dialer::new(config.extra_roots.clone())?;
    let (snapshot, seen) = watch::channel(HealthSnapshot {
        rabbitmq: Some("not connected yet".to_owned()),
        ..HealthSnapshot::default()
    });
    let status = Arc::new(WorkerStatus::new(snapshot));
    status.beat();
    let metrics = Arc::new(gauges::metrics());
    let rendered = Arc::clone(&metrics);
    let health = Health {
        worker_id: config.worker_id.clone(),
        started_at: Instant::now(),
        snapshot: seen,
        metrics: Some(Arc::new(move || rendered.render())),
    };
    let health_thread = HealthThread::start(config.port, health).await?;

    let result = match wait_for_postgres(&config, &stages).await {
        Ok(Some(lock_connection)) => {
            let foundation = Foundation {
                dialer,
                status,
                metrics,
                lock_connection,
            };
            Box::pin(work(config, stages, foundation)).await
        }
        // Told to stop meanwhile.
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    health_thread.stop().await;
    result
}

async fn work(
    config: WorkerConfig,
    stages: Stages,
    foundation: Foundation,
) -> Result<(), StartError> {
    let (mut tasks, supervisor) = Tasks::spawn(&config, foundation)?;
    let ended = supervisor
        .run_until_stop(&config, &stages, &mut tasks.set)
        .await;
    supervisor.status.set_draining();
    drain(&mut tasks, config.grace, &stages).await;
    tasks.close_databases().await;
    ended
}
