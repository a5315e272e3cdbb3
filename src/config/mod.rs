//! The configuration: environment variables, typed and checked. No other module knows their names.
//!
//! [`Env`] holds the variables as text. [`Config`], [`MigrateConfig`] and [`PublishConfig`] hold what a
//! subcommand needs. All problems are reported at once, and none repeats a value: it may be a secret that
//! was put into the wrong variable.

mod env;
mod reader;

use std::fmt;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

use crate::amqp::AmqpSettings;
use crate::domain::secret::Secret;
use crate::telemetry::LogSettings;
pub use env::{Env, Problem, Problems};
use reader::{Reader, Scheme};

/// What a worker needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The worker's name in rows, logs and the broker's list of connections.
    pub worker_id: String,
    /// Postgres.
    pub database_url: Secret,
    /// RabbitMQ.
    pub amqp: AmqpSettings,
    /// The Open API.
    pub ctrader: CtraderSettings,
    /// The worker itself.
    pub worker: WorkerSettings,
    /// The port of the health server.
    pub port: u16,
    /// The log.
    pub log: LogSettings,
}

/// The Open API application, its hosts and our limits.
#[derive(Debug, Clone)]
pub struct CtraderSettings {
    /// The id of the application.
    pub client_id: String,
    /// The secret of the application.
    pub client_secret: Secret,
    /// The host of demo accounts.
    pub demo_url: Url,
    /// The host of live accounts.
    pub live_url: Url,
    /// Roots that are trusted besides the public ones.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Connections of this worker per environment.
    pub connections: usize,
    /// Connections of the whole fleet to the application.
    pub connection_limit: u32,
    /// Requests per second and connection, of all kinds.
    pub request_rate: u32,
    /// Historical requests per second and connection.
    pub history_rate: u32,
}

/// The worker's limits and intervals.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The most sessions that it takes.
    pub max_sessions: usize,
    /// The time between two writes of a session's row.
    pub cache_write_interval: Duration,
    /// Consecutive failures before a session is `failed`.
    pub reconnect_max_attempts: u32,
    /// The time after which a failed session is tried again.
    pub failed_retry: Duration,
    /// The time that draining may take.
    pub shutdown_grace: Duration,
    /// The time without a session and a command after which the worker exits; `None`: never.
    pub idle_exit: Option<Duration>,
    /// The key that stored tokens are encrypted with.
    pub token_key: Option<TokenKey>,
}

/// The key of AES-256-GCM for stored tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey([u8; 32]);

impl TokenKey {
    /// Returns the key itself, for the cipher.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What subcommands need that only use Postgres.
#[derive(Debug, Clone)]
pub struct MigrateConfig {
    /// Postgres.
    pub database_url: Secret,
    /// The log.
    pub log: LogSettings,
}

/// What subcommands need that only use RabbitMQ.
#[derive(Debug, Clone)]
pub struct PublishConfig {
    /// RabbitMQ.
    pub amqp: AmqpSettings,
    /// The log.
    pub log: LogSettings,
}

/// The name of a subcommand other than `worker` in the broker's list of connections.
const PUBLISHER_NAME: &str = "mahspeccy-bridge";

/// cTrader refuses more than 50 requests per second and connection, and more than 5 historical ones.
const REQUEST_RATE_MAX: u32 = 50;
const HISTORY_RATE_MAX: u32 = 5;
const SECS_OF_A_DAY: u64 = 24 * 60 * 60;

impl Config {
    /// Reads what `worker` and `check` need.
    ///
    /// # Errors
    /// With all problems.
    pub fn for_worker(env: &Env) -> Result<Self, Problems> {
        let mut read = Reader::new(env);
        let database_url = read.database_url();
        let amqp_url = read.amqp_url();
        let ctrader = ctrader(&mut read);
        let port = read.number("PORT", 3000, 1..=u16::MAX);
        let worker_id = read.worker_id();
        let worker = worker(&mut read);
        let log = read.log();
        read.finish(|| {
            let worker_id = worker_id?;
            Some(Self {
                database_url: database_url?,
                amqp: AmqpSettings {
                    url: amqp_url?,
                    connection_name: worker_id.clone(),
                },
                worker_id,
                ctrader: ctrader?,
                worker: worker?,
                port: port?,
                log: log?,
            })
        })
    }

    /// Reads what `migrate` and `status` need.
    ///
    /// # Errors
    /// With all problems.
    pub fn for_migrate(env: &Env) -> Result<MigrateConfig, Problems> {
        let mut read = Reader::new(env);
        let database_url = read.database_url();
        let log = read.log();
        read.finish(|| {
            Some(MigrateConfig {
                database_url: database_url?,
                log: log?,
            })
        })
    }

    /// Reads what `start`, `stop` and `dead` need.
    ///
    /// # Errors
    /// With all problems.
    pub fn for_publish(env: &Env) -> Result<PublishConfig, Problems> {
        let mut read = Reader::new(env);
        let amqp_url = read.amqp_url();
        let log = read.log();
        read.finish(|| {
            Some(PublishConfig {
                amqp: AmqpSettings {
                    url: amqp_url?,
                    connection_name: PUBLISHER_NAME.to_owned(),
                },
                log: log?,
            })
        })
    }
}

fn ctrader(read: &mut Reader<'_>) -> Option<CtraderSettings> {
    let client_id = read.required("CTRADER_CLIENT_ID").map(str::to_owned);
    let client_secret = read.required("CTRADER_CLIENT_SECRET").map(Secret::new);
    let demo_url = read.socket_url("CTRADER_DEMO_URL", "wss://demo.ctraderapi.com:5035");
    let live_url = read.socket_url("CTRADER_LIVE_URL", "wss://live.ctraderapi.com:5035");
    let extra_roots = read.certificates("CTRADER_CA_FILE");
    let connections = read.number("CTRADER_CONNECTIONS", 1, 1..=100);
    let connection_limit = read.number("CTRADER_CONNECTION_LIMIT", 20, 1..=1000);
    let request_rate = read.number("CTRADER_REQUEST_RATE", 45, 1..=REQUEST_RATE_MAX);
    let history_rate = read.number("CTRADER_HISTORY_RATE", 4, 1..=HISTORY_RATE_MAX);
    if let (Some(connections), Some(limit)) = (connections, connection_limit)
        && connections > limit
    {
        read.problem(
            "CTRADER_CONNECTIONS",
            "is above CTRADER_CONNECTION_LIMIT, which is for the whole fleet",
        );
    }
    if let (Some(history), Some(all)) = (history_rate, request_rate)
        && history > all
    {
        read.problem(
            "CTRADER_HISTORY_RATE",
            "is above CTRADER_REQUEST_RATE, which counts historical requests too",
        );
    }
    Some(CtraderSettings {
        client_id: client_id?,
        client_secret: client_secret?,
        demo_url: demo_url?,
        live_url: live_url?,
        extra_roots: extra_roots?,
        connections: usize::try_from(connections?).ok()?,
        connection_limit: connection_limit?,
        request_rate: request_rate?,
        history_rate: history_rate?,
    })
}

fn worker(read: &mut Reader<'_>) -> Option<WorkerSettings> {
    let max_sessions = read.number("MAX_SESSIONS", 2000, 1..=1_000_000);
    let interval_ms = read.number("CACHE_WRITE_INTERVAL_MS", 2000, 10..=60_000);
    let attempts = read.number("RECONNECT_MAX_ATTEMPTS", 10, 1..=1_000_000);
    let failed_retry = read.number("FAILED_RETRY_SECS", 300, 1..=SECS_OF_A_DAY);
    let grace = read.number("SHUTDOWN_GRACE_SECS", 100, 1..=SECS_OF_A_DAY);
    let idle_exit = read.optional_number("IDLE_EXIT_SECS", 1..=365 * SECS_OF_A_DAY);
    let token_key = read.key("TOKEN_ENCRYPTION_KEY");
    Some(WorkerSettings {
        max_sessions: max_sessions?,
        cache_write_interval: Duration::from_millis(interval_ms?),
        reconnect_max_attempts: attempts?,
        failed_retry: Duration::from_secs(failed_retry?),
        shutdown_grace: Duration::from_secs(grace?),
        idle_exit: idle_exit?.map(Duration::from_secs),
        token_key: token_key?.map(TokenKey),
    })
}

impl Reader<'_> {
    fn database_url(&mut self) -> Option<Secret> {
        let schemes = [Scheme("postgres"), Scheme("postgresql")];
        self.secret_url("DATABASE_URL", schemes)
    }

    fn amqp_url(&mut self) -> Option<Secret> {
        self.broker_url("AMQP_URL")
    }
}
