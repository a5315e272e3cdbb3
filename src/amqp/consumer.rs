//! The consumer: keeps a connection to the broker open for as long as the worker runs, and takes deliveries.
//!
//! A command is acknowledged after the handler has committed its effect, never before. Up to
//! [`PREFETCH`] deliveries are handled at the same time, in no order: the database decides which of a session's
//! commands is the latest.
//!
//! Whatever goes wrong, the connection is dropped with everything on it and a new one is made; the broker delivers again
//! what was not acknowledged. To stop, cancel the token given to [`Consumer::run`]. The consumer then cancels the
//! subscription, waits for the deliveries in flight, and closes the connection.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::{AmqpSettings, BrokerConnection};
use super::delivery::DeliveryContext;
use super::error::AmqpError;
use super::handler::{CommandCounter, CommandCounts, CountingHandler, Handler};
use super::timeout::{reply, within};
use super::topology;
use crate::domain::backoff::Backoff;

/// How many unacknowledged deliveries the broker sends. A delivery is one short transaction, so a few dozen hide the
/// round trip, and only a few are delivered again when a worker dies.
pub const PREFETCH: u16 = 32;

/// The waits between two connections.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// After a connection that lasted this long the waits start at the shortest again.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How often the connection's status is checked, in addition to the library's events.
const STATUS_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for the deliveries in flight when the worker stops. A try that fails then is the last one.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait for handlers after the connection is lost. What they commit meanwhile is valid.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether commands can reach this worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// Connected, with everything declared, and subscribed unless paused.
    Connected,
    /// Not connected; the consumer keeps trying.
    Disconnected {
        /// Why, fit for a log and for the health server.
        reason: String,
        /// Since when.
        since: Instant,
    },
}

/// Consumes commands. Spawn [`Consumer::run`].
pub struct Consumer<H> {
    settings: AmqpSettings,
    handler: Arc<CountingHandler<H>>,
    state: watch::Sender<ConnectionState>,
    wanted: watch::Receiver<bool>,
}

/// Observes a consumer, and pauses and resumes it.
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    state: watch::Receiver<ConnectionState>,
    wanted: Arc<watch::Sender<bool>>,
    counter: CommandCounter,
}

impl ConsumerHandle {
    /// The state of the connection, now and from now on.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    /// Stops taking commands; those taken already are applied. The others wait in the queue for other workers. Returns
    /// `false` if the consumer was paused already.
    pub fn pause(&self) -> bool {
        self.set_wanted(false)
    }

    /// Takes commands again. Returns `false` if the consumer was not paused.
    pub fn resume(&self) -> bool {
        self.set_wanted(true)
    }

    fn set_wanted(&self, commands: bool) -> bool {
        self.wanted
            .send_if_modified(|wanted| std::mem::replace(wanted, commands) != commands)
    }

    /// What became of the commands so far.
    pub fn counts(&self) -> CommandCounts {
        self.counter.read()
    }
}

impl<H: Handler> Consumer<H> {
    /// Returns a consumer that has not connected yet, and its handle.
    pub fn new(settings: AmqpSettings, handler: H) -> (Self, ConsumerHandle) {
        let (state, state_seen) = watch::channel(ConnectionState::Disconnected {
            reason: "not connected yet".to_owned(),
            since: Instant::now(),
        });
        let (wanted, wanted_seen) = watch::channel(true);
        let handler = Arc::new(CountingHandler::new(handler));
        let handle = ConsumerHandle {
            state: state_seen,
            wanted: Arc::new(wanted),
            counter: handler.counter(),
        };
        let consumer = Self {
            settings,
            handler,
            state,
            wanted: wanted_seen,
        };
        (consumer, handle)
    }

    /// Consumes until `stop`, and reconnects whenever the connection is lost. Returns once the deliveries in flight are
    /// handled and the connection is closed, at most some 40 s after the token is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let ended = Box::pin(self.run_connection(&stop)).await;
            let reason = match ended {
                Ok(()) => "stopped".to_owned(),
                Err(error) => error.to_string(),
            };
            if stop.is_cancelled() {
                self.set_disconnected(reason);
                break;
            }
            failures = failures_after(failures, began.elapsed());
            let delay = RECONNECT.pause(failures, rand::random());
            warn!(
                reason,
                delay_ms = delay.as_millis(),
                "RabbitMQ is not connected"
            );
            self.set_disconnected(reason);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => {}
            }
        }
        info!("the consumer has stopped");
    }

    /// Keeps the time of the first of several failures, and the reason of the latest.
    fn set_disconnected(&self, new_reason: String) {
        self.state.send_modify(|state| match state {
            ConnectionState::Disconnected { reason, .. } => *reason = new_reason,
            ConnectionState::Connected => {
                *state = ConnectionState::Disconnected {
                    reason: new_reason,
                    since: Instant::now(),
                };
            }
        });
    }

    /// Opens one connection, and takes deliveries over it until it ends.
    async fn run_connection(&mut self, stop: &CancellationToken) -> Result<(), AmqpError> {
        let mut active = tokio::select! {
            opened = ActiveConnection::open(&self.settings, &self.handler) => opened?,
            () = stop.cancelled() => return Ok(()),
        };
        let wanted = *self.wanted.borrow();
        active.set_subscribed(wanted).await?;
        info!("RabbitMQ is connected");
        self.state.send_replace(ConnectionState::Connected);
        let ended = active.run(&mut self.wanted, stop).await;
        if let Err(error) = ended {
            self.set_disconnected(error.to_string());
            active.abandon().await;
            return Err(error);
        }
        active.drain().await
    }
}

/// A connection with its subscription, if any, and its deliveries in flight.
struct ActiveConnection<H> {
    connection: BrokerConnection,
    channel: Channel,
    context: Arc<DeliveryContext<H>>,
    subscription: Option<lapin::Consumer>,
    in_flight: JoinSet<Result<(), AmqpError>>,
}

impl<H: Handler> ActiveConnection<H> {
    async fn open(
        settings: &AmqpSettings,
        handler: &Arc<CountingHandler<H>>,
    ) -> Result<Self, AmqpError> {
        let connection = BrokerConnection::open(settings).await?;
        let channel = connection.channel().await?;
        topology::declare(&channel).await?;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        reply("set the prefetch count", qos).await?;
        let publish_channel = connection.confirming_channel().await?;
        Ok(Self {
            connection,
            channel,
            context: Arc::new(DeliveryContext {
                handler: Arc::clone(handler),
                publish_channel,
                outage_until: watch::Sender::new(None),
                stopping: CancellationToken::new(),
                connection_lost: CancellationToken::new(),
            }),
            subscription: None,
            in_flight: JoinSet::new(),
        })
    }

    /// Takes deliveries until `stop`, subscribed only while commands are wanted and can be applied.
    async fn run(
        &mut self,
        wanted: &mut watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<(), AmqpError> {
        let mut events = Box::pin(self.connection.inner.events_listener());
        let mut outage = self.context.outage_until.subscribe();
        let mut status_check = interval(STATUS_CHECK_INTERVAL);
        status_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outage_until = *outage.borrow_and_update();
            let outage_until = outage_until.filter(|until| *until > Instant::now());
            let subscribed = *wanted.borrow_and_update() && outage_until.is_none();
            self.set_subscribed(subscribed).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(joined) = self.in_flight.join_next() => joined.map_err(|_| AmqpError::Panicked)??,
                item = next(self.subscription.as_mut()) => {
                    let delivery = item.ok_or(AmqpError::Cancelled)??;
                    self.in_flight.spawn(Arc::clone(&self.context).handle(delivery));
                }
                event = events.next() => match event {
                    Some(lapin::Event::Error(error)) => return Err(error.into()),
                    Some(lapin::Event::ConnectionBlocked(reason)) => {
                        warn!(reason, "the broker takes no messages now");
                    }
                    Some(_) => {}
                    None => return Err(AmqpError::Closed),
                },
                _ = status_check.tick() => {
                    let channels = [&self.channel, &self.context.publish_channel];
                    if !self.connection.inner.status().connected()
                        || channels.iter().any(|channel| !channel.status().connected())
                    {
                        return Err(AmqpError::Closed);
                    }
                }
                // It fails once all handles are dropped; then nobody can change it any more.
                Ok(()) = wanted.changed() => {}
                _ = outage.changed() => {}
                () = sleep_until(outage_until.unwrap_or_else(Instant::now)), if outage_until.is_some() => {}
            }
        }
    }

    /// Subscribes, or cancels the subscription. Deliveries of an earlier subscription may still be in flight. They
    /// count too, so that there are never more than twice [`PREFETCH`].
    async fn set_subscribed(&mut self, wanted: bool) -> Result<(), AmqpError> {
        match self.subscription.take() {
            Some(subscription) if wanted => self.subscription = Some(subscription),
            Some(subscription) => self.unsubscribe(subscription).await?,
            None if wanted && self.in_flight.len() < usize::from(PREFETCH) => {
                let consume = self.channel.basic_consume(
                    topology::COMMANDS_QUEUE.into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                );
                self.subscription = Some(reply("start a subscription", consume).await?);
            }
            None => {}
        }
        Ok(())
    }

    /// Cancels a subscription, and handles what the broker had sent before. Those deliveries belong to this connection:
    /// unhandled, they would be neither applied nor delivered to another worker.
    async fn unsubscribe(&mut self, mut subscription: lapin::Consumer) -> Result<(), AmqpError> {
        let cancel = self
            .channel
            .basic_cancel(subscription.tag(), BasicCancelOptions::default());
        reply("cancel the subscription", cancel).await?;
        while let Some(delivery) = subscription.next().await {
            self.in_flight
                .spawn(Arc::clone(&self.context).handle(delivery?));
        }
        Ok(())
    }

    /// Stops taking deliveries, waits for those in flight, and closes the connection.
    async fn drain(mut self) -> Result<(), AmqpError> {
        self.context.stopping.cancel();
        let drain = async {
            self.set_subscribed(false).await?;
            while let Some(joined) = self.in_flight.join_next().await {
                joined.map_err(|_| AmqpError::Panicked)??;
            }
            Ok::<(), AmqpError>(())
        };
        let drained = within(DRAIN_TIMEOUT, "let the deliveries in flight end", drain).await;
        if let Err(error) = &drained {
            warn!(
                %error,
                left = self.in_flight.len(),
                "commands are left to the broker"
            );
        }
        self.context.connection_lost.cancel();
        self.connection.close().await
    }

    /// Gives the handlers a moment to end after the connection is lost, and drops the deliveries.
    async fn abandon(mut self) {
        self.context.connection_lost.cancel();
        drop(self.connection);
        let ended = async { while self.in_flight.join_next().await.is_some() {} };
        // Handlers that have not ended by then are aborted when the set is dropped.
        let _ = timeout(ABANDON_TIMEOUT, ended).await;
    }
}

/// Waits for the next delivery; for ever, if there is no subscription.
async fn next(
    subscription: Option<&mut lapin::Consumer>,
) -> Option<lapin::Result<lapin::message::Delivery>> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

/// How many failures in a row a connection that ended brings it to, after it lasted that long.
const fn failures_after(failures: u32, lasted: Duration) -> u32 {
    if lasted.as_nanos() >= STABLE_AFTER.as_nanos() {
        1
    } else {
        failures.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_grow_with_failures_and_start_anew_after_a_stable_connection() {
        let short = STABLE_AFTER.saturating_sub(Duration::from_millis(1));
        assert_eq!(failures_after(0, short), 1);
        assert_eq!(failures_after(7, short), 8);
        assert_eq!(failures_after(u32::MAX, short), u32::MAX);
        assert_eq!(failures_after(7, STABLE_AFTER), 1);
        assert!(RECONNECT.pause(1, 1.0) <= Duration::from_millis(200));
        assert_eq!(RECONNECT.pause(8, 1.0), Duration::from_millis(25_600));
    }
}
