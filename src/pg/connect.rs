//! Connections: opens them, sets their parameters, and keeps a few open for reuse.
//!
//! Parameters are `SET` after connecting instead of passed at start-up: session poolers drop or refuse
//! start-up options. Every wait has a limit: the server's own limits for a slow server, [`within`] for
//! one that does not reply at all.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::PgError;
use crate::domain::secret::Secret;

/// The longest wait for a new connection, TLS and login included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Our statements take milliseconds; one that takes this long waits for something.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than the server's own limit the client waits, so that normally the server is the one to end a
/// statement.
const REPLY_MARGIN: Duration = Duration::from_secs(2);

/// A connection that was idle for this long is pinged before it is used.
const PING_AFTER_IDLE: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How to reach Postgres.
#[derive(Debug, Clone)]
pub struct PgConfig {
    /// `postgres://…`, with `sslmode` and the like as its parameters.
    pub url: Secret,
    /// Our name in `pg_stat_activity`.
    pub application_name: String,
    /// The server ends a statement that takes longer.
    pub statement_timeout: Duration,
}

impl PgConfig {
    /// A configuration with the usual limits.
    #[must_use]
    pub fn new(url: Secret, application_name: impl Into<String>) -> Self {
        Self {
            url,
            application_name: application_name.into(),
            statement_timeout: STATEMENT_TIMEOUT,
        }
    }

    /// Returns the options for sqlx. The URL decides about TLS.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn options(&self) -> Result<PgConnectOptions, PgError> {
        let options: PgConnectOptions = self.url.expose().parse().map_err(PgError::from)?;
        Ok(options
            .application_name(&self.application_name)
            // A start-up parameter that pgbouncer refuses; no double is ever read.
            .extra_float_digits(None)
            .disable_statement_logging())
    }

    /// The longest wait for the reply to one statement.
    #[must_use]
    pub fn reply_timeout(&self) -> Duration {
        self.statement_timeout + REPLY_MARGIN
    }
}

/// Opens a connection, without setting anything.
pub(super) async fn open(config: &PgConfig) -> Result<PgConnection, PgError> {
    let options = config.options()?;
    within(CONNECT_TIMEOUT, async {
        // Boxed: the handshake of TLS and login is most of the size of our futures.
        Ok(Box::pin(PgConnection::connect_with(&options)).await?)
    })
    .await
}

/// Sets server parameters, all in one round trip.
pub(super) async fn set(
    conn: &mut PgConnection,
    settings: &[(&str, Duration)],
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(set_statement(settings)))
        .execute(conn)
        .await?;
    Ok(())
}

fn set_statement(settings: &[(&str, Duration)]) -> String {
    use fmt::Write as _;
    let mut sql = String::from("-- connect.set\n");
    for (name, value) in settings {
        // Writing to a string cannot fail.
        let _ = writeln!(sql, "set {name} = '{}ms';", value.as_millis());
    }
    sql
}

/// Waits for `reply` for at most `limit`.
///
/// # Errors
/// [`PgError::TimedOut`]: the connection that was used is in the middle of something and must be dropped,
/// which a [`PooledConnection`] does by itself.
pub async fn within<T>(
    limit: Duration,
    reply: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    tokio::time::timeout(limit, reply)
        .await
        .unwrap_or(Err(PgError::TimedOut(limit)))
}

/// Closes a connection, and waits for that for at most `limit`. A connection that cannot be closed is dropped.
pub(super) async fn close_within(limit: Duration, conn: PgConnection) {
    let _ = within(limit, async { Ok(conn.close().await?) }).await;
}

/// A pool of a few connections for everything but the claims.
///
/// sqlx's pool is not used: it pings each returned connection, for as long as that takes, so that a network
/// that goes silent could keep all connections taken until TCP gives up.
#[derive(Clone)]
pub struct Database {
    pool: Arc<Pool>,
}

struct Pool {
    config: PgConfig,
    /// A permit for each connection, idle or in use.
    permits: Arc<Semaphore>,
    /// The connection that was used last is taken first.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

impl Database {
    /// A pool of at most this many connections. It connects when a connection is acquired and none is idle.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn new(config: &PgConfig, connections: usize) -> Result<Self, PgError> {
        config.options()?;
        let pool = Pool {
            config: config.clone(),
            permits: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
        };
        Ok(Self {
            pool: Arc::new(pool),
        })
    }

    /// Acquires a connection for one piece of work.
    ///
    /// # Errors
    /// When none is available within [`CONNECT_TIMEOUT`].
    ///
    /// # Cancel safety
    /// Dropped while it waits, it leaves nothing behind.
    pub async fn acquire(&self) -> Result<PooledConnection, PgError> {
        within(CONNECT_TIMEOUT, async {
            let permit = Arc::clone(&self.pool.permits).acquire_owned().await;
            let permit = permit.map_err(|_| PgError::Unavailable(sqlx::Error::PoolClosed))?;
            let conn = self.connection().await?;
            Ok(PooledConnection {
                conn: Some(conn),
                broken: false,
                pool: Arc::clone(&self.pool),
                _permit: permit,
            })
        })
        .await
    }

    /// Does one piece of work on a connection, for at most [`Database::reply_timeout`].
    ///
    /// # Errors
    /// When no connection is available, or the work fails.
    pub async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, PgError>,
    ) -> Result<T, PgError> {
        let mut conn = self.acquire().await?;
        let result = within(self.reply_timeout(), work(&mut conn)).await;
        conn.release(result)
    }

    async fn connection(&self) -> Result<PgConnection, PgError> {
        loop {
            let Some((mut conn, since)) = self.pool.idle().pop() else {
                break;
            };
            if since.elapsed() < PING_AFTER_IDLE {
                return Ok(conn);
            }
            let ping = within(PING_TIMEOUT, async { Ok(conn.ping().await?) }).await;
            if ping.is_ok() {
                return Ok(conn);
            }
            // The others are as old or older, and on the same network.
            self.pool.idle().clear();
        }
        let config = &self.pool.config;
        let mut conn = open(config).await?;
        // A paused worker in the middle of a transaction must not keep row locks from the others.
        let settings = [
            ("statement_timeout", config.statement_timeout),
            (
                "idle_in_transaction_session_timeout",
                config.statement_timeout,
            ),
        ];
        set(&mut conn, &settings).await?;
        Ok(conn)
    }

    /// The longest wait for the reply to one statement.
    #[must_use]
    pub fn reply_timeout(&self) -> Duration {
        self.pool.config.reply_timeout()
    }

    /// Lets nobody acquire a connection any more, and closes those that are idle.
    pub async fn close(&self) {
        self.pool.permits.close();
        let idle = std::mem::take(&mut *self.pool.idle());
        for (conn, _) in idle {
            close_within(PING_TIMEOUT, conn).await;
        }
    }
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("free", &self.pool.permits.available_permits())
            .finish_non_exhaustive()
    }
}

/// A connection in use. Only [`PooledConnection::release`] returns it to the pool. When it is dropped the connection is
/// closed, because it may be in the middle of a statement.
pub struct PooledConnection {
    conn: Option<PgConnection>,
    /// Whether the connection was found lost by work whose result does not tell.
    broken: bool,
    pool: Arc<Pool>,
    /// Dropped after the connection.
    _permit: OwnedSemaphorePermit,
}

impl PooledConnection {
    /// Notes that the connection is lost, and drops the idle ones, which most likely are lost too.
    pub(super) fn mark_broken(&mut self) {
        self.broken = true;
        self.pool.idle().clear();
    }

    /// Ends the use of the connection, and returns the work's result. After a success the connection is kept for reuse.
    ///
    /// # Errors
    /// The error of the result.
    pub fn release<T>(mut self, result: Result<T, PgError>) -> Result<T, PgError> {
        match &result {
            Ok(_) if !self.broken && !self.pool.permits.is_closed() => {
                let kept = self.conn.take().map(|conn| (conn, Instant::now()));
                self.pool.idle().extend(kept);
            }
            // If the server went down, the idle connections are lost too.
            Err(err) if err.is_transient() => self.pool.idle().clear(),
            Ok(_) | Err(_) => {}
        }
        result
    }
}

impl fmt::Debug for PooledConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledConnection").finish_non_exhaustive()
    }
}

impl Deref for PooledConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only on release")
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("taken only on release")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_one_statement_text() {
        let sql = set_statement(&[
            ("statement_timeout", Duration::from_secs(10)),
            ("lock_timeout", Duration::from_millis(2500)),
        ]);
        assert_eq!(
            sql,
            "-- connect.set\nset statement_timeout = '10000ms';\nset lock_timeout = '2500ms';\n"
        );
    }

    #[test]
    fn nothing_prints_the_password() {
        let config = PgConfig::new(Secret::new("postgres://me:hunter2@localhost/db"), "test");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
