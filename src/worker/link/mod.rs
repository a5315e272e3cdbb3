//! One link to cTrader: dials, drives a [`Connection`] over the socket, carries the sessions of a
//! [`Roster`], and puts their rows into the outbox. One task; it owns all of it.
//!
//! Loop: drain what goes out → wait for a command, the socket, the row round or a deadline → one
//! mutation. Reads are taken in runs, so that a burst of quotes costs one wake-up.

mod commands;
mod events;
mod metrics;
mod permit;
pub(in crate::worker) mod roster;
mod rows;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval_at, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use crate::ctrader::connection::{
    Connection, ConnectionConfig, ConnectionError, Covered, Refreshed, Transmit,
};
use crate::ctrader::error::{Disposition, RequestError};
use crate::domain::backoff;
use crate::domain::clock::WallClock;
use crate::failure::with_causes;
use crate::metrics::Metrics;
use crate::worker::credentials::refresher::RefreshRequest;
use crate::worker::handles::wakeups::HintBox;
use crate::worker::health::status::LinkStatus;
use crate::worker::link::roster::{Remedy, RetryPolicy, Roster, remedy_of};
use crate::worker::ownership::lock_keeper::ClaimRequest;
use crate::worker::writing::outbox::Outbox;
use crate::ws::dial::Dialer;
use crate::ws::{Incoming, Socket, SocketError};
pub(in crate::worker) use commands::LinkCommand;

/// Messages taken from a socket in one run, before anything else gets its turn.
const READ_RUN_MAX: usize = 1_024;

/// How long a link without sessions keeps its socket.
const LINGER: Duration = Duration::from_secs(30);

/// How long a draining link waits beyond that for the answer to a refresh token: it is the only word of
/// the new pair.
const ANSWER_LINGER: Duration = Duration::from_secs(15);

/// How often an empty link is looked at that is still waited for.
const EMPTY_LOOK: Duration = Duration::from_millis(100);

/// How long log-outs may take when the link ends.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Who waits for what is asked about tokens, by ticket.
#[derive(Debug, Default)]
struct Askers {
    next: u64,
    refreshes: BTreeMap<u64, oneshot::Sender<Refreshed>>,
    verifications: BTreeMap<u64, oneshot::Sender<Result<Covered, RequestError>>>,
}

/// Tickets of [`Askers`] begin here: those below are the roster's.
const FIRST_TICKET: u64 = 1 << 48;

/// What a link is made of.
pub(in crate::worker) struct Link {
    pub(in crate::worker) name: &'static str,
    pub(in crate::worker) url: String,
    pub(in crate::worker) dialer: Dialer,
    pub(in crate::worker) connection: ConnectionConfig,
    pub(in crate::worker) policy: RetryPolicy,
    pub(in crate::worker) write_interval: Duration,
    pub(in crate::worker) outbox: Arc<Outbox>,
    pub(in crate::worker) status: Arc<LinkStatus>,
    pub(in crate::worker) hints: Arc<HintBox>,
    /// A full one loses nothing: the session that wanted a token wants it again with its next try.
    pub(in crate::worker) refresher: mpsc::Sender<RefreshRequest>,
    pub(in crate::worker) metrics: Arc<Metrics>,
    pub(in crate::worker) inbox: mpsc::Receiver<LinkCommand>,
    /// The keeper, who has the permits of the fleet's budget of connections.
    pub(in crate::worker) claims: mpsc::Sender<ClaimRequest>,
    /// Its number among the worker's links.
    pub(in crate::worker) number: usize,
    /// It may have a connection.
    pub(in crate::worker) permitted: bool,
    /// The claims were lost: a connection that carries nothing is closed at once.
    pub(in crate::worker) released: bool,
}

/// Why the drive over one socket ended.
enum End {
    /// The connection is of no more use.
    Failed(ConnectionError),
    /// The socket is over.
    Socket(SocketError),
    /// Nothing to carry.
    Idle,
    /// The fleet's budget has no place for the connection any more.
    Unpermitted,
    /// The link shall end.
    Drained(Option<oneshot::Sender<()>>),
}

/// The link was told to end while it waited, by whom that is to be answered.
struct Drained(Option<oneshot::Sender<()>>);

impl Link {
    /// Runs until drained.
    pub(in crate::worker) async fn run(mut self) {
        let Err(Drained(done)) = self.carry().await;
        if let Some(done) = done {
            // Nobody waits any more when the grace is over; the link ends all the same.
            let _ = done.send(());
        }
    }

    /// One connection after the other, for as long as there is something to carry.
    async fn carry(&mut self) -> Result<Infallible, Drained> {
        let mut roster = Roster::new(self.policy, Instant::now(), wall_ms());
        let mut failures: u32 = 0;
        loop {
            self.wait_for_work(&mut roster).await?;
            self.permit(&mut roster).await?;
            let (dialer, url) = (self.dialer.clone(), self.url.clone());
            // Boxed: the handshake of TLS is most of what a future of ours would weigh.
            let dial = Box::pin(async move { dialer.dial(&url).await });
            let end = match self.wait_beside(&mut roster, dial).await? {
                // The permit was lost meanwhile.
                Ok(_) if !self.permitted => Some(End::Unpermitted),
                Ok(socket) => {
                    let mut draining = None;
                    let end = self
                        .drive(&mut roster, socket, &mut failures, &mut draining)
                        .await;
                    // However the socket ended meanwhile, nothing is left to log out.
                    match draining {
                        Some((done, _)) => Some(End::Drained(Some(done))),
                        None => end,
                    }
                }
                Err(dial_error) => {
                    failures = failures.saturating_add(1);
                    warn!(link = self.name, failures, error = %with_causes(&dial_error), "cannot connect to cTrader");
                    self.lost(&mut roster, "cTrader cannot be reached", false);
                    None
                }
            };
            self.count_end(end.as_ref());
            let mut hopeless = false;
            let mut pause_min = Duration::ZERO;
            match end {
                None => {}
                Some(End::Drained(done)) => return Err(Drained(done)),
                Some(End::Idle) => {
                    self.status.set_connected(false);
                    info!(link = self.name, "nothing to carry: connection closed");
                    self.return_permit();
                    continue;
                }
                Some(End::Unpermitted) => {
                    self.lost(&mut roster, permit::NO_PERMIT, false);
                    continue;
                }
                Some(End::Socket(socket_error)) => {
                    failures = failures.saturating_add(1);
                    warn!(link = self.name, failures, error = %with_causes(&socket_error), "connection to cTrader lost");
                    self.lost(&mut roster, "the connection to cTrader was lost", false);
                }
                Some(End::Failed(failure)) => {
                    failures = failures.saturating_add(1);
                    hopeless = is_hopeless(&failure);
                    pause_min = pause_of(&failure);
                    if hopeless {
                        // For whoever watches the log: nothing of this application works any more.
                        error!(link = self.name, error = %failure, "cTrader refuses this application");
                    } else {
                        warn!(link = self.name, failures, error = %failure, "connection to cTrader given up");
                    }
                    self.lost(&mut roster, &for_user(&failure), hopeless);
                }
            }
            let pause = if hopeless || failures >= self.policy.attempts_max {
                self.policy.failed_pause
            } else {
                backoff::RECONNECT.pause(failures, rand::random())
            };
            // Not the whole fleet in the same moment, when a maintenance ends.
            let pause = pause.max(pause_min.mul_f64(1.0 + rand::random::<f64>() / 20.0));
            debug!(
                link = self.name,
                pause_ms = pause.as_millis(),
                "waiting before the next try"
            );
            self.wait_beside(&mut roster, sleep(pause)).await?;
        }
    }

    /// Takes commands until there is something to carry.
    async fn wait_for_work(&mut self, roster: &mut Roster) -> Result<(), Drained> {
        while roster.len() == 0 {
            let command = self.inbox.recv().await;
            self.take(roster, command)?;
        }
        Ok(())
    }

    /// Takes commands until something is done.
    async fn wait_beside<T>(
        &mut self,
        roster: &mut Roster,
        task: impl Future<Output = T>,
    ) -> Result<T, Drained> {
        let mut task = std::pin::pin!(task);
        loop {
            tokio::select! {
                done = &mut task => return Ok(done),
                command = self.inbox.recv() => self.take(roster, command)?,
            }
        }
    }

    /// Carries out what came while there is no connection.
    fn take(&mut self, roster: &mut Roster, command: Option<LinkCommand>) -> Result<(), Drained> {
        let Some(command) = command else {
            return Err(Drained(None));
        };
        if let Some(done) = self.handle(roster, command, None) {
            return Err(Drained(Some(done)));
        }
        self.say(roster);
        self.tell_settled(roster, None);
        Ok(())
    }

    /// Drives the protocol over one socket until it ends.
    async fn drive(
        &mut self,
        roster: &mut Roster,
        mut socket: Socket,
        failures: &mut u32,
        draining: &mut Option<(oneshot::Sender<()>, Instant)>,
    ) -> Option<End> {
        let (now, wall_ms) = (Instant::now(), wall_ms());
        let mut connection = Connection::new(
            &self.connection,
            rand::random(),
            WallClock::from_unix_ms(now, wall_ms),
        );
        let mut askers = Askers {
            next: FIRST_TICKET,
            ..Askers::default()
        };
        roster.handle_connected(&mut connection, now, wall_ms);
        let mut round = interval_at((now + self.round_offset()).into(), self.write_interval);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut empty_since = None;
        // Quotes, and the connection's own deadlines, change nothing of what the roster has to do unless
        // an event says so: it is asked only after something else.
        let mut calm = false;
        let mut roster_due = None;
        loop {
            if let Err(socket_error) = transmit(&mut connection, &mut socket).await {
                self.last_words(roster, connection, &mut askers, failures);
                return Some(End::Socket(socket_error));
            }
            calm &= !connection.has_events() && !roster.is_unsettled();
            if let Some(failure) =
                self.handle_events(roster, &mut connection, &mut askers, failures)
            {
                self.last_words(roster, connection, &mut askers, failures);
                return Some(End::Failed(failure));
            }
            self.count(&mut connection);
            if !calm {
                self.see_to(roster, &connection);
                roster_due = roster.poll_timeout();
            }
            calm = false;
            let now = Instant::now();
            let drained = draining.as_ref().is_some_and(|(_, until)| {
                let out = !roster.is_leaving() || *until <= now;
                out && (!askers.wait() || *until + ANSWER_LINGER <= now)
            });
            if drained && let Some((done, _)) = draining.take() {
                self.last_words(roster, connection, &mut askers, failures);
                socket.close().await;
                return Some(End::Drained(Some(done)));
            }
            if roster.len() == 0 && draining.is_none() {
                if *empty_since.get_or_insert(now) + self.linger() <= now && !askers.wait() {
                    self.last_words(roster, connection, &mut askers, failures);
                    socket.close().await;
                    return Some(End::Idle);
                }
            } else {
                empty_since = None;
            }
            let due = [
                connection.poll_timeout(),
                roster_due,
                // With an answer still to come: looked at again after a while.
                empty_since.map(|since| (since + self.linger()).max(now + EMPTY_LOOK)),
                drain_due(draining.as_ref().map(|(_, until)| *until), now),
            ];
            let due = due.into_iter().flatten().min().unwrap_or(now + LINGER);
            tokio::select! {
                biased;
                command = self.inbox.recv() => match command {
                    None => return Some(End::Drained(None)),
                    // Sent before its sender knew of the drain: it is another worker's to run.
                    Some(LinkCommand::Start(_)) if draining.is_some() => {}
                    Some(LinkCommand::Refresh(token, asker)) => {
                        connection.refresh_token(askers.await_refresh(asker), &token, Instant::now());
                    }
                    Some(LinkCommand::Verify(token, asker)) => {
                        connection.verify_token(askers.await_answer(asker), &token, Instant::now());
                    }
                    Some(LinkCommand::Unpermitted) => {
                        self.permitted = false;
                        self.last_words(roster, connection, &mut askers, failures);
                        socket.close().await;
                        return Some(End::Unpermitted);
                    }
                    Some(command) => {
                        if let Some(done) = self.handle(roster, command, Some(&mut connection)) {
                            *draining = Some((done, Instant::now() + LOGOUT_TIMEOUT));
                        }
                    }
                },
                _ = round.tick() => self.round(roster, &mut connection),
                incoming = socket.receive() => {
                    calm = true;
                    if let Err(socket_error) = take_run(incoming, &mut socket, &mut connection) {
                        self.last_words(roster, connection, &mut askers, failures);
                        return Some(End::Socket(socket_error));
                    }
                }
                () = sleep_until(due.into()) => {
                    let now = Instant::now();
                    connection.handle_timeout(now);
                    if roster_due.is_some_and(|at| at <= now) {
                        roster.handle_timeout(Some(&mut connection), now);
                    } else {
                        calm = true;
                    }
                }
            }
        }
    }

    /// Links that connected in one moment write at different ones, so that neither the rows that wait nor the
    /// database's work comes in one heap.
    fn round_offset(&self) -> Duration {
        // The golden ratio spreads any number of them evenly.
        let turns = 0.618_034 * f64::from(u32::try_from(self.number).unwrap_or_default());
        self.write_interval.mul_f64(turns.fract())
    }

    /// The connection is gone: nothing may look live.
    fn lost(&self, roster: &mut Roster, reason: &str, hopeless: bool) {
        self.status.set_connected(false);
        roster.handle_disconnected(reason, hopeless);
        self.say(roster);
    }
}

/// When a drain is to be looked at that waits for log-outs until then.
fn drain_due(until: Option<Instant>, now: Instant) -> Option<Instant> {
    until.map(|until| {
        if until <= now {
            until + ANSWER_LINGER
        } else {
            until
        }
    })
}

/// Sends all that the connection has to say.
async fn transmit(connection: &mut Connection, socket: &mut Socket) -> Result<(), SocketError> {
    let mut fed = false;
    while let Some(transmit) = connection.poll_transmit() {
        match transmit {
            Transmit::Message(bytes) => socket.feed(bytes).await?,
            Transmit::Ping => socket.feed_ping().await?,
        }
        fed = true;
    }
    if fed { socket.flush().await } else { Ok(()) }
}

/// Takes in a message and those that are there already behind it.
fn take_run(
    first: Result<Incoming, SocketError>,
    socket: &mut Socket,
    connection: &mut Connection,
) -> Result<(), SocketError> {
    let now = Instant::now();
    let mut incoming = first?;
    for _ in 1..READ_RUN_MAX {
        take_in(incoming, connection, now);
        match socket.receive_ready()? {
            Some(next) => incoming = next,
            None => return Ok(()),
        }
    }
    take_in(incoming, connection, now);
    Ok(())
}

fn take_in(incoming: Incoming, connection: &mut Connection, now: Instant) {
    match incoming {
        Incoming::Message(bytes) => connection.handle_message(bytes, now),
        Incoming::Pong => connection.handle_pong(now),
        Incoming::Other => connection.handle_other(now),
    }
}

/// Whether trying again soon is of no use, and harmful.
fn is_hopeless(failure: &ConnectionError) -> bool {
    match failure {
        ConnectionError::ApplicationRefused(refusal) => {
            refusal.disposition() == Disposition::StopApplication
        }
        ConnectionError::Disconnected { reason } => reason
            .as_deref()
            .is_some_and(|reason| reason.to_ascii_lowercase().contains("block")),
        ConnectionError::Unanswered | ConnectionError::Silent | ConnectionError::Malformed => false,
    }
}

/// The shortest pause that a failure asks for.
fn pause_of(failure: &ConnectionError) -> Duration {
    match failure {
        ConnectionError::ApplicationRefused(refusal) => match remedy_of(refusal, wall_ms()) {
            Remedy::NotBefore(pause) => pause,
            Remedy::Soon | Remedy::Help | Remedy::Renew | Remedy::Route => Duration::ZERO,
        },
        ConnectionError::Disconnected { .. }
        | ConnectionError::Unanswered
        | ConnectionError::Silent
        | ConnectionError::Malformed => Duration::ZERO,
    }
}

/// The wall clock's time, milliseconds since the epoch.
fn wall_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

fn for_user(failure: &ConnectionError) -> String {
    match failure {
        ConnectionError::ApplicationRefused(refusal) => refusal.for_user(),
        ConnectionError::Disconnected { .. } => "cTrader ended the connection".to_owned(),
        ConnectionError::Unanswered => "cTrader did not answer".to_owned(),
        ConnectionError::Silent => "cTrader has gone silent".to_owned(),
        ConnectionError::Malformed => "cTrader sent something unreadable".to_owned(),
    }
}
