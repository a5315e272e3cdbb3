//! From the first connection to the last: start-up, supervision, drain.

mod clock;
mod drain;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::amqp::{ApplyError, ConnectionState, Consumer, ConsumerHandle};
use crate::domain::command::{Command, CommandKind};
use crate::domain::ids::SLOT_COUNT;
use crate::failure::with_causes;
use crate::http::{Health, HealthSnapshot};
use crate::metrics::Metrics;
use crate::pg::PgError;
use crate::pg::claims::LockConnection;
use crate::pg::commands::{self, Applied, CommandRow};
use crate::pg::connect::{Database, PgConfig, within};
use crate::pg::probe::diagnose;
use crate::pg::{pooler, schema};
use crate::shutdown::Stages;
use crate::worker::config::{StartError, WorkerConfig};
use crate::worker::credentials::refresher::{RefreshRequest, Refresher};
use crate::worker::handles::links::Links;
use crate::worker::handles::wakeups::HintBox;
use crate::worker::health::gauges;
use crate::worker::health::server::Serving;
use crate::worker::health::status::{LinkStatus, WorkerStatus};
use crate::worker::link::Link;
use crate::worker::link::roster::RetryPolicy;
use crate::worker::ownership::lock_keeper::{ClaimRequest, ClaimState, Keeper};
use crate::worker::ownership::permits::Permits;
use crate::worker::ownership::{Coordinator, State};
use crate::worker::writing::outbox::Outbox;
use crate::worker::writing::row_stats::Tally;
use crate::worker::writing::writer::Writer;
use crate::ws::dial::Dialer;
use drain::{Tasks, drain};

/// How long a dependency may be away when the worker starts.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Pause between two tries of that.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Connections to Postgres beside those for claims and hints: one for the writer and one for the
/// coordinator.
const DATABASE_CONNECTIONS: usize = 2;

/// Connections for commands, so that many of them never make a row wait.
const COMMAND_CONNECTIONS: usize = 2;

/// Sessions that may wait for another token.
const RENEWALS_MAX: usize = 1_024;

/// Locks that the server should have room for: twice what the fleet holds at most, a lock for each slot and
/// some for its workers and their connections.
const LOCKS_COMFORTABLE: i64 = 2 * (SLOT_COUNT as i64 + 256);

/// How often the health routes learn what the tasks say.
const HEALTH_EVERY: Duration = Duration::from_millis(250);

/// Runs a worker until it is told to stop, or has been idle for long enough.
///
/// # Errors
/// When a dependency stays away past the start-up deadline or can't ever be used, or a task died.
pub async fn run(config: WorkerConfig, stages: Stages) -> Result<(), StartError> {
    let dialer = Dialer::new(config.extra_roots.clone())?;
    let (snapshot, seen) = watch::channel(HealthSnapshot {
        rabbitmq: Some("not connected yet".to_owned()),
        ..HealthSnapshot::default()
    });
    let status = Arc::new(WorkerStatus::new(snapshot));
    status.beat();
    let metrics = Arc::new(gauges::metrics());
    let rendered = Arc::clone(&metrics);
    let health = Health {
        worker_id: config.worker_id.clone(),
        started_at: Instant::now(),
        snapshot: seen,
        metrics: Some(Arc::new(move || rendered.render())),
    };
    let serving = Serving::start(config.port, health).await?;

    let result = match start_postgres(&config, &stages).await {
        Ok(Some(lock)) => {
            Box::pin(work(
                config,
                stages,
                dialer,
                (Arc::clone(&status), metrics),
                lock,
            ))
            .await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    serving.stop().await;
    result
}

/// The lock connection, on a database that is what it should be; `None` when told to stop meanwhile.
async fn start_postgres(
    config: &WorkerConfig,
    stages: &Stages,
) -> Result<Option<LockConnection>, StartError> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let error = match open_postgres(&config.pg).await {
            Ok(lock) => return Ok(Some(lock)),
            Err(error) => error,
        };
        if let PgError::Pooler(pooler) = &error {
            return Err(StartError::Config(format!("DATABASE_URL: {pooler}")));
        }
        if !error.is_transient() || Instant::now() >= deadline {
            return Err(StartError::Dependency {
                what: "Postgres",
                reason: diagnose(&error, &config.pg).to_string(),
            });
        }
        warn!(error = %with_causes(&error), "Postgres cannot be used yet");
        tokio::select! {
            () = tokio::time::sleep(START_PAUSE) => {}
            () = stages.soft.cancelled() => return Ok(None),
        }
    }
}

async fn open_postgres(config: &PgConfig) -> Result<LockConnection, PgError> {
    // First, since anything else fails in odd ways through such a pooler.
    pooler::detect(config).await?;
    let database = Database::new(config, 1)?;
    database
        .run(async |conn| {
            schema::check(conn).await?;
            clock::compare(conn).await;
            Ok(())
        })
        .await?;
    database.close().await;
    let mut lock = LockConnection::connect(config).await?;
    let capacity = within(config.reply_timeout(), lock.capacity()).await?;
    if capacity.locks() < LOCKS_COMFORTABLE {
        warn!(
            locks = capacity.locks(),
            "the fleet may hold more than half of the server's lock table: raise max_locks_per_transaction"
        );
    }
    info!(locks = capacity.locks(), "Postgres is ready");
    Ok(lock)
}

#[expect(clippy::too_many_lines, reason = "wiring, one task after the other")]
async fn work(
    config: WorkerConfig,
    stages: Stages,
    dialer: Dialer,
    (status, metrics): (Arc<WorkerStatus>, Arc<Metrics>),
    lock: LockConnection,
) -> Result<(), StartError> {
    let database = Database::new(&config.pg, DATABASE_CONNECTIONS)
        .map_err(|error| StartError::Config(format!("DATABASE_URL: {error}")))?;
    let commands_database = Database::new(&config.pg, COMMAND_CONNECTIONS)
        .map_err(|error| StartError::Config(format!("DATABASE_URL: {error}")))?;
    let outbox = Arc::new(Outbox::default());
    let hints = Arc::new(HintBox::default());
    let mut set = JoinSet::new();

    let (wanted, renewals) = mpsc::channel(RENEWALS_MAX);
    let shared = LinkParts {
        outbox: Arc::clone(&outbox),
        hints: Arc::clone(&hints),
        refresher: wanted.clone(),
        metrics: Arc::clone(&metrics),
    };
    let (claims, requests) = mpsc::channel(16);
    let (links, link_states) = spawn_links(&config, &dialer, &shared, &claims, &mut set);
    let refresher = Refresher {
        database: commands_database.clone(),
        worker_id: config.worker_id.clone(),
        token_cipher: config.token_cipher.clone(),
        links: links.clone(),
        metrics: Arc::clone(&metrics),
    };
    let (claim_sender, claim_state) = watch::channel(ClaimState::Lost {
        reason: "not connected yet".to_owned(),
        given_up: true,
    });
    let (permitted, able) = watch::channel(false);
    let keeper = Keeper {
        config: config.pg.clone(),
        worker_id: config.worker_id.clone(),
        sessions_max: config.sessions_max,
        links: links.all(),
        requests,
        hints: Arc::clone(&hints),
        unreleased: BTreeSet::new(),
        permits: Permits::new(config.connection_limit, permitted),
        state: claim_sender,
    };
    let (found, findings) = mpsc::channel(64);
    let (trouble, writer_trouble) = watch::channel(None);
    let tally = Arc::new(Tally::default());
    let writer = Writer {
        database: database.clone(),
        outbox: Arc::clone(&outbox),
        worker_id: config.worker_id.clone(),
        tally: Arc::clone(&tally),
        metrics: Arc::clone(&metrics),
        findings: found,
        trouble,
    };
    let last_command = Arc::new(watch::Sender::new(Instant::now()));
    let (consumer, commands) = Consumer::new(
        config.amqp.clone(),
        handler(commands_database.clone(), Arc::clone(&last_command)),
    );

    let coordinator = Coordinator {
        database: database.clone(),
        links: links.clone(),
        outbox,
        hints: Arc::clone(&hints),
        claims,
        claim_state: claim_state.clone(),
        able: able.clone(),
        consumer: commands.clone(),
        findings,
        status: Arc::clone(&status),
        sessions_max: config.sessions_max,
        token_cipher: config.token_cipher.clone(),
        refresher: wanted,
        state: State::default(),
    };
    gauges::ask(&metrics, &status, &link_states, &commands, &tally);
    let mut tasks = Tasks {
        set,
        links,
        consumer: CancellationToken::new(),
        handing_over: CancellationToken::new(),
        coordinator: CancellationToken::new(),
        refresher: CancellationToken::new(),
        writer: CancellationToken::new(),
        keeper: CancellationToken::new(),
        hints: CancellationToken::new(),
    };
    spawn(
        &mut tasks.set,
        "keeper",
        keeper.run(lock, tasks.keeper.clone()),
    );
    spawn(&mut tasks.set, "writer", writer.run(tasks.writer.clone()));
    spawn(
        &mut tasks.set,
        "coordinator",
        coordinator.run(tasks.handing_over.clone(), tasks.coordinator.clone()),
    );
    spawn(
        &mut tasks.set,
        "consumer",
        consumer.run(tasks.consumer.clone()),
    );
    spawn(
        &mut tasks.set,
        "refresher",
        refresher.run(renewals, tasks.refresher.clone()),
    );
    let (pg, listening) = (config.pg.clone(), tasks.hints.clone());
    spawn(&mut tasks.set, "hints", async move {
        hints.listen(&pg, &listening).await;
    });

    let watched = Watched {
        status,
        link_states,
        claim_state,
        able,
        connection_limit: config.connection_limit,
        writer_trouble,
        commands,
        last_command,
    };
    let ended = watched.until_stop(&config, &stages, &mut tasks.set).await;
    watched.status.set_draining();
    drain(&mut tasks, config.grace, &stages).await;
    commands_database.close().await;
    database.close().await;
    ended
}

/// What all links share.
struct LinkParts {
    outbox: Arc<Outbox>,
    hints: Arc<HintBox>,
    refresher: mpsc::Sender<RefreshRequest>,
    metrics: Arc<Metrics>,
}

fn spawn_links(
    config: &WorkerConfig,
    dialer: &Dialer,
    shared: &LinkParts,
    claims: &mpsc::Sender<ClaimRequest>,
    set: &mut JoinSet<&'static str>,
) -> (Links, Vec<(&'static str, Arc<LinkStatus>)>) {
    let mut links = Links::default();
    let mut states = Vec::new();
    for (name, url, senders) in [
        ("demo", &config.demo_url, &mut links.demo),
        ("live", &config.live_url, &mut links.live),
    ] {
        for _ in 0..config.connections {
            let (sender, inbox) = mpsc::channel(1_024);
            let state = Arc::new(LinkStatus::default());
            let link = Link {
                name,
                url: url.clone(),
                dialer: dialer.clone(),
                connection: config.connection.clone(),
                policy: RetryPolicy {
                    attempts_max: config.attempts_max,
                    failed_pause: config.failed_pause,
                },
                write_interval: config.write_interval,
                outbox: Arc::clone(&shared.outbox),
                hints: Arc::clone(&shared.hints),
                refresher: shared.refresher.clone(),
                metrics: Arc::clone(&shared.metrics),
                status: Arc::clone(&state),
                inbox,
                claims: claims.clone(),
                number: states.len(),
                permitted: false,
                released: false,
            };
            spawn(set, "link", link.run());
            senders.push(sender);
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

/// Commits a command's effect.
fn handler(
    database: Database,
    last_command: Arc<watch::Sender<Instant>>,
) -> impl Fn(Command) -> std::pin::Pin<Box<dyn Future<Output = Result<(), ApplyError>> + Send>>
+ Send
+ Sync
+ 'static {
    move |command| {
        let database = database.clone();
        let began = Instant::now();
        last_command.send_replace(began);
        Box::pin(async move {
            let row = CommandRow {
                id: command.id,
                start: command.kind == CommandKind::Start,
                user: command.user,
                account: command.account,
                issued_at: command.issued_at,
            };
            let mut conn = database.acquire().await.map_err(later)?;
            let applied = within(database.reply_timeout(), commands::apply(&mut conn, &row)).await;
            match conn.release(applied) {
                Ok(applied) => {
                    let outcome = match applied {
                        Applied::Now(_) => "applied",
                        Applied::Stale => "stale",
                        Applied::Duplicate => "duplicate",
                    };
                    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    info!(id = %row.id, start = row.start, user = ?row.user, outcome, ms, "command");
                    Ok(())
                }
                // Whatever it is, it is the database's or ours, and the command is sound.
                Err(error) => Err(later(error)),
            }
        })
    }
}

fn later(error: PgError) -> ApplyError {
    ApplyError::Later(Box::new(error))
}

/// What is watched while the worker works.
struct Watched {
    status: Arc<WorkerStatus>,
    link_states: Vec<(&'static str, Arc<LinkStatus>)>,
    claim_state: watch::Receiver<ClaimState>,
    able: watch::Receiver<bool>,
    connection_limit: u32,
    writer_trouble: watch::Receiver<Option<String>>,
    commands: ConsumerHandle,
    last_command: Arc<watch::Sender<Instant>>,
}

impl Watched {
    /// Keeps the health routes true until something says stop.
    async fn until_stop(
        &self,
        config: &WorkerConfig,
        stages: &Stages,
        set: &mut JoinSet<&'static str>,
    ) -> Result<(), StartError> {
        let mut rounds = interval(HEALTH_EVERY);
        let mut idle_since = Instant::now();
        let mut broker_was_there = false;
        let started = Instant::now();
        // What decides whether the worker is ready is told at once.
        let (mut claims, mut able) = (self.claim_state.clone(), self.able.clone());
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
                Ok(()) = able.changed() => {}
                Ok(()) = broker_state.changed() => {}
                _ = rounds.tick() => {}
            }
            self.status.beat_main();
            let broker = self.refresh();
            broker_was_there |= broker.is_none();
            if let Some(reason) = broker
                && !broker_was_there
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

    /// Gathers what the tasks say; gives back why the broker cannot be used, if it can't.
    fn refresh(&self) -> Option<String> {
        let claims = match &*self.claim_state.borrow() {
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
        let waits =
            !*self.able.borrow() || self.link_states.iter().any(|(_, link)| link.is_waiting());
        let permit = (postgres.is_none() && waits).then(|| {
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
