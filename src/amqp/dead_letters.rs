//! The dead-letter queue: lists its messages, requeues them as commands, and drops them.
//!
//! Nothing is lost if this process dies halfway. A message that is read stays unacknowledged, so the broker returns it to
//! the queue when the connection ends. A requeued message is acknowledged after the broker has confirmed its copy: a
//! crash in between leaves two copies, and applying a command twice changes nothing.
//!
//! Each read counts as a return of the message, and RabbitMQ 4 drops a message of a quorum queue at the 20th. So a message
//! that was returned `REPUBLISH_AT` times is put back as a fresh copy instead.

use std::collections::BTreeMap;

use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use sha2::{Digest, Sha256};

use super::connection::{AmqpSettings, BrokerConnection};
use super::error::AmqpError;
use super::message::{
    REASON_HEADER, ROUTING_KEY_HEADER, broker_reason, copied_headers, copied_properties,
    delivery_count, printable, text_header, text_value, without_broker_deaths,
    without_dead_letter_headers,
};
use super::publisher::publish_confirmed;
use super::timeout::reply;
use super::topology::{COMMANDS_EXCHANGE, DEAD_EXCHANGE, DEAD_QUEUE};
use crate::domain::command::{Command, CommandKind};

/// A message that was returned this often is replaced by a fresh copy: well below RabbitMQ 4's limit of 20.
const REPUBLISH_AT: i64 = 10;

/// The most messages that one list shows.
pub const LIST_MAX: usize = 1_000;

/// `NOT_FOUND` of AMQP.
const NOT_FOUND: u16 = 404;

/// A message of the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its message id, or a digest of its body if it has none.
    pub id: String,
    /// Why it was dead-lettered.
    pub reason: String,
    /// Start or stop, by its routing key or its body. `None` if neither tells.
    pub kind: Option<CommandKind>,
    /// The command, if the body is one.
    pub command: Option<Command>,
    /// Length of the body.
    pub bytes: usize,
}

/// The messages of the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterList {
    /// Oldest first, at most [`LIST_MAX`].
    pub messages: Vec<DeadLetter>,
    /// How many more the queue has.
    pub more: usize,
}

/// Which messages to requeue or to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Those with this id.
    Id(String),
    /// Every one.
    All,
}

impl Selection {
    fn includes(&self, message: &DeadLetter) -> bool {
        match self {
            Self::Id(id) => message.id == *id,
            Self::All => true,
        }
    }
}

/// What became of the selected messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelectionReport {
    /// How many were requeued or dropped.
    pub done: usize,
    /// The ids of messages that stay in the queue, and why.
    pub kept: BTreeMap<String, String>,
}

/// Lists the messages, and leaves them in the queue.
///
/// # Errors
/// When the broker cannot be reached or refuses access.
pub async fn list(settings: &AmqpSettings) -> Result<DeadLetterList, AmqpError> {
    let Some(queue) = DeadLetterQueue::open(settings).await? else {
        return Ok(DeadLetterList {
            messages: Vec::new(),
            more: 0,
        });
    };
    let mut messages = Vec::new();
    let mut last = None;
    while messages.len() < LIST_MAX.min(queue.waiting) {
        let Some(delivery) = queue.next().await? else {
            break;
        };
        messages.push(dead_letter(&delivery));
        last = queue.republish_if_returned_often(delivery).await?.or(last);
    }
    let more = queue.waiting.saturating_sub(messages.len());
    if let Some(last) = last {
        queue.put_back(&last).await?;
    }
    queue.close().await;
    Ok(DeadLetterList { messages, more })
}

/// Publishes the selected messages as commands again, and removes them.
///
/// # Errors
/// When the broker cannot be reached or does not take one. Letters that were requeued before stay requeued.
pub async fn requeue(
    settings: &AmqpSettings,
    selection: &Selection,
) -> Result<SelectionReport, AmqpError> {
    process(settings, selection, true).await
}

/// Drops the selected messages.
///
/// # Errors
/// When the broker cannot be reached. Letters that were dropped before stay dropped.
pub async fn discard(
    settings: &AmqpSettings,
    selection: &Selection,
) -> Result<SelectionReport, AmqpError> {
    process(settings, selection, false).await
}

async fn process(
    settings: &AmqpSettings,
    selection: &Selection,
    requeue: bool,
) -> Result<SelectionReport, AmqpError> {
    let mut report = SelectionReport::default();
    let Some(queue) = DeadLetterQueue::open(settings).await? else {
        return Ok(report);
    };
    // As many as there were at the start: messages that a worker dead-letters again meanwhile are left alone.
    for _ in 0..queue.waiting {
        let Some(delivery) = queue.next().await? else {
            break;
        };
        let message = dead_letter(&delivery);
        if !selection.includes(&message) {
            // Held until the end, so that the broker delivers the next one.
            queue.republish_if_returned_often(delivery).await?;
            continue;
        }
        if requeue {
            let Some(kind) = message.kind else {
                let why = "neither its routing key nor its body says start or stop";
                report.kept.insert(message.id, why.to_owned());
                continue;
            };
            let headers = without_dead_letter_headers(&copied_headers(&delivery));
            queue
                .publish(COMMANDS_EXCHANGE, kind.as_str(), &delivery, headers)
                .await?;
        }
        queue.ack(&delivery).await?;
        report.done += 1;
    }
    // Closing returns what is still held.
    queue.close().await;
    Ok(report)
}

/// A connection that reads the dead-letter queue.
struct DeadLetterQueue {
    connection: BrokerConnection,
    channel: Channel,
    publish_channel: Channel,
    /// How many messages waited at the start.
    waiting: usize,
}

impl DeadLetterQueue {
    /// Returns `None` when the queue does not exist yet.
    async fn open(settings: &AmqpSettings) -> Result<Option<Self>, AmqpError> {
        let connection = BrokerConnection::open(settings).await?;
        let channel = connection.channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declare = channel.queue_declare(DEAD_QUEUE.into(), options, FieldTable::default());
        let waiting = match reply("report a queue", declare).await {
            Ok(queue) => usize::try_from(queue.message_count()).unwrap_or(usize::MAX),
            Err(AmqpError::Client(error)) if is_not_found(&error) => {
                let _ = connection.close().await;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let publish_channel = connection.confirming_channel().await?;
        Ok(Some(Self {
            connection,
            channel,
            publish_channel,
            waiting,
        }))
    }

    async fn next(&self) -> Result<Option<Delivery>, AmqpError> {
        let get = self
            .channel
            .basic_get(DEAD_QUEUE.into(), BasicGetOptions { no_ack: false });
        let message = reply("deliver a message", get).await?;
        Ok(message.map(|message| message.delivery))
    }

    /// Replaces a message that was returned often by a fresh copy. Returns the message if it was not.
    async fn republish_if_returned_often(
        &self,
        delivery: Delivery,
    ) -> Result<Option<Delivery>, AmqpError> {
        if delivery_count(&delivery) < REPUBLISH_AT {
            return Ok(Some(delivery));
        }
        let mut headers = copied_headers(&delivery);
        headers.insert(REASON_HEADER.into(), text_value(&reason(&delivery)));
        let headers = without_broker_deaths(&headers);
        let key = delivery.routing_key.as_str();
        self.publish(DEAD_EXCHANGE, key, &delivery, headers).await?;
        self.ack(&delivery).await?;
        Ok(None)
    }

    async fn publish(
        &self,
        exchange: &'static str,
        key: &str,
        delivery: &Delivery,
        headers: FieldTable,
    ) -> Result<(), AmqpError> {
        let properties = copied_properties(delivery).with_headers(headers);
        let channel = &self.publish_channel;
        publish_confirmed(channel, exchange, key, &delivery.data, properties).await
    }

    async fn ack(&self, delivery: &Delivery) -> Result<(), AmqpError> {
        let ack = delivery.ack(BasicAckOptions::default());
        reply("take an acknowledgement", ack).await.map(drop)
    }

    /// Returns this message and all held before it to the queue.
    async fn put_back(&self, last: &Delivery) -> Result<(), AmqpError> {
        let options = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        reply("take messages back", last.nack(options))
            .await
            .map(drop)
    }

    /// Closes the connection, which returns what is still held.
    async fn close(self) {
        // All that matters was confirmed before.
        let _ = self.connection.close().await;
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(reply) if reply.get_id() == NOT_FOUND)
}

fn dead_letter(delivery: &Delivery) -> DeadLetter {
    let command = Command::parse(&delivery.data).ok();
    let id = delivery.properties.message_id().as_ref();
    let id = id.filter(|id| !id.as_str().is_empty());
    let original = text_header(delivery, ROUTING_KEY_HEADER);
    let key = original.unwrap_or_else(|| delivery.routing_key.to_string());
    let kinds = [CommandKind::Start, CommandKind::Stop];
    DeadLetter {
        id: id.map_or_else(|| digest(&delivery.data), |id| printable(id.as_str())),
        reason: reason(delivery),
        kind: kinds
            .into_iter()
            .find(|kind| kind.as_str() == key)
            .or_else(|| command.as_ref().map(|command| command.kind)),
        bytes: delivery.data.len(),
        command,
    }
}

/// An id for a message without one: the same for the same body.
fn digest(body: &[u8]) -> String {
    let digest = hex::encode(Sha256::digest(body));
    format!("body-{}", digest.get(..12).unwrap_or(&digest))
}

fn reason(delivery: &Delivery) -> String {
    text_header(delivery, REASON_HEADER).map_or_else(
        || match broker_reason(delivery).as_deref() {
            Some("delivery_limit") => {
                "the broker gave up: returned unacknowledged five times, as by workers that died of it"
                    .to_owned()
            }
            Some(other) => format!("the broker dead-lettered it: {}", printable(other)),
            None => "unknown".to_owned(),
        },
        |reason| printable(&reason),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_without_an_id_has_a_stable_name() {
        assert_eq!(digest(b"x"), digest(b"x"));
        assert_ne!(digest(b"x"), digest(b"y"));
        assert!(digest(b"x").starts_with("body-"));
    }
}
