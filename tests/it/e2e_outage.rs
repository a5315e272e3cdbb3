//! What the worker stands on goes away while it works, and comes back.

use std::time::Duration;

use mahspeccy_bridge::sim::{AccountSpec, Broker, PositionSpec, Side, Simulator, raw};
use reqwest::Method;
use serde_json::{Value, json};

use super::support::fleet::{DEADLINE, Fleet, Worker};
use super::support::services;
use super::support::wait::eventually;

const USER: &str = "lance@example.org";

/// How long a row may go on saying that it is connected, in seconds.
const SAID_WITHIN: f64 = 3.0;

/// A session that is live.
async fn live() -> (Fleet, Worker) {
    let position = PositionSpec::new(11, "EURUSD", Side::Buy, 5_000_000, raw("1.08000"));
    let account = AccountSpec::new(1001)
        .token("token-a")
        .balance(1_000_000)
        .position(position);
    let world = Simulator::builder()
        .seed(6)
        .ticks_per_second(4.0)
        .account(account);
    let mut fleet = Fleet::new(world).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    (fleet, worker)
}

/// What happens at the broker while nobody listens.
fn trade(fleet: &Fleet) {
    fleet.sim.with(|broker| {
        broker
            .close_position(1001, 11, Some(2_000_000))
            .expect("it is open");
        broker
            .open_market(1001, "GBPUSD", Side::Sell, 1_000_000)
            .expect("the market is open");
        broker.deposit(1001, 12_345);
    });
}

/// The row shows that it is not connected, soon enough by its own clock.
async fn disconnected_since(fleet: &Fleet, since: f64) {
    let row = fleet
        .until_row("the row to show it", DEADLINE, USER, 1001, |row| {
            !row.connected
        })
        .await;
    let took = row.updated - since;
    assert!(took <= SAID_WITHIN, "{took} s: {row:?}");
    assert_eq!(row.status, "reconnecting");
    assert!(
        row.last_error.is_some() && row.amounts[0].is_some(),
        "{row:?}"
    );
}

/// The row is correct again, by itself.
async fn comes_back(fleet: &Fleet) {
    fleet.until_live(USER, 1001).await;
    fleet.sim.with(Broker::market_pause);
    let row = fleet.until_true(USER, 1001).await;
    assert_eq!(row.positions.as_array().map(Vec::len), Some(2));
    assert_eq!(row.positions[0]["volume"], json!(30_000));
    assert_eq!(row.last_error, None);
}

#[tokio::test]
async fn five_seconds_unplugged_are_said_in_time_and_made_up_for() {
    let (fleet, worker) = live().await;
    let unplugged_at = fleet.clock().await;
    fleet.sim.unplug().await;
    disconnected_since(&fleet, unplugged_at).await;
    trade(&fleet);
    while fleet.clock().await < unplugged_at + 5.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let row = fleet.row(USER, 1001).await.expect("it is there");
        assert!(!row.connected, "{row:?}");
    }
    fleet.sim.plug_in().await.expect("the ports are free");
    comes_back(&fleet).await;
    let log = worker.drain().await;
    let tries = log.matches("cannot connect to cTrader").count();
    assert!((1..=12).contains(&tries), "{tries} tries in 5 s");
}

#[tokio::test]
async fn five_seconds_of_silence_are_said_in_time_and_made_up_for() {
    let (fleet, worker) = live().await;
    let silent_at = fleet.clock().await;
    fleet.sim.with(Broker::half_open_all);
    fleet.sim.stop_accepting();
    disconnected_since(&fleet, silent_at).await;
    trade(&fleet);
    while fleet.clock().await < silent_at + 5.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let row = fleet.row(USER, 1001).await.expect("it is there");
        assert!(!row.connected, "{row:?}");
    }
    fleet.sim.plug_in().await.expect("the ports are free");
    comes_back(&fleet).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_link_that_breaks_again_and_again_is_true_after_the_last_time() {
    let (fleet, worker) = live().await;
    for round in 0..4 {
        let since = fleet.clock().await;
        if round % 2 == 0 {
            fleet.sim.kill_sockets();
        } else {
            fleet.sim.with(Broker::close_all_with_bye);
        }
        fleet.sim.with(|broker| broker.deposit(1001, 100));
        fleet
            .until_row("the row to be live anew", DEADLINE, USER, 1001, |row| {
                row.connected && row.updated > since && row.amounts[0] == fleet.truth(1001).0[0]
            })
            .await;
    }
    trade(&fleet);
    comes_back(&fleet).await;
    worker.drain().await;
}

async fn readyz(worker: &Worker, expected: u16, naming: &str) {
    eventually("the readiness to change", DEADLINE, async || {
        let (status, body) = worker.get("/readyz").await;
        let as_expected = status == expected && (status == 200 || body.contains(naming));
        as_expected.then_some(()).ok_or((status, body))
    })
    .await;
}

/// Waits for a reply of the health route: its figures are updated four times a second.
async fn health(worker: &Worker, expected: (&str, u64)) {
    eventually("the health to change", DEADLINE, async || {
        let (status, body) = worker.get("/health").await;
        assert!(status == 200 && !body.contains("lance"), "{body}");
        let json: Value = serde_json::from_str(&body).expect("json");
        let matches = json["status"] == expected.0 && json["activeSessions"] == expected.1;
        matches.then_some(()).ok_or(body)
    })
    .await;
}

/// Gives the worker's user its rights to the vhost, or takes them away.
async fn permit(fleet: &Fleet, permitted: bool) {
    let name = fleet.vhost.name();
    let url = services::management_url()
        .join(&format!("/api/permissions/{name}/{name}"))
        .expect("a URL");
    let request = if permitted {
        reqwest::Client::new()
            .request(Method::PUT, url)
            .json(&json!({ "configure": ".*", "write": ".*", "read": ".*" }))
    } else {
        reqwest::Client::new().request(Method::DELETE, url)
    };
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
}

#[tokio::test]
async fn without_the_broker_the_worker_is_unready_and_streams_on() {
    let (fleet, worker) = live().await;
    health(&worker, ("ok", 1)).await;
    readyz(&worker, 200, "").await;
    permit(&fleet, false).await;
    fleet.vhost.close_all_connections().await;
    readyz(&worker, 503, "rabbitmq").await;
    health(&worker, ("degraded", 1)).await;
    let during = fleet.row(USER, 1001).await.expect("it is there");
    fleet
        .until_row("later rounds", DEADLINE, USER, 1001, |row| {
            row.connected && row.updated > during.updated + 3.0
        })
        .await;
    // What was published meanwhile waits in its queue.
    fleet.stop(USER, None).await;
    permit(&fleet, true).await;
    readyz(&worker, 200, "").await;
    fleet
        .until_row("the stop to be applied", DEADLINE, USER, 1001, |row| {
            row.status == "stopped"
        })
        .await;
    health(&worker, ("ok", 0)).await;
    worker.drain().await;
}

/// Runs a statement about the fleet's database from outside of it.
async fn on_the_server(statement: String) {
    use sqlx::Connection;
    let url = services::database_url();
    let mut connection = sqlx::PgConnection::connect(url.as_str())
        .await
        .expect("the server is there");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .expect("it is allowed");
    connection.close().await.expect("it ends");
}

#[tokio::test]
async fn without_postgres_the_worker_is_unready_and_comes_back_under_a_new_claim() {
    let (fleet, worker) = live().await;
    let before = fleet.row(USER, 1001).await.expect("it is there");
    let name = fleet.db.name().to_owned();
    on_the_server(format!(
        "alter database {name} allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity
         where datname = '{name}' and application_name like 'mahspeccy-bridge%'"
    ))
    .await;
    readyz(&worker, 503, "postgres").await;
    health(&worker, ("degraded", 1)).await;
    assert_eq!(worker.get("/livez").await.0, 200);
    // The server replies, so it is not the worker that is cut off: its stream stands by.
    let stream = fleet.sim.with(|broker| broker.authorised_on(1001));
    assert_eq!(stream.len(), 1);
    // A command of that time is neither lost nor dead.
    fleet.connect_on(USER, 1002, "token-b", false, false).await;
    fleet.start(USER, Some(1002)).await;
    trade(&fleet);
    on_the_server(format!("alter database {name} allow_connections true")).await;
    readyz(&worker, 200, "").await;
    fleet
        .until_row("the row under a new claim", DEADLINE, USER, 1001, |row| {
            row.connected && row.epoch == before.epoch + 1
        })
        .await;
    comes_back(&fleet).await;
    assert_eq!(fleet.sim.with(|broker| broker.authorised_on(1001)), stream);
    eventually("the command to be applied", DEADLINE, async || {
        fleet
            .session(USER, 1002)
            .await
            .is_some_and(|(desired, _)| desired == "running")
    })
    .await;
    let dead = fleet.vhost.queue_depth("bridge.commands.dead").await;
    assert_eq!(dead, Some(0));
    worker.drain().await;
}
