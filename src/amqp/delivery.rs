//! Handles one delivery: applies its command and acknowledges it, or dead-letters and acknowledges it, or leaves it to the
//! broker because the connection is lost.
//!
//! Nothing is rejected or requeued here. The broker counts each return of a message, whatever the cause, and dead-letters
//! it at the fifth. So while Postgres is down a command is held and tried again. One that has been held for long, or that
//! has been returned often, is published again (which starts the count at zero) before the old one is acknowledged. So the
//! broker's limit only stops commands that kill the workers that take them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::types::FieldTable;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::error::AmqpError;
use super::handler::{ApplyError, CommandOutcome, CountingHandler, Handler};
use super::message::{
    EXCHANGE_HEADER, REASON_HEADER, ROUTING_KEY_HEADER, copied_headers, copied_properties,
    delivery_count, printable, text_value,
};
use super::publisher::publish_confirmed;
use super::timeout::reply;
use super::topology::{COMMANDS_EXCHANGE, DEAD_EXCHANGE, DELIVERY_LIMIT};
use crate::domain::backoff::Backoff;
use crate::domain::command::Command;

/// The longest time for one try to apply a command. Postgres' own statement timeout is shorter.
const APPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// The waits between two tries.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// After this long a command is published again, for other workers whose Postgres may be reachable.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// A command that was returned this often is published again instead of being held.
const REPUBLISH_AT: i64 = DELIVERY_LIMIT - 2;
/// After a failure no more deliveries are taken for this long.
const OUTAGE: Duration = Duration::from_secs(2);

/// What the deliveries of one connection have in common.
pub(super) struct DeliveryContext<H> {
    /// The handler, which outlives the connection.
    pub(super) handler: Arc<CountingHandler<H>>,
    /// A channel in confirm mode that is used for publishing only.
    pub(super) publish_channel: Channel,
    /// Until when no more deliveries should be taken. `None` while commands can be applied.
    pub(super) outage_until: watch::Sender<Option<Instant>>,
    /// Cancelled when the worker stops: no command is held any more.
    pub(super) stopping: CancellationToken,
    /// Cancelled when the connection is lost: no delivery can be acknowledged any more.
    pub(super) connection_lost: CancellationToken,
}

impl<H: Handler> DeliveryContext<H> {
    /// Handles a delivery until it is acknowledged, or cannot be any more.
    ///
    /// # Errors
    /// When the broker does not take an acknowledgement or a copy. The connection cannot be used any more, and the
    /// broker delivers the message again.
    pub(super) async fn handle(self: Arc<Self>, delivery: Delivery) -> Result<(), AmqpError> {
        match Command::parse(&delivery.data) {
            Ok(command) => self.apply(command, &delivery).await,
            Err(err) => {
                self.handler.count(None, CommandOutcome::Dead);
                self.dead_letter(&delivery, &err.to_string()).await
            }
        }
    }

    async fn apply(&self, command: Command, delivery: &Delivery) -> Result<(), AmqpError> {
        let kind = command.kind;
        let held_since = Instant::now();
        let mut failures = 0;
        loop {
            let error = match self.try_once(&command).await {
                Ok(()) => {
                    self.outage_until
                        .send_if_modified(|outage| outage.take().is_some());
                    self.handler.count(Some(kind), CommandOutcome::Applied);
                    return self.ack(delivery).await;
                }
                Err(ApplyError::Never(reason)) => {
                    self.handler.count(Some(kind), CommandOutcome::Dead);
                    return self.dead_letter(delivery, &reason).await;
                }
                Err(ApplyError::Later(error)) => error,
            };
            failures += 1;
            self.handler.count(Some(kind), CommandOutcome::Retried);
            self.begin_outage(&*error);
            if self.connection_lost.is_cancelled() {
                return Ok(());
            }
            let stopping = self.stopping.is_cancelled();
            let republish = stopping
                || held_since.elapsed() >= HOLD_MAX
                || delivery_count(delivery) >= REPUBLISH_AT;
            if republish && (self.republish(delivery).await? || stopping) {
                return Ok(());
            }
            self.wait_to_retry(failures).await;
        }
    }

    /// Calls the handler once. A panic counts as the command's fault: the command would most likely panic again, and
    /// each time all other deliveries in flight would go back to the queue.
    async fn try_once(&self, command: &Command) -> Result<(), ApplyError> {
        let applied = AssertUnwindSafe(self.handler.handler.apply(command.clone())).catch_unwind();
        match timeout(APPLY_TIMEOUT, applied).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ApplyError::Never("the handler panicked".to_owned())),
            Err(_) => {
                let error = format!("no end after {} s", APPLY_TIMEOUT.as_secs());
                Err(ApplyError::Later(error.into()))
            }
        }
    }

    /// Logs the first failure of an outage, and keeps the consumer from taking more deliveries.
    fn begin_outage(&self, error: &(dyn std::error::Error + 'static)) {
        let now = Instant::now();
        let began = self.outage_until.send_if_modified(|outage| {
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

    /// Waits before the next try. Returns sooner when the outage is over or the wait makes no sense any more.
    async fn wait_to_retry(&self, failures: u32) {
        let mut outage = self.outage_until.subscribe();
        tokio::select! {
            () = sleep(RETRY.pause(failures, rand::random())) => {}
            _ = outage.wait_for(Option::is_none) => {}
            () = self.stopping.cancelled() => {}
            () = self.connection_lost.cancelled() => {}
        }
    }

    /// Puts a message that can never be applied into the dead-letter queue, and acknowledges it.
    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), AmqpError> {
        let reason = printable(reason);
        let mut headers = copied_headers(delivery);
        let exchange = text_value(delivery.exchange.as_str());
        let routing_key = text_value(delivery.routing_key.as_str());
        headers.insert(REASON_HEADER.into(), text_value(&reason));
        headers.insert(EXCHANGE_HEADER.into(), exchange);
        headers.insert(ROUTING_KEY_HEADER.into(), routing_key);
        warn!(
            reason,
            message_id = delivery
                .properties
                .message_id()
                .as_ref()
                .map(|id| printable(id.as_str())),
            routing_key = printable(delivery.routing_key.as_str()),
            bytes = delivery.data.len(),
            "a command is dead-lettered"
        );
        let mut failures = 0;
        loop {
            let published = self.publish(DEAD_EXCHANGE, delivery, headers.clone()).await;
            match published {
                Ok(()) => return self.ack(delivery).await,
                // The dead-letter queue or its disk is full; there may be room later.
                Err(error @ AmqpError::Refused { .. }) if !self.stopping.is_cancelled() => {
                    debug!(error = %error, "the dead letter is held");
                    failures += 1;
                    self.wait_to_retry(failures).await;
                    if self.connection_lost.is_cancelled() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Publishes the command again and acknowledges this copy of it. A crash between the two leaves two copies, and
    /// applying both changes nothing. Returns `false` when the broker refused: the command is still held then.
    async fn republish(&self, delivery: &Delivery) -> Result<bool, AmqpError> {
        let headers = copied_headers(delivery);
        match self.publish(COMMANDS_EXCHANGE, delivery, headers).await {
            Ok(()) => self.ack(delivery).await.map(|()| true),
            Err(AmqpError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Publishes a copy of the message. Returns once the broker has stored it.
    async fn publish(
        &self,
        exchange: &'static str,
        delivery: &Delivery,
        headers: FieldTable,
    ) -> Result<(), AmqpError> {
        publish_confirmed(
            &self.publish_channel,
            exchange,
            delivery.routing_key.as_str(),
            &delivery.data,
            copied_properties(delivery).with_headers(headers),
        )
        .await
    }

    async fn ack(&self, delivery: &Delivery) -> Result<(), AmqpError> {
        // `false` means that the channel is closed: the broker delivers the message again.
        let ack = delivery.ack(BasicAckOptions::default());
        reply("take an acknowledgement", ack).await.map(drop)
    }
}
