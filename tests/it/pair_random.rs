//! Whatever happens, in whatever order: after it has come in, the row is the truth.
//!
//! `SIM_SEEDS=2000` plays more games than the usual run, `SIM_SEED=n` one of them again.

use std::time::Duration;

use mahspeccy_bridge::sim::presets::ALPHA;
use mahspeccy_bridge::sim::{
    AccountSpec, Broker, OrderAmendment, OrderSpec, PositionSpec, Side, Simulator, raw,
};

use crate::support::pair::{Chance, Pair, Weather, seeds};

const ACCOUNT: i64 = 1001;
const NEIGHBOUR: i64 = 1002;
const SYMBOLS: [&str; 8] = [
    "EURUSD", "GBPUSD", "USDJPY", "USDCHF", "GBPTRY", "XAUUSD", "DE40", "BTCUSD",
];
const CURRENCIES: [&str; 4] = ["EUR", "USD", "JPY", "GBP"];

/// An account as the seed has it.
fn account(id: i64, chance: &mut Chance) -> (AccountSpec, &'static str) {
    let currency = chance.pick(&CURRENCIES);
    let digits = chance.pick(&[0_u32, 2, 2, 8]);
    let balance = 10_i64.pow(digits) * 100_000;
    let mut spec = AccountSpec::new(id)
        .token("token")
        .broker(ALPHA)
        .currency(currency)
        .money_digits(digits)
        .balance(balance)
        .position(PositionSpec::new(
            501,
            "EURUSD",
            Side::Buy,
            1_000_000,
            raw("1.08"),
        ));
    if chance.per_mille(300) {
        spec = spec.netted();
    }
    spec = match chance.below(3) {
        0 => spec.position_money_digits(8),
        1 => spec.money_digits_on_trader_only(),
        _ => spec,
    };
    spec = spec.bonus(chance.pick(&[0, 0, balance / 50]), 0);
    (spec, currency)
}

/// The smallest step of a symbol's price, raw.
fn tick(symbol: &str) -> i64 {
    match symbol {
        "USDJPY" => 100,
        "XAUUSD" | "BTCUSD" => 1_000,
        "DE40" => 10_000,
        _ => 1,
    }
}

fn on_tick(symbol: &str, price: i64) -> i64 {
    price / tick(symbol) * tick(symbol)
}

/// Something that traders, the broker or the market do. What the simulator refuses does not happen.
fn anything(broker: &mut Broker, account: i64, chance: &mut Chance) {
    let truth = broker.truth(account).expect("it exists");
    let positions: Vec<i64> = truth.positions.iter().map(|position| position.id).collect();
    let position = if positions.is_empty() {
        0
    } else {
        chance.pick(&positions)
    };
    let pending = if truth.pending.is_empty() {
        0
    } else {
        chance.pick(&truth.pending)
    };
    let symbol = chance.pick(&SYMBOLS);
    let side = chance.pick(&[Side::Buy, Side::Sell]);
    let (bid, ask) = broker.quote(ALPHA, symbol).expect("it is quoted");
    let (bid, ask) = (bid.expect("a bid"), ask.expect("an ask"));
    let moved = on_tick(symbol, bid / 1_000) + tick(symbol);
    let step = i64::try_from(chance.below(9)).expect("few") - 4;
    let volume = 100_000 * (1 + i64::try_from(chance.below(5)).expect("few"));
    let volume = match symbol {
        "XAUUSD" => volume / 1_000,
        "DE40" | "BTCUSD" => volume / 10_000,
        _ => volume,
    };
    let cents = 10_i64.pow(truth.money_digits);
    let level = |times: i64| {
        let held = truth.positions.iter().find(|held| held.id == position)?;
        let (bid, _) = broker.quote(ALPHA, &held.symbol)?;
        Some(on_tick(&held.symbol, bid? * times / 2))
    };
    let levels = (level(1), level(4));
    match chance.below(19) {
        0 | 1 => broker.set_quote(symbol, bid + step * moved, None),
        2 | 3 => broker.set_quote(symbol, None, (ask + step * moved).max(1)),
        4 => broker.set_quote(symbol, bid - moved, ask - moved),
        5 | 6 => drop(broker.open_market(account, symbol, side, volume)),
        7 => {
            let order =
                OrderSpec::market(symbol, side, volume).relative(Some(moved), Some(moved * 2));
            drop(broker.place_order(account, &order));
        }
        8 => drop(broker.place_order(
            account,
            &OrderSpec::limit(symbol, side, volume, bid - 3 * moved),
        )),
        9 => drop(broker.place_order(
            account,
            &OrderSpec::stop(symbol, side, volume, bid + 3 * moved),
        )),
        10 => drop(broker.amend_order(
            account,
            pending,
            OrderAmendment {
                volume: Some(volume),
                ..OrderAmendment::default()
            },
        )),
        11 => drop(broker.cancel_order(account, pending)),
        12 => drop(broker.close_position(account, position, None)),
        13 => drop(broker.close_position(account, position, Some(volume))),
        14 => drop(broker.amend_levels(account, position, levels.0, levels.1)),
        15 => broker.swap(account, position, step * 3),
        16 => broker.deposit(account, step * cents),
        17 => broker.bonus(account, (step + 5) * cents),
        _ => broker.rollover(account),
    }
}

fn play(seed: u64) {
    let mut chance = Chance::new(seed);
    let (spec, currency) = account(ACCOUNT, &mut chance);
    let (neighbour, other) = account(NEIGHBOUR, &mut chance);
    let world = Simulator::builder()
        .market_paused()
        .ticks_per_second(2.0)
        .account(spec)
        .account(neighbour);
    let mut pair = Pair::seeded(seed, world);
    pair.hand(|broker| broker.settings_mut().trader_updates = seed.is_multiple_of(2));
    for _ in 0..4 {
        pair.open(ACCOUNT, "token");
        pair.open(NEIGHBOUR, "token");
        for _ in 0..25 {
            pair.run(Duration::from_millis(chance.below(60)));
            let account = chance.pick(&[ACCOUNT, ACCOUNT, NEIGHBOUR]);
            pair.hand(|broker| anything(broker, account, &mut chance));
            if chance.per_mille(30) {
                pair.hand(Broker::market_resume);
                pair.run(Duration::from_secs(chance.below(3)));
                pair.hand(Broker::market_pause);
            }
            if chance.per_mille(30) {
                pair.hand(|broker| broker.drop_account(account));
                pair.settle();
                pair.open(account, "token");
            }
            if chance.per_mille(15) {
                pair.reconnect();
                pair.open(ACCOUNT, "token");
                pair.open(NEIGHBOUR, "token");
            }
        }
        for (account, currency) in [(ACCOUNT, currency), (NEIGHBOUR, other)] {
            pair.wait_live(account);
            pair.assert_truth(account);
            pair.assert_naive(account, ALPHA, currency);
            let deals: Vec<i64> = pair
                .deals(account)
                .iter()
                .map(|deal| deal.deal_id.0)
                .collect();
            assert!(
                deals.is_sorted_by(|a, b| a < b),
                "each once and in order: {deals:?}"
            );
        }
        assert!(pair.failure().is_none());
        pair.reconnect();
    }
}

#[test]
fn after_anything_the_row_is_the_truth() {
    seeds(100).for_each(play);
}

/// Frames lost, doubled and overtaken, as no TCP does it: nothing panics or spins, and one snapshot
/// over a good link is the truth again.
fn storm(seed: u64) {
    let mut chance = Chance::new(seed);
    let (spec, _) = account(ACCOUNT, &mut chance);
    let world = Simulator::builder()
        .market_paused()
        .ticks_per_second(2.0)
        .account(spec);
    let mut pair = Pair::seeded(seed, world);
    pair.link.weather = Weather {
        lost: 30,
        doubled: 50,
        overtaken: 100,
        ..Weather::GOOD
    };
    for _ in 0..80 {
        pair.run(Duration::from_millis(chance.below(500)));
        pair.hand(|broker| anything(broker, ACCOUNT, &mut chance));
        if !pair.connected {
            pair.reconnect();
        }
        pair.open(ACCOUNT, "token");
    }
    pair.link.weather = Weather::GOOD;
    pair.reconnect();
    pair.go_live(ACCOUNT, "token");
    pair.assert_truth(ACCOUNT);
}

#[test]
fn a_storm_on_the_link_breaks_nothing_for_good() {
    seeds(30).for_each(storm);
}
