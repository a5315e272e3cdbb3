//! Looks after the dead-letter queue: what is in it, back to the workers with it, away with it.
//!
//! Nothing is lost if this dies halfway. A letter is only held, unacknowledged, while it is looked
//! at; whatever ends the connection, it is back in its place. One that is requeued is acknowledged
//! after the broker has confirmed its copy: a death in between leaves two, and applying a command
//! twice changes nothing.
//!
//! Each look counts as a return of the message, and RabbitMQ 4 drops a message of a quorum queue at
//! the 20th. So a letter that was returned `RENEW_AT` times is put back as a fresh copy instead.

use std::collections::BTreeMap;

use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use sha2::{Digest, Sha256};

use super::link::{Link, answer};
use super::settle::{
    delivery_count, header_text, kept_headers, kept_properties, publish_confirmed,
};
use super::topology::{
    COMMANDS_EXCHANGE, DEAD_EXCHANGE, DEAD_QUEUE, EXCHANGE_HEADER, REASON_HEADER,
    ROUTING_KEY_HEADER, USER_ID_HEADER,
};
use super::{AmqpError, AmqpSettings};
use crate::domain::command::{Command, CommandKind};

/// Returns after which a letter is renewed, well below RabbitMQ 4's 20.
const RENEW_AT: i64 = 10;

/// Letters that one list shows.
pub const LIST_MAX: usize = 1_000;

/// What RabbitMQ adds when it dead-letters a message by itself.
const DEATH_HEADER: &str = "x-death";
const FIRST_DEATH_PREFIX: &str = "x-first-death-";
const LAST_DEATH_PREFIX: &str = "x-last-death-";

/// `NOT_FOUND` of AMQP.
const NOT_FOUND: u16 = 404;

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its message id, or a digest of its body if it has none.
    pub id: String,
    /// Why it is there.
    pub reason: String,
    /// Start or stop, as far as can be told.
    pub kind: Option<CommandKind>,
    /// The command, if the body is one.
    pub command: Option<Command>,
    /// Length of the body.
    pub bytes: usize,
}

/// The letters that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letters {
    /// Oldest first.
    pub letters: Vec<Letter>,
    /// How many more there are than are shown.
    pub more: usize,
}

/// Which letters are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those with this id.
    Id(String),
    /// Every one.
    All,
}

impl Which {
    fn means(&self, letter: &Letter) -> bool {
        match self {
            Self::Id(id) => letter.id == *id,
            Self::All => true,
        }
    }
}

/// What became of the letters that were meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Letters that are dealt with.
    pub done: usize,
    /// Letters that stay where they are, and why.
    pub kept: BTreeMap<String, String>,
}

/// Lists the letters, and leaves them where they are.
///
/// # Errors
/// When the broker cannot be reached or does not let us.
pub async fn list(settings: &AmqpSettings) -> Result<Letters, AmqpError> {
    let Some(desk) = Desk::open(settings).await? else {
        return Ok(Letters {
            letters: Vec::new(),
            more: 0,
        });
    };
    let mut letters = Vec::new();
    let mut last = None;
    while letters.len() < LIST_MAX.min(desk.waiting) {
        let Some(delivery) = desk.next().await? else {
            break;
        };
        letters.push(letter(&delivery));
        last = desk.renewed(delivery).await?.or(last);
    }
    let more = desk.waiting.saturating_sub(letters.len());
    if let Some(last) = last {
        desk.put_back(&last).await?;
    }
    desk.close().await;
    Ok(Letters { letters, more })
}

/// Puts letters back into the queue of commands.
///
/// # Errors
/// When the broker cannot be reached or does not take one; what was done until then is done.
pub async fn requeue(settings: &AmqpSettings, which: &Which) -> Result<Outcome, AmqpError> {
    sort(settings, which, true).await
}

/// Does away with letters.
///
/// # Errors
/// When the broker cannot be reached; what was done until then is done.
pub async fn discard(settings: &AmqpSettings, which: &Which) -> Result<Outcome, AmqpError> {
    sort(settings, which, false).await
}

async fn sort(settings: &AmqpSettings, which: &Which, requeue: bool) -> Result<Outcome, AmqpError> {
    let mut outcome = Outcome::default();
    let Some(desk) = Desk::open(settings).await? else {
        return Ok(outcome);
    };
    // As many as there were: what a worker dead-letters again meanwhile is not taken up again.
    for _ in 0..desk.waiting {
        let Some(delivery) = desk.next().await? else {
            break;
        };
        let letter = letter(&delivery);
        if !which.means(&letter) {
            // Held until the end, so that the next one comes.
            desk.renewed(delivery).await?;
            continue;
        }
        if requeue {
            let Some(kind) = letter.kind else {
                let why = "neither its routing key nor its body says start or stop";
                outcome.kept.insert(letter.id, why.to_owned());
                continue;
            };
            let headers = without_death(&kept_headers(&delivery));
            desk.publish(COMMANDS_EXCHANGE, kind.as_str(), &delivery, headers)
                .await?;
        }
        desk.ack(&delivery).await?;
        outcome.done += 1;
    }
    // Closing brings back what is held.
    desk.close().await;
    Ok(outcome)
}

/// A connection to look at letters with.
struct Desk {
    link: Link,
    channel: Channel,
    publish: Channel,
    /// Letters that waited at the beginning.
    waiting: usize,
}

impl Desk {
    /// `None` when there is no such queue yet.
    async fn open(settings: &AmqpSettings) -> Result<Option<Self>, AmqpError> {
        let link = Link::open(settings).await?;
        let channel = link.channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let look = channel.queue_declare(DEAD_QUEUE.into(), options, FieldTable::default());
        let waiting = match answer("look at a queue", look).await {
            Ok(queue) => usize::try_from(queue.message_count()).unwrap_or(usize::MAX),
            Err(AmqpError::Client(error)) if is_not_found(&error) => {
                let _ = link.close().await;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let publish = link.confirming_channel().await?;
        Ok(Some(Self {
            link,
            channel,
            publish,
            waiting,
        }))
    }

    async fn next(&self) -> Result<Option<Delivery>, AmqpError> {
        let get = self
            .channel
            .basic_get(DEAD_QUEUE.into(), BasicGetOptions { no_ack: false });
        let message = answer("give a message", get).await?;
        Ok(message.map(|message| message.delivery))
    }

    /// Replaces a letter that was returned often by a fresh copy; gives it back if it was not.
    async fn renewed(&self, delivery: Delivery) -> Result<Option<Delivery>, AmqpError> {
        if delivery_count(&delivery) < RENEW_AT {
            return Ok(Some(delivery));
        }
        let mut headers = kept_headers(&delivery);
        // The broker would take a message with its own note of this queue for one that goes in a circle.
        headers.insert(REASON_HEADER.into(), text(&reason(&delivery)));
        let headers = without(&headers, is_death);
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
        let properties = kept_properties(delivery).with_headers(headers);
        publish_confirmed(&self.publish, exchange, key, &delivery.data, properties).await
    }

    async fn ack(&self, delivery: &Delivery) -> Result<(), AmqpError> {
        let ack = delivery.ack(BasicAckOptions::default());
        answer("take an acknowledgement", ack).await.map(drop)
    }

    /// Gives back this letter and all before it that are still held.
    async fn put_back(&self, last: &Delivery) -> Result<(), AmqpError> {
        let options = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        answer("take letters back", last.nack(options))
            .await
            .map(drop)
    }

    /// What is still held goes back with it.
    async fn close(self) {
        // All that matters was confirmed.
        let _ = self.link.close().await;
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(answer) if answer.get_id() == NOT_FOUND)
}

fn letter(delivery: &Delivery) -> Letter {
    let command = Command::parse(&delivery.data).ok();
    let id = delivery.properties.message_id().as_ref();
    let id = id.filter(|id| !id.as_str().is_empty());
    let original = header(delivery, ROUTING_KEY_HEADER);
    let key = original.unwrap_or_else(|| delivery.routing_key.to_string());
    let kinds = [CommandKind::Start, CommandKind::Stop];
    Letter {
        id: id.map_or_else(|| digest(&delivery.data), |id| header_text(id.as_str())),
        reason: reason(delivery),
        kind: kinds
            .into_iter()
            .find(|kind| kind.as_str() == key)
            .or_else(|| command.as_ref().map(|command| command.kind)),
        bytes: delivery.data.len(),
        command,
    }
}

/// A name for what has none: the same for the same body.
fn digest(body: &[u8]) -> String {
    let digest = hex::encode(Sha256::digest(body));
    format!("body-{}", digest.get(..12).unwrap_or(&digest))
}

fn reason(delivery: &Delivery) -> String {
    header(delivery, REASON_HEADER).map_or_else(
        || match broker_reason(delivery).as_deref() {
            Some("delivery_limit") => {
                "the broker gave up: returned unacknowledged five times, as by workers that died of it"
                    .to_owned()
            }
            Some(other) => format!("the broker dead-lettered it: {}", header_text(other)),
            None => "unknown".to_owned(),
        },
        |reason| header_text(&reason),
    )
}

/// Why the broker dead-lettered a message by itself: the latest entry comes first.
fn broker_reason(delivery: &Delivery) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = headers.inner().get(DEATH_HEADER)? else {
        return None;
    };
    let AMQPValue::FieldTable(latest) = deaths.as_slice().first()? else {
        return None;
    };
    latest.inner().get("reason").and_then(as_text)
}

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    headers.inner().get(name).and_then(as_text)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    if let AMQPValue::LongString(text) = value {
        Some(text.to_string())
    } else if let AMQPValue::ShortString(text) = value {
        Some(text.to_string())
    } else {
        None
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A command that begins anew has no history.
fn without_death(headers: &FieldTable) -> FieldTable {
    let ours = [
        REASON_HEADER,
        EXCHANGE_HEADER,
        ROUTING_KEY_HEADER,
        USER_ID_HEADER,
    ];
    without(headers, |name| ours.contains(&name) || is_death(name))
}

fn is_death(name: &str) -> bool {
    name == DEATH_HEADER
        || name.starts_with(FIRST_DEATH_PREFIX)
        || name.starts_with(LAST_DEATH_PREFIX)
}

fn without(headers: &FieldTable, unwanted: impl Fn(&str) -> bool) -> FieldTable {
    let mut kept = FieldTable::default();
    for (name, value) in headers.inner() {
        if !unwanted(name.as_str()) {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
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

    #[test]
    fn a_requeued_command_has_no_history() {
        let mut headers = FieldTable::default();
        for name in [
            "x-bridge-reason",
            "x-death",
            "x-first-death-queue",
            "traceparent",
        ] {
            headers.insert(name.into(), text("v"));
        }
        let kept = without_death(&headers);
        let names: Vec<_> = kept
            .inner()
            .keys()
            .map(lapin::types::ShortString::as_str)
            .collect();
        assert_eq!(names, ["traceparent"]);
    }
}
