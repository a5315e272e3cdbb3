//! `worker`: runs a worker until it is drained.

use super::error::CliError;
use crate::config::Config;
use crate::failure::with_causes;
use crate::shutdown::{Signals, Stages};
use crate::telemetry;
use crate::worker::{self, StartError, WorkerConfig};

pub(super) async fn run(config: Config) -> Result<(), CliError> {
    telemetry::init(&config.log);
    let signals = Signals::install().map_err(|error| CliError::Internal(with_causes(&error)))?;
    let stages = Stages::default();
    tokio::spawn(signals.drive(stages.clone()));
    worker::run(WorkerConfig::from(config), stages)
        .await
        .map_err(|error| {
            let text = error.to_string();
            match error {
                StartError::Config(_) => CliError::Usage(text),
                StartError::Dependency { .. } => CliError::Unavailable(text),
                StartError::Internal(_) => CliError::Internal(text),
            }
        })
}
