//! The latest command decides, in whatever order commands arrive, however often and however many at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mahspeccy_bridge::domain::ids::{AccountId, SessionKey, UserId};
use mahspeccy_bridge::domain::status::{Desired, Status};
use mahspeccy_bridge::pg::commands::{Applied, CommandRow, apply};
use mahspeccy_bridge::pg::listen::{Notification, NotificationListener};
use mahspeccy_bridge::pg::placeholders::resolve_primary;
use mahspeccy_bridge::pg::sessions::{active_slots, load};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::pg_support::{claim, config, key, migrated, soon, user};
use crate::support::postgres::TestDatabase;

const USER: &str = "lance@lwk.space";

fn command(start: bool, account: Option<i64>, second: i64) -> CommandRow {
    CommandRow {
        id: Uuid::new_v4(),
        start,
        user: user(USER),
        account: account.map(AccountId),
        // With nanoseconds, which Postgres does not keep.
        issued_at: OffsetDateTime::from_unix_timestamp(1_795_000_000 + second).expect("a time")
            + Duration::from_nanos(123_456_789),
    }
}

fn start(account: Option<i64>, second: i64) -> CommandRow {
    command(true, account, second)
}

fn stop(account: Option<i64>, second: i64) -> CommandRow {
    command(false, account, second)
}

async fn applied(database: &TestDatabase, command: &CommandRow) -> Applied {
    let mut conn = database.pool().acquire().await.expect("a connection");
    apply(&mut conn, command).await.expect("applied")
}

fn now(accounts: &[i64]) -> Applied {
    Applied::Now(accounts.iter().map(|account| key(USER, *account)).collect())
}

async fn credentials(pool: &PgPool, account: i64, primary: bool) {
    sqlx::query(
        "insert into bridge.credentials (user_id, account_id, is_live, is_primary, access_token, refresh_token)
        values ($1, $2, $2 = 5, $3, 'access', 'refresh')",
    )
    .bind(USER)
    .bind(account)
    .bind(primary)
    .execute(pool)
    .await
    .expect("credentials");
}

/// account -> (desired, status)
async fn rows(database: &TestDatabase) -> BTreeMap<i64, (String, String)> {
    sqlx::query_as("select account_id, desired, status from bridge.sessions")
        .fetch_all(database.pool())
        .await
        .expect("rows")
        .into_iter()
        .map(|(account, desired, status): (i64, String, String)| (account, (desired, status)))
        .collect()
}

fn row(desired: &str, status: &str) -> (String, String) {
    (desired.to_owned(), status.to_owned())
}

async fn set_status(database: &TestDatabase, account: i64, status: &str) {
    sqlx::query("update bridge.sessions set status = $2, attempts = 3, last_error = 'x' where account_id = $1")
        .bind(account)
        .bind(status)
        .execute(database.pool())
        .await
        .expect("a status");
}

#[tokio::test]
async fn a_command_sets_the_desired_state_once() {
    let database = migrated().await;
    let mut hints = NotificationListener::connect(&config(&database))
        .await
        .expect("a listener");
    let begin = start(Some(5), 10);
    assert_eq!(applied(&database, &begin).await, now(&[5]));
    assert_eq!(
        soon("a hint", hints.next()).await.expect("a hint"),
        Notification::Slot(user(USER).slot())
    );
    assert_eq!(applied(&database, &begin).await, Applied::Duplicate);
    assert_eq!(applied(&database, &start(Some(5), 9)).await, Applied::Stale);
    assert_eq!(
        rows(&database).await,
        BTreeMap::from([(5, row("running", "pending"))])
    );

    set_status(&database, 5, "live").await;
    assert_eq!(applied(&database, &start(Some(5), 11)).await, now(&[5]));
    assert_eq!(
        rows(&database).await,
        BTreeMap::from([(5, row("running", "live"))])
    );
    assert_eq!(applied(&database, &stop(Some(5), 12)).await, now(&[5]));
    assert_eq!(
        rows(&database).await,
        BTreeMap::from([(5, row("stopped", "live"))])
    );

    for status in ["stopped", "failed"] {
        set_status(&database, 5, status).await;
        assert_eq!(applied(&database, &start(Some(5), 13)).await, now(&[5]));
        let (status, attempts, error): (String, i32, Option<String>) =
            sqlx::query_as("select status, attempts, last_error from bridge.sessions")
                .fetch_one(database.pool())
                .await
                .expect("a row");
        assert_eq!((status.as_str(), attempts, error), ("pending", 0, None));
        sqlx::query("update bridge.sessions set command_issued_at = '2026-01-01'")
            .execute(database.pool())
            .await
            .expect("back in time");
    }
}

#[tokio::test]
async fn at_equal_times_the_greater_id_wins() {
    let database = migrated().await;
    let mut first = start(Some(5), 10);
    let mut second = stop(Some(5), 10);
    first.id = Uuid::from_u128(2);
    second.id = Uuid::from_u128(1);
    assert_eq!(applied(&database, &second).await, now(&[5]));
    assert_eq!(applied(&database, &first).await, now(&[5]));
    assert_eq!(applied(&database, &second).await, Applied::Stale);
}

#[tokio::test]
async fn a_start_without_an_account_means_the_primary_or_the_only_one() {
    let database = migrated().await;
    credentials(database.pool(), 5, false).await;
    let only = start(None, 10);
    assert_eq!(applied(&database, &only).await, now(&[5]));
    credentials(database.pool(), 6, false).await;
    assert_eq!(
        applied(&database, &start(None, 11)).await,
        now(&[0]),
        "which of the two?"
    );
    credentials(database.pool(), 7, true).await;
    assert_eq!(applied(&database, &start(None, 12)).await, now(&[7]));
    assert_eq!(
        applied(&database, &only).await,
        Applied::Stale,
        "its account is another now"
    );
}

#[tokio::test]
async fn a_start_delivered_again_does_not_start_another_account() {
    let database = migrated().await;
    credentials(database.pool(), 5, true).await;
    let begin = start(None, 10);
    assert_eq!(applied(&database, &begin).await, now(&[5]));
    sqlx::raw_sql("delete from bridge.credentials")
        .execute(database.pool())
        .await
        .expect("deleted");
    credentials(database.pool(), 6, true).await;
    assert_eq!(applied(&database, &begin).await, Applied::Duplicate);
    assert_eq!(rows(&database).await.len(), 1);
}

#[tokio::test]
async fn a_stop_of_everything_also_stops_what_arrives_late() {
    let database = migrated().await;
    for account in [5, 6] {
        applied(&database, &start(Some(account), account)).await;
    }
    applied(&database, &start(Some(7), 30)).await;
    let all = stop(None, 20);
    assert_eq!(applied(&database, &all).await, now(&[5, 6]));
    assert_eq!(applied(&database, &all).await, Applied::Duplicate);
    assert_eq!(applied(&database, &stop(None, 19)).await, Applied::Stale);
    for account in [5, 8] {
        assert_eq!(
            applied(&database, &start(Some(account), 15)).await,
            Applied::Stale
        );
    }
    assert_eq!(applied(&database, &start(None, 15)).await, Applied::Stale);
    assert_eq!(applied(&database, &start(Some(8), 21)).await, now(&[8]));
    let desired: Vec<_> = rows(&database)
        .await
        .into_iter()
        .map(|(a, (d, _))| (a, d))
        .collect();
    let expected = [
        (5, "stopped"),
        (6, "stopped"),
        (7, "running"),
        (8, "running"),
    ];
    assert_eq!(
        desired,
        expected.map(|(account, desired)| (account, desired.to_owned()))
    );
}

#[tokio::test]
async fn a_stop_of_an_unknown_account_beats_an_older_start() {
    let database = migrated().await;
    assert_eq!(applied(&database, &stop(Some(5), 10)).await, now(&[5]));
    assert_eq!(
        rows(&database).await,
        BTreeMap::from([(5, row("stopped", "stopped"))])
    );
    assert_eq!(applied(&database, &start(Some(5), 9)).await, Applied::Stale);
}

#[tokio::test]
async fn a_start_without_credentials_waits_for_them() {
    let database = migrated().await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    let lock = claim(&database, "a", &[USER]).await;
    let held: Vec<_> = lock
        .held()
        .iter()
        .map(|(slot, epoch)| (*slot, *epoch))
        .collect();
    assert_eq!(applied(&database, &start(None, 10)).await, now(&[0]));
    assert_eq!(
        resolve_primary(&mut conn, &held).await.expect("an answer"),
        []
    );
    let found = load(&mut conn, &[user(USER).slot()])
        .await
        .expect("sessions");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].key.account, &found[0].credentials),
        (SessionKey::PRIMARY, &None)
    );
    sqlx::query("insert into ctrader_cache (user_key, account_id, status, epoch, seq) values ($1, 0, 'failed', 1, 1)")
        .bind(user(USER).key())
        .execute(&mut *conn)
        .await
        .expect("a row");

    credentials(database.pool(), 5, true).await;
    let other: Vec<_> = held
        .iter()
        .map(|(slot, epoch)| (*slot, *epoch + 1))
        .collect();
    assert_eq!(
        resolve_primary(&mut conn, &other).await.expect("an answer"),
        [],
        "not its slot"
    );
    let resolved = resolve_primary(&mut conn, &held).await.expect("an answer");
    assert_eq!(resolved, [key(USER, 5)]);
    assert_eq!(
        rows(&database).await,
        BTreeMap::from([(5, row("running", "pending"))])
    );
    let cached: i64 = sqlx::query_scalar("select count(*) from ctrader_cache")
        .fetch_one(&mut *conn)
        .await
        .expect("a count");
    assert_eq!(cached, 0);

    let found = load(&mut conn, &[user(USER).slot()])
        .await
        .expect("sessions");
    let [session] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(
        (session.key.account.0, session.desired, session.status),
        (5, Desired::Running, Status::Pending)
    );
    let credentials = session.credentials.as_ref().expect("credentials");
    assert!(credentials.is_live);
    assert_eq!(credentials.access_token.expose(), "access");
    assert_eq!(credentials.refresh_token.expose(), "refresh");
    assert!(!format!("{session:?}").contains("access\""));
}

#[tokio::test]
async fn a_placeholder_gives_way_to_a_later_command() {
    let database = migrated().await;
    let lock = claim(&database, "a", &[USER]).await;
    let held: Vec<_> = lock
        .held()
        .iter()
        .map(|(slot, epoch)| (*slot, *epoch))
        .collect();
    applied(&database, &start(None, 10)).await;
    applied(&database, &stop(Some(5), 20)).await;
    credentials(database.pool(), 5, true).await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    resolve_primary(&mut conn, &held).await.expect("an answer");
    assert_eq!(
        rows(&database).await,
        BTreeMap::from([(5, row("stopped", "stopped"))])
    );
}

#[tokio::test]
async fn slots_with_work_are_those_to_run_or_to_stop() {
    let database = migrated().await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    let slot = user(USER).slot();
    assert_eq!(active_slots(&mut conn).await.expect("slots"), []);
    applied(&database, &stop(Some(4), 1)).await;
    assert_eq!(active_slots(&mut conn).await.expect("slots"), []);
    applied(&database, &start(Some(5), 1)).await;
    applied(&database, &start(Some(6), 1)).await;
    applied(&database, &stop(Some(6), 2)).await;
    assert_eq!(active_slots(&mut conn).await.expect("slots"), [(slot, 2)]);
    set_status(&database, 6, "stopped").await;
    assert_eq!(active_slots(&mut conn).await.expect("slots"), [(slot, 1)]);
    let found = load(&mut conn, &[slot]).await.expect("sessions");
    assert_eq!(
        found
            .iter()
            .map(|session| session.key.account.0)
            .collect::<Vec<_>>(),
        [5]
    );
    assert_eq!(load(&mut conn, &[]).await.expect("sessions"), []);
}

/// The desired states that the contract requires once all commands are there.
fn model(commands: &[CommandRow], primary: Option<i64>, accounts: &[i64]) -> BTreeMap<i64, bool> {
    accounts
        .iter()
        .map(|account| {
            let latest = commands
                .iter()
                .filter(|command| match command.account {
                    Some(named) => named.0 == *account,
                    None => !command.start || primary == Some(*account),
                })
                .max_by_key(|command| (command.issued_at, command.id));
            (*account, latest.is_some_and(|command| command.start))
        })
        .collect()
}

/// Few commands and many rounds: each command more is a chance to repair what a race did wrong.
const ROUNDS: usize = 60;
const COMMANDS: usize = 7;

fn random_commands(rng: &mut StdRng, user: &UserId) -> Vec<CommandRow> {
    (0..COMMANDS)
        .map(|_| {
            let account = [None, Some(5), Some(6), Some(7)][rng.random_range(0..4)];
            CommandRow {
                user: user.clone(),
                // Some at equal times.
                ..command(rng.random(), account, rng.random_range(0..12))
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_in_any_order_and_at_once_end_in_the_state_of_the_latest() {
    let database = migrated().await;
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..ROUNDS {
        let id = format!("user {round}");
        let user = user(&id);
        // With the primary account known at first, later, or never.
        let known = round % 3;
        let connect = async || {
            for (account, primary) in [(5, true), (6, false)] {
                sqlx::query(
                    "insert into bridge.credentials (user_id, account_id, is_live, is_primary,
                        access_token, refresh_token) values ($1, $2, false, $3, 'a', 'r')",
                )
                .bind(&id)
                .bind(account)
                .bind(primary)
                .execute(database.pool())
                .await
                .expect("credentials");
            }
        };
        if known == 0 {
            connect().await;
        }
        let commands = random_commands(&mut rng, &user);
        // Each command goes to one worker, some to two.
        let mut workers = vec![Vec::new(); 4];
        for command in &commands {
            for _ in 0..=usize::from(rng.random_ratio(1, 8)) {
                workers[rng.random_range(0..4)].push(command.clone());
            }
        }
        let start = Arc::new(Barrier::new(workers.len()));
        let mut tasks = tokio::task::JoinSet::new();
        for mut mine in workers {
            mine.shuffle(&mut rng);
            let (pool, start) = (database.pool().clone(), Arc::clone(&start));
            tasks.spawn(async move {
                let mut conn = pool.acquire().await.expect("a connection");
                start.wait().await;
                for command in mine {
                    apply(&mut conn, &command).await.expect("applied");
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no panic");
        }
        if known == 1 {
            connect().await;
        }
        let lock = claim(&database, "a", &[&id]).await;
        let held: Vec<_> = lock
            .held()
            .iter()
            .map(|(slot, epoch)| (*slot, *epoch))
            .collect();
        let mut conn = database.pool().acquire().await.expect("a connection");
        resolve_primary(&mut conn, &held).await.expect("an answer");
        drop(lock);

        let found: Vec<(i64, bool)> = sqlx::query_as(
            "select account_id, desired = 'running' from bridge.sessions where user_id = $1",
        )
        .bind(&id)
        .fetch_all(&mut *conn)
        .await
        .expect("rows");
        let found: BTreeMap<i64, bool> = found.into_iter().collect();
        let (primary, accounts): (_, &[i64]) = if known == 2 {
            (Some(0), &[0, 5, 6, 7])
        } else {
            (Some(5), &[5, 6, 7])
        };
        for (account, running) in model(&commands, primary, accounts) {
            assert_eq!(
                found.get(&account).copied().unwrap_or(false),
                running,
                "seed {seed}, round {round}, account {account}: {commands:?}"
            );
        }
        assert!(known == 2 || !found.contains_key(&0));
    }
}
