//! What users see when something breaks, and that nothing is wrong afterwards.

use std::time::{Duration, Instant};

use mahspeccy_bridge::sim::{AccountSpec, Broker, PositionSpec, Refusal, Side, Simulator, raw};
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::support::fleet::{CacheRow, DEADLINE, Fleet, Worker};
use super::support::wait::eventually;

const USER: &str = "lance@example.org";
const OTHER: &str = "other@example.org";

/// How long a row may go on saying that it is connected.
const REPORTED_WITHIN: Duration = Duration::from_secs(3);

fn account(id: i64, token: &str) -> AccountSpec {
    AccountSpec::new(id)
        .token(token)
        .balance(1_000_000)
        .position(PositionSpec::new(
            id * 10 + 1,
            "EURUSD",
            Side::Buy,
            5_000_000,
            raw("1.08000"),
        ))
}

async fn live(world: mahspeccy_bridge::sim::Builder) -> (Fleet, Worker) {
    let mut fleet = Fleet::new(world).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    (fleet, worker)
}

#[tokio::test]
async fn an_unplugged_server_is_said_within_three_seconds_and_all_is_true_after_its_return() {
    let (fleet, worker) = live(
        Simulator::builder()
            .seed(5)
            .account(account(1001, "token-a")),
    )
    .await;
    fleet.sim.unplug().await;
    let unplugged = Instant::now();
    fleet
        .until_row("the row to report it", REPORTED_WITHIN, USER, 1001, |row| {
            !row.connected
        })
        .await;
    // What happens at the broker meanwhile: half of the position is closed, another is opened.
    fleet.sim.with(|broker| {
        broker
            .close_position(1001, 10_011, Some(2_000_000))
            .expect("it is open");
        broker
            .open_market(1001, "GBPUSD", Side::Sell, 1_000_000)
            .expect("the market is open");
        broker.deposit(1001, 12_345);
    });
    tokio::time::sleep_until((unplugged + Duration::from_secs(5)).into()).await;
    fleet.sim.plug_in().await.expect("the ports are free");
    fleet.until_live(USER, 1001).await;
    fleet.sim.with(mahspeccy_bridge::sim::Broker::market_pause);
    let row = fleet.until_true(USER, 1001).await;
    assert_eq!(row.positions.as_array().map(Vec::len), Some(2));
    assert_eq!(row.last_error, None);
    worker.drain().await;
}

#[tokio::test]
async fn a_server_that_falls_silent_is_said_within_three_seconds() {
    let (fleet, worker) = live(
        Simulator::builder()
            .market_paused()
            .account(account(1001, "token-a")),
    )
    .await;
    // The socket stays open, and nothing comes through it any more.
    fleet.sim.with(mahspeccy_bridge::sim::Broker::half_open_all);
    let row = fleet
        .until_row("the row to report it", REPORTED_WITHIN, USER, 1001, |row| {
            !row.connected
        })
        .await;
    assert_eq!(row.status, "reconnecting");
    fleet.until_live(USER, 1001).await;
    fleet.until_true(USER, 1001).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_dropped_account_comes_back_and_its_neighbour_notices_nothing() {
    let world = Simulator::builder()
        .account(account(1001, "token-a"))
        .account(account(1002, "token-b"));
    let (fleet, worker) = live(world).await;
    fleet.connect(OTHER, 1002, "token-b").await;
    fleet.start(OTHER, None).await;
    let neighbour = fleet.until_live(OTHER, 1002).await;
    fleet.sim.with(|broker| broker.drop_account(1001));
    fleet
        .until_row(
            "the drop to be reported",
            REPORTED_WITHIN,
            USER,
            1001,
            |row| !row.connected,
        )
        .await;
    fleet.until_live(USER, 1001).await;
    let undisturbed = |row: &CacheRow| row.connected && row.seq > neighbour.seq;
    fleet
        .until_row(
            "the neighbour's next round",
            REPORTED_WITHIN,
            OTHER,
            1002,
            undisturbed,
        )
        .await;
    let connections = fleet.sim.with(|broker| broker.connections());
    assert_eq!(connections.len(), 1, "one socket all along");
    worker.drain().await;
}

#[tokio::test]
async fn every_kind_of_poison_is_dead_lettered_once_and_good_commands_go_on() {
    let (fleet, worker) = live(Simulator::builder().account(account(1001, "token-a"))).await;
    let good = json!({
        "id": Uuid::new_v4(), "command": "start", "userId": USER, "accountId": 1001,
        "issuedAt": "2026-11-23T05:42:00.000123Z",
    });
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body.to_string().into_bytes()
    };
    let poison: Vec<Vec<u8>> = vec![
        b"\xff\xfe{}".to_vec(),
        good.to_string().into_bytes()[..40].to_vec(),
        b"[]".to_vec(),
        b"".to_vec(),
        with("command", json!("restart")),
        with("command", json!(1)),
        with("userId", json!("")),
        with("userId", json!("u".repeat(321))),
        with("userId", json!("a\0b")),
        with("userId", json!(7)),
        with("accountId", json!(-5)),
        with("accountId", json!(0)),
        with("accountId", json!(1.5)),
        with("accountId", json!("9223372036854775808")),
        with("accountId", json!(true)),
        with("issuedAt", json!("yesterday")),
        with("issuedAt", json!("2026-11-23T05:42:00")),
        with("id", json!("not-a-uuid")),
        with("padding", json!("x".repeat(70_000))),
    ];
    let count = poison.len();
    for body in poison {
        fleet
            .vhost
            .publish(
                "bridge.commands",
                "start",
                &body,
                lapin::BasicProperties::default(),
            )
            .await;
    }
    fleet.stop(USER, Some(1001)).await;
    fleet
        .until_row("the good one to be applied", DEADLINE, USER, 1001, |row| {
            row.status == "stopped"
        })
        .await;
    eventually("all of it to be dead-lettered", DEADLINE, async || {
        let depth = fleet
            .vhost
            .queue_depth("bridge.commands.dead")
            .await
            .unwrap_or(0);
        (depth as usize == count).then_some(()).ok_or(depth)
    })
    .await;
    let messages = fleet.vhost.get_all("bridge.commands.dead").await;
    assert_eq!(messages.len(), count, "each once");
    for message in &messages {
        let reason = message.header("x-bridge-reason").expect("a reason");
        assert!(!reason.is_empty() && reason.len() <= 255, "{reason}");
    }
    assert_eq!(fleet.vhost.queue_depth("bridge.commands").await, Some(0));
    worker.drain().await;
}

#[tokio::test]
async fn a_start_without_credentials_fails_with_a_reason_and_begins_once_they_appear() {
    let mut fleet = Fleet::new(Simulator::builder().account(account(1001, "token-a"))).await;
    let worker = fleet.worker().await;
    fleet.start(USER, None).await;
    eventually("the session to be failed", DEADLINE, async || {
        let states: Vec<(String, Option<String>)> =
            sqlx::query_as("select status, last_error from bridge.sessions where user_id = $1")
                .bind(USER)
                .fetch_all(fleet.db.pool())
                .await
                .expect("the sessions can be read");
        let failed = states.iter().any(|(status, error)| {
            status == "failed"
                && error
                    .as_deref()
                    .is_some_and(|error| error.contains("connect cTrader"))
        });
        if failed { Ok(()) } else { Err(states) }
    })
    .await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.until_live(USER, 1001).await;
    let rows: i64 = sqlx::query_scalar("select count(*) from public.ctrader_cache")
        .fetch_one(fleet.db.pool())
        .await
        .expect("the cache can be read");
    assert_eq!(rows, 1, "nothing is left of the time without an account");
    worker.drain().await;
}

#[tokio::test]
async fn a_refused_token_fails_with_a_reason_and_a_new_one_is_picked_up() {
    let mut fleet = Fleet::new(Simulator::builder().account(account(1001, "token-a"))).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "revoked").await;
    fleet.start(USER, None).await;
    let failed = fleet
        .until_row("the row to be failed", DEADLINE, USER, 1001, |row| {
            row.status == "failed"
        })
        .await;
    assert!(
        failed
            .last_error
            .expect("a reason")
            .contains("connect cTrader again")
    );
    fleet.connect(USER, 1001, "token-a").await;
    let live = |row: &CacheRow| row.connected && row.last_error.is_none();
    fleet
        .until_row(
            "the new token to work",
            Duration::from_secs(15),
            USER,
            1001,
            live,
        )
        .await;
    worker.drain().await;
}

#[tokio::test]
async fn the_latest_command_wins_whatever_order_they_arrive_in() {
    let world = Simulator::builder()
        .account(account(1001, "token-a"))
        .account(account(1002, "token-a"));
    let (fleet, worker) = live(world).await;
    fleet.connect_on(USER, 1002, "token-a", false, false).await;
    fleet.start(USER, Some(1002)).await;
    fleet.until_live(USER, 1002).await;
    // A stop of everything, and after it starts that were issued before it.
    let now = OffsetDateTime::now_utc();
    fleet
        .command_at("stop", USER, Value::Null, now, Uuid::new_v4())
        .await;
    let earlier = now - time::Duration::seconds(1);
    fleet
        .command_at("start", USER, json!(1001), earlier, Uuid::new_v4())
        .await;
    fleet
        .command_at("start", USER, Value::Null, earlier, Uuid::new_v4())
        .await;
    for id in [1001, 1002] {
        fleet
            .until_row("everything to be stopped", DEADLINE, USER, id, |row| {
                row.status == "stopped"
            })
            .await;
    }
    // At equal times the greater id wins.
    let later = now + time::Duration::seconds(1);
    fleet
        .command_at("start", USER, json!(1001), later, Uuid::from_u128(7))
        .await;
    fleet
        .command_at("stop", USER, json!(1001), later, Uuid::from_u128(6))
        .await;
    fleet.until_live(USER, 1001).await;
    eventually("the queue to be empty", DEADLINE, async || {
        fleet.vhost.queue_depth("bridge.commands").await == Some(0)
    })
    .await;
    assert_eq!(
        fleet.session(USER, 1001).await,
        Some(("running".to_owned(), "live".to_owned()))
    );
    assert_eq!(
        fleet.session(USER, 1002).await,
        Some(("stopped".to_owned(), "stopped".to_owned()))
    );
    worker.drain().await;
}

#[tokio::test]
async fn another_user_of_an_account_sees_nothing_of_it_without_a_right_of_their_own() {
    let (fleet, worker) = live(Simulator::builder().account(account(1001, "token-a"))).await;
    fleet.connect(OTHER, 1001, "stolen-or-old").await;
    fleet.start(OTHER, Some(1001)).await;
    let failed = fleet
        .until_row("the other to be refused", DEADLINE, OTHER, 1001, |row| {
            row.status == "failed"
        })
        .await;
    assert_eq!(failed.amounts[0], None, "not a figure of it");
    assert!(fleet.row(USER, 1001).await.expect("it is there").connected);
    // A right of their own: the same grant, stored for them.
    fleet.connect(OTHER, 1001, "token-a").await;
    fleet.until_live(OTHER, 1001).await;
    fleet.stop(USER, None).await;
    fleet
        .until_row("the first to be stopped", DEADLINE, USER, 1001, |row| {
            row.status == "stopped"
        })
        .await;
    fleet.until_live(OTHER, 1001).await;
    worker.drain().await;
}

#[tokio::test]
async fn an_account_whose_currency_has_no_name_is_live_all_the_same() {
    let mut fleet = Fleet::new(Simulator::builder().account(account(1001, "token-a"))).await;
    let unsupported = Refusal::new("UNSUPPORTED_MESSAGE");
    fleet
        .sim
        .with(|broker| broker.refuse(Some(2112), 1_000, unsupported));
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    fleet.sim.with(Broker::market_pause);
    fleet.until_true(USER, 1001).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_refused_application_is_not_hammered() {
    let mut fleet = Fleet::new(Simulator::builder().account(account(1001, "token-a"))).await;
    fleet
        .sim
        .with(|broker| broker.refuse(Some(2100), 1_000, Refusal::new("CH_CLIENT_AUTH_FAILURE")));
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    let failed = fleet
        .until_row("the row to be failed", DEADLINE, USER, 1001, |row| {
            row.status == "failed"
        })
        .await;
    assert!(
        failed
            .last_error
            .expect("a reason")
            .contains("refuses this application")
    );
    // The next try is FAILED_RETRY_SECS away; a second one would come within moments.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fleet.sim.with(|broker| broker.requests_of(2100)), 1);
    worker.drain().await;
}

#[tokio::test]
async fn thirty_accounts_share_one_socket_within_the_request_budget() {
    let mut world = Simulator::builder();
    for n in 0..30 {
        world = world.account(account(1001 + n, &format!("token-{n}")));
    }
    let mut fleet = Fleet::new(world.account(account(2001, "token-live").live())).await;
    let worker = fleet.worker().await;
    for n in 0..30 {
        fleet
            .connect(&format!("user-{n}"), 1001 + n, &format!("token-{n}"))
            .await;
        fleet.start(&format!("user-{n}"), None).await;
    }
    fleet.connect_on(USER, 2001, "token-live", true, true).await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 2001).await;
    for n in 0..30 {
        fleet.until_live(&format!("user-{n}"), 1001 + n).await;
    }
    let connections = fleet.sim.with(|broker| broker.connections());
    assert_eq!(connections.len(), 2, "one an environment");
    for connection in &connections {
        assert!(connection.most_requests_per_second <= 50, "{connection:?}");
        assert_eq!(connection.rate_refusals, 0, "{connection:?}");
    }
    eventually("the health to report it", DEADLINE, async || {
        let (status, body) = worker.get("/health").await;
        let health: Value = serde_json::from_str(&body).expect("json");
        let matches = (status, &health["activeSessions"], &health["status"])
            == (200, &json!(31), &json!("ok"));
        matches.then_some(()).ok_or(body)
    })
    .await;
    worker.drain().await;
}
