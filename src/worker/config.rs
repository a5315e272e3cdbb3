//! What a worker needs to know, and why it may not start or not end well.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::amqp::AmqpSettings;
use crate::config::Config;
use crate::ctrader::connection::ConnectionConfig;
use crate::pg::connect::PgConfig;
use crate::token_cipher::TokenCipher;
use crate::ws::dial::TlsError;

/// How long a dependency may be away when the worker starts.
pub(in crate::worker) const START_DEADLINE: Duration = Duration::from_secs(30);

/// What a worker needs to know.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Who it is.
    pub worker_id: String,
    /// Postgres.
    pub pg: PgConfig,
    /// RabbitMQ.
    pub amqp: AmqpSettings,
    /// The Open API application and our own request rates.
    pub connection: ConnectionConfig,
    /// Opens stored tokens.
    pub token_cipher: TokenCipher,
    /// The endpoint of demo accounts.
    pub demo_url: String,
    /// The endpoint of live accounts.
    pub live_url: String,
    /// Roots to trust beside the public ones.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Connections to each endpoint.
    pub connections: usize,
    /// Connections of the whole fleet.
    pub connection_limit: u32,
    /// Sessions it takes.
    pub sessions_max: usize,
    /// The round of rows.
    pub write_interval: Duration,
    /// Consecutive failures after which a session counts as failed.
    pub attempts_max: u32,
    /// The pause of a failed session.
    pub failed_pause: Duration,
    /// How long draining may take.
    pub grace: Duration,
    /// End after that long without a session and a command.
    pub idle_exit: Option<Duration>,
    /// Port of the health routes.
    pub port: u16,
}

impl From<Config> for WorkerConfig {
    fn from(config: Config) -> Self {
        let Config {
            worker_id,
            database_url,
            amqp,
            ctrader,
            worker,
            port,
            log: _,
        } = config;
        let key = worker.token_key.as_ref();
        Self {
            pg: PgConfig::new(database_url, format!("mahspeccy-bridge {worker_id}")),
            amqp,
            connection: ConnectionConfig {
                client_id: ctrader.client_id,
                client_secret: ctrader.client_secret,
                request_rate: ctrader.request_rate,
                history_rate: ctrader.history_rate,
            },
            token_cipher: TokenCipher::new(key.map(crate::config::TokenKey::expose)),
            demo_url: ctrader.demo_url.into(),
            live_url: ctrader.live_url.into(),
            extra_roots: ctrader.extra_roots,
            connections: ctrader.connections,
            connection_limit: ctrader.connection_limit,
            sessions_max: worker.max_sessions,
            write_interval: worker.cache_write_interval,
            attempts_max: worker.reconnect_max_attempts,
            failed_pause: worker.failed_retry,
            grace: worker.shutdown_grace,
            idle_exit: worker.idle_exit,
            port,
            worker_id,
        }
    }
}

/// Why a worker did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration names something that cannot be used, whatever the dependency's state.
    #[error("{0}")]
    Config(String),
    /// A dependency cannot be used.
    #[error("{what} cannot be used: {reason}")]
    Dependency {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// One of the worker's own tasks ended, which none may.
    #[error("an internal task ended: {0}")]
    Internal(String),
}

impl From<TlsError> for StartError {
    fn from(error: TlsError) -> Self {
        Self::Config(format!("CTRADER_CA_FILE: {error}"))
    }
}
