//! The consumer: one connection after the other, for as long as the worker runs.
//!
//! A command is acknowledged after the handler has committed its effect, never before. Up to
//! [`PREFETCH`] deliveries are handled at the same time, in no order: among commands of a session
//! the database decides which is the latest.
//!
//! Whatever goes wrong, the connection is dropped with everything on it and made anew; what was
//! not acknowledged comes again. To stop: cancel the token given to [`Consumer::run`]. It cancels
//! the subscription, brings the deliveries in flight to their end, and closes the connection.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
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

use super::backoff::Backoff;
use super::link::{Link, answer};
use super::settle::Bench;
use super::{AmqpError, AmqpSettings, topology};
use crate::domain::command::{Command, CommandKind};

/// Unacknowledged deliveries the broker sends ahead. A delivery is one short transaction, so that
/// a few dozen hide the round trip, and few come back when a worker dies.
pub const PREFETCH: u16 = 32;

const RECONNECT_BASE: Duration = Duration::from_millis(200);
const RECONNECT_CAP: Duration = Duration::from_secs(30);
/// A connection that lasted this long was a good one: the next failure is the first again.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How often the connection's state is looked at, besides being told of its end.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// For deliveries in flight when the worker stops. A try that fails now is the last one.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// For handlers to notice that the connection is gone; what they commit meanwhile is good.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a command was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It may be later: Postgres is not there, or too slow.
    #[error("the command cannot be applied now")]
    Later(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It never can; the reason goes to the dead-letter queue with it.
    #[error("the command can never be applied: {0}")]
    Never(String),
}

/// What applies a command: commits its effect, or says why not.
pub trait Handler: Send + Sync + 'static {
    /// Comes back after the commit. The same command may be given again, at any time.
    fn apply(&self, command: Command) -> impl Future<Output = Result<(), ApplyError>> + Send;
}

impl<F, A> Handler for F
where
    F: Fn(Command) -> A + Send + Sync + 'static,
    A: Future<Output = Result<(), ApplyError>> + Send,
{
    fn apply(&self, command: Command) -> impl Future<Output = Result<(), ApplyError>> + Send {
        self(command)
    }
}

/// Whether commands can reach us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// Connected, with everything declared, and subscribed unless it is paused.
    Connected,
    /// Not, and it is being tried again.
    Disconnected {
        /// Why; fit for a log and the health server.
        reason: String,
        /// For how long.
        since: Instant,
    },
}

/// What became of a command, as the metric `bridge_commands_total` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Committed.
    Applied,
    /// Tried in vain, and held.
    Retried,
    /// Dead-lettered.
    Dead,
}

impl Outcome {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Retried => "retried",
            Self::Dead => "dead",
        }
    }
}

/// Counts by command (`None`: it could not be read) and outcome.
pub type Counts = BTreeMap<(Option<CommandKind>, Outcome), u64>;

/// What the deliveries of every connection share.
pub(super) struct Shared<H> {
    pub(super) handler: H,
    counts: Arc<Mutex<Counts>>,
}

impl<H> Shared<H> {
    pub(super) fn count(&self, kind: Option<CommandKind>, outcome: Outcome) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((kind, outcome)).or_default() += 1;
    }
}

/// Consumes commands; [`Consumer::run`] is to be spawned.
pub struct Consumer<H> {
    settings: AmqpSettings,
    shared: Arc<Shared<H>>,
    state: watch::Sender<ConnectionState>,
    wanted: watch::Receiver<bool>,
}

/// What others know of a consumer and may ask of it.
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    state: watch::Receiver<ConnectionState>,
    wanted: Arc<watch::Sender<bool>>,
    counts: Arc<Mutex<Counts>>,
}

impl ConsumerHandle {
    /// Whether the broker is connected, now and from now on.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    /// Takes no more commands; those taken already are applied. They wait in the queue, where
    /// other workers find them. Answers whether commands were taken before.
    pub fn pause(&self) -> bool {
        self.want(false)
    }

    /// Takes commands again; answers whether none were taken before.
    pub fn resume(&self) -> bool {
        self.want(true)
    }

    fn want(&self, commands: bool) -> bool {
        self.wanted
            .send_if_modified(|wanted| std::mem::replace(wanted, commands) != commands)
    }

    /// What became of the commands so far.
    pub fn counts(&self) -> Counts {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl<H: Handler> Consumer<H> {
    /// A consumer that has not connected yet, and the handle to it.
    pub fn new(settings: AmqpSettings, handler: H) -> (Self, ConsumerHandle) {
        let (state, state_seen) = watch::channel(ConnectionState::Disconnected {
            reason: "not connected yet".to_owned(),
            since: Instant::now(),
        });
        let (wanted, wanted_seen) = watch::channel(true);
        let counts = Arc::new(Mutex::new(Counts::new()));
        let handle = ConsumerHandle {
            state: state_seen,
            wanted: Arc::new(wanted),
            counts: Arc::clone(&counts),
        };
        let consumer = Self {
            settings,
            shared: Arc::new(Shared { handler, counts }),
            state,
            wanted: wanted_seen,
        };
        (consumer, handle)
    }

    /// Consumes until `stop`, reconnecting for ever. Comes back with the deliveries in flight at
    /// their end and the connection closed, at most some 40 s after the token is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(RECONNECT_BASE, RECONNECT_CAP);
        while !stop.is_cancelled() {
            let began = Instant::now();
            let connection = Box::pin(self.connection(&stop)).await;
            let reason = match connection {
                Ok(()) => "stopped".to_owned(),
                Err(error) => error.to_string(),
            };
            if stop.is_cancelled() {
                self.disconnected(reason);
                break;
            }
            if began.elapsed() >= STABLE_AFTER {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            warn!(
                reason,
                delay_ms = delay.as_millis(),
                "RabbitMQ is not connected"
            );
            self.disconnected(reason);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => {}
            }
        }
        info!("the consumer has stopped");
    }

    /// Keeps the moment at which the first of several failures happened.
    fn disconnected(&self, now_because: String) {
        self.state.send_modify(|state| match state {
            ConnectionState::Disconnected { reason, .. } => *reason = now_because,
            ConnectionState::Connected => {
                *state = ConnectionState::Disconnected {
                    reason: now_because,
                    since: Instant::now(),
                };
            }
        });
    }

    /// One connection from its beginning to its end.
    async fn connection(&mut self, stop: &CancellationToken) -> Result<(), AmqpError> {
        let mut subscriber = tokio::select! {
            opened = Subscriber::open(&self.settings, &self.shared) => opened?,
            () = stop.cancelled() => return Ok(()),
        };
        let take = *self.wanted.borrow();
        subscriber.subscribe(take).await?;
        info!("RabbitMQ is connected");
        self.state.send_replace(ConnectionState::Connected);
        let served = subscriber.serve(&mut self.wanted, stop).await;
        if let Err(error) = served {
            self.disconnected(error.to_string());
            subscriber.abandon().await;
            return Err(error);
        }
        subscriber.finish().await
    }
}

/// A connection with its subscription, which may be on or off, and its deliveries in flight.
struct Subscriber<H> {
    link: Link,
    channel: Channel,
    bench: Arc<Bench<H>>,
    subscription: Option<lapin::Consumer>,
    in_flight: JoinSet<Result<(), AmqpError>>,
}

impl<H: Handler> Subscriber<H> {
    async fn open(settings: &AmqpSettings, shared: &Arc<Shared<H>>) -> Result<Self, AmqpError> {
        let link = Link::open(settings).await?;
        let channel = link.channel().await?;
        topology::declare(&channel).await?;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        answer("set the prefetch count", qos).await?;
        let publish = link.confirming_channel().await?;
        Ok(Self {
            link,
            channel,
            bench: Arc::new(Bench {
                shared: Arc::clone(shared),
                publish,
                outage: watch::Sender::new(None),
                stopping: CancellationToken::new(),
                gone: CancellationToken::new(),
            }),
            subscription: None,
            in_flight: JoinSet::new(),
        })
    }

    /// Takes deliveries, as long as they are wanted and can be applied, until `stop`.
    async fn serve(
        &mut self,
        wanted: &mut watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<(), AmqpError> {
        let mut events = Box::pin(self.link.connection.events_listener());
        let mut outage = self.bench.outage.subscribe();
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outage_until = *outage.borrow_and_update();
            let outage_until = outage_until.filter(|until| *until > Instant::now());
            let take = *wanted.borrow_and_update() && outage_until.is_none();
            self.subscribe(take).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(joined) = self.in_flight.join_next() => joined.map_err(|_| AmqpError::Panicked)??,
                item = next(self.subscription.as_mut()) => {
                    let delivery = item.ok_or(AmqpError::Cancelled)??;
                    self.in_flight.spawn(Arc::clone(&self.bench).settle(delivery));
                }
                event = events.next() => match event {
                    Some(lapin::Event::Error(error)) => return Err(error.into()),
                    Some(lapin::Event::ConnectionBlocked(reason)) => {
                        warn!(reason, "the broker takes no messages now");
                    }
                    Some(_) => {}
                    None => return Err(AmqpError::Closed),
                },
                _ = look.tick() => {
                    let channels = [&self.channel, &self.bench.publish];
                    if !self.link.connection.status().connected()
                        || channels.iter().any(|channel| !channel.status().connected())
                    {
                        return Err(AmqpError::Closed);
                    }
                }
                // Without a handle left nobody can ask for anything else than was asked last.
                Ok(()) = wanted.changed() => {}
                _ = outage.changed() => {}
                () = sleep_until(outage_until.unwrap_or_else(Instant::now)), if outage_until.is_some() => {}
            }
        }
    }

    /// Subscribes, or cancels the subscription, so that it is as wanted. What was taken before is
    /// in flight still and counts: with the new subscription's it stays below twice the prefetch.
    async fn subscribe(&mut self, wanted: bool) -> Result<(), AmqpError> {
        match self.subscription.take() {
            Some(subscription) if wanted => self.subscription = Some(subscription),
            Some(subscription) => self.cancel(subscription).await?,
            None if wanted && self.in_flight.len() < usize::from(PREFETCH) => {
                let consume = self.channel.basic_consume(
                    topology::COMMANDS_QUEUE.into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                );
                self.subscription = Some(answer("start a subscription", consume).await?);
            }
            None => {}
        }
        Ok(())
    }

    /// Ends a subscription. What the broker sent before it heard of that is handled too: left
    /// alone it would stay with this connection, neither applied nor given to somebody else.
    async fn cancel(&mut self, mut subscription: lapin::Consumer) -> Result<(), AmqpError> {
        let cancel = self
            .channel
            .basic_cancel(subscription.tag(), BasicCancelOptions::default());
        answer("cancel the subscription", cancel).await?;
        while let Some(delivery) = subscription.next().await {
            self.in_flight
                .spawn(Arc::clone(&self.bench).settle(delivery?));
        }
        Ok(())
    }

    /// The worker stops: no more deliveries, those in flight to their end, then the connection.
    async fn finish(mut self) -> Result<(), AmqpError> {
        self.bench.stopping.cancel();
        let drain = async {
            self.subscribe(false).await?;
            while let Some(joined) = self.in_flight.join_next().await {
                joined.map_err(|_| AmqpError::Panicked)??;
            }
            Ok(())
        };
        let drained = timeout(DRAIN_TIMEOUT, drain)
            .await
            .unwrap_or(Err(AmqpError::Timeout {
                what: "let the deliveries in flight end",
                after: DRAIN_TIMEOUT,
            }));
        if let Err(error) = &drained {
            warn!(
                %error,
                left = self.in_flight.len(),
                "commands are left to the broker"
            );
        }
        self.bench.gone.cancel();
        self.link.close().await
    }

    /// The connection is gone: lets the handlers end what they do, and forgets the deliveries.
    async fn abandon(mut self) {
        self.bench.gone.cancel();
        drop(self.link);
        let ended = async { while self.in_flight.join_next().await.is_some() {} };
        // What is not at its end by then is aborted with the set.
        let _ = timeout(ABANDON_TIMEOUT, ended).await;
    }
}

/// The next delivery; never, while there is no subscription.
async fn next(
    subscription: Option<&mut lapin::Consumer>,
) -> Option<lapin::Result<lapin::message::Delivery>> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}
