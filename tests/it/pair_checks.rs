//! Whether what is shown is so: snapshots that lag, audits, and the server's figures where quotes are missing.

use std::time::Duration;

use mahspeccy_bridge::ctrader::connection::{Audit, Event};
use mahspeccy_bridge::ctrader::wire::{
    ProtoOaGetPositionUnrealizedPnLRes, ProtoOaPositionUnrealizedPnL,
};
use mahspeccy_bridge::sim::presets::{
    WORKED_ACCOUNT as ACCOUNT, WORKED_TOKEN, worked_account, worked_example,
};
use mahspeccy_bridge::sim::{AccountSpec, PositionSpec, Refusal, Side, Simulator, raw};
use prost::Message;

use crate::support::pair::{Pair, Tamper};

const PNL: u32 = 2188;

fn audits(pair: &Pair) -> Vec<Audit> {
    let events = pair.events.iter().filter_map(|(_, event)| {
        if let Event::Audited(_, audit) = event {
            Some(*audit)
        } else {
            None
        }
    });
    events.collect()
}

fn wait_audit(pair: &mut Pair) -> Audit {
    let before = audits(pair).len();
    pair.drive_until("an audit", Duration::from_mins(11), |pair| {
        audits(pair).len() > before
    });
    audits(pair)[before]
}

#[test]
fn our_figures_are_the_servers_to_the_cent() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    for _ in 0..3 {
        let audit = wait_audit(&mut pair);
        assert_eq!(
            (audit.drift.to_string().as_str(), audit.positions),
            ("0.00", 3)
        );
        assert!(!audit.is_excessive);
    }
    // Once after going live, and then every five minutes.
    let asked = pair.sent_of(2187);
    pair.run(Duration::from_mins(30));
    assert_eq!(pair.sent_of(2187) - asked, 6);
}

#[test]
fn prices_that_move_meanwhile_are_no_drift() {
    let mut pair = Pair::new(worked_example().ticks_per_second(20.0));
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.hand(mahspeccy_bridge::sim::Broker::market_resume);
    for _ in 0..5 {
        let audit = wait_audit(&mut pair);
        assert!(!audit.is_excessive, "{audit:?}");
    }
}

#[test]
fn a_figure_that_is_wrong_is_drift() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    let line = |position_id, gross, net| ProtoOaPositionUnrealizedPnL {
        position_id,
        gross_unrealized_pn_l: gross,
        net_unrealized_pn_l: net,
    };
    let told = ProtoOaGetPositionUnrealizedPnLRes {
        payload_type: None,
        ctid_trader_account_id: ACCOUNT,
        position_unrealized_pn_l: vec![
            line(701, 13_711, 13_438),
            // A margin of rounding, and a wrong one.
            line(702, 10_600, 10_577),
            line(703, -6_618, -6_963),
        ],
        money_digits: 2,
    };
    let body = told.encode_to_vec().into();
    pair.link.tampers.push((PNL, Tamper::Body(body)));
    let audit = wait_audit(&mut pair);
    assert_eq!(audit.drift.to_string(), "1.02");
    assert!(audit.is_excessive);
    // The row has our own figures all the same.
    pair.assert_truth(ACCOUNT);
}

#[test]
fn an_audit_that_is_refused_or_lost_costs_nothing() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.broker
        .refuse(Some(2187), 1, Refusal::new("UNSUPPORTED_MESSAGE"));
    pair.broker.swallow_reply(Some(2187));
    pair.run(Duration::from_mins(20));
    assert!(pair.downs(ACCOUNT).is_empty());
    assert!(!audits(&pair).is_empty());
    pair.assert_truth(ACCOUNT);
}

/// A live account whose first quotes were all lost.
#[test]
fn a_balance_that_is_not_told_costs_nothing() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    // The trader's entity is asked for again with each audit, for the version of its balance.
    pair.broker
        .refuse(Some(2121), 1, Refusal::new("UNSUPPORTED_MESSAGE"));
    pair.broker
        .refuse(Some(2121), 1, Refusal::new("CANT_ROUTE_REQUEST"));
    pair.broker.swallow_reply(Some(2121));
    let asked = pair.sent_of(2121);
    pair.run(Duration::from_mins(20));
    assert!(pair.sent_of(2121) - asked >= 4);
    assert!(pair.downs(ACCOUNT).is_empty(), "{:?}", pair.events);
    pair.assert_truth(ACCOUNT);
}

fn without_quotes() -> Pair {
    let mut pair = Pair::new(worked_example());
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.drive_until("the subscription", Duration::from_secs(5), |pair| {
        pair.sent_of(2127) > 0
    });
    for _ in 0..4 {
        pair.link.tampers.push((2131, Tamper::Lose));
    }
    pair.wait_live(ACCOUNT);
    pair
}

#[test]
fn the_servers_figure_is_shown_while_a_quote_is_missing() {
    let mut pair = without_quotes();
    assert_eq!(
        pair.equity(ACCOUNT),
        None,
        "unknown, and not computed from a zero"
    );
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.equity(ACCOUNT).as_deref(), Some("10171.50"));
    let row = pair.row(ACCOUNT).expect("it is live");
    assert_eq!(row.positions[0].current_price, None);
    assert_eq!(
        row.positions[0]
            .net_profit
            .map(|net| net.to_string())
            .as_deref(),
        Some("134.38")
    );
    // A swap counts at once, though the server's figure is older.
    pair.hand(|broker| broker.swap(ACCOUNT, 701, -100));
    pair.run_briefly();
    assert_eq!(pair.equity(ACCOUNT).as_deref(), Some("10170.50"));
    // Asked again every three seconds, and no more once the quotes are there.
    let asked = pair.sent_of(2187);
    pair.run(Duration::from_secs(9));
    assert!((2..=4).contains(&(pair.sent_of(2187) - asked)));
    for (symbol, bid, ask) in [
        ("EURUSD", "1.08400", "1.08412"),
        ("GBPUSD", "1.26410", "1.26440"),
        ("USDJPY", "151.250", "151.262"),
        ("XAUUSD", "2345.12", "2345.47"),
    ] {
        pair.hand(|broker| broker.set_quote(symbol, raw(bid), raw(ask)));
    }
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
    pair.run(Duration::from_secs(4));
    let asked = pair.sent_of(2187);
    pair.run(Duration::from_secs(10));
    assert!(pair.sent_of(2187) <= asked + 1);
}

#[test]
fn a_figure_that_is_no_longer_renewed_is_no_longer_shown() {
    let mut pair = without_quotes();
    pair.run(Duration::from_secs(2));
    assert!(pair.equity(ACCOUNT).is_some());
    pair.broker
        .refuse(Some(2187), 1_000, Refusal::new("UNKNOWN_ERROR"));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.equity(ACCOUNT), None);
}

/// An account whose position was opened the moment before it is authorised, and a snapshot that does
/// not have it yet.
#[test]
fn a_snapshot_that_lags_is_taken_again() {
    let mut pair = Pair::new(worked_example());
    pair.run(Duration::from_secs(1));
    pair.hand(|broker| {
        broker.reconcile_lag(Duration::from_millis(500));
        broker
            .open_market(ACCOUNT, "EURUSD", Side::Buy, 100_000)
            .expect("there is money");
    });
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.wait_live(ACCOUNT);
    let held = |pair: &mut Pair| pair.row(ACCOUNT).expect("it is live").positions.len();
    assert_eq!(held(&mut pair), 3, "the first one lagged");
    pair.run(Duration::from_secs(3));
    pair.wait_valued(ACCOUNT);
    assert_eq!(held(&mut pair), 4);
    pair.assert_truth(ACCOUNT);
    assert_eq!(pair.lives(ACCOUNT), 1);
}

#[test]
fn a_second_snapshot_that_lags_takes_nothing_back() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.hand(|broker| broker.reconcile_lag(Duration::from_millis(500)));
    // Around the moment that the second snapshot is asked for.
    for _ in 0..30 {
        pair.run(Duration::from_millis(100));
        let position = pair
            .hand(|broker| broker.open_market(ACCOUNT, "EURUSD", Side::Buy, 100_000))
            .expect("there is money");
        pair.run(Duration::from_millis(100));
        pair.assert_truth(ACCOUNT);
        pair.hand(|broker| broker.close_position(ACCOUNT, position, None))
            .expect("it is open");
        pair.run(Duration::from_millis(100));
        pair.assert_truth(ACCOUNT);
    }
}

#[test]
fn three_hundred_accounts_are_audited_within_the_budget() {
    let world = (1..=300).fold(Simulator::builder().market_paused(), |world, id| {
        let position = PositionSpec::new(id, "EURUSD", Side::Buy, 100_000, raw("1.08"));
        world.account(AccountSpec::new(id).token("crowd").position(position))
    });
    let mut pair = Pair::new(world.account(worked_account()));
    for id in 1..=300 {
        pair.open(id, "crowd");
    }
    pair.run(Duration::from_mins(12));
    let seen = audits(&pair);
    assert!(seen.len() >= 600, "{}", seen.len());
    assert!(seen.iter().all(|audit| !audit.is_excessive));
    let socket = &pair.broker.connections()[0];
    assert!(socket.most_requests_per_second <= 50);
    assert_eq!(socket.rate_refusals, 0);
}
