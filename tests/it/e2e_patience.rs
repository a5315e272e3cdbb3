//! What is not to be hammered: a maintenance, a full server, and an account of the other environment.

use std::time::Duration;

use mahspeccy_bridge::sim::{AccountSpec, RefusalMessage, Simulator};

use super::support::fleet::{DEADLINE, Fleet};
use super::support::wait::eventually;

const USER: &str = "lance@example.org";
const OTHER: &str = "other@example.org";

/// Of requests.
const APPLICATION_AUTH: u32 = 2100;

fn world() -> mahspeccy_bridge::sim::Builder {
    Simulator::builder().account(AccountSpec::new(1001).token("token-a"))
}

#[tokio::test]
async fn a_maintenance_is_waited_for_and_its_end_is_known_in_either_unit() {
    // Milliseconds in the one message, seconds in the other.
    for message in [RefusalMessage::CommonError, RefusalMessage::OaError] {
        let mut fleet = Fleet::new(world()).await;
        fleet.sim.with(|broker| {
            broker.maintenance_sent_as(message);
            broker.maintenance(Some(Duration::from_secs(6)));
        });
        let worker = fleet.worker().await;
        fleet.connect(USER, 1001, "token-a").await;
        fleet.start(USER, None).await;
        let row = fleet
            .until_row(
                "the maintenance to be reported",
                DEADLINE,
                USER,
                1001,
                |row| row.last_error.is_some(),
            )
            .await;
        assert!(!row.connected);
        assert_eq!(
            row.last_error.as_deref(),
            Some("cTrader is under maintenance")
        );
        // Without its end the pauses would be of a second and two; by it, nothing is tried before.
        let ended = tokio::time::Instant::now() + Duration::from_secs(4);
        tokio::time::sleep_until(ended).await;
        let tried = fleet
            .sim
            .with(|broker| broker.requests_of(APPLICATION_AUTH));
        assert_eq!(tried, 1);
        fleet.sim.with(|broker| broker.maintenance(None));
        fleet.until_live(USER, 1001).await;
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_server_that_takes_no_more_connections_is_left_alone() {
    let mut fleet = Fleet::new(world().connection_cap(0)).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    fleet
        .until_row("it to be reported", DEADLINE, USER, 1001, |row| {
            row.last_error
                .as_deref()
                .is_some_and(|reason| reason.contains("no more connections"))
        })
        .await;
    // The next try is minutes away; another one would come within moments.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(fleet.sim.with(|broker| broker.stats().connections), 1);
    worker.drain().await;
}

#[tokio::test]
async fn an_account_that_is_stored_for_the_wrong_environment_says_so() {
    let mut fleet =
        Fleet::new(world().account(AccountSpec::new(2001).token("token-live").live())).await;
    let worker = fleet.worker().await;
    // A live account, stored as a demo one; a good neighbour beside it.
    fleet
        .connect_on(USER, 2001, "token-live", false, true)
        .await;
    fleet.start(USER, None).await;
    fleet.connect(OTHER, 1001, "token-a").await;
    fleet.start(OTHER, None).await;
    let row = fleet
        .until_row("the reason", DEADLINE, USER, 2001, |row| {
            row.status == "failed"
        })
        .await;
    let reason = row.last_error.expect("a reason");
    assert!(
        reason.contains("live account, stored as a demo one"),
        "{reason}"
    );
    fleet.until_live(OTHER, 1001).await;
    // Stored as what it is, it works at once.
    sqlx::query("update bridge.credentials set is_live = true where account_id = 2001")
        .execute(fleet.db.pool())
        .await
        .expect("the row");
    fleet.until_live(USER, 2001).await;
    eventually(
        "it to be on the live connection alone",
        DEADLINE,
        async || fleet.sim.with(|broker| broker.authorised_on(2001)).len() == 1,
    )
    .await;
    worker.drain().await;
}
