//! Balance operations, bonuses, swaps, margins and margin calls.

use std::time::Duration;

use super::*;

/// A client with a session of account 7.
fn listening(account: AccountSpec) -> Client {
    let mut client = Client::new(
        Simulator::builder()
            .market_paused()
            .account(account.token("t")),
    );
    client.session(7, "t");
    client
}

fn flow(client: &mut Client) -> wire::ProtoOaDepositWithdraw {
    let event: wire::ProtoOaExecutionEvent = client.body(PayloadType::ProtoOaExecutionEvent);
    assert_eq!(
        (event.execution_type, event.is_server_event),
        (10, Some(true))
    );
    event.deposit_withdraw.expect("a balance operation")
}

#[test]
fn a_balance_operation_has_the_new_balance_and_its_version() {
    let mut client = listening(AccountSpec::new(7).balance(1_000));
    for (delta, kind) in [(500, 0), (-200, 1)] {
        client.broker.deposit(7, delta);
        assert_eq!(flow(&mut client).operation_type, kind);
    }
    client.broker.swap_on_balance(7, 7);
    assert_eq!(flow(&mut client).operation_type, 21);
    client.broker.swap_on_balance(7, -9);
    assert_eq!(flow(&mut client).operation_type, 22);
    client.broker.nonwithdrawable_bonus(7, 100);
    assert_eq!(flow(&mut client).operation_type, 19);
    client.broker.nonwithdrawable_bonus(7, -30);
    let last = flow(&mut client);
    assert_eq!(last.operation_type, 20);
    assert_eq!(
        (last.balance, last.delta, last.balance_version, last.equity),
        (1_368, -30, Some(7), Some(1_368))
    );
    let trader = client.broker.wire_trader(7).expect("a trader");
    assert_eq!(trader.non_withdrawable_bonus, Some(70));
}

#[test]
fn a_withdrawal_may_be_told_without_its_sign() {
    let mut client = listening(AccountSpec::new(7).balance(1_000));
    client.broker.settings_mut().unsigned_withdrawals = true;
    client.broker.deposit(7, -400);
    let told = flow(&mut client);
    assert_eq!((told.delta, told.balance), (400, 600));
    assert_eq!(
        client.broker.cash_flow(7)[0].delta,
        400,
        "history says the same"
    );
}

#[test]
fn a_bonus_changes_no_balance() {
    let mut client = listening(AccountSpec::new(7).balance(1_000));
    client.broker.bonus(7, 300);
    client.broker.ib_bonus(7, 50);
    client.broker.bonus(7, -100);
    let events = client.executions();
    assert_eq!(execution_shape(&events), [(12, true); 3]);
    let change = |index: usize| {
        let (event, _) = &events[index];
        let change = event.bonus_deposit_withdraw.as_ref().expect("a bonus");
        (
            change.operation_type,
            (change.manager_bonus, change.manager_delta),
            (change.ib_bonus, change.ib_delta),
        )
    };
    assert_eq!(change(1), (0, (300, 0), (50, 50)));
    assert_eq!(change(2), (1, (200, -100), (50, 0)));
    let truth = client.truth(7);
    assert_eq!((truth.balance, truth.active_bonus), (1_000, 250));
}

#[test]
fn a_swap_and_a_margin_change_their_position_alone() {
    let position = PositionSpec::new(501, "EURUSD", Side::Buy, 100_000, raw("1.08"));
    let mut client = listening(AccountSpec::new(7).position(position));
    client.broker.swap(7, 501, -12);
    let event: wire::ProtoOaExecutionEvent = client.body(PayloadType::ProtoOaExecutionEvent);
    assert_eq!(event.execution_type, 9);
    assert_eq!(event.position.expect("a position").swap, -12);
    client.broker.change_margin(7, 501, 200_000_000);
    let event: wire::ProtoOaMarginChangedEvent =
        client.body(PayloadType::ProtoOaMarginChangedEvent);
    assert_eq!((event.position_id, event.used_margin), (501, 2_000));
    let truth = client.truth(7);
    assert_eq!((truth.balance_version, truth.used_margin), (1, 2_000));
}

#[test]
fn a_setting_that_changes_is_told_with_the_whole_trader() {
    let mut client = listening(AccountSpec::new(7));
    client.broker.set_margin_type(7, MarginType::Net);
    let event: wire::ProtoOaTraderUpdatedEvent = client.body(PayloadType::ProtoOaTraderUpdateEvent);
    assert_eq!(event.trader.total_margin_calculation_type, Some(2));
    client.broker.settings_mut().trader_updates = true;
    client.broker.deposit(7, 1);
    assert_eq!(
        client.kinds(),
        [
            PayloadType::ProtoOaExecutionEvent,
            PayloadType::ProtoOaTraderUpdateEvent
        ]
    );
}

#[test]
fn a_threshold_calls_once_in_ten_minutes() {
    let position = PositionSpec::new(501, "EURUSD", Side::Buy, 800_000, raw("1.085"));
    let mut client = listening(AccountSpec::new(7).balance(7_500).position(position));
    let calls = |client: &mut Client| -> Vec<i32> {
        let calls = client
            .received()
            .into_iter()
            .filter(|(kind, ..)| *kind == number(PayloadType::ProtoOaMarginCallTriggerEvent));
        calls
            .map(|(_, _, body)| {
                let event = wire::ProtoOaMarginCallTriggerEvent::decode(body);
                event.expect("a call").margin_call.margin_call_type
            })
            .collect()
    };
    client.wait(Duration::from_millis(250));
    assert_eq!(calls(&mut client), [61], "below the first threshold alone");
    client.broker.deposit(7, -2_500);
    client.wait(Duration::from_secs(1));
    assert_eq!(calls(&mut client), [62]);
    let conn = client.broker.open_connections()[0];
    let wait = |client: &mut Client| {
        client.heartbeat(conn);
        client.wait(Duration::from_secs(20));
    };
    (0..29).for_each(|_| wait(&mut client));
    assert!(calls(&mut client).is_empty());
    wait(&mut client);
    assert_eq!(calls(&mut client), [61, 62]);
}

#[test]
fn the_journal_tells_what_was_done() {
    let mut client = listening(AccountSpec::new(7));
    client.broker.deposit(7, 1);
    assert!(client.broker.journal().is_empty(), "nobody asked for it");
    client.broker.keep_journal();
    client.broker.deposit(7, -5);
    client
        .broker
        .set_quote_at(presets::ALPHA, "EURUSD", raw("1.09"), None);
    let told: Vec<(i64, JournalEvent)> = client
        .broker
        .journal()
        .iter()
        .map(|entry| (entry.account, entry.event.clone()))
        .collect();
    let quote = JournalEvent::Quote {
        broker: presets::ALPHA.to_owned(),
        symbol: 1,
        bid: Some(raw("1.09")),
        ask: None,
    };
    assert_eq!(told, [(7, JournalEvent::Cash(-5)), (0, quote)]);
}
