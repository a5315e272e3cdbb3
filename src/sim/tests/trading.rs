//! The event sequences of orders, by request and by hand.

use std::time::Duration;

use super::*;

#[test]
fn the_event_sequences_are_those_of_the_live_server() {
    let mut client = Client::new(
        Simulator::builder()
            .market_paused()
            .account(AccountSpec::new(7).token("t")),
    );
    client.session(7, "t");
    let order = OrderSpec::market("EURUSD", Side::Buy, 1_000_000).relative(Some(500), Some(800));
    let placed = client.broker.place_order(7, &order).expect("accepted");
    let events = client.executions();
    assert_eq!(
        execution_shape(&events),
        [(2, false), (3, false), (2, true)]
    );
    let status: Vec<i32> = events
        .iter()
        .map(|e| e.0.position.as_ref().expect("a position").position_status)
        .collect();
    assert_eq!(status, [3, 1, 1]);
    assert_eq!(
        events[0]
            .0
            .position
            .as_ref()
            .expect("a position")
            .trade_data
            .volume,
        0
    );
    assert_eq!(
        events[1].0.position.as_ref().expect("a position").stop_loss,
        None
    );
    let protective = events[2].0.order.as_ref().expect("an order");
    assert_eq!(
        (protective.order_type, protective.closing_order),
        (4, Some(true))
    );
    assert!((protective.stop_price.expect("a stop") - 1.08012).abs() < 1e-12);
    assert!((protective.limit_price.expect("a limit") - 1.09312).abs() < 1e-12);
    assert_eq!(
        client.truth(7).balance,
        1_000_000,
        "opening leaves the balance alone"
    );

    client
        .broker
        .close_position(7, placed.position, Some(400_000))
        .expect("closed in part");
    let events = client.executions();
    assert_eq!(
        execution_shape(&events),
        [(2, false), (3, false), (4, true)]
    );
    assert_eq!(
        events[0]
            .0
            .position
            .as_ref()
            .expect("a position")
            .trade_data
            .volume,
        1_000_000
    );
    assert_eq!(
        events[2]
            .0
            .order
            .as_ref()
            .expect("an order")
            .trade_data
            .volume,
        600_000
    );
}

#[test]
fn levels_are_amended_trailed_and_cancelled_with_the_position() {
    let mut client = Client::new(
        Simulator::builder()
            .market_paused()
            .account(AccountSpec::new(7).token("t")),
    );
    client.session(7, "t");
    let order = OrderSpec::market("EURUSD", Side::Buy, 600_000).relative(Some(500), Some(800));
    let placed = client.broker.place_order(7, &order).expect("accepted");
    client.executions();
    client
        .broker
        .amend_levels(7, placed.position, Some(raw("1.07")), None)
        .expect("amended");
    let events = client.executions();
    assert_eq!(execution_shape(&events), [(4, false)]);
    assert_eq!(
        events[0]
            .0
            .position
            .as_ref()
            .expect("a position")
            .take_profit,
        None
    );
    let again = client
        .broker
        .amend_levels(7, placed.position, Some(raw("1.07")), None);
    assert_eq!(
        again.expect_err("nothing to amend").code(),
        "INVALID_REQUEST"
    );

    client.broker.trail_stop(7, placed.position, raw("1.075"));
    let kinds: Vec<u32> = client
        .received()
        .iter()
        .map(|received| received.0)
        .collect();
    assert_eq!(kinds, [number(PayloadType::ProtoOaTrailingSlChangedEvent)]);

    client
        .broker
        .close_position(7, placed.position, None)
        .expect("closed");
    let events = client.executions();
    assert_eq!(
        execution_shape(&events),
        [(2, false), (3, false), (5, true)]
    );
    assert_eq!(
        events[1]
            .0
            .position
            .as_ref()
            .expect("a position")
            .position_status,
        2
    );
}

#[test]
fn pending_orders_are_placed_changed_cancelled_and_set_off() {
    let mut client = Client::new(
        Simulator::builder()
            .market_paused()
            .account(AccountSpec::new(7).token("t")),
    );
    client.session(7, "t");
    let order = OrderSpec::limit("EURUSD", Side::Buy, 1_000_000, raw("1.08"))
        .levels(Some(raw("1.07")), None);
    let first = client.broker.place_order(7, &order).expect("accepted");
    let change = OrderAmendment {
        limit: Some(raw("1.081")),
        ..OrderAmendment::default()
    };
    client
        .broker
        .amend_order(7, first.order, change)
        .expect("amended");
    client
        .broker
        .cancel_order(7, first.order)
        .expect("cancelled");
    let events = client.executions();
    assert_eq!(
        execution_shape(&events),
        [(2, false), (4, false), (5, false)]
    );
    assert_eq!(
        events[0]
            .0
            .position
            .as_ref()
            .expect("a position")
            .position_status,
        3
    );
    assert_eq!(
        events[2]
            .0
            .position
            .as_ref()
            .expect("a position")
            .position_status,
        2
    );

    client.broker.place_order(7, &order).expect("accepted");
    client.executions();
    client
        .broker
        .set_quote("EURUSD", raw("1.0798"), raw("1.0799"));
    assert_eq!(
        execution_shape(&client.executions()),
        [(3, true), (2, true)]
    );
    client
        .broker
        .set_quote("EURUSD", raw("1.0699"), raw("1.0701"));
    let events = client.executions();
    assert_eq!(
        execution_shape(&events),
        [(3, true)],
        "a hit stop is one FILLED by the server"
    );
    assert_eq!(events[0].0.order.as_ref().expect("an order").order_type, 4);
    assert_eq!(client.truth(7).positions, []);
}

#[test]
fn a_request_is_accepted_then_filled_after_the_gap_with_its_id_on_every_socket() {
    let mut client = Client::new(
        Simulator::builder()
            .market_paused()
            .account(AccountSpec::new(7).token("t")),
    );
    let conn = client.session(7, "t");
    let other = client.session(7, "t");
    let body = wire::ProtoOaNewOrderReq {
        ctid_trader_account_id: 7,
        symbol_id: 1,
        order_type: 1,
        trade_side: 1,
        volume: 100_000,
        ..Default::default()
    };
    client.send(conn, PayloadType::ProtoOaNewOrderReq, "mine", &body);
    let first: Vec<(ConnId, u32, Option<String>)> = client
        .drain()
        .into_iter()
        .map(|(conn, (kind, id, _))| (conn, kind, id))
        .collect();
    let id = Some("mine".to_owned());
    assert_eq!(
        first,
        [
            (conn, number(PayloadType::ProtoOaExecutionEvent), id.clone()),
            (other, number(PayloadType::ProtoOaExecutionEvent), id)
        ]
    );
    client.wait(Duration::from_millis(599));
    assert_eq!(client.executions().len(), 0);
    client.wait(Duration::from_millis(1));
    assert_eq!(
        execution_shape(&client.executions()),
        [(3, false), (3, false)]
    );
}

#[test]
fn a_netted_account_merges_flips_and_keeps_the_balance_identity() {
    let account = AccountSpec::new(7).token("t").netted().balance(5_000_000);
    let mut client = Client::new(Simulator::builder().market_paused().account(account));
    let first = client
        .broker
        .open_market(7, "EURUSD", Side::Buy, 1_000_000)
        .expect("opened");
    client
        .broker
        .set_quote("EURUSD", raw("1.09"), raw("1.0902"));
    let second = client
        .broker
        .open_market(7, "EURUSD", Side::Buy, 3_000_000)
        .expect("merged");
    assert_eq!(first, second);
    let truth = client.truth(7);
    assert_eq!(
        (truth.positions.len(), truth.positions[0].volume),
        (1, 4_000_000)
    );
    assert!((truth.positions[0].price - (1.08512 + 3.0 * 1.0902) / 4.0).abs() < 1e-9);
    client
        .broker
        .open_market(7, "EURUSD", Side::Sell, 5_000_000)
        .expect("flipped");
    let truth = client.truth(7);
    assert_eq!(
        (truth.positions[0].side, truth.positions[0].volume),
        (Side::Sell, 1_000_000)
    );
    let details: Vec<_> = client
        .broker
        .deals(7)
        .into_iter()
        .filter_map(|d| d.close_position_detail)
        .collect();
    let sum: i64 = details
        .iter()
        .map(|d| d.gross_profit + d.swap + d.commission + d.pnl_conversion_fee.unwrap_or_default())
        .sum();
    assert_eq!(truth.balance, 5_000_000 + sum);
}
