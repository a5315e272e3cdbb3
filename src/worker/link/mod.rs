//! One link to cTrader: dials, lets a [`Driver`] run the protocol over the socket, and backs off before it dials
//! again. One task a link; it owns everything in here.
//!
//! [`LinkContext`] is what outlives a socket: the sessions of the [`roster`], and where rows and requests go. A
//! link needs a permit of the fleet's budget for each connection ([`permit`]).

mod commands;
mod context;
mod driver;
mod events;
mod metrics;
mod permit;
mod replies;
pub(in crate::worker) mod roster;
mod rows;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::ctrader::connection::ConnectionConfig;
use crate::domain::backoff;
use crate::failure::with_causes;
use crate::worker::handles::link::LinkCommand;
use crate::worker::handles::locks::LockHandle;
use crate::worker::health::status::LinkStatus;
use crate::ws::Socket;
use crate::ws::dial::Dialer;
use commands::CommandOutcome;
pub(in crate::worker) use context::LinkHandles;
use context::{LinkContext, read_clock};
use driver::{ConnectionEnd, Driver};
use roster::{RetryPolicy, connection_error_text, is_fatal, reconnect_pause_min};

/// What a row shows while its link waits for a permit.
const NO_PERMIT: &str = "all connections to cTrader are taken: waiting for one to become free";

/// Where a link connects to, and how.
pub(in crate::worker) struct LinkConfig {
    /// Its environment.
    pub(in crate::worker) name: &'static str,
    /// Its number among the worker's links.
    pub(in crate::worker) number: usize,
    pub(in crate::worker) url: String,
    pub(in crate::worker) dialer: Dialer,
    pub(in crate::worker) connection: ConnectionConfig,
    pub(in crate::worker) policy: RetryPolicy,
    pub(in crate::worker) write_interval: Duration,
}

/// A link to cTrader.
pub(in crate::worker) struct Link {
    config: LinkConfig,
    context: LinkContext,
    commands: mpsc::Receiver<LinkCommand>,
    locks: LockHandle,
    /// It may have a connection.
    has_permit: bool,
    /// Connections in a row that failed before any session was live.
    failures: u32,
}

/// The link was drained while it had no connection. It confirms that to this sender.
struct Drained(Option<oneshot::Sender<()>>);

impl Link {
    pub(in crate::worker) fn new(
        config: LinkConfig,
        handles: LinkHandles,
        status: Arc<LinkStatus>,
        commands: mpsc::Receiver<LinkCommand>,
    ) -> Self {
        let locks = handles.locks.clone();
        Self {
            context: LinkContext::new(config.name, config.policy, handles, status),
            config,
            commands,
            locks,
            has_permit: false,
            failures: 0,
        }
    }

    /// Runs until drained.
    pub(in crate::worker) async fn run(mut self) {
        let Err(Drained(reply_to)) = self.connect_for_ever().await;
        if let Some(reply_to) = reply_to {
            // Nobody waits any more when the grace period is over; the link ends all the same.
            let _ = reply_to.send(());
        }
    }

    /// One connection after the other, for as long as there are sessions.
    async fn connect_for_ever(&mut self) -> Result<Infallible, Drained> {
        loop {
            self.wait_for_sessions().await?;
            self.obtain_permit().await?;
            let (dialer, url) = (self.config.dialer.clone(), self.config.url.clone());
            // Boxed: the handshake of TLS is most of what a future of ours would weigh.
            let dial = Box::pin(async move { dialer.dial(&url).await });
            let end = match self.while_handling_commands(dial).await? {
                // The permit was lost meanwhile.
                Ok(_) if !self.has_permit => Some(ConnectionEnd::PermitLost),
                Ok(socket) => Some(self.drive(socket).await),
                Err(dial_error) => {
                    self.failures = self.failures.saturating_add(1);
                    warn!(link = self.config.name, failures = self.failures, error = %with_causes(&dial_error), "cannot connect to cTrader");
                    self.context
                        .handle_disconnected("cTrader cannot be reached", false);
                    None
                }
            };
            self.context.count_end(end.as_ref());
            if let Some(pause) = self.handle_end(end)? {
                debug!(
                    link = self.config.name,
                    pause_ms = pause.as_millis(),
                    "waiting before the next attempt"
                );
                self.while_handling_commands(sleep(pause)).await?;
            }
        }
    }

    async fn drive(&mut self, socket: Socket) -> ConnectionEnd {
        let driver = Driver::new(
            &mut self.context,
            &mut self.commands,
            socket,
            &self.config.connection,
            (self.config.number, self.config.write_interval),
        );
        let (end, reached_live) = driver.run().await;
        if reached_live {
            self.failures = 0;
        }
        end
    }

    /// Handles the end of a connection (`None`: it never began). Returns how long to wait before the next one.
    fn handle_end(&mut self, end: Option<ConnectionEnd>) -> Result<Option<Duration>, Drained> {
        let name = self.config.name;
        let mut fatal = false;
        let mut pause_min = Duration::ZERO;
        match end {
            None => {}
            Some(ConnectionEnd::Drained(reply_to)) => return Err(Drained(reply_to)),
            Some(ConnectionEnd::Idle) => {
                self.context.status.set_connected(false);
                info!(link = name, "no sessions: connection closed");
                self.return_permit();
                return Ok(None);
            }
            Some(ConnectionEnd::PermitLost) => {
                self.has_permit = false;
                self.context.handle_disconnected(NO_PERMIT, false);
                return Ok(None);
            }
            Some(ConnectionEnd::Socket(socket_error)) => {
                self.failures = self.failures.saturating_add(1);
                warn!(link = name, failures = self.failures, error = %with_causes(&socket_error), "connection to cTrader lost");
                self.context
                    .handle_disconnected("the connection to cTrader was lost", false);
            }
            Some(ConnectionEnd::Failed(failure)) => {
                self.failures = self.failures.saturating_add(1);
                fatal = is_fatal(&failure);
                let clock = read_clock();
                pause_min = reconnect_pause_min(&failure, clock.unix_ms(clock.moment()));
                if fatal {
                    // An error, for whoever watches the log: no link of this application can connect.
                    error!(link = name, error = %failure, "cTrader refuses this application");
                } else {
                    warn!(link = name, failures = self.failures, error = %failure, "connection to cTrader failed");
                }
                self.context
                    .handle_disconnected(&connection_error_text(&failure), fatal);
            }
        }
        let policy = self.config.policy;
        let pause = if fatal || self.failures >= policy.attempts_max {
            policy.failed_pause
        } else {
            backoff::CTRADER.pause(self.failures, rand::random())
        };
        // With jitter, so that the fleet does not reconnect in the same moment when a maintenance ends.
        Ok(Some(pause.max(
            pause_min.mul_f64(1.0 + rand::random::<f64>() / 20.0),
        )))
    }

    /// Handles commands until there is a session.
    async fn wait_for_sessions(&mut self) -> Result<(), Drained> {
        while self.context.roster.len() == 0 {
            let command = self.commands.recv().await;
            self.handle_offline_command(command)?;
        }
        Ok(())
    }

    /// Handles commands until a future is done.
    async fn while_handling_commands<T>(
        &mut self,
        future: impl Future<Output = T>,
    ) -> Result<T, Drained> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return Ok(done),
                command = self.commands.recv() => self.handle_offline_command(command)?,
            }
        }
    }

    /// Handles a command that came while there is no connection.
    fn handle_offline_command(&mut self, command: Option<LinkCommand>) -> Result<(), Drained> {
        let Some(command) = command else {
            return Err(Drained(None));
        };
        match self.context.handle_command(command, None, Instant::now()) {
            CommandOutcome::Handled => {}
            CommandOutcome::PermitLost => self.has_permit = false,
            CommandOutcome::Drain(reply_to) => return Err(Drained(Some(reply_to))),
        }
        self.context.publish_status_updates();
        self.context.report_standby_ready(None);
        Ok(())
    }
}
