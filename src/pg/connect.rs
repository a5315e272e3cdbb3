//! Connections: how they are opened, and what each is told before its first use.
//!
//! Settings are `SET` after connecting instead of passed at start-up: session poolers drop or refuse
//! start-up options. Every wait has an end: the server's own limits for a slow server, [`within`] for
//! one that has gone silent.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, Postgres};

use super::PgError;
use crate::domain::secret::Secret;

/// The longest wait for a new connection, TLS and login included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A statement of ours takes milliseconds; one that takes this long stands in a queue.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than the server's own limit the client waits, so that it is the server that says so
/// while it can.
const REPLY_MARGIN: Duration = Duration::from_secs(2);

/// An idle pooled connection is asked whether it is alive when it was not used for this long.
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
        Ok(PgConnection::connect_with(&options).await?)
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
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    reply_timeout: Duration,
}

impl Database {
    /// Connects when the first lease is asked for.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &PgConfig, connections: u32) -> Result<Self, PgError> {
        let settings = [
            ("statement_timeout", config.statement_timeout),
            // A paused worker in the middle of a transaction must not keep row locks from the others.
            (
                "idle_in_transaction_session_timeout",
                config.statement_timeout,
            ),
        ];
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|conn, meta| {
                Box::pin(async move {
                    if meta.idle_for < PROBE_AFTER_IDLE {
                        return Ok(true);
                    }
                    let alive = tokio::time::timeout(PROBE_TIMEOUT, conn.ping()).await;
                    Ok(matches!(alive, Ok(Ok(()))))
                })
            })
            .after_connect(move |conn, _| Box::pin(async move { set(conn, &settings).await }))
            .connect_lazy_with(config.options()?);
        Ok(Self {
            pool,
            reply_timeout: config.reply_timeout(),
        })
    }

    /// A connection for one piece of work.
    ///
    /// # Errors
    /// When none is to be had within [`CONNECT_TIMEOUT`].
    pub async fn lease(&self) -> Result<Lease, PgError> {
        let conn = self.pool.acquire().await?;
        Ok(Lease(Some(conn)))
    }

    /// The longest wait for the answer to one statement.
    #[must_use]
    pub fn reply_timeout(&self) -> Duration {
        self.reply_timeout
    }

    /// Closes all connections, once their leases are over.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("connections", &self.pool.size())
            .finish_non_exhaustive()
    }
}

/// A pooled connection in use. It goes back to the pool by [`Lease::settle`] only; dropped, it is
/// closed, because nobody knows in the middle of what it was.
#[derive(Debug)]
pub struct Lease(Option<PoolConnection<Postgres>>);

impl Lease {
    /// Ends the lease: the connection goes back unless the result says that it may be unfit.
    ///
    /// # Errors
    /// The result's own.
    pub fn settle<T>(mut self, result: Result<T, PgError>) -> Result<T, PgError> {
        let fit = match &result {
            Ok(_) => true,
            Err(err) => !err.is_transient(),
        };
        if fit {
            drop(self.0.take());
        }
        result
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("taken only where the lease ends")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("taken only where the lease ends")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            // Closes the socket here and now; a farewell could hang.
            drop(conn.detach());
        }
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
