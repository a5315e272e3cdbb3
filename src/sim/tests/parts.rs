//! Orders that are filled, closed and stopped out in parts.

use std::time::Duration;

use super::*;

/// A client of a quiet account whose fills come in three parts.
fn in_parts(account: AccountSpec) -> Client {
    let mut client = Client::new(Simulator::builder().market_paused().account(account));
    client.session(7, "t");
    client.broker.settings_mut().fill_parts = 3;
    client
}

/// Type, deal status, executed volume and the position's volume of each event.
fn event_figures(client: &mut Client) -> Vec<(i32, Option<i32>, i64, i64)> {
    let events = client.executions().into_iter().map(|(event, _)| {
        (
            event.execution_type,
            event.deal.map(|deal| deal.deal_status),
            event
                .order
                .and_then(|order| order.executed_volume)
                .unwrap_or(-1),
            event.position.map_or(-1, |held| held.trade_data.volume),
        )
    });
    events.collect()
}

#[test]
fn an_order_is_filled_in_parts_and_gets_its_levels_with_the_last() {
    let mut client = in_parts(AccountSpec::new(7).token("t"));
    let order = OrderSpec::market("EURUSD", Side::Buy, 1_000_000).relative(Some(500), None);
    client.broker.place_order(7, &order).expect("accepted");
    let parts = [
        (2, None, 0, 0),
        (11, Some(3), 300_000, 300_000),
        (11, Some(3), 600_000, 600_000),
        (3, Some(2), 1_000_000, 1_000_000),
        (2, None, 0, 1_000_000),
    ];
    assert_eq!(event_figures(&mut client), parts);
    let opened: Vec<i64> = client
        .broker
        .deals(7)
        .iter()
        .map(|deal| deal.filled_volume)
        .collect();
    assert_eq!(opened, [300_000, 300_000, 400_000]);
    let commission: i64 = client
        .broker
        .deals(7)
        .iter()
        .filter_map(|deal| deal.commission)
        .sum();
    assert_eq!(client.truth(7).positions[0].commission, commission);
}

#[test]
fn a_close_in_parts_books_each_and_resizes_the_protective_order() {
    let mut client = in_parts(
        AccountSpec::new(7).token("t").position(
            PositionSpec::new(501, "EURUSD", Side::Buy, 900_000, raw("1.08"))
                .levels(Some(raw("1.07")), None),
        ),
    );
    client
        .broker
        .close_position(7, 501, Some(600_000))
        .expect("accepted");
    let events = client.executions();
    assert_eq!(
        execution_shape(&events),
        [
            (2, false),
            (11, false),
            (4, true),
            (11, false),
            (4, true),
            (3, false),
            (4, true)
        ]
    );
    let protective = events[6].0.order.as_ref().expect("the protective order");
    assert_eq!(
        (protective.order_type, protective.trade_data.volume),
        (4, 300_000)
    );
    assert_eq!(client.truth(7).balance_version, 4, "three changes");
    client
        .broker
        .close_position(7, 501, None)
        .expect("accepted");
    let last = client.executions().pop().expect("an event").0;
    assert_eq!(last.execution_type, 5, "and the protective order goes last");
}

#[test]
fn parts_come_after_each_other_and_an_order_is_pending_until_the_last() {
    let mut client = in_parts(AccountSpec::new(7).token("t"));
    client.broker.settings_mut().partial_fill_delay = Duration::from_millis(100);
    client.broker.settings_mut().manual_fill_delay = Duration::from_millis(50);
    let order = OrderSpec::limit("EURUSD", Side::Buy, 600_000, raw("1.08"));
    let placed = client.broker.place_order(7, &order).expect("accepted");
    client
        .broker
        .set_quote("EURUSD", raw("1.0799"), raw("1.08"));
    assert_eq!(client.truth(7).positions[0].volume, 200_000);
    assert_eq!(client.truth(7).pending, [placed.order]);
    client.wait(Duration::from_millis(100));
    assert_eq!(client.truth(7).positions[0].volume, 400_000);
    // Cancelling ends the fills that are still to come.
    client
        .broker
        .cancel_order(7, placed.order)
        .expect("cancelled");
    client.wait(Duration::from_millis(500));
    assert_eq!(client.truth(7).positions[0].volume, 400_000);
    assert_eq!(
        (client.broker.scheduled(), client.truth(7).pending.len()),
        (0, 0)
    );
}

#[test]
fn what_is_left_of_an_order_does_not_revive_a_position() {
    let mut client = in_parts(AccountSpec::new(7).token("t"));
    client.broker.settings_mut().partial_fill_delay = Duration::from_millis(100);
    let order = OrderSpec::market("EURUSD", Side::Buy, 300_000);
    let placed = client.broker.place_order(7, &order).expect("accepted");
    client.broker.settings_mut().fill_parts = 1;
    client
        .broker
        .close_position(7, placed.position, None)
        .expect("closed");
    client.wait(Duration::from_millis(200));
    assert_ne!(client.truth(7).positions[0].id, placed.position);
}

#[test]
fn a_stop_limit_waits_for_its_stop_and_keeps_to_its_limit() {
    let mut client = Client::new(quiet());
    let order = OrderSpec::stop_limit("EURUSD", Side::Buy, 100_000, raw("1.09"), raw("1.091"));
    client.broker.place_order(7, &order).expect("accepted");
    for (bid, open) in [("1.085", 0), ("1.092", 0), ("1.0905", 1)] {
        client.broker.set_quote("EURUSD", raw(bid), raw(bid) + 10);
        assert_eq!(client.truth(7).positions.len(), open, "at {bid}");
    }
}

#[test]
fn a_pending_order_of_a_netted_account_merges() {
    let mut client = Client::new(
        Simulator::builder()
            .market_paused()
            .account(AccountSpec::new(7).token("t").netted()),
    );
    let limit = OrderSpec::limit("EURUSD", Side::Buy, 100_000, raw("1.08"));
    client.broker.place_order(7, &limit).expect("accepted");
    let open = client.broker.open_market(7, "EURUSD", Side::Buy, 100_000);
    client
        .broker
        .set_quote("EURUSD", raw("1.0798"), raw("1.0799"));
    let truth = client.truth(7);
    assert_eq!(truth.positions.len(), 1);
    assert_eq!(
        (Ok(truth.positions[0].id), truth.positions[0].volume),
        (open.map_err(|refusal| refusal.code().to_owned()), 200_000)
    );
}

/// An account whose margin is gone.
fn bankrupt_account() -> AccountSpec {
    AccountSpec::new(7)
        .token("t")
        .balance(1_000)
        .stop_out_level(50)
        .position(PositionSpec::new(
            501,
            "EURUSD",
            Side::Buy,
            800_000,
            raw("1.0852"),
        ))
}

#[test]
fn a_stop_out_is_marked_as_the_servers() {
    for (account, halves, left) in [
        (bankrupt_account(), false, 0),
        (bankrupt_account(), true, 400_000),
        (bankrupt_account().fair_stop_out(), true, 0),
    ] {
        let mut client = Client::new(Simulator::builder().market_paused().account(account));
        client.session(7, "t");
        client.broker.settings_mut().partial_stop_out = halves;
        client.wait(Duration::from_millis(250));
        let events = client.executions();
        assert_eq!(execution_shape(&events), [(3, true)]);
        let event = &events[0].0;
        let order = event.order.as_ref().expect("an order");
        assert_eq!(order.is_stop_out, Some(true));
        let held = event.position.as_ref().expect("a position");
        assert_eq!(held.trade_data.volume, left);
    }
}
