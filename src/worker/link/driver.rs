//! Drives the protocol over one socket until it ends.
//!
//! Loop: send what is to be sent, handle the connection's events, flush their results; then wait for a
//! command, a message, the round of rows or a deadline, and make one change. Messages are read in runs, so that
//! a burst of quotes costs one wake-up.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval_at, sleep_until};

use super::commands::CommandOutcome;
use super::context::{LinkContext, read_clock};
use super::replies::ActiveConnection;
use crate::ctrader::connection::{Connection, ConnectionConfig, ConnectionError, Transmit};
use crate::worker::handles::link::LinkCommand;
use crate::ws::{Incoming, Socket, SocketError};

/// Messages read from a socket in one run, before anything else gets its turn.
const READ_RUN_MAX: usize = 1_024;

/// How long a link without sessions keeps its socket.
const LINGER: Duration = Duration::from_secs(30);

/// How long a draining link waits beyond the log-outs for the response to a refresh token: only that
/// contains the new pair.
const REFRESH_LINGER: Duration = Duration::from_secs(15);

/// How often a link without sessions checks whether somebody still waits for a reply.
const EMPTY_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How long log-outs may take when the link ends.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a connection ended.
pub(super) enum ConnectionEnd {
    /// The protocol failed: the connection cannot be used any more.
    Failed(ConnectionError),
    /// The socket broke or was closed.
    Socket(SocketError),
    /// There was no session any more.
    Idle,
    /// The fleet's budget has no permit for the connection any more.
    PermitLost,
    /// The link is to end, and to confirm it to this sender.
    Drained(Option<oneshot::Sender<()>>),
}

/// A drain under way.
struct Drain {
    reply_to: oneshot::Sender<()>,
    /// Log-outs are waited for until then.
    logout_until: Instant,
}

impl Drain {
    /// When it is to be checked again.
    fn due(&self, now: Instant) -> Instant {
        if self.logout_until <= now {
            self.logout_until + REFRESH_LINGER
        } else {
            self.logout_until
        }
    }
}

/// Drives one socket.
pub(super) struct Driver<'a> {
    context: &'a mut LinkContext,
    commands: &'a mut mpsc::Receiver<LinkCommand>,
    socket: Socket,
    active: ActiveConnection,
    rounds: Interval,
    drain: Option<Drain>,
    /// Since when there has been no session.
    empty_since: Option<Instant>,
    /// The roster may have something to do. Quotes and the connection's own deadlines change nothing of that
    /// unless there is an event, so the roster is not polled after each of them.
    roster_dirty: bool,
    roster_due: Option<Instant>,
}

impl<'a> Driver<'a> {
    /// `round`: the link's number and the interval in which it writes its rows. Links that connect in one moment
    /// write at different ones, so that neither the rows that wait nor the database's load come in bursts.
    pub(super) fn new(
        context: &'a mut LinkContext,
        commands: &'a mut mpsc::Receiver<LinkCommand>,
        socket: Socket,
        config: &ConnectionConfig,
        (number, write_interval): (usize, Duration),
    ) -> Self {
        let clock = read_clock();
        let mut connection = Connection::new(config, rand::random(), clock);
        context.roster.handle_connected(&mut connection, clock);
        let first_round = clock.moment() + round_offset(number, write_interval);
        let mut rounds = interval_at(first_round.into(), write_interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            context,
            commands,
            socket,
            active: ActiveConnection::new(connection),
            rounds,
            drain: None,
            empty_since: None,
            roster_dirty: true,
            roster_due: None,
        }
    }

    /// Drives the socket until it ends. Returns how it ended, and whether a session was live.
    pub(super) async fn run(mut self) -> (ConnectionEnd, bool) {
        let end = loop {
            if let Err(socket_error) = transmit(&mut self.active.connection, &mut self.socket).await
            {
                self.context.flush_on_close(&mut self.active);
                break ConnectionEnd::Socket(socket_error);
            }
            if let Some(failure) = self.handle_outputs() {
                self.context.flush_on_close(&mut self.active);
                break ConnectionEnd::Failed(failure);
            }
            if let Some(end) = self.check_end(Instant::now()) {
                self.context.flush_on_close(&mut self.active);
                break end;
            }
            if let Some(end) = self.wait().await {
                break end;
            }
        };
        if matches!(
            end,
            ConnectionEnd::Idle | ConnectionEnd::PermitLost | ConnectionEnd::Drained(Some(_))
        ) {
            self.socket.close().await;
        }
        let reached_live = self.active.reached_live;
        match self.drain {
            // However the socket ended meanwhile, nothing is left to log out.
            Some(drain) => (ConnectionEnd::Drained(Some(drain.reply_to)), reached_live),
            None => (end, reached_live),
        }
    }

    /// Handles the connection's events and forwards their results; returns the failure that ends the
    /// connection.
    fn handle_outputs(&mut self) -> Option<ConnectionError> {
        self.roster_dirty |=
            self.active.connection.has_events() || self.context.roster.has_pending_standby();
        if let Some(failure) = self.context.handle_events(&mut self.active) {
            return Some(failure);
        }
        self.context.count(&mut self.active.connection);
        if self.roster_dirty {
            self.context.flush_outputs(&self.active.connection);
            self.roster_due = self.context.roster.poll_timeout();
        }
        None
    }

    /// Whether the link has drained, or has had no session for long enough.
    fn check_end(&mut self, now: Instant) -> Option<ConnectionEnd> {
        let awaits_refresh = self.active.replies.awaits_refresh();
        let roster = &self.context.roster;
        if let Some(drain) = &self.drain {
            self.empty_since = None;
            let logged_out = !roster.is_logging_out() || drain.logout_until <= now;
            let replied = !awaits_refresh || drain.logout_until + REFRESH_LINGER <= now;
            return (logged_out && replied)
                .then(|| self.drain.take())
                .flatten()
                .map(|drain| ConnectionEnd::Drained(Some(drain.reply_to)));
        }
        if roster.len() > 0 {
            self.empty_since = None;
            return None;
        }
        let since = *self.empty_since.get_or_insert(now);
        (since + self.linger() <= now && !awaits_refresh).then_some(ConnectionEnd::Idle)
    }

    /// Waits for whatever comes first, and makes one change.
    async fn wait(&mut self) -> Option<ConnectionEnd> {
        let now = Instant::now();
        let due = [
            self.active.connection.poll_timeout(),
            self.roster_due,
            // If somebody still waits for a reply, this is checked again after a while.
            self.empty_since
                .map(|since| (since + self.linger()).max(now + EMPTY_CHECK_INTERVAL)),
            self.drain.as_ref().map(|drain| drain.due(now)),
        ];
        let due = due.into_iter().flatten().min().unwrap_or(now + LINGER);
        self.roster_dirty = true;
        tokio::select! {
            biased;
            command = self.commands.recv() => match command {
                Some(command) => return self.handle_command(command),
                None => return Some(ConnectionEnd::Drained(None)),
            },
            _ = self.rounds.tick() => self.context.put_round(&mut self.active.connection),
            incoming = self.socket.receive() => {
                self.roster_dirty = false;
                let connection = &mut self.active.connection;
                if let Err(socket_error) = read_run(incoming, &mut self.socket, connection) {
                    self.context.flush_on_close(&mut self.active);
                    return Some(ConnectionEnd::Socket(socket_error));
                }
            }
            () = sleep_until(due.into()) => self.handle_timeout(),
        }
        None
    }

    fn handle_command(&mut self, command: LinkCommand) -> Option<ConnectionEnd> {
        let now = Instant::now();
        match self
            .context
            .handle_command(command, Some(&mut self.active), now)
        {
            CommandOutcome::Handled => None,
            CommandOutcome::PermitLost => {
                self.context.flush_on_close(&mut self.active);
                Some(ConnectionEnd::PermitLost)
            }
            CommandOutcome::Drain(reply_to) => {
                self.drain = Some(Drain {
                    reply_to,
                    logout_until: now + LOGOUT_TIMEOUT,
                });
                None
            }
        }
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        let connection = &mut self.active.connection;
        connection.handle_timeout(now);
        if self.roster_due.is_some_and(|at| at <= now) {
            self.context.roster.handle_timeout(Some(connection), now);
        } else {
            self.roster_dirty = false;
        }
    }

    /// How long a link without sessions keeps its socket.
    const fn linger(&self) -> Duration {
        if self.context.claims_lost {
            LOGOUT_TIMEOUT
        } else {
            LINGER
        }
    }
}

/// When a link's rounds begin, within the interval.
fn round_offset(number: usize, write_interval: Duration) -> Duration {
    // The golden ratio spreads any number of them evenly.
    let turns = 0.618_034 * f64::from(u32::try_from(number).unwrap_or_default());
    write_interval.mul_f64(turns.fract())
}

/// Sends all that the connection has to send.
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

/// Handles a message and those that are there already behind it.
fn read_run(
    first: Result<Incoming, SocketError>,
    socket: &mut Socket,
    connection: &mut Connection,
) -> Result<(), SocketError> {
    let now = Instant::now();
    let mut incoming = first?;
    for _ in 1..READ_RUN_MAX {
        handle_incoming(incoming, connection, now);
        match socket.receive_ready()? {
            Some(next) => incoming = next,
            None => return Ok(()),
        }
    }
    handle_incoming(incoming, connection, now);
    Ok(())
}

fn handle_incoming(incoming: Incoming, connection: &mut Connection, now: Instant) {
    match incoming {
        Incoming::Message(bytes) => connection.handle_message(bytes, now),
        Incoming::Pong => connection.handle_pong(now),
        Incoming::Other => connection.handle_other(now),
    }
}
