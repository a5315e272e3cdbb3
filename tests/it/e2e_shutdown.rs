//! How a worker ends, in good order or not, and what the next one finds.

use std::time::{Duration, Instant};

use mahspeccy_bridge::sim::{AccountSpec, Broker, Builder, PositionSpec, Side, Simulator, raw};

use super::support::fleet::{DEADLINE, Fleet, free_port};
use super::support::wait::eventually;

const USERS: [(&str, i64, &str); 3] = [
    ("one@example.org", 1001, "token-1"),
    ("two@example.org", 1002, "token-2"),
    ("three@example.org", 1003, "token-3"),
];

/// Of requests: `ProtoOAAccountLogoutReq`.
const LOGOUT: u32 = 2162;

fn world() -> Builder {
    USERS.iter().fold(
        Simulator::builder().seed(9).ticks_per_second(4.0),
        |world, (_, id, token)| {
            let position =
                PositionSpec::new(id * 10, "EURUSD", Side::Buy, 1_000_000, raw("1.08000"));
            world.account(
                AccountSpec::new(*id)
                    .token(token)
                    .balance(1_000_000)
                    .position(position),
            )
        },
    )
}

async fn start_all(fleet: &Fleet) {
    for (user, id, token) in USERS {
        fleet.connect(user, id, token).await;
        fleet.start(user, None).await;
    }
    for (user, id, _) in USERS {
        fleet.until_live(user, id).await;
    }
}

async fn locks(fleet: &Fleet) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database
         where l.locktype = 'advisory' and d.datname = current_database()",
    )
    .fetch_one(fleet.db.pool())
    .await
    .expect("the locks can be read")
}

#[tokio::test]
async fn a_drain_logs_every_account_out_and_writes_the_last_figures_promptly() {
    let mut fleet = Fleet::new(world()).await;
    let worker = fleet.worker().await;
    start_all(&fleet).await;
    assert!(locks(&fleet).await >= 1);
    let epochs = [
        fleet.row(USERS[0].0, 1001).await.expect("a row").epoch,
        fleet.row(USERS[1].0, 1002).await.expect("a row").epoch,
        fleet.row(USERS[2].0, 1003).await.expect("a row").epoch,
    ];
    // The last thing that happens before the signal is in the rows after it.
    fleet.sim.with(|broker| {
        broker.market_pause();
        for (_, id, _) in USERS {
            broker.deposit(id, 333);
        }
    });
    for (user, id, _) in USERS {
        let truth = fleet.truth(id).0;
        fleet
            .until_row("the deposit to be seen", DEADLINE, user, id, |row| {
                row.amounts == truth
            })
            .await;
    }
    let began = Instant::now();
    let log = worker.drain().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(
        fleet.sim.with(|broker| broker.requests_of(LOGOUT)),
        USERS.len()
    );
    assert!(fleet.sim.with(|broker| broker.connections()).is_empty());
    assert_eq!(locks(&fleet).await, 0, "{log}");
    for (user, id, _) in USERS {
        let row = fleet.row(user, id).await.expect("it is there");
        assert_eq!((row.connected, row.status.as_str()), (false, "pending"));
        assert_eq!(row.amounts, fleet.truth(id).0, "the last figures");
        let (desired, status) = fleet.session(user, id).await.expect("it is there");
        assert_eq!((&*desired, &*status), ("running", "pending"));
    }

    let next = fleet.worker().await;
    for ((user, id, _), epoch) in USERS.into_iter().zip(epochs) {
        let row = fleet.until_live(user, id).await;
        assert_eq!(row.epoch, epoch + 1);
        fleet.until_true(user, id).await;
    }
    next.drain().await;
}

#[tokio::test]
async fn a_drain_waits_for_a_silent_server_no_longer_than_it_must() {
    let mut fleet = Fleet::new(world()).await;
    let worker = fleet.worker().await;
    start_all(&fleet).await;
    fleet.sim.with(Broker::half_open_all);
    let began = Instant::now();
    let log = worker.drain().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    for (user, id, _) in USERS {
        assert!(!fleet.row(user, id).await.expect("it is there").connected);
    }
    assert_eq!(locks(&fleet).await, 0, "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_a_drain_that_hangs() {
    let mut fleet = Fleet::new(world()).await;
    let mut worker = fleet.worker().await;
    start_all(&fleet).await;
    // Nothing can be written any more: the last rows wait until the grace is over.
    let mut blocking = fleet.db.pool().begin().await.expect("a transaction");
    sqlx::query("lock table public.ctrader_cache, bridge.sessions in access exclusive mode")
        .execute(&mut *blocking)
        .await
        .expect("the lock");
    worker.signal("TERM").await;
    eventually("the drain to begin", DEADLINE, async || {
        worker.get("/health").await.1.contains("draining")
    })
    .await;
    let (status, body) = worker.get("/readyz").await;
    assert_eq!((status, body.trim()), (503, "draining"));
    worker.signal("TERM").await;
    let began = Instant::now();
    worker.ended(Duration::from_secs(8)).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    blocking.rollback().await.expect("it ends");
    // What it held is free once its connections are gone.
    eventually("the claims to be free", DEADLINE, async || {
        locks(&fleet).await == 0
    })
    .await;
}

#[tokio::test]
async fn what_a_killed_worker_ran_is_taken_over_by_the_next_within_seconds() {
    let mut fleet = Fleet::new(world()).await;
    let mut first = fleet.worker().await;
    start_all(&fleet).await;
    let second = fleet.worker().await;
    let before = fleet.row(USERS[0].0, 1001).await.expect("it is there");
    let killed_at = fleet.clock().await;
    first.signal("KILL").await;
    first.ended(DEADLINE).await;
    for (user, id, _) in USERS {
        let row = fleet
            .until_row("the next one's row", DEADLINE, user, id, |row| {
                row.connected && row.updated > killed_at && row.epoch > before.epoch
            })
            .await;
        let took = row.updated - killed_at;
        assert!(took < 10.0, "{took} s");
        assert_eq!(row.epoch, before.epoch + 1);
    }
    fleet.sim.with(Broker::market_pause);
    for (user, id, _) in USERS {
        fleet.until_true(user, id).await;
        let owner: Option<String> = sqlx::query_scalar(
            "select worker_id from bridge.sessions where user_id = $1 and account_id = $2",
        )
        .bind(user)
        .bind(id)
        .fetch_one(fleet.db.pool())
        .await
        .expect("the session can be read");
        assert_eq!(owner.as_deref(), Some(&*second.id));
    }
    second.drain().await;
}

#[tokio::test]
async fn a_paused_worker_that_wakes_up_does_not_overwrite_its_successor() {
    let mut fleet = Fleet::new(world()).await;
    let first = fleet.worker().await;
    start_all(&fleet).await;
    let second = fleet.worker().await;
    let before = fleet.row(USERS[0].0, 1001).await.expect("it is there");
    first.signal("STOP").await;
    let taken = fleet
        .until_row("the successor's row", DEADLINE, USERS[0].0, 1001, |row| {
            row.connected && row.epoch > before.epoch
        })
        .await;
    first.signal("CONT").await;
    // Rounds of both: not one of the first one's gets through.
    let mut last = taken.clone();
    while last.updated < taken.updated + 6.0 {
        let row = fleet.row(USERS[0].0, 1001).await.expect("it is there");
        assert!(row.epoch >= last.epoch && row.connected, "{last:?} {row:?}");
        last = row;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(last.epoch, taken.epoch);
    first.drain().await;
    second.drain().await;
}

#[tokio::test]
async fn a_worker_that_still_waits_for_its_dependencies_can_be_stopped() {
    let mut fleet = Fleet::new(world()).await;
    let postgres = format!("postgres://nobody@127.0.0.1:{}/x", free_port());
    let broker = format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port());
    for (variable, url) in [("DATABASE_URL", &postgres), ("AMQP_URL", &broker)] {
        let mut worker = fleet.spawn(&[(variable, url)]);
        eventually("it to report what it waits for", DEADLINE, async || {
            let log = worker.log();
            log.contains("refused").then_some(()).ok_or(log)
        })
        .await;
        worker.signal("TERM").await;
        let began = Instant::now();
        let status = worker.ended(DEADLINE).await;
        assert_eq!(status.code(), Some(0), "{variable}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{variable} {took:?}");
    }
}
