//! Sends one command, and comes back once the broker has it in the queue.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::ShortString;
use tokio::time::timeout;

use super::link::Link;
use super::settle::publish_confirmed;
use super::{AmqpError, AmqpSettings, topology};
use crate::domain::command::Command;

/// How long the broker may take to confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes a command over a connection of its own. The topology is declared first, so that a
/// command can be sent before the first worker runs.
///
/// # Errors
/// When the broker cannot be reached, refuses, has no queue for it, or does not confirm in 5 s.
/// Only in the last case may the command have been stored all the same.
pub async fn publish(settings: &AmqpSettings, command: &Command) -> Result<(), AmqpError> {
    let link = Link::open(settings).await?;
    let channel = link.confirming_channel().await?;
    topology::declare(&channel).await?;
    let body = command.to_json();
    let publish = publish_confirmed(
        &channel,
        topology::COMMANDS_EXCHANGE,
        command.kind.as_str(),
        body.as_bytes(),
        properties(command),
    );
    timeout(CONFIRM_TIMEOUT, publish)
        .await
        .map_err(|_| AmqpError::Timeout {
            what: "confirm the command",
            after: CONFIRM_TIMEOUT,
        })??;
    // It is stored; how the connection ends changes nothing.
    let _ = link.close().await;
    Ok(())
}

/// JSON, persistent, with the command's id.
fn properties(command: &Command) -> BasicProperties {
    const PERSISTENT: u8 = 2;
    BasicProperties::default()
        .with_content_type(ShortString::from("application/json"))
        .with_delivery_mode(PERSISTENT)
        .with_message_id(ShortString::from(command.id.to_string()))
}
