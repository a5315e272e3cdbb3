//! Detects by its behaviour whether the URL leads through a transaction pooler.
//!
//! Behind one, a connection has no backend of its own: between transactions its backend serves others.
//! Session locks would then stay on whichever backend took them. It shows when two open connections
//! have the same backend, or when one connection's backend changes. Neither happens with direct connections and
//! session poolers.
//!
//! The detection takes no lock, prepares no statement and sets nothing, so it leaves nothing behind on a
//! shared backend.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::connect::{CONNECT_TIMEOUT, PgConfig, close_within, open, within};
use super::error::{PgError, PoolerError, PoolerEvidence};

/// How many transactions are held open beside the observed connection. One is enough for a pooler that reuses the
/// backend used last; the others are for poolers that rotate.
const TRANSACTIONS: usize = 3;

/// How often the observed connection's backend is asked for after each transaction: a pooler that rotates gives it
/// another backend at the first or second.
const CHECKS: usize = 3;

/// A session pooler with no backend left lets a new connection wait for as long as it takes.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Fails if the URL leads through a transaction pooler.
///
/// # Errors
/// [`PgError::Pooler`] for a transaction pooler; others when Postgres cannot be reached.
///
/// # Cancel safety
/// Dropped, it closes its connections; their transactions have done nothing.
pub async fn detect(config: &PgConfig) -> Result<(), PgError> {
    let mut observed = open(config).await?;
    let mut others = Vec::with_capacity(TRANSACTIONS);
    let result = observe(config, &mut observed, &mut others).await;
    for conn in others.into_iter().chain([observed]) {
        // A pooler ends the open transaction of a client that disconnects.
        close_within(OPEN_TIMEOUT, conn).await;
    }
    result
}

async fn observe(
    config: &PgConfig,
    observed: &mut PgConnection,
    others: &mut Vec<PgConnection>,
) -> Result<(), PgError> {
    let own = within(CONNECT_TIMEOUT, backend_pid(observed)).await?;
    for _ in 0..TRANSACTIONS {
        let other = open_transaction(config).await?;
        // If no backend is left for another connection, as is usual with session poolers, this was the last one.
        let last = other.is_none();
        if let Some((other, pid)) = other {
            others.push(other);
            if pid == own {
                return detected(PoolerEvidence::SharedBackend);
            }
        }
        for _ in 0..CHECKS {
            if within(CONNECT_TIMEOUT, backend_pid(observed)).await? != own {
                return detected(PoolerEvidence::ChangedBackend);
            }
        }
        if last {
            break;
        }
    }
    Ok(())
}

fn detected(evidence: PoolerEvidence) -> Result<(), PgError> {
    Err(PoolerError { evidence }.into())
}

/// Opens a connection and begins a transaction. Returns the connection and its backend, or `None` when no backend is
/// left.
async fn open_transaction(config: &PgConfig) -> Result<Option<(PgConnection, i32)>, PgError> {
    let opened = within(OPEN_TIMEOUT, async {
        let mut conn = open(config).await?;
        sqlx::raw_sql("begin").execute(&mut conn).await?;
        let pid = backend_pid(&mut conn).await?;
        Ok((conn, pid))
    })
    .await;
    match opened {
        Ok(other) => Ok(Some(other)),
        Err(err) if err.is_transient() => Ok(None),
        Err(err) => Err(err),
    }
}

/// Returns the process id of the backend that serves the connection. It is asked for in the simple protocol: the other
/// protocol has pauses in which a pooler may change the backend.
pub(super) async fn backend_pid(conn: &mut PgConnection) -> Result<i32, PgError> {
    let row = sqlx::raw_sql("-- pooler.backend\nselect pg_backend_pid()")
        .fetch_one(conn)
        .await?;
    Ok(row.try_get("pg_backend_pid")?)
}
