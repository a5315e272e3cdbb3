//! Workers come and go in good order, and no reader of a row can tell.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::support::crowd::{
    LONG, RowWatch, slots, spread, until_all_at, until_all_live, until_on_one_connection_each,
    until_shared, until_without, user, want_all, world,
};
use super::support::fleet::{DEADLINE, Fleet};
use super::support::wait::eventually;

/// No row becomes older while its slot changes hands.
const FRESH: f64 = 3.0;

#[tokio::test]
async fn a_worker_that_joins_gets_its_share_and_rows_stay_fresh() {
    const COUNT: i64 = 60;
    let mut fleet = Fleet::new(world(COUNT)).await;
    let first = fleet.worker().await;
    want_all(&fleet, 1..=COUNT).await;
    until_all_live(&fleet, COUNT).await;
    let before = slots(&fleet).await;
    let watch = RowWatch::start(fleet.db.pool(), (1..=COUNT).collect());
    let second = fleet.worker().await;
    until_shared(&fleet, &[&first, &second], 4).await;
    until_on_one_connection_each(&fleet, COUNT).await;
    let shared = slots(&fleet).await;
    for (slot, (epoch, owner)) in &shared {
        let moved = i64::from(*owner == second.id);
        assert_eq!(*epoch, before[slot].0 + moved, "slot {slot}");
    }
    // Nothing flaps: several sweeps later all is where it was.
    let since = fleet.clock().await;
    eventually("three sweeps to be over", LONG, async || {
        fleet.clock().await > since + 6.5
    })
    .await;
    assert_eq!(slots(&fleet).await, shared);
    let seen = watch.seen();
    eprintln!("a worker joined: rows at most {:.2} s old", seen.oldest);
    assert!(
        seen.disconnected.is_empty() && seen.oldest < FRESH,
        "{seen:?}"
    );
    assert!(seen.reads > 50, "{seen:?}");
    for id in [1, COUNT] {
        fleet.until_live(&user(id), id).await;
    }
    first.drain().await;
    second.drain().await;
}

/// Starts and stops that go on meanwhile: what each of the accounts was last commanded to do.
async fn traffic(
    fleet: &Fleet,
    ids: std::ops::RangeInclusive<i64>,
    rounds: u32,
) -> BTreeMap<i64, &'static str> {
    let mut last = BTreeMap::new();
    for round in 0..rounds {
        for id in ids.clone() {
            let command = if (i64::from(round) + id) % 3 == 0 {
                "stop"
            } else {
                "start"
            };
            fleet
                .command(command, &user(id), serde_json::json!(id))
                .await;
            last.insert(id, command);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    last
}

#[tokio::test]
async fn three_rolling_replacements_lose_no_command_and_age_no_row() {
    const COUNT: i64 = 60;
    const EXTRA: i64 = 12;
    let mut fleet = Fleet::new(world(COUNT + EXTRA)).await;
    let mut workers = vec![fleet.worker().await, fleet.worker().await];
    want_all(&fleet, 1..=COUNT).await;
    for id in COUNT + 1..=COUNT + EXTRA {
        fleet.connect(&user(id), id, &format!("token-{id}")).await;
    }
    until_all_live(&fleet, COUNT).await;
    until_shared(&fleet, &[&workers[0], &workers[1]], 10).await;
    let before = slots(&fleet).await;
    let watch = RowWatch::start(fleet.db.pool(), (1..=COUNT).collect());
    let mut last = BTreeMap::new();
    for replacement in 1..=3 {
        let next = fleet.worker().await;
        let mut leaving = workers.remove(0);
        let began = std::time::Instant::now();
        leaving.signal("TERM").await;
        last.extend(traffic(&fleet, COUNT + 1..=COUNT + EXTRA, 2).await);
        let status = leaving.ended(Duration::from_secs(100)).await;
        assert_eq!(status.code(), Some(0), "{}", leaving.log());
        eprintln!(
            "replacement {replacement}: ended after {:?}",
            began.elapsed()
        );
        workers.push(next);
        let seen = watch.seen();
        assert!(
            seen.disconnected.is_empty() && seen.oldest < FRESH,
            "replacement {replacement}: {seen:?}\n{}",
            leaving.log()
        );
    }
    let wanted =
        i64::try_from(last.values().filter(|command| **command == "start").count()).expect("a few");
    until_all_live(&fleet, COUNT + wanted).await;
    for (id, command) in last {
        let desired = if command == "start" {
            "running"
        } else {
            "stopped"
        };
        let session = fleet.session(&user(id), id).await.expect("a session");
        assert_eq!(session.0, desired, "account {id}");
    }
    assert_eq!(fleet.vhost.queue_depth("bridge.commands").await, Some(0));
    assert_eq!(
        fleet.vhost.queue_depth("bridge.commands.dead").await,
        Some(0)
    );
    let seen = watch.seen();
    eprintln!("three replacements: rows at most {:.2} s old", seen.oldest);
    assert!(
        seen.disconnected.is_empty() && seen.oldest < FRESH,
        "{seen:?}"
    );
    let moves: i64 = slots(&fleet)
        .await
        .iter()
        .filter_map(|(slot, (epoch, _))| Some(epoch - before.get(slot)?.0))
        .max()
        .expect("slots");
    assert!(moves <= 4, "a slot changed hands {moves} times");
    for worker in workers {
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_hand_over_whose_taker_or_giver_dies_costs_no_session() {
    const COUNT: i64 = 40;
    let mut fleet = Fleet::new(world(COUNT)).await;
    let mut first = fleet.worker().await;
    want_all(&fleet, 1..=COUNT).await;
    until_all_live(&fleet, COUNT).await;
    let offered = async |fleet: &Fleet| -> i64 {
        sqlx::query_scalar("select count(*) from bridge.handovers")
            .fetch_one(fleet.db.pool())
            .await
            .expect("hand-overs")
    };
    // The taker dies, at the moment that it was offered something.
    let watch = RowWatch::start(fleet.db.pool(), (1..=COUNT).collect());
    let mut second = fleet.worker().await;
    eventually("offers", DEADLINE, async || offered(&fleet).await > 0).await;
    second.signal("KILL").await;
    second.ended(DEADLINE).await;
    eventually("the offers to be gone", DEADLINE, async || {
        offered(&fleet).await == 0
    })
    .await;
    until_all_at(&fleet, &first, COUNT).await;
    until_all_live(&fleet, COUNT).await;
    let seen = watch.seen();
    assert!(seen.oldest < 10.0, "{seen:?}");
    // The giver dies, in the middle of a drain.
    let third = fleet.worker().await;
    first.signal("TERM").await;
    eventually("offers", DEADLINE, async || offered(&fleet).await > 0).await;
    first.signal("KILL").await;
    first.ended(DEADLINE).await;
    until_all_at(&fleet, &third, COUNT).await;
    until_all_live(&fleet, COUNT).await;
    until_on_one_connection_each(&fleet, COUNT).await;
    third.drain().await;
}

#[tokio::test]
async fn a_full_worker_leaves_commands_in_the_queue_for_another_one() {
    const MOST: i64 = 6;
    const MORE: i64 = 4;
    let mut fleet = Fleet::new(world(MOST + MORE)).await;
    for id in 1..=MOST + MORE {
        fleet.connect(&user(id), id, &format!("token-{id}")).await;
    }
    let most = MOST.to_string();
    let first = fleet.worker_with(&[("MAX_SESSIONS", &most)]).await;
    for id in 1..=MOST {
        fleet.start(&user(id), Some(id)).await;
    }
    until_all_live(&fleet, MOST).await;
    eventually("it to say that it is full", DEADLINE, async || {
        first.log().contains("full: no more commands are accepted")
    })
    .await;
    for id in MOST + 1..=MOST + MORE {
        fleet.start(&user(id), Some(id)).await;
    }
    let depth = async |fleet: &Fleet| fleet.vhost.queue_depth("bridge.commands").await;
    let since = fleet.clock().await;
    eventually("two sweeps to be over", DEADLINE, async || {
        assert_eq!(
            depth(&fleet).await,
            Some(u32::try_from(MORE).expect("a few"))
        );
        fleet.clock().await > since + 4.5
    })
    .await;
    assert_eq!(first.get("/readyz").await.0, 200);
    let second = fleet.worker().await;
    until_all_live(&fleet, MOST + MORE).await;
    eventually("the queue to be empty", DEADLINE, async || {
        depth(&fleet).await == Some(0)
    })
    .await;
    // It has room again, and takes commands.
    for id in 1..=2 {
        let id = if spread(&fleet).await.is_empty() {
            id
        } else {
            MOST + id
        };
        fleet.stop(&user(id), Some(id)).await;
    }
    second.drain().await;
    first.drain().await;
}

#[tokio::test]
async fn the_fleet_opens_no_more_connections_than_it_may() {
    let mut fleet = Fleet::new(world(4)).await;
    let limit = [("CTRADER_CONNECTION_LIMIT", "1")];
    let mut first = fleet.worker_with(&limit).await;
    want_all(&fleet, 1..=4).await;
    until_all_live(&fleet, 4).await;
    let second = fleet.spawn(&limit);
    eventually("it to report what it waits for", DEADLINE, async || {
        let url = format!("http://127.0.0.1:{}/readyz", second.port);
        let Ok(answer) = reqwest::get(url).await else {
            return Err("no answer".to_owned());
        };
        let (status, body) = (
            answer.status().as_u16(),
            answer.text().await.expect("a body"),
        );
        if status == 503 && body.contains("all 1 connections") {
            Ok(())
        } else {
            Err(body)
        }
    })
    .await;
    assert!(
        second
            .log()
            .contains("all connections to cTrader are taken")
    );
    // Commands that it takes are the other one's to run.
    fleet.start(&user(1), Some(1)).await;
    let since = fleet.clock().await;
    eventually("two sweeps to be over", DEADLINE, async || {
        assert!(fleet.sim.with(|broker| broker.connections()).len() <= 1);
        fleet.clock().await > since + 4.5
    })
    .await;
    assert_eq!(
        spread(&fleet).await,
        BTreeMap::from([(first.id.clone(), 4)])
    );
    first.signal("KILL").await;
    first.ended(DEADLINE).await;
    eventually("the other one to be ready", DEADLINE, async || {
        second.get("/readyz").await.0 == 200
    })
    .await;
    until_without(&fleet, &first).await;
    until_all_live(&fleet, 4).await;
    assert_eq!(fleet.sim.with(|broker| broker.connections()).len(), 1);
    second.drain().await;
}

#[tokio::test]
async fn a_session_that_nobody_was_told_of_is_found_and_run() {
    let mut fleet = Fleet::new(world(1)).await;
    let worker = fleet.worker().await;
    fleet.connect(&user(1), 1, "token-1").await;
    // No command, and no hint: the row alone.
    sqlx::query("alter table bridge.sessions disable trigger user")
        .execute(fleet.db.pool())
        .await
        .expect("no hints");
    sqlx::query(
        "insert into bridge.sessions (user_id, account_id, desired, command_id, command_issued_at, status)
         values ($1, 1, 'running', $2, now(), 'pending')",
    )
    .bind(user(1))
    .bind(Uuid::new_v4())
    .execute(fleet.db.pool())
    .await
    .expect("a session");
    fleet.until_live(&user(1), 1).await;
    worker.drain().await;
}
