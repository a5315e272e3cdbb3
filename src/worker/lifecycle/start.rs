//! Start-up: waits for Postgres, and refuses a database that the worker cannot work with.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use tracing::{debug, info, warn};

use crate::domain::ids::SLOT_COUNT;
use crate::failure::with_causes;
use crate::pg::PgError;
use crate::pg::claims::LockConnection;
use crate::pg::connect::{Database, PgConfig, within};
use crate::pg::probe::{self, SKEW_SECS_MAX, diagnose};
use crate::pg::{pooler, schema};
use crate::shutdown::Stages;
use crate::worker::config::{START_DEADLINE, StartError, WorkerConfig};

/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Locks that the server should have room for: twice what the fleet holds at most, a lock for each slot and
/// some for its workers and their connections.
const LOCKS_RECOMMENDED: i64 = 2 * (SLOT_COUNT as i64 + 256);

/// Waits for Postgres and returns the lock connection, on a database that is what it should be; `None` when
/// told to stop meanwhile.
pub(super) async fn wait_for_postgres(
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
            () = tokio::time::sleep(RETRY_PAUSE) => {}
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
            compare_clocks(conn).await;
            Ok(())
        })
        .await?;
    database.close().await;
    let mut lock = LockConnection::connect(config).await?;
    let capacity = within(config.reply_timeout(), lock.capacity()).await?;
    if capacity.locks() < LOCKS_RECOMMENDED {
        warn!(
            locks = capacity.locks(),
            "the fleet may hold more than half of the server's lock table: raise max_locks_per_transaction"
        );
    }
    info!(locks = capacity.locks(), "Postgres is ready");
    Ok(lock)
}

/// Warns if this machine's clock and that of Postgres differ: commands are ordered by the app's clock, and tokens
/// expire by ours. It stops nobody, since nobody can tell which of them is wrong.
async fn compare_clocks(conn: &mut PgConnection) {
    match probe::clock_skew(conn).await {
        Ok(skew) if skew.is_wrong() => warn!(
            ahead_secs = skew.ahead_secs,
            limit_secs = SKEW_SECS_MAX,
            "the clock differs from that of Postgres: set it by NTP"
        ),
        Ok(_) => {}
        // Whatever is wrong, the next connection meets it too.
        Err(error) => debug!(error = %error, "the clocks could not be compared"),
    }
}
