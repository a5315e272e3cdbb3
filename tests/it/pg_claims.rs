//! A slot has one owner, who loses it with the connection, and every change of hands raises its epoch.

use std::time::Duration;

use mahspeccy_bridge::domain::ids::Slot;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::pg::PgError;
use mahspeccy_bridge::pg::claims::LockConnection;
use mahspeccy_bridge::pg::connect::{PgConfig, within};
use sqlx::postgres::PgPool;

use crate::pg_support::{config, migrated, soon};
use crate::support::pgbouncer::{PgBouncer, PoolMode};
use crate::support::postgres::TestDatabase;
use crate::support::wait::eventually;

const DEADLINE: Duration = Duration::from_secs(20);

async fn connect(database: &TestDatabase) -> LockConnection {
    LockConnection::connect(&config(database))
        .await
        .expect("a lock connection")
}

async fn slot_row(pool: &PgPool, slot: Slot) -> (i64, Option<String>) {
    sqlx::query_as("select epoch, worker_id from bridge.slots where slot = $1")
        .bind(slot.0)
        .fetch_one(pool)
        .await
        .expect("a slot")
}

async fn locks(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_locks where locktype = 'advisory' and database = (
            select oid from pg_database where datname = current_database())",
    )
    .fetch_one(pool)
    .await
    .expect("locks")
}

async fn end_backends(pool: &PgPool) {
    sqlx::query(
        "select pg_terminate_backend(l.pid) from pg_locks l where l.locktype = 'advisory'
            and l.database = (select oid from pg_database where datname = current_database())",
    )
    .execute(pool)
    .await
    .expect("backends end");
}

#[tokio::test]
async fn second_worker_cannot_claim_a_held_slot() {
    let database = migrated().await;
    let (mut a, mut b) = (connect(&database).await, connect(&database).await);
    let got = a
        .acquire("a", &[Slot(0), Slot(7), Slot(1023)])
        .await
        .expect("claims");
    assert_eq!(got, [(Slot(0), 1), (Slot(7), 1), (Slot(1023), 1)]);
    let got = b.acquire("b", &[Slot(7), Slot(8)]).await.expect("claims");
    assert_eq!(got, [(Slot(8), 1)]);
    assert_eq!(
        slot_row(database.pool(), Slot(7)).await,
        (1, Some("a".to_owned()))
    );

    a.release(&[Slot(7), Slot(9)]).await.expect("a release");
    assert_eq!(slot_row(database.pool(), Slot(7)).await, (1, None));
    assert_eq!(
        a.held().keys().copied().collect::<Vec<_>>(),
        [Slot(0), Slot(1023)]
    );
    let got = b.acquire("b", &[Slot(7), Slot(8)]).await.expect("claims");
    assert_eq!(got, [(Slot(7), 2)]);
    assert_eq!(
        slot_row(database.pool(), Slot(7)).await,
        (2, Some("b".to_owned()))
    );

    // Late news of the former owner does not touch what the new one wrote.
    a.release(&[Slot(7)]).await.expect("nothing to do");
    assert_eq!(
        slot_row(database.pool(), Slot(7)).await,
        (2, Some("b".to_owned()))
    );
}

#[tokio::test]
async fn a_slot_claimed_twice_is_free_after_one_release() {
    let database = migrated().await;
    let mut a = connect(&database).await;
    a.acquire("a", &[Slot(5), Slot(5)]).await.expect("claims");
    assert_eq!(a.acquire("a", &[Slot(5)]).await.expect("claims"), []);
    a.release(&[Slot(5), Slot(5)]).await.expect("a release");
    assert_eq!(locks(database.pool()).await, 0);
}

#[tokio::test]
async fn all_slots_are_claimed_at_once_and_end_with_the_connection() {
    let database = migrated().await;
    let all: Vec<Slot> = (0..1024).map(Slot).collect();
    let mut a = connect(&database).await;
    assert_eq!(a.acquire("a", &all).await.expect("claims").len(), 1024);
    let room = a.capacity().await.expect("a capacity");
    assert!(room.locks() >= 1024, "{room:?}");
    drop(a);
    let mut b = connect(&database).await;
    let mut got = Vec::new();
    eventually("the locks of a dropped connection", DEADLINE, async || {
        got.extend(b.acquire("b", &all).await.expect("claims"));
        got.len() == 1024
    })
    .await;
    assert!(got.iter().all(|(_, epoch)| *epoch == 2));
}

#[tokio::test]
async fn racing_workers_share_the_slots_out() {
    let database = migrated().await;
    let all: Vec<Slot> = (0..200).map(Slot).collect();
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..4 {
        let mut lock = connect(&database).await;
        let all = all.clone();
        workers.spawn(async move {
            let got = lock
                .acquire(&number.to_string(), &all)
                .await
                .expect("claims");
            (lock, got)
        });
    }
    let (mut locks, mut got) = (Vec::new(), Vec::new());
    while let Some(worker) = workers.join_next().await {
        let (lock, claimed) = worker.expect("a worker");
        locks.push(lock);
        got.extend(claimed);
    }
    got.sort_unstable();
    assert_eq!(got, all.iter().map(|slot| (*slot, 1)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_claim_whose_epoch_cannot_rise_is_given_back() {
    let database = migrated().await;
    let mut a = connect(&database).await;
    a.acquire("a", &[Slot(1)]).await.expect("claims");
    let mut tx = database.pool().begin().await.expect("a transaction");
    sqlx::raw_sql("select 1 from bridge.slots where slot = 3 for share")
        .execute(&mut *tx)
        .await
        .expect("a row lock");
    let refused = soon(
        "the lock timeout",
        a.acquire("a", &[Slot(1), Slot(2), Slot(3)]),
    )
    .await;
    assert!(
        matches!(refused, Err(PgError::Unavailable(_))),
        "{refused:?}"
    );
    assert_eq!(locks(database.pool()).await, 1, "slot 1 alone");
    tx.rollback().await.expect("a rollback");
    let got = a
        .acquire("a", &[Slot(1), Slot(2), Slot(3)])
        .await
        .expect("claims");
    assert_eq!(got, [(Slot(2), 1), (Slot(3), 1)]);
    assert_eq!(a.held().len(), 3);
}

#[tokio::test]
async fn a_lost_connection_is_lost_for_good() {
    let database = migrated().await;
    let mut a = connect(&database).await;
    a.acquire("a", &[Slot(1)]).await.expect("claims");
    a.ping().await.expect("alive");
    end_backends(database.pool()).await;
    assert!(a.ping().await.is_err());
    assert!(matches!(a.ping().await, Err(PgError::LockLost)));
    assert!(matches!(
        a.acquire("a", &[Slot(2)]).await,
        Err(PgError::LockLost)
    ));
}

#[tokio::test]
async fn a_call_that_is_dropped_poisons_the_connection() {
    let database = migrated().await;
    let mut a = connect(&database).await;
    let mut tx = database.pool().begin().await.expect("a transaction");
    sqlx::raw_sql("select 1 from bridge.slots where slot = 3 for update")
        .execute(&mut *tx)
        .await
        .expect("a row lock");
    let given_up = within(Duration::from_millis(100), a.acquire("a", &[Slot(3)])).await;
    assert!(
        matches!(given_up, Err(PgError::TimedOut(_))),
        "{given_up:?}"
    );
    assert!(matches!(a.ping().await, Err(PgError::LockLost)));
    drop(a);
    tx.rollback().await.expect("a rollback");
    eventually("the lock to be free", DEADLINE, async || {
        locks(database.pool()).await == 0
    })
    .await;
}

/// The server's own guard against a worker that is there but hung.
#[tokio::test]
async fn a_lock_connection_that_falls_silent_loses_its_claims() {
    let database = migrated().await;
    let (mut silent, mut pinging) = (connect(&database).await, connect(&database).await);
    silent.acquire("silent", &[Slot(1)]).await.expect("claims");
    pinging
        .acquire("pinging", &[Slot(2)])
        .await
        .expect("claims");
    let started = std::time::Instant::now();
    let mut b = connect(&database).await;
    eventually("the silent worker's slot", DEADLINE, async || {
        pinging.ping().await.expect("alive");
        b.acquire("b", &[Slot(1)]).await.expect("an answer").first() == Some(&(Slot(1), 2))
    })
    .await;
    assert!(
        started.elapsed() > Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    assert!(silent.ping().await.is_err());
    assert_eq!(b.acquire("b", &[Slot(2)]).await.expect("an answer"), []);
}

#[tokio::test]
async fn claims_hold_through_a_session_pooler() {
    let database = migrated().await;
    let pooler = PgBouncer::start(database.url(), PoolMode::Session, 3);
    let config = PgConfig::new(Secret::new(pooler.url()), "it");
    let mut a = LockConnection::connect(&config)
        .await
        .expect("a lock connection");
    let mut b = connect(&database).await;
    a.acquire("a", &[Slot(1)]).await.expect("claims");
    a.ping().await.expect("alive");
    assert_eq!(b.acquire("b", &[Slot(1)]).await.expect("an answer"), []);
    a.close().await.expect("a farewell");
    eventually("the slot of a client that left", DEADLINE, async || {
        !b.acquire("b", &[Slot(1)])
            .await
            .expect("an answer")
            .is_empty()
    })
    .await;
}

#[tokio::test]
async fn permits_are_as_many_as_the_limit() {
    let database = migrated().await;
    let (mut a, mut b) = (connect(&database).await, connect(&database).await);
    a.acquire("a", &[Slot(1), Slot(2)]).await.expect("claims");
    assert_eq!(a.acquire_permit(3).await.expect("an answer"), Some(1));
    assert_eq!(b.acquire_permit(3).await.expect("an answer"), Some(2));
    assert_eq!(a.acquire_permit(3).await.expect("an answer"), Some(3));
    assert_eq!(b.acquire_permit(3).await.expect("an answer"), None);
    a.release_permit(1).await.expect("a return");
    assert_eq!(b.acquire_permit(3).await.expect("an answer"), Some(1));
}
