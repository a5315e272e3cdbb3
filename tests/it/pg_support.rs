//! What the tests of `pg` share: databases with the schema, and claims to write under.

use std::time::Duration;

use mahspeccy_bridge::domain::ids::{AccountId, SessionKey, Slot, UserId};
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::pg::claims::LockConnection;
use mahspeccy_bridge::pg::connect::{Database, PgConfig, PooledConnection};
use sqlx::postgres::PgPool;

use crate::support::postgres::TestDatabase;

/// A database with the schema.
pub(crate) async fn migrated() -> TestDatabase {
    TestDatabase::migrated().await
}

pub(crate) fn config(database: &TestDatabase) -> PgConfig {
    PgConfig::new(Secret::new(database.url()), "it")
}

/// Supabase's roles, which belong to the whole cluster: made once, whichever test comes first.
pub(crate) async fn supabase_roles(pool: &PgPool) {
    sqlx::raw_sql(
        "do $$
        declare
            name text;
        begin
            -- One at a time in this database; the error is for those in other databases.
            foreach name in array array['anon', 'authenticated', 'service_role'] loop
                begin
                    execute format('create role %I nologin noinherit', name);
                exception when duplicate_object or unique_violation then
                    null;
                end;
            end loop;
        end
        $$",
    )
    .execute(pool)
    .await
    .expect("Supabase's roles");
}

pub(crate) fn user(id: &str) -> UserId {
    UserId::new(id).expect("a user id")
}

pub(crate) fn key(id: &str, account: i64) -> SessionKey {
    SessionKey {
        user: user(id),
        account: AccountId(account),
    }
}

/// A worker that has claimed the slots of these users.
pub(crate) async fn claim(database: &TestDatabase, worker: &str, users: &[&str]) -> LockConnection {
    let mut lock = LockConnection::connect(&config(database))
        .await
        .expect("a lock connection");
    let slots: Vec<Slot> = users.iter().map(|id| user(id).slot()).collect();
    lock.acquire(worker, &slots).await.expect("claims");
    lock
}

/// Bounds a wait that should be over at once.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("{what} took more than 20 s"))
}

/// A connection as the worker has them.
pub(crate) async fn lease(database: &TestDatabase) -> PooledConnection {
    let pool = Database::new(&config(database), 1).expect("a pool");
    pool.acquire().await.expect("a lease")
}
