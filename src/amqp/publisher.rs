//! Publishes messages, and returns once the broker has stored them in a queue.

use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};

use super::connection::{AmqpSettings, BrokerConnection};
use super::error::AmqpError;
use super::message::PERSISTENT;
use super::timeout::{reply, within};
use super::topology;
use crate::domain::command::Command;

/// How long the broker may take to confirm a command.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes a command over a connection of its own. Declares the topology first, so that a command can be published
/// before the first worker runs.
///
/// # Errors
/// When the broker cannot be reached, refuses, has no queue for it, or does not confirm in 5 s.
/// Only in the last case may the command have been stored all the same.
pub async fn publish(settings: &AmqpSettings, command: &Command) -> Result<(), AmqpError> {
    let connection = BrokerConnection::open(settings).await?;
    let channel = connection.confirming_channel().await?;
    topology::declare(&channel).await?;
    let body = command.to_json();
    let publish = publish_confirmed(
        &channel,
        topology::COMMANDS_EXCHANGE,
        command.kind.as_str(),
        body.as_bytes(),
        properties(command),
    );
    within(CONFIRM_TIMEOUT, "confirm the command", publish).await?;
    // The command is stored; how the connection ends changes nothing.
    let _ = connection.close().await;
    Ok(())
}

/// JSON, persistent, with the command's id.
fn properties(command: &Command) -> BasicProperties {
    BasicProperties::default()
        .with_content_type(ShortString::from("application/json"))
        .with_delivery_mode(PERSISTENT)
        .with_message_id(ShortString::from(command.id.to_string()))
}

/// Publishes a message that must reach a queue, on a channel in confirm mode. Returns once the broker has stored it.
///
/// # Errors
/// [`AmqpError::Unroutable`] and [`AmqpError::Refused`] mean that the broker did not store it.
pub(super) async fn publish_confirmed(
    channel: &Channel,
    exchange: &'static str,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), AmqpError> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let publish = async {
        channel
            .basic_publish(
                exchange.into(),
                routing_key.into(),
                options,
                body,
                properties,
            )
            .await?
            .await
    };
    match reply("confirm a message", publish).await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => Err(AmqpError::Unroutable {
            exchange,
            detail: returned.reply_text.to_string(),
        }),
        Confirmation::Nack(_) | Confirmation::NotRequested => Err(AmqpError::Refused { exchange }),
    }
}
