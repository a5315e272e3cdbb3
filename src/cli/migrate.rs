//! `migrate`: applies the migrations.

use super::error::CliError;
use crate::config::MigrateConfig;
use crate::pg::connect::PgConfig;
use crate::pg::{probe, schema};
use crate::telemetry;

pub(super) async fn run(config: MigrateConfig) -> Result<(), CliError> {
    telemetry::init(&config.log);
    let pg = PgConfig::new(config.database_url, "mahspeccy-bridge migrate");
    let version = schema::migrate(&pg)
        .await
        .map_err(|error| CliError::unavailable("Postgres", &probe::diagnose(&error, &pg)))?;
    println!("the schema is at version {version}");
    Ok(())
}
