//! The names on the broker, and their declaration.
//!
//! Declaring is idempotent: an empty broker is enough, and one that has everything is left as it is.
//! If the broker has one of the names with other arguments, a retry does not help: somebody has to delete
//! or rename what is there.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind, ExchangeKind};

use super::error::AmqpError;
use super::message::text_value;
use super::timeout::{REPLY_TIMEOUT, within};
use crate::domain::command::CommandKind;

/// The exchange that commands are published to, by routing key (`start`, `stop`).
pub const COMMANDS_EXCHANGE: &str = "bridge.commands";
/// The queue that workers consume commands from.
pub const COMMANDS_QUEUE: &str = "bridge.commands";
/// The exchange that commands which cannot be applied are published to.
pub const DEAD_EXCHANGE: &str = "bridge.dead";
/// The queue in which they wait for an operator.
pub const DEAD_QUEUE: &str = "bridge.commands.dead";

/// How often a command may be returned unacknowledged before the broker dead-letters it. When a worker
/// dies, each command that it held is returned, so this limit stops a command that kills workers.
pub const DELIVERY_LIMIT: i64 = 5;

/// The routing keys that are bound.
const ROUTING_KEYS: [CommandKind; 2] = [CommandKind::Start, CommandKind::Stop];

/// Declares everything. The dead-letter side comes first, so that the broker always has a queue for what it
/// dead-letters.
///
/// # Errors
/// [`AmqpError::Topology`] when the broker has a name with other arguments, [`AmqpError::Timeout`] when it
/// does not reply.
pub async fn declare(channel: &Channel) -> Result<(), AmqpError> {
    within(REPLY_TIMEOUT, "declare queues", declare_all(channel)).await
}

async fn declare_all(channel: &Channel) -> Result<(), AmqpError> {
    exchange(channel, DEAD_EXCHANGE, ExchangeKind::Fanout).await?;
    queue(channel, DEAD_QUEUE, quorum()).await?;
    bind(channel, DEAD_QUEUE, DEAD_EXCHANGE, "").await?;

    exchange(channel, COMMANDS_EXCHANGE, ExchangeKind::Direct).await?;
    queue(channel, COMMANDS_QUEUE, commands_arguments()).await?;
    for key in ROUTING_KEYS {
        bind(channel, COMMANDS_QUEUE, COMMANDS_EXCHANGE, key.as_str()).await?;
    }
    Ok(())
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text_value("quorum"));
    arguments
}

fn commands_arguments() -> FieldTable {
    let mut arguments = quorum();
    arguments.insert(
        "x-delivery-limit".into(),
        AMQPValue::LongLongInt(DELIVERY_LIMIT),
    );
    arguments.insert("x-dead-letter-exchange".into(), text_value(DEAD_EXCHANGE));
    // At least once needs reject-publish: a queue that drops its head cannot promise anything.
    arguments.insert("x-dead-letter-strategy".into(), text_value("at-least-once"));
    arguments.insert("x-overflow".into(), text_value("reject-publish"));
    arguments
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), AmqpError> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.into(), kind, options, FieldTable::default())
        .await
        .map_err(|err| conflict("exchange", name, err))
}

async fn queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), AmqpError> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.into(), options, arguments)
        .await
        .map(drop)
        .map_err(|err| conflict("queue", name, err))
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<(), AmqpError> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(AmqpError::from)
}

/// `PRECONDITION_FAILED`: the reply to a declaration that differs from what the broker has.
const PRECONDITION_FAILED: u16 = 406;

fn conflict(what: &'static str, name: &str, err: lapin::Error) -> AmqpError {
    if let ErrorKind::ProtocolError(reply) = err.kind()
        && reply.get_id() == PRECONDITION_FAILED
    {
        return AmqpError::Topology {
            what,
            name: name.to_owned(),
            detail: reply.get_message().to_string(),
        };
    }
    AmqpError::from(err)
}
