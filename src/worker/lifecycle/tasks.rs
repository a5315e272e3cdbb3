//! The tasks of a worker and how they are wired: each owns its state, and reaches the others by handles.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apply_command::handler;
use super::supervise::Supervisor;
use crate::amqp::Consumer;
use crate::metrics::Metrics;
use crate::pg::claims::LockConnection;
use crate::pg::connect::Database;
use crate::worker::config::{StartError, WorkerConfig};
use crate::worker::credentials::grant::GrantStore;
use crate::worker::credentials::refresher::Refresher;
use crate::worker::handles::findings::Findings;
use crate::worker::handles::link::{LinkHandle, Links};
use crate::worker::handles::locks::{LockHandle, LockInbox};
use crate::worker::handles::renewals::Renewals;
use crate::worker::handles::wakeups::Wakeups;
use crate::worker::health::gauges;
use crate::worker::health::status::{LinkStatus, WorkerStatus};
use crate::worker::link::roster::RetryPolicy;
use crate::worker::link::{Link, LinkConfig, LinkHandles};
use crate::worker::ownership::lock_keeper::LockKeeper;
use crate::worker::ownership::permits::Permits;
use crate::worker::ownership::{Coordinator, State, listener};
use crate::worker::writing::outbox::Outbox;
use crate::worker::writing::row_stats::RowStats;
use crate::worker::writing::writer::Writer;
use crate::ws::dial::Dialer;

/// Connections to Postgres beside those for locks and notifications: one for the writer and one for the
/// coordinator.
const DATABASE_CONNECTIONS: usize = 2;

/// Connections for commands, so that many of them never make a row wait.
const COMMAND_CONNECTIONS: usize = 2;

/// What is there before the tasks are.
pub(super) struct Foundation {
    pub(super) dialer: Dialer,
    pub(super) status: Arc<WorkerStatus>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lock_connection: LockConnection,
}

/// All tasks of a worker, and what stops each.
pub(super) struct Tasks {
    pub(super) set: JoinSet<&'static str>,
    pub(super) links: Links,
    pub(super) stop: StopTokens,
    database: Database,
    commands_database: Database,
}

/// Stops the tasks, in the order in which the fields stand.
#[derive(Default)]
pub(super) struct StopTokens {
    pub(super) consumer: CancellationToken,
    /// The coordinator hands over what it can, and ends.
    pub(super) handing_over: CancellationToken,
    pub(super) coordinator: CancellationToken,
    pub(super) listener: CancellationToken,
    pub(super) refresher: CancellationToken,
    pub(super) writer: CancellationToken,
    pub(super) lock_keeper: CancellationToken,
}

impl Tasks {
    /// Spawns all tasks. Returns them, and what supervises them.
    #[expect(clippy::too_many_lines, reason = "wiring, one task after the other")]
    pub(super) fn spawn(
        config: &WorkerConfig,
        foundation: Foundation,
    ) -> Result<(Self, Supervisor), StartError> {
        let Foundation {
            dialer,
            status,
            metrics,
            lock_connection,
        } = foundation;
        let database = open_database(config, DATABASE_CONNECTIONS)?;
        let commands_database = open_database(config, COMMAND_CONNECTIONS)?;
        let outbox = Arc::new(Outbox::default());
        let wakeups = Arc::new(Wakeups::default());
        let (renewals, renewal_requests) = Renewals::channel();
        let (locks, lock_inbox) = LockHandle::channel();
        let (findings, found) = Findings::channel();
        let mut set = JoinSet::new();
        let stop = StopTokens::default();

        let handles = LinkHandles {
            outbox: Arc::clone(&outbox),
            wakeups: Arc::clone(&wakeups),
            renewals: renewals.clone(),
            locks: locks.clone(),
            metrics: Arc::clone(&metrics),
        };
        let (links, link_states) = spawn_links(config, &dialer, &handles, &mut set);

        let LockInbox {
            requests,
            claims,
            has_permit,
        } = lock_inbox;
        let lock_keeper = LockKeeper {
            config: config.pg.clone(),
            worker_id: config.worker_id.clone(),
            sessions_max: config.sessions_max,
            links: links.clone(),
            requests,
            wakeups: Arc::clone(&wakeups),
            unreleased: BTreeSet::new(),
            permits: Permits::new(config.connection_limit, has_permit),
            state: claims,
        };
        spawn(
            &mut set,
            "lock keeper",
            lock_keeper.run(lock_connection, stop.lock_keeper.clone()),
        );

        let (last_error, writer_error) = watch::channel(None);
        let row_stats = Arc::new(RowStats::default());
        let writer = Writer {
            database: database.clone(),
            outbox: Arc::clone(&outbox),
            worker_id: config.worker_id.clone(),
            row_stats: Arc::clone(&row_stats),
            metrics: Arc::clone(&metrics),
            findings,
            write_error: last_error,
        };
        spawn(&mut set, "writer", writer.run(stop.writer.clone()));

        let last_command = Arc::new(watch::Sender::new(Instant::now()));
        let (consumer, commands) = Consumer::new(
            config.amqp.clone(),
            handler(commands_database.clone(), Arc::clone(&last_command)),
        );
        spawn(&mut set, "consumer", consumer.run(stop.consumer.clone()));

        let coordinator = Coordinator {
            database: database.clone(),
            links: links.clone(),
            outbox,
            wakeups: Arc::clone(&wakeups),
            locks: locks.clone(),
            consumer: commands.clone(),
            findings: found,
            status: Arc::clone(&status),
            sessions_max: config.sessions_max,
            token_cipher: config.token_cipher.clone(),
            renewals,
            state: State::default(),
        };
        spawn(
            &mut set,
            "coordinator",
            coordinator.run(stop.handing_over.clone(), stop.coordinator.clone()),
        );

        let refresher = Refresher {
            grants: GrantStore {
                database: commands_database.clone(),
                worker_id: config.worker_id.clone(),
                token_cipher: config.token_cipher.clone(),
            },
            links: links.clone(),
            metrics: Arc::clone(&metrics),
        };
        spawn(
            &mut set,
            "refresher",
            refresher.run(renewal_requests, stop.refresher.clone()),
        );

        let (pg, stop_listening) = (config.pg.clone(), stop.listener.clone());
        spawn(&mut set, "listener", async move {
            listener::listen(&pg, &wakeups, &stop_listening).await;
        });

        gauges::register(&metrics, &status, &link_states, &commands, &row_stats);
        let supervisor = Supervisor {
            status,
            link_states,
            locks,
            connection_limit: config.connection_limit,
            writer_error,
            commands,
            last_command,
        };
        let tasks = Self {
            set,
            links,
            stop,
            database,
            commands_database,
        };
        Ok((tasks, supervisor))
    }

    /// Closes the connections to Postgres, once the tasks have ended.
    pub(super) async fn close_databases(&self) {
        self.commands_database.close().await;
        self.database.close().await;
    }
}

fn open_database(config: &WorkerConfig, connections: usize) -> Result<Database, StartError> {
    Database::new(&config.pg, connections)
        .map_err(|error| StartError::Config(format!("DATABASE_URL: {error}")))
}

fn spawn_links(
    config: &WorkerConfig,
    dialer: &Dialer,
    handles: &LinkHandles,
    set: &mut JoinSet<&'static str>,
) -> (Links, Vec<(&'static str, Arc<LinkStatus>)>) {
    let mut links = Links::default();
    let mut states = Vec::new();
    for (name, url, of_environment) in [
        ("demo", &config.demo_url, &mut links.demo),
        ("live", &config.live_url, &mut links.live),
    ] {
        for _ in 0..config.connections {
            let (handle, commands) = LinkHandle::channel();
            let state = Arc::new(LinkStatus::default());
            let link_config = LinkConfig {
                name,
                number: states.len(),
                url: url.clone(),
                dialer: dialer.clone(),
                connection: config.connection.clone(),
                policy: RetryPolicy {
                    attempts_max: config.attempts_max,
                    failed_pause: config.failed_pause,
                },
                write_interval: config.write_interval,
            };
            let link = Link::new(link_config, handles.clone(), Arc::clone(&state), commands);
            spawn(set, "link", link.run());
            of_environment.push(handle);
            states.push((name, state));
        }
    }
    (links, states)
}

fn spawn(
    set: &mut JoinSet<&'static str>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    set.spawn(async move {
        task.await;
        name
    });
}
