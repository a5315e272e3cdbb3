//! Connections: how they are opened, and what each is told before its first use.
//!
//! Settings are `SET` after connecting instead of passed at start-up: session poolers drop or refuse
//! start-up options. Every wait has an end: the server's own limits for a slow server, [`within`] for
//! one that has gone silent.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::PgError;
use crate::domain::secret::Secret;

/// The longest wait for a new connection, TLS and login included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A statement of ours takes milliseconds; one that takes this long stands in a queue.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than the server's own limit the client waits, so that it is the server that says so
/// while it can.
const REPLY_MARGIN: Duration = Duration::from_secs(2);

/// An idle connection is asked whether it is alive when it was not used for this long.
const PROBE_AFTER_IDLE: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How to reach Postgres.
#[derive(Debug, Clone)]
pub struct PgConfig {
    /// `postgres://…`, with `sslmode` and the like as its parameters.
    pub url: Secret,
    /// Who asks, as `pg_stat_activity` shows it.
    pub application_name: String,
    /// The server ends a statement that takes longer.
    pub statement_timeout: Duration,
}

impl PgConfig {
    /// With the usual limits.
    #[must_use]
    pub fn new(url: Secret, application_name: impl Into<String>) -> Self {
        Self {
            url,
            application_name: application_name.into(),
            statement_timeout: STATEMENT_TIMEOUT,
        }
    }

    /// What sqlx connects with. TLS is as the URL says.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn options(&self) -> Result<PgConnectOptions, PgError> {
        let options: PgConnectOptions = self.url.expose().parse().map_err(PgError::from)?;
        Ok(options
            .application_name(&self.application_name)
            // A start-up parameter that pgbouncer refuses; no double is ever read.
            .extra_float_digits(None)
            .disable_statement_logging())
    }

    /// The longest wait for the answer to one statement.
    #[must_use]
    pub fn reply_timeout(&self) -> Duration {
        self.statement_timeout + REPLY_MARGIN
    }
}

/// A connection by itself, with nothing set on it.
pub(super) async fn open(config: &PgConfig) -> Result<PgConnection, PgError> {
    let options = config.options()?;
    within(CONNECT_TIMEOUT, async {
        // Boxed: the handshake of TLS and login is most of what a future of ours would weigh.
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

/// Waits for an answer no longer than `limit`.
///
/// # Errors
/// [`PgError::TimedOut`]: the connection that was used is in the middle of something and must be dropped,
/// which a [`Lease`] does by itself.
pub async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or(Err(PgError::TimedOut(limit)))
}

/// A few connections for everything but the claims.
///
/// Not sqlx's pool: that one asks a connection that comes back whether it is alive, for as long as it
/// takes, so that a network that goes silent could keep all places taken until TCP gives up.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    config: PgConfig,
    /// A place for each connection, idle or leased.
    places: Arc<Semaphore>,
    /// Used last, taken first.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

impl Database {
    /// Connects when a lease is asked for and no connection is idle.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &PgConfig, connections: usize) -> Result<Self, PgError> {
        config.options()?;
        let shared = Shared {
            config: config.clone(),
            places: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// A connection for one piece of work.
    ///
    /// # Errors
    /// When none is to be had within [`CONNECT_TIMEOUT`].
    ///
    /// # Cancel safety
    /// Given up while it waits, it leaves nothing behind.
    pub async fn lease(&self) -> Result<Lease, PgError> {
        within(CONNECT_TIMEOUT, async {
            let place = Arc::clone(&self.shared.places).acquire_owned().await;
            let place = place.map_err(|_| PgError::Unavailable(sqlx::Error::PoolClosed))?;
            let conn = self.connection().await?;
            Ok(Lease {
                conn: Some(conn),
                fit: true,
                shared: Arc::clone(&self.shared),
                _place: place,
            })
        })
        .await
    }

    /// Does one piece of work on a connection, for no longer than an answer may take.
    ///
    /// # Errors
    /// When no connection is to be had, or what the work answers.
    pub async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, PgError>,
    ) -> Result<T, PgError> {
        let mut lease = self.lease().await?;
        let result = within(self.reply_timeout(), work(&mut lease)).await;
        lease.settle(result)
    }

    async fn connection(&self) -> Result<PgConnection, PgError> {
        loop {
            let Some((mut conn, since)) = self.shared.idle().pop() else {
                break;
            };
            if since.elapsed() < PROBE_AFTER_IDLE {
                return Ok(conn);
            }
            if let Ok(Ok(())) = tokio::time::timeout(PROBE_TIMEOUT, conn.ping()).await {
                return Ok(conn);
            }
            // The others are as old or older, and on the same network.
            self.shared.idle().clear();
        }
        let config = &self.shared.config;
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

    /// The longest wait for the answer to one statement.
    #[must_use]
    pub fn reply_timeout(&self) -> Duration {
        self.shared.config.reply_timeout()
    }

    /// Gives out no more leases, and says farewell on the connections that are idle.
    pub async fn close(&self) {
        self.shared.places.close();
        let idle = std::mem::take(&mut *self.shared.idle());
        for (conn, _) in idle {
            let _ = tokio::time::timeout(PROBE_TIMEOUT, conn.close()).await;
        }
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("free", &self.shared.places.available_permits())
            .finish_non_exhaustive()
    }
}

/// A connection in use. It is kept by [`Lease::settle`] only; dropped, it is closed, because nobody
/// knows in the middle of what it was.
pub struct Lease {
    conn: Option<PgConnection>,
    /// False once the connection was found lost by something that reports it in its own way.
    fit: bool,
    shared: Arc<Shared>,
    /// Free again after the connection is.
    _place: OwnedSemaphorePermit,
}

impl Lease {
    /// The connection is lost, and with it most likely those that are idle.
    pub(super) fn condemn(&mut self) {
        self.fit = false;
        self.shared.idle().clear();
    }

    /// Ends the lease: after a success the connection is kept for the next one.
    ///
    /// # Errors
    /// The result's own.
    pub fn settle<T>(mut self, result: Result<T, PgError>) -> Result<T, PgError> {
        match &result {
            Ok(_) if self.fit && !self.shared.places.is_closed() => {
                let kept = self.conn.take().map(|conn| (conn, Instant::now()));
                self.shared.idle().extend(kept);
            }
            // A server that went down took the idle ones with it.
            Err(err) if err.is_transient() => self.shared.idle().clear(),
            Ok(_) | Err(_) => {}
        }
        result
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only where the lease ends")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("taken only where the lease ends")
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
