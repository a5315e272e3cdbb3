//! Every kind of event an account has: the row follows it, and its deals come once.

use mahspeccy_bridge::domain::ids::PositionId;
use mahspeccy_bridge::sim::{
    AccountSpec, Broker, Builder, OrderAmendment, OrderSpec, PlacedOrder, PositionSpec, Refusal,
    Side, Simulator, raw,
};

use crate::support::pair::Pair;

const ACCOUNT: i64 = 1001;

fn live(spec: AccountSpec) -> Pair {
    let world: Builder = Simulator::builder()
        .market_paused()
        .account(spec.token("token"));
    let mut pair = Pair::new(world);
    pair.go_live(ACCOUNT, "token");
    pair
}

fn eurusd() -> AccountSpec {
    AccountSpec::new(ACCOUNT).position(
        PositionSpec::new(501, "EURUSD", Side::Buy, 2_000_000, raw("1.08000"))
            .swap(-41)
            .commission(-70)
            .levels(Some(raw("1.07")), Some(raw("1.10"))),
    )
}

/// One step by hand that must be taken.
fn step<T>(pair: &mut Pair, operation: impl FnOnce(&mut Broker) -> Result<T, Refusal>) -> T {
    pair.step_by_hand(ACCOUNT, operation)
        .expect("the simulator takes it")
}

fn only_position(pair: &mut Pair) -> mahspeccy_bridge::domain::row::PositionRow {
    let row = pair.row(ACCOUNT).expect("it is live");
    assert_eq!(row.positions.len(), 1);
    row.positions[0].clone()
}

#[test]
fn a_market_order_opens_then_gets_its_levels() {
    let mut pair = live(AccountSpec::new(ACCOUNT));
    let order = OrderSpec::market("GBPUSD", Side::Sell, 300_000)
        .relative(Some(200), Some(500))
        .label("mine", "a comment");
    let placed: PlacedOrder = step(&mut pair, |broker| broker.place_order(ACCOUNT, &order));
    let held = only_position(&mut pair);
    assert_eq!(held.position_id.0, placed.position);
    assert_eq!(
        (
            held.stop_loss.map(|p| p.to_string()),
            held.take_profit.map(|p| p.to_string())
        ),
        (Some("1.26610".to_owned()), Some("1.25910".to_owned()))
    );
    assert_eq!(
        (held.label.as_deref(), held.comment.as_deref()),
        (Some("mine"), Some("a comment"))
    );
    assert_eq!(pair.deals(ACCOUNT).len(), 1);
    assert_eq!(
        pair.deals(ACCOUNT)[0].symbol.as_deref(),
        Some("GBPUSD"),
        "even the first deal in a symbol has its name"
    );
}

#[test]
fn a_position_is_closed_in_parts_and_then_whole() {
    let mut pair = live(eurusd());
    step(&mut pair, |broker| {
        broker.close_position(ACCOUNT, 501, Some(700_000))
    });
    assert_eq!(only_position(&mut pair).volume.to_string(), "13000");
    step(&mut pair, |broker| {
        broker.close_position(ACCOUNT, 501, Some(600_000))
    });
    step(&mut pair, |broker| {
        broker.close_position(ACCOUNT, 501, None)
    });
    let row = pair.row(ACCOUNT).expect("it is live");
    assert!(row.positions.is_empty() && row.orders.is_empty());
    assert_eq!(row.margin_level, None);
    assert_eq!(
        (row.balance_version, pair.deals(ACCOUNT).len()),
        (Some(4), 3)
    );
}

#[test]
fn levels_are_amended_and_removed() {
    let mut pair = live(eurusd());
    step(&mut pair, |broker| {
        broker.amend_levels(ACCOUNT, 501, Some(raw("1.06")), Some(raw("1.2")))
    });
    step(&mut pair, |broker| {
        broker.amend_levels(ACCOUNT, 501, None, Some(raw("1.2")))
    });
    assert_eq!(
        only_position(&mut pair).stop_loss,
        None,
        "what is left out is removed"
    );
    step(&mut pair, |broker| {
        broker.amend_levels(ACCOUNT, 501, None, None)
    });
    step(&mut pair, |broker| {
        broker.amend_levels(ACCOUNT, 501, Some(raw("1.05")), None)
    });
}

#[test]
fn a_level_that_is_hit_closes_the_position() {
    let mut pair = live(eurusd());
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.set_quote("EURUSD", raw("1.06990"), raw("1.07"));
    });
    assert!(pair.row(ACCOUNT).expect("it is live").positions.is_empty());
    assert_eq!(pair.deals(ACCOUNT).len(), 1);

    let mut pair = live(eurusd());
    pair.step_by_hand(ACCOUNT, |broker| broker.hit_protection(ACCOUNT, 501));
    assert!(pair.row(ACCOUNT).expect("it is live").positions.is_empty());
}

#[test]
fn a_pending_order_is_placed_amended_and_cancelled() {
    let mut pair = live(eurusd());
    let order = OrderSpec::limit("USDJPY", Side::Buy, 200_000, raw("149.5"))
        .levels(Some(raw("149")), Some(raw("151")));
    let placed = step(&mut pair, |broker| broker.place_order(ACCOUNT, &order));
    let row = pair.row(ACCOUNT).expect("it is live");
    let shown = &row.orders[0];
    assert_eq!(
        (
            shown.order_type,
            shown.side,
            shown.symbol.as_deref(),
            shown.volume.to_string()
        ),
        ("LIMIT", "BUY", Some("USDJPY"), "2000".to_owned())
    );
    assert_eq!(
        shown.limit_price.map(|p| p.to_string()),
        Some("149.500".to_owned())
    );
    assert_eq!(shown.position_id, Some(PositionId(placed.position)));
    let change = OrderAmendment {
        limit: Some(raw("149.7")),
        volume: Some(300_000),
        expiration_ms: Some(1_760_000_000_000),
        ..OrderAmendment::default()
    };
    step(&mut pair, |broker| {
        broker.amend_order(ACCOUNT, placed.order, change)
    });
    let row = pair.row(ACCOUNT).expect("it is live");
    let shown = &row.orders[0];
    assert_eq!(
        shown.limit_price.map(|p| p.to_string()),
        Some("149.700".to_owned())
    );
    assert_eq!(
        (shown.stop_loss, shown.volume.to_string()),
        (None, "3000".to_owned())
    );
    assert!(shown.expires_at.is_some());
    step(&mut pair, |broker| {
        broker.cancel_order(ACCOUNT, placed.order)
    });
    assert!(pair.row(ACCOUNT).expect("it is live").orders.is_empty());
    assert!(pair.deals(ACCOUNT).is_empty());
}

#[test]
fn pending_orders_expire_or_fill() {
    let mut pair = live(eurusd());
    let limit = OrderSpec::limit("GBPUSD", Side::Buy, 200_000, raw("1.26"));
    let stop =
        OrderSpec::stop("GBPUSD", Side::Sell, 100_000, raw("1.25")).levels(Some(raw("1.27")), None);
    let limit = step(&mut pair, |broker| broker.place_order(ACCOUNT, &limit));
    let stop = step(&mut pair, |broker| broker.place_order(ACCOUNT, &stop));
    step(&mut pair, |broker| {
        broker.expire_order(ACCOUNT, limit.order)
    });
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.set_quote("GBPUSD", raw("1.24990"), raw("1.25"));
    });
    let row = pair.row(ACCOUNT).expect("it is live");
    assert!(row.orders.is_empty());
    assert!(
        row.positions
            .iter()
            .any(|held| held.position_id.0 == stop.position)
    );
}

#[test]
fn a_cancelled_order_on_an_open_position_leaves_the_position() {
    let mut pair = live(eurusd());
    let order = OrderSpec::limit("EURUSD", Side::Buy, 200_000, raw("1.05")).on(501);
    let placed = step(&mut pair, |broker| broker.place_order(ACCOUNT, &order));
    let change = OrderAmendment {
        limit: Some(raw("1.04")),
        ..OrderAmendment::default()
    };
    step(&mut pair, |broker| {
        broker.amend_order(ACCOUNT, placed.order, change)
    });
    step(&mut pair, |broker| {
        broker.cancel_order(ACCOUNT, placed.order)
    });
    assert_eq!(only_position(&mut pair).position_id, PositionId(501));
}

#[test]
fn cash_comes_and_goes() {
    let mut pair = live(eurusd());
    pair.step_by_hand(ACCOUNT, |broker| broker.deposit(ACCOUNT, 50_000));
    pair.step_by_hand(ACCOUNT, |broker| broker.deposit(ACCOUNT, -12_345));
    // A fee, and a swap that is booked as a balance operation.
    pair.step_by_hand(ACCOUNT, |broker| broker.change_balance(ACCOUNT, -99, 21));
    assert_eq!(
        pair.row(ACCOUNT).expect("it is live").balance.to_string(),
        "10375.56"
    );
    assert!(pair.deals(ACCOUNT).is_empty());
}

#[test]
fn swap_and_margin_and_a_trailing_stop_change_the_position_alone() {
    let mut pair = live(eurusd());
    pair.step_by_hand(ACCOUNT, |broker| broker.swap(ACCOUNT, 501, -33));
    pair.step_by_hand(ACCOUNT, |broker| broker.rollover(ACCOUNT));
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.trail_stop(ACCOUNT, 501, raw("1.08123"));
    });
    assert_eq!(
        only_position(&mut pair).stop_loss.map(|p| p.to_string()),
        Some("1.08123".to_owned())
    );
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.change_margin(ACCOUNT, 501, 250_000_000);
    });
    assert_eq!(
        pair.row(ACCOUNT).expect("it is live").balance.to_string(),
        "10000.00"
    );
}

#[test]
fn a_change_of_the_account_keeps_its_balance_and_takes_the_rest() {
    let mut pair = live(eurusd());
    pair.hand(|broker| broker.settings_mut().trader_updates = true);
    pair.step_by_hand(ACCOUNT, |broker| broker.set_leverage(ACCOUNT, 30));
    pair.step_by_hand(ACCOUNT, |broker| broker.deposit(ACCOUNT, 50_000));
    pair.step_by_hand(ACCOUNT, |broker| broker.bonus(ACCOUNT, 10_000));
    pair.step_by_hand(ACCOUNT, |broker| broker.trader_updated(ACCOUNT));
    step(&mut pair, |broker| {
        broker.close_position(ACCOUNT, 501, Some(1_000_000))
    });
}

#[test]
fn a_stop_out_closes_a_part_and_then_the_rest() {
    let mut pair = live(eurusd());
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.stop_out(ACCOUNT, 501, Some(500_000));
    });
    assert_eq!(only_position(&mut pair).volume.to_string(), "15000");
    pair.step_by_hand(ACCOUNT, |broker| broker.stop_out(ACCOUNT, 501, None));
    assert_eq!(pair.deals(ACCOUNT).len(), 2);
}

#[test]
fn a_broker_that_stops_out_by_itself_is_followed() {
    let spec = AccountSpec::new(ACCOUNT)
        .balance(30_000)
        .stop_out_level(50)
        .position(PositionSpec::new(
            501,
            "GBPUSD",
            Side::Buy,
            1_500_000,
            raw("1.27000"),
        ))
        .position(PositionSpec::new(
            502,
            "EURUSD",
            Side::Buy,
            300_000,
            raw("1.08000"),
        ));
    let mut pair = live(spec);
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.set_quote("GBPUSD", raw("1.25100"), raw("1.25112"));
    });
    let row = pair.row(ACCOUNT).expect("it is live");
    assert_eq!(row.positions.len(), 1, "the larger one is gone");
    assert_eq!(pair.deals(ACCOUNT).len(), 1);
}

#[test]
fn a_symbol_that_changes_is_read_again_and_stays_priced() {
    let mut pair = live(eurusd());
    let before = pair.sent_of(2116);
    pair.hand(|broker| broker.symbol_changed("Alpha", "EURUSD"));
    pair.step();
    assert!(
        pair.equity(ACCOUNT).is_some(),
        "the old one is good until the new one is there"
    );
    pair.settle();
    pair.assert_truth(ACCOUNT);
    assert_eq!(pair.sent_of(2116), before + 1);
    assert_eq!(pair.sent_of(2129), 0, "and nothing was unsubscribed for it");
    pair.step_by_hand(ACCOUNT, |broker| {
        broker.set_quote("EURUSD", raw("1.09"), raw("1.0901"));
    });
}
