//! Finds out whether the URL leads through a transaction pooler, by what it does.
//!
//! Behind one, a connection has no backend of its own: between transactions its backend serves others.
//! Session locks would then stay on whichever backend took them. It shows when two open connections
//! answer with the same backend, or when one connection's backend changes. Direct connections and
//! session poolers never do either.
//!
//! The probe takes no lock, prepares no statement and sets nothing, so it leaves nothing behind on a
//! shared backend.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::PgError;
use super::connect::{CONNECT_TIMEOUT, PgConfig, open, within};

/// Transactions held open beside the connection that is watched. One is enough for a pooler that hands
/// out the backend used last; the others are for those that take turns.
const RIVALS: usize = 3;

/// How often the watched connection asks after each rival: a pooler that takes turns gives it another
/// backend at the first or second.
const ASKS: usize = 3;

/// A session pooler with no backend left lets a rival wait for as long as it takes.
const RIVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The URL leads through a pooler that can't hold claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "DATABASE_URL leads through a transaction pooler ({evidence}). A claim is an advisory lock of a \
     session, and such a pooler lends a session's backend to others between transactions, so the claim \
     would be lost or stay for ever. Use the direct connection or the session pooler (on Supabase, port \
     5432 of either)"
)]
pub struct PoolerError {
    /// What gave it away.
    pub evidence: Evidence,
}

/// What gave a transaction pooler away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Two connections, both open, were served by one backend.
    SharedBackend,
    /// A connection's backend changed from one statement to the next.
    ChangedBackend,
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SharedBackend => "one backend served two open connections",
            Self::ChangedBackend => "a connection's backend changed between two statements",
        })
    }
}

/// Tells a transaction pooler from everything else.
///
/// # Errors
/// [`PgError::Pooler`] for a transaction pooler; others when Postgres can't be asked.
///
/// # Cancel safety
/// Dropped, it closes its connections; their transactions have done nothing.
pub async fn detect(config: &PgConfig) -> Result<(), PgError> {
    let mut watched = open(config).await?;
    let mut rivals = Vec::with_capacity(RIVALS);
    let verdict = watch(config, &mut watched, &mut rivals).await;
    for conn in rivals.into_iter().chain([watched]) {
        // A pooler ends the open transaction of a client that leaves.
        let _ = tokio::time::timeout(RIVAL_TIMEOUT, conn.close()).await;
    }
    verdict
}

async fn watch(
    config: &PgConfig,
    watched: &mut PgConnection,
    rivals: &mut Vec<PgConnection>,
) -> Result<(), PgError> {
    let own = within(CONNECT_TIMEOUT, backend(watched)).await?;
    for _ in 0..RIVALS {
        let rival = rival(config).await?;
        // When no backend is left for another session, as is usual with session poolers, that is all.
        let last = rival.is_none();
        if let Some((rival, pid)) = rival {
            rivals.push(rival);
            if pid == own {
                return found(Evidence::SharedBackend);
            }
        }
        for _ in 0..ASKS {
            if within(CONNECT_TIMEOUT, backend(watched)).await? != own {
                return found(Evidence::ChangedBackend);
            }
        }
        if last {
            break;
        }
    }
    Ok(())
}

fn found(evidence: Evidence) -> Result<(), PgError> {
    Err(PoolerError { evidence }.into())
}

/// A connection in the middle of a transaction, and its backend; `None` when there is no room for one.
async fn rival(config: &PgConfig) -> Result<Option<(PgConnection, i32)>, PgError> {
    let opened = within(RIVAL_TIMEOUT, async {
        let mut conn = open(config).await?;
        sqlx::raw_sql("begin").execute(&mut conn).await?;
        let pid = backend(&mut conn).await?;
        Ok((conn, pid))
    })
    .await;
    match opened {
        Ok(rival) => Ok(Some(rival)),
        Err(err) if err.is_transient() => Ok(None),
        Err(err) => Err(err),
    }
}

/// The backend that serves the connection, asked in the simple protocol: the other one has pauses in
/// which a pooler may change it.
pub(super) async fn backend(conn: &mut PgConnection) -> Result<i32, PgError> {
    let row = sqlx::raw_sql("-- pooler.backend\nselect pg_backend_pid()")
        .fetch_one(conn)
        .await?;
    Ok(row.try_get(0)?)
}
