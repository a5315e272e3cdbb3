//! Supervision: notices when a task ends, when the worker is idle, and what the health routes should show.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;
use tracing::{error, info};

use crate::amqp::{ConnectionState, ConsumerHandle};
use crate::shutdown::Stages;
use crate::worker::config::{START_DEADLINE, StartError, WorkerConfig};
use crate::worker::handles::locks::{ClaimState, LockHandle};
use crate::worker::health::status::{LinkStatus, WorkerStatus};

/// How often the health routes are updated.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// Watches the tasks, and keeps the health routes true.
pub(super) struct Supervisor {
    pub(super) status: Arc<WorkerStatus>,
    pub(super) link_states: Vec<(&'static str, Arc<LinkStatus>)>,
    pub(super) locks: LockHandle,
    pub(super) connection_limit: u32,
    pub(super) writer_trouble: watch::Receiver<Option<String>>,
    pub(super) commands: ConsumerHandle,
    pub(super) last_command: Arc<watch::Sender<Instant>>,
}

impl Supervisor {
    /// Runs until the worker is told to stop, is idle for long enough, or a task ends, which none may.
    pub(super) async fn run_until_stop(
        &self,
        config: &WorkerConfig,
        stages: &Stages,
        set: &mut JoinSet<&'static str>,
    ) -> Result<(), StartError> {
        let mut rounds = interval(HEALTH_INTERVAL);
        let mut idle_since = Instant::now();
        let mut broker_was_connected = false;
        let started = Instant::now();
        // What decides whether the worker is ready is noticed at once.
        let LockHandle {
            mut claims,
            mut has_permit,
            ..
        } = self.locks.clone();
        let mut broker_state = self.commands.state();
        loop {
            tokio::select! {
                biased;
                () = stages.soft.cancelled() => return Ok(()),
                Some(ended) = set.join_next() => {
                    let reason = match ended {
                        Ok(name) => format!("{name} returned"),
                        Err(join_error) => join_error.to_string(),
                    };
                    error!(reason, "an internal task ended");
                    return Err(StartError::Internal(reason));
                }
                Ok(()) = claims.changed() => {}
                Ok(()) = has_permit.changed() => {}
                Ok(()) = broker_state.changed() => {}
                _ = rounds.tick() => {}
            }
            self.status.beat_main();
            let broker = self.update_health();
            broker_was_connected |= broker.is_none();
            if let Some(reason) = broker
                && !broker_was_connected
                && started.elapsed() >= START_DEADLINE
            {
                return Err(StartError::Dependency {
                    what: "RabbitMQ",
                    reason,
                });
            }
            let sessions = self.status.sessions();
            if sessions > 0 {
                idle_since = Instant::now();
            }
            idle_since = idle_since.max(*self.last_command.borrow());
            if config
                .idle_exit
                .is_some_and(|limit| idle_since.elapsed() >= limit)
            {
                info!("idle for long enough: ending");
                return Ok(());
            }
        }
    }

    /// Gathers the state of the tasks for the health routes. Returns why the broker cannot be used, if it can't.
    fn update_health(&self) -> Option<String> {
        let claims = match &*self.locks.claims.borrow() {
            ClaimState::Held(_) => None,
            ClaimState::Lost { reason, .. } => Some(reason.clone()),
        };
        let postgres = claims
            .or_else(|| self.writer_trouble.borrow().clone())
            .or_else(|| self.status.database_trouble());
        let rabbitmq = match &*self.commands.state().borrow() {
            ConnectionState::Connected => None,
            ConnectionState::Disconnected { reason, .. } => Some(reason.clone()),
        };
        let down = self.link_states.iter().any(|(_, link)| link.is_down());
        let ctrader = down.then(|| "a connection to cTrader is down".to_owned());
        let is_waiting = !*self.locks.has_permit.borrow()
            || self.link_states.iter().any(|(_, link)| link.is_waiting());
        let permit = (postgres.is_none() && is_waiting).then(|| {
            format!(
                "all {} connections of the fleet are taken: waiting for one",
                self.connection_limit
            )
        });
        self.status.modify(|snapshot| {
            snapshot.permit = permit;
            snapshot.postgres = postgres;
            snapshot.rabbitmq.clone_from(&rabbitmq);
            snapshot.ctrader = ctrader;
        });
        rabbitmq
    }
}
