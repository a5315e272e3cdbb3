//! Whatever is cut, killed or lost on the way: the stored deals are the ledger's, each once.

use std::collections::BTreeMap;
use std::time::Duration;

use mahspeccy_bridge::domain::ids::UserId;
use mahspeccy_bridge::sim::presets::ALPHA;
use mahspeccy_bridge::sim::{AccountSpec, Broker, PositionSpec, Side, Simulator, raw};
use sqlx::Row;

use super::support::cable::Cable;
use super::support::fleet::{DEADLINE, Fleet, Worker, decimal};
use super::support::pair::{Chance, seed_or};
use super::support::wait::eventually;

/// User, account, digits of its money.
const ACCOUNTS: [(&str, i64, u32); 3] = [
    ("lance@example.org", 1001, 2),
    ("other@example.org", 1002, 0),
    ("third@example.org", 1003, 8),
];

fn world() -> mahspeccy_bridge::sim::Builder {
    let position = |id| PositionSpec::new(id, "EURUSD", Side::Buy, 5_000_000, raw("1.08000"));
    let account = |id: i64, digits: u32| {
        AccountSpec::new(id)
            .token("token")
            .broker(ALPHA)
            .money_digits(digits)
            .balance(10_i64.pow(digits) * 100_000)
            .position(position(id * 10))
    };
    Simulator::builder()
        .market_paused()
        .account(account(1001, 2))
        .account(account(1002, 0).netted())
        .account(account(1003, 8).money_digits_on_trader_only())
}

/// Something that makes a deal or moves cash, or that cannot be done now.
fn trade(broker: &mut Broker, account: i64, digits: u32, chance: &mut Chance) {
    let open: Vec<i64> = broker
        .truth(account)
        .expect("it exists")
        .positions
        .iter()
        .map(|position| position.id)
        .collect();
    let position = if open.is_empty() {
        0
    } else {
        chance.pick(&open)
    };
    let symbol = chance.pick(&["EURUSD", "GBPUSD", "USDJPY"]);
    let side = chance.pick(&[Side::Buy, Side::Sell]);
    match chance.below(8) {
        0..=2 => drop(broker.open_market(account, symbol, side, 100_000)),
        3 => drop(broker.close_position(account, position, None)),
        4 => drop(broker.close_position(account, position, Some(100_000))),
        5 => broker.deposit(account, 10_i64.pow(digits) * 7),
        6 => broker.swap(account, position, -3),
        _ => {
            let (bid, ask) = broker.quote(ALPHA, "EURUSD").expect("it is quoted");
            broker.set_quote("EURUSD", bid.map(|bid| bid + 3), ask.map(|ask| ask + 3));
        }
    }
}

/// What is stored of an account: each deal's figures, by id.
async fn stored(fleet: &Fleet, user: &str, account: i64) -> BTreeMap<i64, String> {
    let rows = sqlx::query(
        "select deal_id, concat_ws(' ', order_id, position_id, symbol_id, side, status, filled_volume::text,
            extract(epoch from executed_at) * 1000, trim_scale(commission)::text, trim_scale(gross_profit)::text,
            trim_scale(swap)::text, trim_scale(balance_after)::text) as figures, symbol
         from public.ctrader_deals where user_key = $1 and account_id = $2",
    )
    .bind(UserId::new(user).expect("valid").key())
    .bind(account)
    .fetch_all(fleet.db.pool())
    .await
    .expect("deals");
    rows.iter()
        .map(|row| {
            let symbol: Option<String> = row.get("symbol");
            // One that was stored when the connection ended is named by the next history request.
            let figures = symbol.map_or_else(|| "nameless".to_owned(), |_| row.get("figures"));
            (row.get("deal_id"), figures)
        })
        .collect()
}

/// The same of the simulator's ledger.
fn ledger(fleet: &Fleet, account: i64, digits: u32) -> BTreeMap<i64, String> {
    let trimmed = |units: i64, own: Option<u32>| {
        let text = decimal(units, own.unwrap_or(digits));
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    };
    let deals = fleet.sim.with(|broker| broker.deals(account));
    deals
        .into_iter()
        .map(|deal| {
            let side = if deal.trade_side == 1 { "BUY" } else { "SELL" };
            let mut figures = vec![
                deal.order_id.to_string(),
                deal.position_id.to_string(),
                deal.symbol_id.to_string(),
                side.to_owned(),
                "FILLED".to_owned(),
                decimal(deal.filled_volume, 2),
                format!("{}.000000", deal.execution_timestamp),
            ];
            figures.extend(
                deal.commission
                    .map(|units| trimmed(units, deal.money_digits)),
            );
            if let Some(close) = deal.close_position_detail {
                for units in [close.gross_profit, close.swap, close.balance] {
                    figures.push(trimmed(units, close.money_digits));
                }
            }
            (deal.deal_id, figures.join(" "))
        })
        .collect()
}

/// Last balance + deals + cash = the balance now, by versions without a gap.
fn assert_balance(fleet: &Fleet, account: i64) {
    let (truth, deals, cash) = fleet.sim.with(|broker| {
        (
            broker.truth(account).expect("it exists"),
            broker.deals(account),
            broker.cash_flow(account),
        )
    });
    let mut changes: Vec<(i64, i64, i64)> = deals
        .iter()
        .filter_map(|deal| deal.close_position_detail.as_ref())
        .map(|close| {
            let net = close.gross_profit + close.swap + close.commission;
            let net = net + close.pnl_conversion_fee.unwrap_or(0);
            (
                close.balance_version.expect("a version"),
                net,
                close.balance,
            )
        })
        .chain(cash.iter().map(|flow| {
            (
                flow.balance_version.expect("a version"),
                flow.delta,
                flow.balance,
            )
        }))
        .collect();
    changes.sort_unstable();
    for (earlier, later) in changes.iter().zip(changes.iter().skip(1)) {
        assert_eq!(later.0, earlier.0 + 1, "every version");
        assert_eq!(later.2, earlier.2 + later.1, "each follows from the last");
    }
    if let Some((_, _, balance)) = changes.last() {
        assert_eq!(*balance, truth.balance);
    }
}

async fn until_the_ledger_is_stored(fleet: &Fleet) {
    for (user, account, digits) in ACCOUNTS {
        fleet.until_live(user, account).await;
        fleet.until_true(user, account).await;
        eventually("every deal to be stored", DEADLINE, async || {
            let (is, should) = (
                stored(fleet, user, account).await,
                ledger(fleet, account, digits),
            );
            if is == should {
                return Ok(());
            }
            let missing: Vec<_> = should
                .iter()
                .filter(|(id, figures)| is.get(id) != Some(figures))
                .map(|(id, figures)| format!("{id}: {figures}, stored {:?}", is.get(id)))
                .collect();
            Err(format!("{account}: {missing:?}"))
        })
        .await;
        assert_balance(fleet, account);
    }
}

async fn begin(fleet: &mut Fleet, cable: &Cable) -> Worker {
    let url = cable.ws_url();
    fleet
        .worker_with(&[
            ("CTRADER_DEMO_URL", url.as_str()),
            ("RECONNECT_MAX_ATTEMPTS", "1000"),
        ])
        .await
}

#[tokio::test]
async fn after_any_mix_of_cuts_and_restarts_the_stored_deals_are_the_ledger() {
    let seed = seed_or(20_261_125);
    eprintln!("replay with SIM_SEED={seed}");
    let mut chance = Chance::new(seed);
    let mut fleet = Fleet::new(world()).await;
    let cable = Cable::to(fleet.sim.demo_addr(), seed).await;
    let mut worker = begin(&mut fleet, &cable).await;
    for (user, account, _) in ACCOUNTS {
        fleet.grant(user, account, ("token", "refresh-token")).await;
        fleet.start(user, Some(account)).await;
    }
    until_the_ledger_is_stored(&fleet).await;
    for round in 0..4 {
        // Each connection is cut within its first few kilobytes: in handshakes, snapshots and events.
        cable.limit_bytes(chance.pick(&[3_000, 12_000, 40_000]));
        let cuts = cable.cuts();
        eventually("some cuts, with trades all along", DEADLINE, async || {
            // Now and then: what history is asked for after this comes at four requests a second.
            if chance.per_mille(200) {
                let (_, account, digits) = chance.pick(&ACCOUNTS);
                fleet
                    .sim
                    .with(|broker| trade(broker, account, digits, &mut chance));
            }
            cable.cuts() >= cuts + 4
        })
        .await;
        if round % 2 == 1 {
            // Killed in the middle of whatever it does.
            worker.signal("KILL").await;
            worker.ended(DEADLINE).await;
            for (_, account, digits) in ACCOUNTS {
                for _ in 0..5 {
                    fleet
                        .sim
                        .with(|broker| trade(broker, account, digits, &mut chance));
                }
            }
            worker = begin(&mut fleet, &cable).await;
        }
        cable.repair();
        until_the_ledger_is_stored(&fleet).await;
    }
    worker.drain().await;
}

#[tokio::test]
async fn deals_made_while_the_worker_is_away_come_from_history_even_if_it_lags() {
    let mut fleet = Fleet::new(world()).await;
    let worker = fleet.worker().await;
    for (user, account, _) in ACCOUNTS {
        fleet.grant(user, account, ("token", "refresh-token")).await;
        fleet.start(user, Some(account)).await;
    }
    until_the_ledger_is_stored(&fleet).await;
    let marked = async |fleet: &Fleet| -> i64 {
        sqlx::query_scalar("select count(*) from bridge.history")
            .fetch_one(fleet.db.pool())
            .await
            .expect("marks")
    };
    eventually("the histories to be marked", DEADLINE, async || {
        marked(&fleet).await == 3
    })
    .await;
    worker.drain().await;
    fleet.sim.with(|broker| {
        broker.settings_mut().history_chunk = 3;
        broker.history_lag(Duration::from_secs(2));
    });
    let mut chance = Chance::new(7);
    for (_, account, digits) in ACCOUNTS {
        for _ in 0..30 {
            fleet
                .sim
                .with(|broker| trade(broker, account, digits, &mut chance));
            // Not all in one millisecond, which no paging tells apart.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let worker = fleet.worker().await;
    until_the_ledger_is_stored(&fleet).await;
    let (_, metrics) = worker.get("/metrics").await;
    let found = metrics
        .lines()
        .find_map(|line| line.strip_prefix("bridge_deals_total{source=\"gap\"} "))
        .and_then(|count| count.parse::<u64>().ok());
    assert!(found.is_some_and(|found| found > 10), "{metrics}");
    let log = worker.drain().await;
    assert!(!log.contains("explain all that changed"), "{log}");
}
