//! The names on the broker, and their declaration.
//!
//! Declaring is idempotent: an empty broker is enough, and one that has it all is left as it is.
//! A broker that has one of the names with other arguments is an error which a retry alone does
//! not mend; somebody has to delete or rename what is there.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind, ExchangeKind};
use tokio::time::timeout;

use super::AmqpError;
use super::link::ANSWER_TIMEOUT;
use crate::domain::command::CommandKind;

/// Where commands are published, by routing key (`start`, `stop`).
pub const COMMANDS_EXCHANGE: &str = "bridge.commands";
/// Where workers consume them.
pub const COMMANDS_QUEUE: &str = "bridge.commands";
/// Where commands go that cannot be applied.
pub const DEAD_EXCHANGE: &str = "bridge.dead";
/// Where they wait for somebody to look at them.
pub const DEAD_QUEUE: &str = "bridge.commands.dead";

/// Why a message is in the dead-letter queue.
pub const REASON_HEADER: &str = "x-bridge-reason";
/// Where it was published first.
pub const EXCHANGE_HEADER: &str = "x-bridge-original-exchange";
/// With which routing key.
pub const ROUTING_KEY_HEADER: &str = "x-bridge-original-routing-key";
/// Who published it, when the publisher said so: the property itself is checked by the broker
/// against the user of the connection, which is not that one any more.
pub const USER_ID_HEADER: &str = "x-bridge-original-user-id";
/// How often a command may come back unacknowledged before the broker dead-letters it. A worker
/// that dies brings back each command it held, so this is what stops a command that kills workers.
pub const DELIVERY_LIMIT: i64 = 5;

/// The routing keys that are bound.
const ROUTING_KEYS: [CommandKind; 2] = [CommandKind::Start, CommandKind::Stop];

/// Declares everything. The dead-letter side comes first, so that there is no moment at which
/// the broker could have something to dead-letter and nowhere to put it.
///
/// # Errors
/// [`AmqpError::Topology`] when the broker has a name with other arguments, [`AmqpError::Timeout`] when it
/// does not answer.
pub async fn declare(channel: &Channel) -> Result<(), AmqpError> {
    timeout(ANSWER_TIMEOUT, declare_all(channel))
        .await
        .unwrap_or(Err(AmqpError::Timeout {
            what: "declare queues",
            after: ANSWER_TIMEOUT,
        }))
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
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

fn commands_arguments() -> FieldTable {
    let mut arguments = quorum();
    arguments.insert(
        "x-delivery-limit".into(),
        AMQPValue::LongLongInt(DELIVERY_LIMIT),
    );
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD_EXCHANGE));
    // At least once needs reject-publish: a queue that drops its head cannot promise anything.
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
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

/// `PRECONDITION_FAILED`, the only answer to a declaration that differs from what is there.
const PRECONDITION_FAILED: u16 = 406;

fn conflict(what: &'static str, name: &str, err: lapin::Error) -> AmqpError {
    if let ErrorKind::ProtocolError(answer) = err.kind()
        && answer.get_id() == PRECONDITION_FAILED
    {
        return AmqpError::Topology {
            what,
            name: name.to_owned(),
            detail: answer.get_message().to_string(),
        };
    }
    AmqpError::from(err)
}
