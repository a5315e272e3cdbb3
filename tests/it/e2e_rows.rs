//! Which account a command means, and how fresh its row stays.

use std::time::{Duration, Instant};

use mahspeccy_bridge::domain::ids::UserId;
use mahspeccy_bridge::sim::{AccountSpec, Broker, PositionSpec, Side, Simulator, raw};
use serde_json::{Value, json};
use sqlx::Row;

use super::support::fleet::{CacheRow, DEADLINE, Fleet, decimal};
use super::support::wait::eventually;

const USER: &str = "lance@example.org";

/// The contract's bound on the age of a connected row.
const AGE_MAX: f64 = 2.5;

fn account(id: i64, token: &str) -> AccountSpec {
    AccountSpec::new(id).token(token).balance(1_000_000)
}

#[tokio::test]
async fn a_start_means_the_account_it_names_or_else_the_primary_one() {
    let world = Simulator::builder()
        .account(account(1001, "token-a"))
        .account(account(1002, "token-a"))
        .account(account(1003, "token-a"));
    let mut fleet = Fleet::new(world).await;
    let worker = fleet.worker().await;
    for (id, primary) in [(1001, false), (1002, true), (1003, false)] {
        fleet.connect_on(USER, id, "token-a", false, primary).await;
    }
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1002).await;
    assert_eq!(fleet.row(USER, 1001).await, None);
    fleet.command("start", USER, json!(1003)).await;
    fleet.until_live(USER, 1003).await;
    fleet.command("start", USER, json!("1001")).await;
    let row = fleet.until_live(USER, 1001).await;

    let sessions = sqlx::query(
        "select s.account_id, s.slot, s.desired, s.status, s.last_error, s.attempts, s.worker_id,
                o.epoch, o.worker_id as owner
         from bridge.sessions s join bridge.slots o on o.slot = s.slot order by s.account_id",
    )
    .fetch_all(fleet.db.pool())
    .await
    .expect("the sessions can be read");
    let accounts: Vec<i64> = sessions.iter().map(|s| s.get("account_id")).collect();
    assert_eq!(accounts, [1001, 1002, 1003], "no placeholder");
    for session in &sessions {
        assert_eq!(session.get::<&str, _>("desired"), "running");
        assert_eq!(session.get::<&str, _>("status"), "live");
        assert_eq!(session.get::<Option<&str>, _>("last_error"), None);
        assert_eq!(session.get::<i32, _>("attempts"), 0);
        let slot = UserId::new(USER).expect("valid").slot();
        assert_eq!(session.get::<i32, _>("slot"), slot.0);
        assert_eq!(session.get::<i64, _>("epoch"), row.epoch);
        for column in ["worker_id", "owner"] {
            assert_eq!(session.get::<Option<&str>, _>(column), Some(&*worker.id));
        }
    }

    // A stop that names none means every one of them.
    fleet.stop(USER, None).await;
    for id in accounts {
        fleet
            .until_row("each to be stopped", DEADLINE, USER, id, |row| {
                row.status == "stopped" && !row.connected
            })
            .await;
    }
    eventually("all to be logged out", DEADLINE, async || {
        let connections = fleet.sim.with(|broker| broker.connections());
        connections
            .iter()
            .all(|connection| connection.accounts.is_empty())
    })
    .await;
    worker.drain().await;
}

#[tokio::test]
async fn demo_and_live_accounts_are_streamed_each_from_their_own_host() {
    let world = Simulator::builder()
        .account(account(1001, "token-a"))
        .account(account(2001, "token-b").live().currency("USD"));
    let mut fleet = Fleet::new(world).await;
    let worker = fleet.worker().await;
    fleet.connect_on(USER, 1001, "token-a", false, true).await;
    fleet.connect_on(USER, 2001, "token-b", true, false).await;
    fleet.start(USER, None).await;
    fleet.start(USER, Some(2001)).await;
    for id in [1001, 2001] {
        fleet.until_live(USER, id).await;
    }
    let hosts: Vec<(i64, bool, String)> = sqlx::query_as(
        "select account_id, is_demo, currency from public.ctrader_cache order by account_id",
    )
    .fetch_all(fleet.db.pool())
    .await
    .expect("the cache can be read");
    assert_eq!(
        hosts,
        [(1001, true, "EUR".into()), (2001, false, "USD".into())]
    );

    // An account that the credentials place on the other host is refused there, and corrected.
    let other = "other@example.org";
    fleet.connect_on(other, 2001, "token-b", false, true).await;
    fleet.start(other, None).await;
    let refused = fleet
        .until_row("the refusal to be reported", DEADLINE, other, 2001, |row| {
            row.last_error.is_some()
        })
        .await;
    assert!(
        !refused.connected && refused.amounts[0].is_none(),
        "{refused:?}"
    );
    sqlx::query("update bridge.credentials set is_live = true where user_id = $1")
        .bind(other)
        .execute(fleet.db.pool())
        .await
        .expect("the credentials can be corrected");
    fleet.until_live(other, 2001).await;

    // The figures of the last moment and the stop are written as one row, and it stays a live account's.
    fleet.sim.with(|broker| broker.deposit(2001, 777));
    fleet.stop(USER, Some(2001)).await;
    fleet
        .until_row("the row to be stopped", DEADLINE, USER, 2001, |row| {
            row.status == "stopped"
        })
        .await;
    let is_demo: Vec<bool> = sqlx::query_scalar(
        "select is_demo from public.ctrader_cache where account_id = 2001 order by user_key",
    )
    .fetch_all(fleet.db.pool())
    .await
    .expect("the cache can be read");
    assert_eq!(is_demo, [false, false]);
    worker.drain().await;
}

/// What a heartbeat leaves as it is.
fn content(row: &CacheRow) -> (&str, Option<&str>, &[Option<String>], &Value, &Value) {
    (
        &row.status,
        row.event_at.as_deref(),
        &row.amounts,
        &row.positions,
        &row.orders,
    )
}

/// Watches a connected row for a while: it is never too old, and `seq` never falls.
async fn watched(fleet: &Fleet, span: Duration) -> Vec<CacheRow> {
    let until = Instant::now() + span;
    let mut seen: Vec<CacheRow> = Vec::new();
    while Instant::now() < until {
        let row = fleet.row(USER, 1001).await.expect("it is there");
        assert!(row.connected && row.age <= AGE_MAX, "{row:?}");
        match seen.last() {
            Some(last) if last.seq == row.seq => assert_eq!(content(last), content(&row)),
            Some(last) => {
                assert!(
                    row.seq > last.seq && row.updated > last.updated,
                    "{last:?} {row:?}"
                );
                seen.push(row);
            }
            None => seen.push(row),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}

#[tokio::test]
async fn a_row_stays_fresh_and_a_heartbeat_changes_nothing_but_its_age() {
    let position = PositionSpec::new(11, "EURUSD", Side::Buy, 5_000_000, raw("1.08000"));
    let world = Simulator::builder()
        .seed(8)
        .ticks_per_second(4.0)
        .account(account(1001, "token-a").position(position));
    let mut fleet = Fleet::new(world).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;

    let moving = watched(&fleet, Duration::from_secs(11)).await;
    assert!(moving.len() >= 4, "{moving:?}");
    for pair in moving.windows(2) {
        assert!(pair[1].event_at >= pair[0].event_at, "{pair:?}");
    }
    let equities: std::collections::BTreeSet<_> =
        moving.iter().map(|row| &row.amounts[1]).collect();
    assert!(equities.len() > 1, "{moving:?}");

    fleet.sim.with(Broker::market_pause);
    // A round later nothing is on its way any more.
    let paused_at = fleet.clock().await;
    fleet
        .until_row("the round after", DEADLINE, USER, 1001, |row| {
            row.updated > paused_at + AGE_MAX
        })
        .await;
    let last = fleet.until_true(USER, 1001).await;
    let quiet = watched(&fleet, Duration::from_secs(11)).await;
    assert!(quiet.len() >= 4, "{quiet:?}");
    for row in &quiet {
        assert_eq!(content(row), content(&last));
    }
    worker.drain().await;
}

#[tokio::test]
async fn what_is_traded_while_a_row_is_live_is_in_it_and_every_deal_is_appended_once() {
    let position = PositionSpec::new(11, "EURUSD", Side::Buy, 5_000_000, raw("1.08000"));
    let world = Simulator::builder()
        .market_paused()
        .account(account(1001, "token-a").position(position));
    let mut fleet = Fleet::new(world).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    // Some of the events come twice, as they may.
    let opened = fleet.sim.with(|broker| {
        broker.duplicate_events(6);
        let opened = broker
            .open_market(1001, "GBPUSD", Side::Sell, 1_000_000)
            .expect("the market is open");
        for volume in [1_000_000, 2_000_000] {
            broker
                .close_position(1001, 11, Some(volume))
                .expect("it is open");
        }
        broker
            .close_position(1001, opened, None)
            .expect("it is open");
        broker
            .amend_levels(1001, 11, Some(raw("1.05000")), Some(raw("1.12000")))
            .expect("it is open");
        broker.deposit(1001, -5_000);
        broker.swap(1001, 11, -77);
        opened
    });
    let row = fleet.until_true(USER, 1001).await;
    let position = &row.positions[0];
    assert_eq!(position["positionId"], json!("11"));
    assert_eq!(position["volume"], json!(20_000));
    assert_eq!(position["stopLoss"].as_f64(), Some(1.05));
    assert_eq!(position["takeProfit"].as_f64(), Some(1.12));
    assert_eq!(position["swap"].as_f64(), Some(-0.77));

    let expected: Vec<(i64, i64, i64, Option<String>)> = fleet
        .sim
        .with(|broker| broker.deals(1001))
        .into_iter()
        .map(|deal| {
            let closing = deal.close_position_detail;
            let balance = closing.map(|closing| decimal(closing.balance, 2));
            (deal.deal_id, deal.order_id, deal.position_id, balance)
        })
        .collect();
    assert_eq!(expected.len(), 5, "with the one from before: {expected:?}");
    assert!(expected.iter().any(|deal| deal.2 == opened));
    eventually("every deal to be there", DEADLINE, async || {
        let deals: Vec<(i64, i64, i64, Option<String>)> = sqlx::query_as(
            "select deal_id, order_id, position_id, balance_after::text from public.ctrader_deals
             order by deal_id",
        )
        .fetch_all(fleet.db.pool())
        .await
        .expect("the deals can be read");
        (deals == expected).then_some(()).ok_or(deals)
    })
    .await;
    worker.drain().await;
}
