//! `start` and `stop`: publish a command and wait for the broker's confirm.

use time::OffsetDateTime;
use uuid::Uuid;

use super::arguments::SessionSelector;
use super::error::CliError;
use crate::amqp::{probe, publisher};
use crate::config::PublishConfig;
use crate::domain::command::{Command, CommandKind};
use crate::domain::ids::{AccountId, UserId};
use crate::telemetry;

pub(super) async fn run(
    config: PublishConfig,
    kind: CommandKind,
    target: SessionSelector,
) -> Result<(), CliError> {
    let user = UserId::new(target.user).map_err(|error| CliError::Usage(error.to_string()))?;
    if target.account.is_some_and(|account| account <= 0) {
        return Err(CliError::Usage("--account is a positive number".to_owned()));
    }
    let command = Command {
        id: Uuid::new_v4(),
        kind,
        user,
        account: target.account.map(AccountId),
        issued_at: OffsetDateTime::now_utc(),
    };
    telemetry::init(&config.log);
    publisher::publish(&config.amqp, &command)
        .await
        .map_err(|error| {
            CliError::unavailable("RabbitMQ", &probe::diagnose(&error, &config.amqp))
        })?;
    println!("{} {} confirmed", kind.as_str(), command.id);
    Ok(())
}
