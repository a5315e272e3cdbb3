//! The worked example, to the cent, and the corners of the arithmetic.

use std::sync::Arc;

use super::*;
use crate::domain::account::{AccountEvent, Balance, Bonus, Execution, Trader};
use crate::domain::ids::{AssetId, PositionId};
use crate::domain::market::{Chain, Quote, Symbol};
use crate::domain::position::PositionStatus;

const EUR: AssetId = AssetId(1);
const USD: AssetId = AssetId(2);
const JPY: AssetId = AssetId(3);
const GBP: AssetId = AssetId(4);
const XAU: AssetId = AssetId(5);
const EURUSD: SymbolId = SymbolId(1);
const GBPUSD: SymbolId = SymbolId(2);
const USDJPY: SymbolId = SymbolId(4);
const XAUUSD: SymbolId = SymbolId(41);

fn cents(units: i128) -> Decimal {
    Decimal::new(units, 2)
}

fn trader(balance: i128) -> Trader {
    Trader {
        money_digits: 2,
        balance: cents(balance),
        balance_version: Some(40),
        bonus: Bonus {
            manager: cents(0),
            introducing: cents(0),
        },
        deposit_asset: EUR,
        margin_rule: MarginRule::Max,
        login: Some(17),
        broker: None,
    }
}

fn position(
    id: i64,
    symbol: SymbolId,
    side: Side,
    volume: i64,
    entry: f64,
    money: [i128; 3],
) -> Position {
    let [swap, commission, used_margin] = money;
    Position {
        id: PositionId(id),
        symbol,
        side,
        volume,
        entry: Decimal::from_wire_double(entry, WIRE_PRICE_SCALE),
        stop_loss: None,
        take_profit: None,
        swap: cents(swap),
        commission: cents(commission),
        used_margin: cents(used_margin),
        opened_at_ms: None,
        label: None,
        comment: None,
        updated_at_ms: Some(1),
        trailed_at_ms: None,
    }
}

fn market() -> Market {
    let mut market = Market::default();
    for (id, base, quote, digits, lot_size) in [
        (EURUSD, EUR, USD, 5, 10_000_000),
        (GBPUSD, GBP, USD, 5, 10_000_000),
        (USDJPY, USD, JPY, 3, 10_000_000),
        (XAUUSD, XAU, USD, 2, 10_000),
    ] {
        let symbol = Symbol {
            id,
            name: None,
            base,
            quote,
            digits,
            lot_size: Some(lot_size),
        };
        market.symbols.insert(id, Arc::new(symbol));
    }
    let eurusd = (EURUSD, EUR, USD);
    let usd = Chain::new(USD, EUR, [eurusd]).expect("leads to EUR");
    let jpy = Chain::new(JPY, EUR, [(USDJPY, USD, JPY), eurusd]).expect("leads to EUR");
    market.chains.insert(USD, Arc::new(usd));
    market.chains.insert(JPY, Arc::new(jpy));
    for (symbol, bid, ask) in [
        (EURUSD, 108_500, 108_512),
        (GBPUSD, 126_410, 126_425),
        (USDJPY, 15_125_000, 15_126_200),
        (XAUUSD, 234_512_000, 234_547_000),
    ] {
        market.quotes.insert(
            symbol,
            Quote {
                bid: Some(bid),
                ask: Some(ask),
            },
        );
    }
    market
}

fn example() -> (Account, Market) {
    let positions = [
        position(
            701,
            USDJPY,
            Side::Buy,
            5_000_000,
            150.800,
            [-123, -150, 46_041],
        ),
        position(702, GBPUSD, Side::Sell, 2_000_000, 1.27, [36, -60, 23_389]),
        position(703, XAUUSD, Side::Buy, 1_000, 2352.30, [-210, -35, 43_320]),
    ];
    let account = Account::new(
        trader(1_000_000),
        positions.map(|position| (PositionStatus::Open, position)),
        [],
    );
    (account, market())
}

/// gross, net, equity, used margin, free margin, level × 10^4.
fn assert_totals(account: &Account, market: &Market, expected: [i128; 6]) {
    let value = value(account, market);
    let units = |amount: Option<Decimal>| amount.expect("every quote is there").units;
    let found = [
        units(value.gross),
        units(value.net),
        units(value.equity),
        value.used_margin.units,
        units(value.free_margin),
        units(value.margin_level),
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_worked_example_holds_to_the_cent() {
    let (mut account, mut market) = example();
    // T0
    assert_totals(
        &account,
        &market,
        [17_692, 17_150, 1_017_150, 112_750, 904_400, 9_021_286],
    );
    let each: Vec<_> = value(&account, &market)
        .positions
        .iter()
        .map(|p| (p.gross.map(|g| g.units), p.net.map(|n| n.units)))
        .collect();
    let expected = [(13_711, 13_438), (10_599, 10_575), (-6_618, -6_863)];
    assert_eq!(each, expected.map(|(gross, net)| (Some(gross), Some(net))));

    // T1a: only EURUSD's bid
    let t0 = market.clone();
    market
        .quotes
        .entry(EURUSD)
        .or_default()
        .merge(Some(108_400), None);
    assert_totals(
        &account,
        &market,
        [17_708, 17_166, 1_017_166, 112_750, 904_416, 9_021_428],
    );
    // T1b: then only GBPUSD's ask
    market
        .quotes
        .entry(GBPUSD)
        .or_default()
        .merge(None, Some(126_440));
    assert_totals(
        &account,
        &market,
        [17_431, 16_889, 1_016_889, 112_750, 904_139, 9_018_971],
    );

    // T2: prices back, half of 702 closed
    market = t0;
    let mut rest = position(702, GBPUSD, Side::Sell, 1_000_000, 1.27, [18, -30, 11_694]);
    rest.updated_at_ms = Some(2);
    account.apply(AccountEvent::Execution(Box::new(Execution {
        position: Some((PositionStatus::Open, rest)),
        balance: Some(Balance {
            amount: cents(1_005_258),
            version: Some(41),
        }),
        ..Execution::default()
    })));
    assert_totals(
        &account,
        &market,
        [12_393, 11_863, 1_017_121, 101_055, 916_066, 10_065_024],
    );

    // T3: deposit of 500.00
    account.apply(AccountEvent::Execution(Box::new(Execution {
        balance: Some(Balance {
            amount: cents(1_055_258),
            version: Some(42),
        }),
        ..Execution::default()
    })));
    assert_totals(
        &account,
        &market,
        [12_393, 11_863, 1_067_121, 101_055, 966_066, 10_559_804],
    );
}

#[test]
fn a_missing_quote_leaves_equity_unknown_and_margin_known() {
    let (account, mut market) = example();
    market.quotes.insert(
        USDJPY,
        Quote {
            bid: None,
            ask: Some(15_126_200),
        },
    );
    let value = value(&account, &market);
    assert_eq!(
        (
            value.equity,
            value.net,
            value.free_margin,
            value.margin_level
        ),
        (None, None, None, None)
    );
    assert_eq!(value.used_margin, cents(112_750));
    assert!(
        value.positions[1].gross.is_some(),
        "another position's own figures stand"
    );
}

#[test]
fn the_active_bonus_is_the_part_that_cash_covers() {
    // Totals and cash from the broker's own published examples.
    for (total, cash, active) in [
        (50_000, 10_000, 10_000),
        (69_800, 10_200, 10_200),
        (500, 1_000, 500),
        (500, -7, 0),
    ] {
        let mut trader = trader(cash);
        trader.bonus = Bonus {
            manager: cents(total - 100),
            introducing: cents(100),
        };
        let value = value(&Account::new(trader, [], []), &Market::default());
        assert_eq!(value.active_bonus, Some(cents(active)));
        assert_eq!(value.equity, Some(cents(cash + active)));
        assert_eq!(value.margin_level, None, "no positions, no level");
    }
}

#[test]
fn margin_adds_up_by_the_accounts_rule() {
    for (rule, expected) in [
        (MarginRule::Max, 700 + 40),
        (MarginRule::Sum, 1_000 + 40),
        (MarginRule::Net, 400 + 40),
    ] {
        let positions = [
            position(1, EURUSD, Side::Buy, 100, 1.0, [0, 0, 500]),
            position(2, EURUSD, Side::Buy, 100, 1.0, [0, 0, 200]),
            position(3, EURUSD, Side::Sell, 100, 1.0, [0, 0, 300]),
            position(4, GBPUSD, Side::Sell, 100, 1.0, [0, 0, 40]),
        ];
        let mut trader = trader(0);
        trader.margin_rule = rule;
        let account = Account::new(trader, positions.map(|p| (PositionStatus::Open, p)), []);
        assert_eq!(
            value(&account, &Market::default()).used_margin,
            cents(expected),
            "{rule:?}"
        );
    }
}

#[test]
fn what_128_bits_do_not_hold_is_still_exact() {
    // 10^7 units of something priced in millions, through three symbols of ten-million prices.
    let (a, b) = (AssetId(10), AssetId(11));
    let steps = [
        (SymbolId(1), a, USD),
        (SymbolId(2), b, a),
        (SymbolId(3), EUR, b),
    ];
    let mut market = market();
    market.chains.insert(
        USD,
        Arc::new(Chain::new(USD, EUR, steps).expect("leads to EUR")),
    );
    let quote = Quote {
        bid: Some(1_000_000_000_003),
        ask: Some(1_000_000_000_003),
    };
    for id in [1, 2, 3] {
        market.quotes.insert(SymbolId(id), quote);
    }
    market.quotes.insert(
        XAUUSD,
        Quote {
            bid: Some(900_000_000_000_000),
            ask: None,
        },
    );
    let mut trader = trader(0);
    trader.money_digits = 8;
    let holding = position(1, XAUUSD, Side::Buy, 1_000_000_000_000, 1.0, [0; 3]);
    let account = Account::new(trader, [(PositionStatus::Open, holding)], []);
    let gross = value(&account, &market).gross.expect("it fits 256 bits");
    // (9·10^9 − 1)·10^10 / (10000000.00003)^3 = 0.08999999998…
    assert_eq!(gross, Decimal::new(9_000_000, 8));
}

#[test]
fn objects_may_bring_other_digits_than_the_account() {
    let (account, market) = example();
    let mut held = account.positions().next().expect("701").clone();
    held.swap = Decimal::new(-123_456_789, 8);
    held.commission = Decimal::new(-2, 0);
    held.used_margin = Decimal::new(460_405_155, 6);
    let account = Account::new(trader(0), [(PositionStatus::Open, held)], []);
    let value = value(&account, &market);
    assert_eq!(value.positions[0].swap, cents(-123));
    assert_eq!(value.positions[0].commission, cents(-200));
    assert_eq!(value.net, Some(cents(13_711 - 123 - 200)));
    assert_eq!(value.used_margin, cents(46_041));
}
