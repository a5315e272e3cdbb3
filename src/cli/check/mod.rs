//! `check`: tries what a worker needs and prints a line for each, with the fix for what fails. The
//! dependencies are tried concurrently; a check that needs one that failed is skipped, and reported as such.

mod ctrader;
mod postgres;
mod rabbitmq;
mod report;

use super::error::CliError;
use crate::config::Config;
use report::CheckResult;

/// Tries everything and prints the results.
///
/// # Errors
/// When a check fails.
pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    let (postgres, rabbitmq, demo, live) = tokio::join!(
        Box::pin(postgres::checks(config.database_url.clone())),
        Box::pin(rabbitmq::checks(&config.amqp)),
        Box::pin(ctrader::check(
            "cTrader demo",
            "CTRADER_DEMO_URL",
            &config.ctrader.demo_url,
            &config.ctrader
        )),
        Box::pin(ctrader::check(
            "cTrader live",
            "CTRADER_LIVE_URL",
            &config.ctrader.live_url,
            &config.ctrader
        )),
    );
    let checks: Vec<CheckResult> = postgres
        .into_iter()
        .chain(rabbitmq)
        .chain([demo, live])
        .collect();
    checks.iter().for_each(CheckResult::print);
    match checks.iter().filter(|check| check.has_failed()).count() {
        0 => Ok(()),
        failed => Err(CliError::Unavailable(format!(
            "{failed} of {} do not hold",
            checks.len()
        ))),
    }
}
