//! From authorisation to live: the row is the simulator's truth to the last digit, whatever the
//! account is kept in and however its money is written.

use std::time::Duration;

use mahspeccy_bridge::sim::presets::{ALPHA, BETA, WORKED_ACCOUNT, WORKED_TOKEN, worked_example};
use mahspeccy_bridge::sim::{AccountSpec, Builder, MarginType, PositionSpec, Side, Simulator, raw};

use crate::support::pair::Pair;

fn world(accounts: impl IntoIterator<Item = AccountSpec>) -> Builder {
    let empty = Simulator::builder().market_paused();
    accounts.into_iter().fold(empty, Builder::account)
}

/// An account with a long and a short position in symbols that need none to three conversions.
fn mixed(id: i64) -> AccountSpec {
    let position = PositionSpec::new;
    AccountSpec::new(id)
        .token("token")
        .position(position(501, "EURUSD", Side::Buy, 10_000_000, raw("1.08111")).swap(-7))
        .position(position(
            502,
            "EURUSD",
            Side::Sell,
            4_000_000,
            raw("1.09222"),
        ))
        .position(position(503, "USDJPY", Side::Sell, 3_000_000, raw("150.900")).swap(13))
        .position(position(504, "GBPTRY", Side::Buy, 2_000_000, raw("41.1")))
        .position(position(505, "DE40", Side::Sell, 500, raw("18001.5")))
        .position(position(506, "XAUUSD", Side::Buy, 700, raw("2301.37")))
        .position(position(507, "BTCUSD", Side::Sell, 13, raw("66011.11")))
}

/// Goes live, and follows a move of every price.
fn follow(account: AccountSpec, currency: &str) {
    let mut pair = Pair::new(world([account]));
    pair.go_live(1001, "token");
    pair.assert_truth(1001);
    pair.assert_naive(1001, ALPHA, currency);
    pair.hand(|broker| {
        broker.set_quote("EURUSD", raw("1.08617"), None);
        broker.set_quote("USDJPY", None, raw("150.111"));
        broker.set_quote("GBPUSD", raw("1.26001"), raw("1.26019"));
        broker.set_quote("GBPTRY", raw("41.33333"), raw("41.34"));
        broker.set_quote("DE40", None, raw("18090.4"));
    });
    pair.run_briefly();
    pair.assert_truth(1001);
    pair.assert_naive(1001, ALPHA, currency);
}

#[test]
fn money_of_no_digits_of_two_and_of_eight_is_exact() {
    for (digits, balance) in [(0, 10_000), (2, 1_000_000), (8, 1_000_000_000_000)] {
        follow(mixed(1001).money_digits(digits).balance(balance), "EUR");
    }
}

#[test]
fn money_without_digits_of_its_own_has_the_accounts_and_then_two() {
    follow(mixed(1001).money_digits_absent(), "EUR");
    follow(
        mixed(1001)
            .money_digits(8)
            .balance(1_000_000_000_000)
            .money_digits_on_trader_only(),
        "EUR",
    );
}

#[test]
fn positions_may_have_other_digits_than_their_account() {
    follow(mixed(1001).position_money_digits(8), "EUR");
    follow(
        mixed(1001)
            .money_digits(0)
            .balance(10_000)
            .position_money_digits(2),
        "EUR",
    );
}

#[test]
fn every_deposit_currency_converts() {
    for currency in ["EUR", "USD", "JPY"] {
        follow(mixed(1001).currency(currency), currency);
    }
    follow(mixed(1001).currency("JPY").money_digits(0), "JPY");
}

#[test]
fn margins_add_up_by_the_accounts_rule() {
    let rules = [MarginType::Max, MarginType::Sum, MarginType::Net];
    let used = rules.map(|rule| {
        let mut pair = Pair::new(world([mixed(1001).margin_type(rule)]));
        pair.go_live(1001, "token");
        pair.assert_truth(1001);
        pair.row(1001).expect("it is live").used_margin.units
    });
    assert!(used[1] > used[0] && used[0] > used[2], "{used:?}");
}

#[test]
fn a_netted_account_merges_reduces_and_flips() {
    let spec = AccountSpec::new(1001).token("token").netted();
    let mut pair = Pair::new(world([spec]));
    pair.go_live(1001, "token");
    let market = |pair: &mut Pair, side, volume, bid: &str, ask: &str| {
        pair.hand(|broker| broker.set_quote("EURUSD", raw(bid), raw(ask)));
        let order = |broker: &mut mahspeccy_bridge::sim::Broker| {
            broker
                .open_market(1001, "EURUSD", side, volume)
                .expect("there is money")
        };
        pair.step_by_hand(1001, order)
    };
    let first = market(&mut pair, Side::Buy, 1_000_000, "1.08500", "1.08512");
    let second = market(&mut pair, Side::Buy, 700_000, "1.08611", "1.08623");
    let third = market(&mut pair, Side::Buy, 300_000, "1.08333", "1.08347");
    assert_eq!((first, first), (second, third), "one position a symbol");
    market(&mut pair, Side::Sell, 500_000, "1.08640", "1.08650");
    market(&mut pair, Side::Sell, 4_000_000, "1.08701", "1.08713");
    let row = pair.row(1001).expect("it is live");
    assert_eq!(row.positions.len(), 1);
    assert_eq!(
        (row.positions[0].side, row.positions[0].volume.to_string()),
        ("SELL", "25000".to_owned())
    );
    assert_ne!(row.positions[0].position_id.0, first);
    assert_eq!(pair.deals(1001).len(), 6, "the flip is two");
}

#[test]
fn a_bonus_counts_no_further_than_the_cash() {
    for (manager, introducing, balance) in [
        (50_000, 0, 1_000_000),
        (30_000, 20_000, 8_000),
        (1_000, 0, -5_000),
    ] {
        let spec = mixed(1001).balance(balance).bonus(manager, introducing);
        let mut pair = Pair::new(world([spec]));
        pair.go_live(1001, "token");
        pair.assert_truth(1001);
        pair.step_by_hand(1001, |broker| broker.bonus(1001, 12_345));
        pair.step_by_hand(1001, |broker| broker.bonus(1001, -10_000));
    }
}

#[test]
fn two_brokers_on_one_connection_share_nothing() {
    // Symbol 1 is EURUSD at Alpha and USDJPY at Beta; asset 10 is USD at Beta alone.
    let position = PositionSpec::new;
    let at_beta = AccountSpec::new(2002)
        .token("token")
        .broker(BETA)
        .position(position(
            501,
            "USDJPY",
            Side::Buy,
            5_000_000,
            raw("150.800"),
        ))
        .position(position(502, "EURJPY", Side::Sell, 1_000_000, raw("163.9")))
        .position(position(503, "EURUSD", Side::Buy, 1_000_000, raw("1.08")));
    let mut pair = Pair::new(world([mixed(1001), at_beta]));
    pair.open(1001, "token");
    pair.open(2002, "token");
    pair.wait_live(1001);
    pair.wait_live(2002);
    for quote in [
        ("EURUSD", "1.07900", "1.07912"),
        ("USDJPY", "149.001", "149.013"),
    ] {
        pair.hand(|broker| broker.set_quote_at(ALPHA, quote.0, raw(quote.1), raw(quote.2)));
        pair.run_briefly();
        pair.assert_truth(1001);
        pair.assert_truth(2002);
    }
    pair.hand(|broker| broker.set_quote_at(BETA, "EURJPY", raw("160.100"), None));
    pair.run_briefly();
    pair.assert_truth(1001);
    pair.assert_truth(2002);
    pair.assert_naive(2002, BETA, "EUR");
    pair.step_by_hand(2002, |broker| broker.close_position(2002, 501, None))
        .expect("open");
    pair.assert_truth(1001);
    assert!(
        pair.deals(1001).is_empty(),
        "a position of another broker has the same id"
    );
    for kind in [2112, 2114] {
        assert_eq!(pair.sent_of(kind), 2, "{kind} once a broker");
    }
}

#[test]
fn the_worked_example_comes_out_to_the_cent() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(WORKED_ACCOUNT, WORKED_TOKEN);
    let state = |pair: &mut Pair| {
        pair.run_briefly();
        pair.assert_truth(WORKED_ACCOUNT);
        pair.assert_naive(WORKED_ACCOUNT, ALPHA, "EUR");
        let row = pair.row(WORKED_ACCOUNT).expect("it is live");
        let part = |money: Option<mahspeccy_bridge::domain::decimal::Decimal>| {
            money.expect("known").to_string()
        };
        [
            row.balance.to_string(),
            part(row.unrealized_gross),
            part(row.unrealized_net),
            part(row.equity),
            row.used_margin.to_string(),
            part(row.free_margin),
            part(row.margin_level),
        ]
    };
    assert_eq!(
        state(&mut pair),
        [
            "10000.00", "176.92", "171.50", "10171.50", "1127.50", "9044.00", "902.1286"
        ]
    );
    pair.hand(mahspeccy_bridge::sim::Broker::worked_t1a);
    assert_eq!(
        state(&mut pair),
        [
            "10000.00", "177.08", "171.66", "10171.66", "1127.50", "9044.16", "902.1428"
        ]
    );
    pair.hand(mahspeccy_bridge::sim::Broker::worked_t1b);
    let now = state(&mut pair);
    assert_eq!(
        (now[3].as_str(), now[5].as_str(), now[6].as_str()),
        ("10168.89", "9041.39", "901.8971")
    );
    pair.hand(mahspeccy_bridge::sim::Broker::worked_t2);
    assert_eq!(
        state(&mut pair),
        [
            "10052.58",
            "123.93",
            "118.63",
            "10171.21",
            "1010.55",
            "9160.66",
            "1006.5024"
        ]
    );
    pair.hand(mahspeccy_bridge::sim::Broker::worked_t3);
    let now = state(&mut pair);
    assert_eq!(
        (now[3].as_str(), now[5].as_str(), now[6].as_str()),
        ("10671.21", "9660.66", "1055.9804")
    );
    pair.assert_deals(WORKED_ACCOUNT);
    assert_eq!(
        pair.deals(WORKED_ACCOUNT)[0].symbol.as_deref(),
        Some("GBPUSD")
    );
}

#[test]
fn a_row_is_taken_once_for_each_change() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(WORKED_ACCOUNT, WORKED_TOKEN);
    pair.take_row(WORKED_ACCOUNT, true).expect("it is live");
    assert_eq!(pair.take_row(WORKED_ACCOUNT, false), None);
    pair.run(Duration::from_mins(1));
    assert_eq!(
        pair.take_row(WORKED_ACCOUNT, false),
        None,
        "nothing happened"
    );
    pair.hand(|broker| broker.set_quote("DE40", raw("18000.0"), raw("18001.0")));
    pair.run_briefly();
    assert_eq!(
        pair.take_row(WORKED_ACCOUNT, false),
        None,
        "nothing of it happened"
    );
    pair.hand(mahspeccy_bridge::sim::Broker::worked_t1a);
    pair.run_briefly();
    let row = pair
        .take_row(WORKED_ACCOUNT, false)
        .expect("the price moved");
    assert!(row.event_at.unix_timestamp() >= 1_750_000_060);
    assert_eq!(pair.take_row(WORKED_ACCOUNT, false), None);
}
