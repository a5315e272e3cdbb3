//! A pooler that can't hold claims is found out by what it does; the others pass.

use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::pg::PgError;
use mahspeccy_bridge::pg::connect::PgConfig;
use mahspeccy_bridge::pg::pooler::detect;

use crate::support::pgbouncer::{PgBouncer, PoolMode};
use crate::support::postgres::TestDatabase;

fn config(url: &str) -> PgConfig {
    PgConfig::new(Secret::new(url), "pg_pooler")
}

async fn advisory_locks(database: &TestDatabase) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database
        where l.locktype = 'advisory' and d.datname = current_database()",
    )
    .fetch_one(database.pool())
    .await
    .expect("the locks")
}

#[tokio::test]
async fn a_transaction_pooler_is_refused_with_an_explanation() {
    let database = TestDatabase::create().await;
    for pool_size in [1, 2, 10] {
        let pooler = PgBouncer::start(database.url(), PoolMode::Transaction, pool_size);
        let found = detect(&config(pooler.url())).await;
        let Err(err @ PgError::Pooler(_)) = found else {
            panic!("found {found:?} with {pool_size} backends");
        };
        let text = err.to_string();
        assert!(
            text.contains("advisory lock") && text.contains("session pooler"),
            "{text}"
        );
        assert_eq!(advisory_locks(&database).await, 0);
    }
}

#[tokio::test]
async fn a_transaction_pooler_that_is_in_use_is_found_too() {
    let database = TestDatabase::create().await;
    let pooler = PgBouncer::start(database.url(), PoolMode::Transaction, 6);
    // Others come and go all the time, as a fleet does.
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let url = pooler.url().to_owned();
        others.spawn(async move {
            let options = config(&url).options().expect("options");
            let mut conn = sqlx::ConnectOptions::connect(&options)
                .await
                .expect("a connection");
            loop {
                if sqlx::raw_sql("select pg_sleep(0.002)")
                    .execute(&mut conn)
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    for _ in 0..5 {
        let found = detect(&config(pooler.url())).await;
        assert!(matches!(found, Err(PgError::Pooler(_))), "{found:?}");
    }
    others.abort_all();
}

#[tokio::test]
async fn a_session_pooler_passes() {
    let database = TestDatabase::create().await;
    // With room for the probe, and with room for one client alone.
    for pool_size in [10, 1] {
        let pooler = PgBouncer::start(database.url(), PoolMode::Session, pool_size);
        detect(&config(pooler.url()))
            .await
            .expect("a session of its own");
    }
}

#[tokio::test]
async fn a_direct_connection_passes() {
    let database = TestDatabase::create().await;
    detect(&config(database.url()))
        .await
        .expect("a session of its own");
}
