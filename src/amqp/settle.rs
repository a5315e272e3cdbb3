//! One delivery to its end: applied and acknowledged, or dead-lettered and acknowledged, or left
//! to the broker because the connection is gone.
//!
//! Nothing is rejected or requeued here. The broker counts each return of a message, whoever is to
//! blame, and dead-letters it at the fifth; so while Postgres is down a command is held and tried
//! again, and one that would be held for long, or that has been returned often, is published anew
//! (which starts the count at zero) before the old one is acknowledged. The broker's limit is left
//! for what it is for: a command that kills the workers that take it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::AmqpError;
use super::backoff::Backoff;
use super::consumer::{ApplyError, Handler, Outcome, Shared};
use super::link::answer;
use super::topology::{
    COMMANDS_EXCHANGE, DEAD_EXCHANGE, DELIVERY_LIMIT, EXCHANGE_HEADER, REASON_HEADER,
    ROUTING_KEY_HEADER, USER_ID_HEADER,
};
use crate::domain::command::Command;

/// How often a quorum queue has delivered the message before.
const DELIVERY_COUNT_HEADER: &str = "x-delivery-count";

/// The longest reason that is written into a header.
const REASON_CHARS_MAX: usize = 255;
/// Persistent, in AMQP's number.
const PERSISTENT: u8 = 2;
/// One try to apply a command; Postgres' own statement timeout is shorter.
const APPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two tries to apply a command.
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// After this long a command is offered to the other workers, whose Postgres may be well.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// A command returned this often is published anew instead of being held.
const RENEW_AT: i64 = DELIVERY_LIMIT - 2;
/// After a failure no more deliveries are taken for this long.
const OUTAGE: Duration = Duration::from_secs(2);

/// What the deliveries of one connection have in common.
pub(super) struct Bench<H> {
    /// What outlives the connection.
    pub(super) shared: Arc<Shared<H>>,
    /// In confirm mode, and used for publishing only.
    pub(super) publish: Channel,
    /// Until when nothing more shall be taken; `None` while commands can be applied.
    pub(super) outage: watch::Sender<Option<Instant>>,
    /// The worker is stopping: nothing is held any more.
    pub(super) stopping: CancellationToken,
    /// The connection is gone: nothing can be settled any more.
    pub(super) gone: CancellationToken,
}

impl<H: Handler> Bench<H> {
    /// Brings a delivery to its end.
    ///
    /// # Errors
    /// When the broker did not take what we had to say; the connection is of no use then, and the
    /// broker delivers the message again.
    pub(super) async fn settle(self: Arc<Self>, delivery: Delivery) -> Result<(), AmqpError> {
        match Command::parse(&delivery.data) {
            Ok(command) => self.apply(command, &delivery).await,
            Err(err) => {
                self.shared.count(None, Outcome::Dead);
                self.bury(&delivery, &err.to_string()).await
            }
        }
    }

    async fn apply(&self, command: Command, delivery: &Delivery) -> Result<(), AmqpError> {
        let kind = command.kind;
        let held_since = Instant::now();
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        loop {
            let error = match self.try_once(&command).await {
                Ok(()) => {
                    self.outage
                        .send_if_modified(|outage| outage.take().is_some());
                    self.shared.count(Some(kind), Outcome::Applied);
                    return self.ack(delivery).await;
                }
                Err(ApplyError::Never(reason)) => {
                    self.shared.count(Some(kind), Outcome::Dead);
                    return self.bury(delivery, &reason).await;
                }
                Err(ApplyError::Later(error)) => error,
            };
            self.shared.count(Some(kind), Outcome::Retried);
            self.begin_outage(&*error);
            if self.gone.is_cancelled() {
                return Ok(());
            }
            let stopping = self.stopping.is_cancelled();
            let renew = stopping
                || held_since.elapsed() >= HOLD_MAX
                || delivery_count(delivery) >= RENEW_AT;
            if renew && (self.renew(delivery).await? || stopping) {
                return Ok(());
            }
            self.wait(backoff.next_delay()).await;
        }
    }

    /// A panic is the command's fault as far as we know: it would panic again, and take the
    /// deliveries beside it back to the queue each time.
    async fn try_once(&self, command: &Command) -> Result<(), ApplyError> {
        let handled = AssertUnwindSafe(self.shared.handler.apply(command.clone())).catch_unwind();
        match timeout(APPLY_TIMEOUT, handled).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ApplyError::Never("the handler panicked".to_owned())),
            Err(_) => {
                let error = format!("no end after {} s", APPLY_TIMEOUT.as_secs());
                Err(ApplyError::Later(error.into()))
            }
        }
    }

    /// Logs the first failure of an outage, and keeps more deliveries from being taken.
    fn begin_outage(&self, error: &(dyn std::error::Error + 'static)) {
        let now = Instant::now();
        let began = self.outage.send_if_modified(|outage| {
            let over = outage.is_none_or(|until| until <= now);
            if over {
                *outage = Some(now + OUTAGE);
            }
            over
        });
        if began {
            warn!(error, "commands cannot be applied now, and are held");
        } else {
            debug!(error, "a command cannot be applied now");
        }
    }

    /// Waits before the next try; not when the outage is over or waiting has no sense any more.
    async fn wait(&self, delay: Duration) {
        let mut outage = self.outage.subscribe();
        tokio::select! {
            () = sleep(delay) => {}
            _ = outage.wait_for(Option::is_none) => {}
            () = self.stopping.cancelled() => {}
            () = self.gone.cancelled() => {}
        }
    }

    /// Puts a message that can never be applied into the dead-letter queue.
    async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<(), AmqpError> {
        let reason = header_text(reason);
        let mut headers = kept_headers(delivery);
        headers.insert(REASON_HEADER.into(), text(&reason));
        headers.insert(EXCHANGE_HEADER.into(), text(delivery.exchange.as_str()));
        headers.insert(
            ROUTING_KEY_HEADER.into(),
            text(delivery.routing_key.as_str()),
        );
        warn!(
            reason,
            message_id = delivery
                .properties
                .message_id()
                .as_ref()
                .map(|id| header_text(id.as_str())),
            routing_key = header_text(delivery.routing_key.as_str()),
            bytes = delivery.data.len(),
            "a command is dead-lettered"
        );
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        loop {
            let published = self.publish(DEAD_EXCHANGE, delivery, headers.clone()).await;
            match published {
                Ok(()) => return self.ack(delivery).await,
                // The dead-letter queue is full, or its disk is: it may have room later.
                Err(error @ AmqpError::Refused { .. }) if !self.stopping.is_cancelled() => {
                    debug!(error = %error, "the dead letter is held");
                    self.wait(backoff.next_delay()).await;
                    if self.gone.is_cancelled() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Publishes the command anew and acknowledges this copy of it. Between the two a crash makes
    /// two copies, and applying both changes nothing. `false` when the broker refused: the command
    /// is still held then.
    async fn renew(&self, delivery: &Delivery) -> Result<bool, AmqpError> {
        let headers = kept_headers(delivery);
        match self.publish(COMMANDS_EXCHANGE, delivery, headers).await {
            Ok(()) => self.ack(delivery).await.map(|()| true),
            Err(AmqpError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Publishes a copy, and comes back once the broker has stored it.
    async fn publish(
        &self,
        exchange: &'static str,
        delivery: &Delivery,
        headers: FieldTable,
    ) -> Result<(), AmqpError> {
        publish_confirmed(
            &self.publish,
            exchange,
            delivery.routing_key.as_str(),
            &delivery.data,
            kept_properties(delivery).with_headers(headers),
        )
        .await
    }

    async fn ack(&self, delivery: &Delivery) -> Result<(), AmqpError> {
        // `false` means that the channel is gone: the message comes again.
        answer(
            "take an acknowledgement",
            delivery.ack(BasicAckOptions::default()),
        )
        .await
        .map(drop)
    }
}

/// Publishes a message that must reach a queue, on a channel in confirm mode, and comes back once
/// the broker has stored it.
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
    match answer("confirm a message", publish).await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => Err(AmqpError::Unroutable {
            exchange,
            detail: returned.reply_text.to_string(),
        }),
        Confirmation::Nack(_) | Confirmation::NotRequested => Err(AmqpError::Refused { exchange }),
    }
}

/// How often the broker says that it has delivered this message before.
pub(super) fn delivery_count(delivery: &Delivery) -> i64 {
    let headers = delivery.properties.headers().as_ref();
    let count = headers.and_then(|headers| headers.inner().get(DELIVERY_COUNT_HEADER));
    match count {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortUInt(count)) => i64::from(*count),
        _ => 0,
    }
}

/// The headers of a message, without the broker's count.
pub(super) fn kept_headers(delivery: &Delivery) -> FieldTable {
    let mut kept = FieldTable::default();
    if let Some(headers) = delivery.properties.headers() {
        for (name, value) in headers.inner() {
            if name.as_str() != DELIVERY_COUNT_HEADER {
                kept.insert(name.clone(), value.clone());
            }
        }
    }
    if let Some(user) = delivery.properties.user_id() {
        kept.insert(USER_ID_HEADER.into(), text(user.as_str()));
    }
    kept
}

/// The properties of a message, all but three: its user would be refused, its expiry would lose
/// it, and whatever it was it is persistent now.
pub(super) fn kept_properties(delivery: &Delivery) -> BasicProperties {
    let from = &delivery.properties;
    let mut kept = BasicProperties::default().with_delivery_mode(PERSISTENT);
    macro_rules! keep {
        ($($get:ident $with:ident),+ $(,)?) => {$(
            if let Some(value) = from.$get() {
                kept = kept.$with(value.clone());
            }
        )+};
    }
    keep!(
        content_type with_content_type,
        content_encoding with_content_encoding,
        priority with_priority,
        correlation_id with_correlation_id,
        reply_to with_reply_to,
        message_id with_message_id,
        timestamp with_timestamp,
        kind with_type,
        app_id with_app_id,
        cluster_id with_cluster_id,
    );
    kept
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Printable ASCII of bounded length, fit for a header and for a line of a log.
pub(super) fn header_text(text: &str) -> String {
    text.chars()
        .map(|char| {
            if char.is_ascii_graphic() || char == ' ' {
                char
            } else {
                '?'
            }
        })
        .take(REASON_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short_printable_ascii() {
        assert_eq!(header_text("nö\nway"), "n??way");
        assert_eq!(header_text(&"ä".repeat(1000)).len(), REASON_CHARS_MAX);
    }
}
