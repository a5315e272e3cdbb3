//! Quotes: one-sided, crossed, late, unknown; symbols that come, go and come back.

use std::time::Duration;

use bytes::Bytes;
use mahspeccy_bridge::ctrader::wire::ProtoOaSpotEvent;
use mahspeccy_bridge::sim::{
    AccountSpec, BrokerSpec, Builder, Commission, PositionSpec, Refusal, Side, Simulator,
    SymbolSpec, raw,
};

use crate::support::pair::{Pair, Tamper};

const ACCOUNT: i64 = 1001;

/// A broker with more symbols than a session keeps as hints, and one that nobody quotes.
fn many_symbols() -> BrokerSpec {
    let broker = BrokerSpec::new("Many")
        .asset(1, "EUR", 2)
        .asset(2, "USD", 2)
        .symbol(SymbolSpec::new(1, "EURUSD", 1, 2).quoted(raw("1.085"), raw("1.0852")))
        .asset(99, "Q", 2)
        .symbol(SymbolSpec::new(99, "QUIET", 99, 1).commission(Commission::Free));
    (10..30).fold(broker, |broker, id| {
        let name = format!("S{id}");
        broker.asset(id, &name, 2).symbol(
            SymbolSpec::new(id, &name, id, 1)
                .quoted(raw("100.00"), raw("100.02"))
                .commission(Commission::Free),
        )
    })
}

fn world(account: AccountSpec) -> Builder {
    Simulator::builder()
        .market_paused()
        .broker(many_symbols())
        .account(account.token("token").currency("EUR"))
}

fn long(id: i64, symbol: &str) -> PositionSpec {
    PositionSpec::new(id, symbol, Side::Buy, 1_000_000, raw("1.08000"))
}

fn spot(symbol_id: i64, bid: Option<u64>, ask: Option<u64>) -> ProtoOaSpotEvent {
    ProtoOaSpotEvent {
        ctid_trader_account_id: ACCOUNT,
        symbol_id,
        bid,
        ask,
        ..ProtoOaSpotEvent::default()
    }
}

#[test]
fn a_missing_side_is_unchanged_and_a_crossed_pair_counts() {
    let both = AccountSpec::new(ACCOUNT)
        .position(long(501, "EURUSD"))
        .position(PositionSpec::new(
            502,
            "EURUSD",
            Side::Sell,
            300_000,
            raw("1.09"),
        ));
    let mut pair = Pair::new(world(both));
    pair.go_live(ACCOUNT, "token");
    for (bid, ask) in [
        (Some("1.08400"), None),
        (None, Some("1.08399")),
        (None, Some("1.08300")),
        (Some("1.08200"), None),
        (Some("1.08500"), Some("1.08512")),
    ] {
        pair.hand(|broker| broker.set_quote("EURUSD", bid.map(raw), ask.map(raw)));
        pair.run_briefly();
        pair.assert_truth(ACCOUNT);
    }
}

#[test]
fn a_side_of_zero_is_no_price() {
    let mut pair = Pair::new(world(
        AccountSpec::new(ACCOUNT).position(long(501, "EURUSD")),
    ));
    pair.go_live(ACCOUNT, "token");
    pair.inject_message(2131, None, &spot(1, Some(0), Some(u64::MAX)));
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
}

#[test]
fn quotes_of_unknown_symbols_and_accounts_change_nothing() {
    let mut pair = Pair::new(world(
        AccountSpec::new(ACCOUNT).position(long(501, "EURUSD")),
    ));
    pair.go_live(ACCOUNT, "token");
    pair.take_row(ACCOUNT, true);
    pair.inject_message(2131, None, &spot(12_345, Some(1), Some(2)));
    pair.inject_message(2131, None, &spot(10, Some(1), Some(2)));
    let elsewhere = ProtoOaSpotEvent {
        ctid_trader_account_id: 77,
        ..spot(1, Some(1), Some(2))
    };
    pair.inject_message(2131, None, &elsewhere);
    pair.run_briefly();
    assert_eq!(pair.take_row(ACCOUNT, false), None);
    pair.assert_truth(ACCOUNT);
}

/// Trades once in each of nine symbols, so that the first is no longer among the hints.
fn trade_in_nine(pair: &mut Pair) {
    for id in 10..19 {
        let symbol = format!("S{id}");
        let position = pair
            .step_by_hand(ACCOUNT, |broker| {
                broker.open_market(ACCOUNT, &symbol, Side::Buy, 100_000)
            })
            .expect("there is money");
        pair.step_by_hand(ACCOUNT, |broker| {
            broker.close_position(ACCOUNT, position, None)
        })
        .expect("it is open");
    }
}

#[test]
fn symbols_no_longer_needed_are_unsubscribed_and_stray_quotes_of_them_ignored() {
    let mut pair = Pair::new(world(
        AccountSpec::new(ACCOUNT).position(long(501, "EURUSD")),
    ));
    pair.go_live(ACCOUNT, "token");
    pair.hand(|broker| broker.stray_spots(true));
    trade_in_nine(&mut pair);
    assert_eq!(pair.sent_of(2129), 1);
    let spots = pair.broker.connections()[0].spots.len();
    assert_eq!(spots, 9, "eight hints and the position's");
    pair.take_row(ACCOUNT, true);
    pair.inject_message(2131, None, &spot(10, Some(1), Some(2)));
    pair.run_briefly();
    assert_eq!(pair.take_row(ACCOUNT, false), None);
    // It comes back with a quote of its own.
    pair.hand(|broker| broker.set_quote("S10", raw("90.00"), raw("90.02")));
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.open_market(ACCOUNT, "S10", Side::Sell, 100_000)
    })
    .expect("there is money");
}

#[test]
fn a_symbol_wanted_again_while_its_unsubscription_waits_is_subscribed_in_the_end() {
    let mut pair = Pair::new(world(
        AccountSpec::new(ACCOUNT).position(long(501, "EURUSD")),
    ));
    pair.go_live(ACCOUNT, "token");
    let blocked = Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(3);
    pair.hand(|broker| broker.refuse(Some(2129), 1, blocked));
    trade_in_nine(&mut pair);
    pair.hand(|broker| broker.open_market(ACCOUNT, "S10", Side::Buy, 100_000))
        .expect("there is money");
    pair.run(Duration::from_secs(6));
    pair.hand(|broker| broker.set_quote("S10", raw("95.00"), raw("95.02")));
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
}

#[test]
fn a_symbol_without_any_quote_holds_nobody_up_and_leaves_the_equity_open() {
    let spec = AccountSpec::new(ACCOUNT)
        .position(long(501, "EURUSD"))
        .position(long(502, "QUIET"));
    let mut pair = Pair::new(world(spec));
    pair.open(ACCOUNT, "token");
    pair.drive_until("the session to be live", Duration::from_secs(3), |pair| {
        pair.is_live(ACCOUNT)
    });
    let row = pair.row(ACCOUNT).expect("it is live");
    assert_eq!(
        (row.equity, row.free_margin, row.margin_level),
        (None, None, None)
    );
    assert!(row.positions[0].gross_profit.is_some() && row.positions[1].gross_profit.is_none());
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.set_quote("QUIET", raw("1.2"), raw("1.3"));
    });
    assert!(pair.equity(ACCOUNT).is_some());
}

#[test]
fn a_session_that_needs_more_while_it_warms_up_waits_without_spinning() {
    let mut pair = Pair::new(world(
        AccountSpec::new(ACCOUNT).position(long(502, "QUIET")),
    ));
    pair.open(ACCOUNT, "token");
    pair.drive_until("the subscription", Duration::from_secs(3), |pair| {
        pair.sent_of(2127) > 0
    });
    pair.run(Duration::from_millis(500));
    pair.hand(|broker| broker.delay_replies(Duration::from_secs(5)));
    pair.hand(|broker| broker.open_market(ACCOUNT, "EURUSD", Side::Buy, 100_000))
        .expect("money");
    pair.drive_until("the session to be live", Duration::from_secs(30), |pair| {
        pair.is_live(ACCOUNT)
    });
    pair.hand(|broker| broker.set_quote("QUIET", raw("1.2"), raw("1.3")));
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
    pair.assert_deals(ACCOUNT);
}

#[test]
fn a_subscription_that_was_there_already_is_renewed_for_its_quotes() {
    // As after a new authorisation on the same socket: nothing is sent to those who subscribed before.
    let one = AccountSpec::new(ACCOUNT).position(long(501, "S10"));
    let two = one.clone().position(long(502, "EURUSD"));
    for spec in [one, two] {
        let mut pair = Pair::new(world(spec));
        let refusal = Refusal::new("ALREADY_SUBSCRIBED");
        pair.broker.refuse(Some(2127), 1, refusal);
        pair.go_live(ACCOUNT, "token");
        pair.assert_truth(ACCOUNT);
    }
}

#[test]
fn a_server_that_always_says_already_subscribed_is_believed_after_a_while() {
    let mut pair = Pair::new(world(
        AccountSpec::new(ACCOUNT).position(long(501, "EURUSD")),
    ));
    pair.broker
        .refuse(Some(2127), 1_000, Refusal::new("ALREADY_SUBSCRIBED"));
    pair.go_live(ACCOUNT, "token");
    assert!(pair.sent_of(2127) <= 3, "{}", pair.sent_of(2127));
    pair.inject_message(2131, None, &spot(1, Some(108_500), Some(108_520)));
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
}

#[test]
fn an_unknown_symbol_in_a_batch_leaves_the_others() {
    let spec = AccountSpec::new(ACCOUNT)
        .position(long(501, "EURUSD"))
        .position(long(502, "S10"))
        .position(long(503, "S11"));
    let mut pair = Pair::new(world(spec));
    pair.broker
        .refuse(Some(2127), 1, Refusal::new("UNKNOWN_SYMBOL"));
    pair.broker
        .refuse(Some(2116), 1, Refusal::new("SYMBOL_NOT_FOUND"));
    pair.go_live(ACCOUNT, "token");
    pair.assert_truth(ACCOUNT);
}

#[test]
fn a_lost_first_quote_delays_the_session_by_two_seconds_and_no_more() {
    let mut pair = Pair::new(world(
        AccountSpec::new(ACCOUNT).position(long(501, "EURUSD")),
    ));
    pair.link.tampers.push((2131, Tamper::Lose));
    pair.open(ACCOUNT, "token");
    pair.drive_until("the session to be live", Duration::from_secs(3), |pair| {
        pair.is_live(ACCOUNT)
    });
    assert_eq!(pair.equity(ACCOUNT), None);
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.set_quote("EURUSD", raw("1.086"), raw("1.0862"));
    });
}

#[test]
fn a_quote_that_cannot_be_read_is_skipped() {
    let mut pair = Pair::new(world(
        AccountSpec::new(ACCOUNT).position(long(501, "EURUSD")),
    ));
    pair.go_live(ACCOUNT, "token");
    pair.link
        .tampers
        .push((2131, Tamper::Body(Bytes::from_static(b"\x10\xff"))));
    pair.hand(|broker| broker.set_quote("EURUSD", raw("1.2"), raw("1.21")));
    pair.run_briefly();
    assert!(pair.downs(ACCOUNT).is_empty());
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.set_quote("EURUSD", raw("1.086"), raw("1.0862"));
    });
}
