//! A Postgres that is down, refuses, goes silent or ends sessions gives errors that tell what to do, in
//! bounded time, and never a hang.

use std::time::Duration;

use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::pg::PgError;
use mahspeccy_bridge::pg::claims::LockConnection;
use mahspeccy_bridge::pg::connect::{Database, PgConfig, within};
use mahspeccy_bridge::pg::sessions::active_slots;

use crate::pg_support::{config, migrated, soon};
use crate::support::pgbouncer::{PgBouncer, PoolMode};
use crate::support::postgres::TestDatabase;

async fn work(database: &Database) -> Result<usize, PgError> {
    let mut lease = database.acquire().await?;
    let slots = within(Duration::from_secs(1), active_slots(&mut lease)).await;
    lease.release(slots).map(|slots| slots.len())
}

#[tokio::test]
async fn a_closed_port_is_unavailable() {
    let config = PgConfig::new(Secret::new("postgres://me:hunter2@127.0.0.1:9/db"), "it");
    let refused = soon("a closed port", LockConnection::connect(&config)).await;
    let Err(err @ PgError::Unavailable(_)) = refused else {
        panic!("{refused:?}");
    };
    assert!(!format!("{err:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused() {
    let database = TestDatabase::create().await;
    let url = database.url().replace(database.name(), "no_such_database");
    let refused =
        work(&Database::new(&PgConfig::new(Secret::new(url), "it"), 1).expect("a pool")).await;
    assert!(matches!(refused, Err(PgError::Refused(_))), "{refused:?}");
}

#[tokio::test]
async fn the_settings_of_a_connection_hold() {
    let database = TestDatabase::create().await;
    let config = PgConfig {
        statement_timeout: Duration::from_millis(100),
        ..config(&database)
    };
    let pool = Database::new(&config, 1).expect("a pool");
    let mut lease = pool.acquire().await.expect("a lease");
    let slow = sqlx::query("select pg_sleep(5)").execute(&mut *lease).await;
    let slow = lease.release(slow.map_err(PgError::from));
    assert!(matches!(slow, Err(PgError::Unavailable(_))), "{slow:?}");
    let mut lease = pool.acquire().await.expect("a lease");
    let (idle, name): (String, String) = sqlx::query_as(
        "select current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')",
    )
    .fetch_one(&mut *lease)
    .await
    .expect("settings");
    assert_eq!((idle.as_str(), name.as_str()), ("100ms", "it"));
}

#[tokio::test]
async fn sessions_that_the_server_ends_are_replaced() {
    let database = migrated().await;
    let pool = Database::new(&config(&database), 1).expect("a pool");
    work(&pool).await.expect("work");
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'it'
            and datname = current_database()",
    )
    .execute(database.pool())
    .await
    .expect("ended");
    // The first may find out; the next is on a new connection.
    let first = soon("work after a restart", work(&pool)).await;
    assert!(
        first.as_ref().map_or_else(PgError::is_transient, |_| true),
        "{first:?}"
    );
    soon("work after that", work(&pool)).await.expect("work");
}

#[tokio::test]
async fn a_server_that_goes_silent_costs_a_connection_and_not_more() {
    let database = migrated().await;
    let pooler = PgBouncer::start(database.url(), PoolMode::Session, 5);
    let config = PgConfig::new(Secret::new(pooler.url()), "it");
    let pool = Database::new(&config, 1).expect("a pool");
    let mut lock = LockConnection::connect(&config)
        .await
        .expect("a lock connection");
    work(&pool).await.expect("work");
    pooler.freeze();
    let silent = soon("a silent server", work(&pool)).await;
    assert!(matches!(silent, Err(PgError::TimedOut(_))), "{silent:?}");
    let silent = soon(
        "a silent server",
        within(Duration::from_millis(200), lock.ping()),
    )
    .await;
    assert!(matches!(silent, Err(PgError::TimedOut(_))), "{silent:?}");
    pooler.thaw();
    soon("work on a new connection", work(&pool))
        .await
        .expect("work");
}
