//! The main job: a command on RabbitMQ becomes a live row in Postgres, and ceases to be one.

use std::time::{Duration, Instant};

use mahspeccy_bridge::sim::presets::{WORKED_ACCOUNT, WORKED_TOKEN, worked_example};
use mahspeccy_bridge::sim::{AccountSpec, OrderSpec, PositionSpec, Side, Simulator, raw};
use serde_json::{Value, json};

use super::support::fleet::{DEADLINE, Fleet};
use super::support::wait::eventually;

const USER: &str = "lance@example.org";

/// The contract's, of a position.
const POSITION_FIELDS: &str = "positionId symbol symbolId side volume lots entryPrice currentPrice stopLoss \
    takeProfit swap commission grossProfit netProfit usedMargin openedAt label comment";

/// The contract's, of an order.
const ORDER_FIELDS: &str = "orderId positionId symbol symbolId side type volume lots limitPrice stopPrice stopLoss \
    takeProfit expiresAt createdAt label comment";

fn sorted_words(text: &str) -> Vec<&str> {
    let mut sorted_words: Vec<&str> = text.split(' ').collect();
    sorted_words.sort_unstable();
    sorted_words
}

fn fields(json: &Value) -> Vec<&str> {
    let object = json.as_object().expect("an object");
    let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn amounts(texts: [&str; 8]) -> [Option<String>; 8] {
    texts.map(|text| Some(text.to_owned()))
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "five steps of one example")]
async fn the_worked_example_holds_to_the_cent_from_the_wire_to_the_table() {
    let mut fleet = Fleet::new(worked_example()).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, WORKED_ACCOUNT, WORKED_TOKEN).await;
    fleet.start(USER, Some(WORKED_ACCOUNT)).await;
    let step = async |what: &str, expected: [&str; 8]| {
        let expected = amounts(expected);
        fleet
            .until_row(what, DEADLINE, USER, WORKED_ACCOUNT, |row| {
                row.connected && row.amounts == expected
            })
            .await
    };
    // balance, equity, gross, net, used, free, level, bonus
    let row = step(
        "T0",
        [
            "10000.00", "10171.50", "176.92", "171.50", "1127.50", "9044.00", "902.1286", "0.00",
        ],
    )
    .await;
    let profits: Vec<_> = row
        .positions
        .as_array()
        .expect("an array")
        .iter()
        .map(|p| {
            (
                p["positionId"].clone(),
                p["grossProfit"].clone(),
                p["netProfit"].clone(),
                p["usedMargin"].clone(),
            )
        })
        .collect();
    assert_eq!(
        profits,
        [
            (json!("701"), json!(137.11), json!(134.38), json!(460.41)),
            (json!("702"), json!(105.99), json!(105.75), json!(233.89)),
            (json!("703"), json!(-66.18), json!(-68.63), json!(433.20)),
        ]
    );
    fleet.sim.with(mahspeccy_bridge::sim::Broker::worked_t1a);
    step(
        "T1a",
        [
            "10000.00", "10171.66", "177.08", "171.66", "1127.50", "9044.16", "902.1428", "0.00",
        ],
    )
    .await;
    fleet.sim.with(mahspeccy_bridge::sim::Broker::worked_t1b);
    step(
        "T1b",
        [
            "10000.00", "10168.89", "174.31", "168.89", "1127.50", "9041.39", "901.8971", "0.00",
        ],
    )
    .await;
    fleet.sim.with(mahspeccy_bridge::sim::Broker::worked_t2);
    step(
        "T2",
        [
            "10052.58",
            "10171.21",
            "123.93",
            "118.63",
            "1010.55",
            "9160.66",
            "1006.5024",
            "0.00",
        ],
    )
    .await;
    fleet.sim.with(mahspeccy_bridge::sim::Broker::worked_t3);
    step(
        "T3",
        [
            "10552.58",
            "10671.21",
            "123.93",
            "118.63",
            "1010.55",
            "9660.66",
            "1055.9804",
            "0.00",
        ],
    )
    .await;

    let deal: (String, String, String, String, String, String, String) = sqlx::query_as(
        "select side, status, closed_volume::text, gross_profit::text, swap::text, entry_price::text, balance_after::text
         from public.ctrader_deals where position_id = 702 and closed_volume is not null",
    )
    .fetch_one(fleet.db.pool())
    .await
    .expect("the deal of T2");
    let deal = [deal.0, deal.1, deal.2, deal.3, deal.4, deal.5, deal.6];
    assert_eq!(
        deal,
        [
            "BUY", "FILLED", "10000.00", "53.00", "0.18", "1.27000", "10052.58"
        ]
    );
    worker.drain().await;
}

#[tokio::test]
async fn a_start_makes_the_row_live_with_every_column_true() {
    let account = AccountSpec::new(1001)
        .token("token-a")
        .login(9001)
        .balance(1_234_567)
        .position(
            PositionSpec::new(11, "EURUSD", Side::Buy, 5_000_000, raw("1.08000"))
                .levels(Some(raw("1.05000")), Some(raw("1.12000"))),
        );
    let mut fleet = Fleet::new(Simulator::builder().seed(3).account(account)).await;
    fleet.sim.with(|broker| {
        broker
            .place_order(
                1001,
                &OrderSpec::limit("GBPUSD", Side::Sell, 2_000_000, raw("1.40000")),
            )
            .expect("the order is taken");
    });
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    // A string of digits is an account id too.
    fleet.command("start", USER, json!("1001")).await;
    fleet.until_live(USER, 1001).await;
    assert_eq!(
        fleet.session(USER, 1001).await,
        Some(("running".to_owned(), "live".to_owned()))
    );
    fleet.sim.with(mahspeccy_bridge::sim::Broker::market_pause);
    let row = fleet.until_true(USER, 1001).await;

    let position = &row.positions[0];
    assert_eq!(fields(position), sorted_words(POSITION_FIELDS));
    assert_eq!(position["positionId"], json!("11"));
    assert_eq!(position["symbol"], json!("EURUSD"));
    assert_eq!(position["side"], json!("BUY"));
    assert_eq!(position["volume"], json!(50000));
    assert_eq!(position["lots"].as_f64(), Some(0.5));
    assert_eq!(position["entryPrice"].as_f64(), Some(1.08));
    assert_eq!(position["stopLoss"].as_f64(), Some(1.05));

    let order = &row.orders[0];
    assert_eq!(fields(order), sorted_words(ORDER_FIELDS));
    assert_eq!(
        (&order["type"], &order["side"]),
        (&json!("LIMIT"), &json!("SELL"))
    );
    assert_eq!(order["limitPrice"].as_f64(), Some(1.4));

    let columns: (i64, bool, String, i32, i32) = sqlx::query_as(
        "select trader_login, is_demo, currency, position_count, order_count from public.ctrader_cache",
    )
    .fetch_one(fleet.db.pool())
    .await
    .expect("one row");
    assert_eq!(columns, (9001, true, "EUR".to_owned(), 1, 1));
    worker.drain().await;
}

#[tokio::test]
async fn a_connected_row_is_never_older_than_two_and_a_half_seconds() {
    let account = AccountSpec::new(1001)
        .token("token-a")
        .balance(1_000_000)
        .position(PositionSpec::new(
            11,
            "EURUSD",
            Side::Buy,
            5_000_000,
            raw("1.08000"),
        ));
    let mut fleet = Fleet::new(
        Simulator::builder()
            .seed(4)
            .ticks_per_second(5.0)
            .account(account),
    )
    .await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    let oldest_over = async |span: Duration| {
        let (mut oldest, until) = (0.0_f64, Instant::now() + span);
        while Instant::now() < until {
            let row = fleet.row(USER, 1001).await.expect("it is there");
            assert!(row.connected, "{row:?}");
            oldest = oldest.max(row.age);
        }
        oldest
    };
    let moving = oldest_over(Duration::from_secs(8)).await;
    assert!(moving <= 2.5, "{moving}");

    fleet.sim.with(mahspeccy_bridge::sim::Broker::market_pause);
    let before = fleet.until_true(USER, 1001).await;
    let quiet = oldest_over(Duration::from_secs(8)).await;
    assert!(quiet <= 2.5, "{quiet}");
    let after = fleet.row(USER, 1001).await.expect("it is there");
    assert_eq!(before.amounts, after.amounts);
    assert!(after.seq > before.seq);
    worker.drain().await;
}

#[tokio::test]
async fn a_stop_ends_the_stream_within_two_seconds_and_the_row_says_so() {
    let account = AccountSpec::new(1001).token("token-a").balance(1_000_000);
    let mut fleet = Fleet::new(Simulator::builder().account(account)).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    let live = fleet.until_live(USER, 1001).await;
    fleet.stop(USER, None).await;
    let within = Duration::from_secs(2);
    let stopped = fleet
        .until_row("the row to be stopped", within, USER, 1001, |row| {
            row.status == "stopped" && !row.connected
        })
        .await;
    assert_eq!(stopped.amounts, live.amounts, "the figures stay");
    eventually("the account to be logged out", within, async || {
        fleet
            .sim
            .with(|broker| broker.authorised_on(1001))
            .is_empty()
    })
    .await;
    assert_eq!(
        fleet.session(USER, 1001).await,
        Some(("stopped".to_owned(), "stopped".to_owned()))
    );

    // Whoever else writes into the table, the session stays what it is.
    sqlx::query("update bridge.sessions set status = 'failed'")
        .execute(fleet.db.pool())
        .await
        .expect("the table can be written");
    eventually("it to be reported again", DEADLINE, async || {
        fleet.session(USER, 1001).await == Some(("stopped".to_owned(), "stopped".to_owned()))
    })
    .await;

    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_drained_worker_leaves_nothing_that_looks_live_and_the_next_one_takes_over() {
    let account = AccountSpec::new(1001).token("token-a").balance(1_000_000);
    let mut fleet = Fleet::new(Simulator::builder().account(account)).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    let first = fleet.until_live(USER, 1001).await;
    fleet.sim.with(|broker| broker.deposit(1001, 777));
    eventually("the deposit to have been sent", DEADLINE, async || {
        fleet
            .sim
            .with(|broker| broker.truth(1001))
            .is_some_and(|truth| truth.balance == 1_000_777)
    })
    .await;
    worker.drain().await;
    let row = fleet.row(USER, 1001).await.expect("it is there");
    assert_eq!((row.connected, row.status.as_str()), (false, "pending"));
    assert_eq!(
        row.amounts[0].as_deref(),
        Some("10007.77"),
        "the last figures were written"
    );
    assert!(fleet.sim.with(|broker| broker.connections()).is_empty());
    let locks: i64 = sqlx::query_scalar(
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database
         where l.locktype = 'advisory' and d.datname = current_database()",
    )
    .fetch_one(fleet.db.pool())
    .await
    .expect("the locks can be read");
    assert_eq!(locks, 0);

    let next = fleet.worker().await;
    let second = fleet.until_live(USER, 1001).await;
    assert_eq!(second.epoch, first.epoch + 1);
    next.drain().await;
}
