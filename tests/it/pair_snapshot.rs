//! What comes while the snapshot is on its way, twice, late, or from somebody else.

use std::time::Duration;

use bytes::Bytes;
use mahspeccy_bridge::ctrader::connection::{ConnectionError, Down};
use mahspeccy_bridge::ctrader::convert::Malformed;
use mahspeccy_bridge::ctrader::wire;
use mahspeccy_bridge::sim::presets::{WORKED_ACCOUNT as ACCOUNT, WORKED_TOKEN, worked_example};
use mahspeccy_bridge::sim::{Broker, OrderSpec, Refusal, Side, raw};

use crate::support::pair::{Pair, Tamper};

fn live() -> Pair {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair
}

/// A day's work in a moment.
fn busy(broker: &mut Broker) {
    let order = OrderSpec::market("EURUSD", Side::Buy, 200_000).relative(Some(300), Some(900));
    let opened = broker.place_order(ACCOUNT, &order).expect("there is money");
    broker
        .close_position(ACCOUNT, 702, Some(1_000_000))
        .expect("it is open");
    broker.deposit(ACCOUNT, 700);
    broker.swap(ACCOUNT, 701, -9);
    broker
        .amend_levels(ACCOUNT, 703, Some(raw("2300")), None)
        .expect("it is open");
    broker.trail_stop(ACCOUNT, 703, raw("2301"));
    broker.change_margin(ACCOUNT, 701, 93_000_000);
    broker.bonus(ACCOUNT, 1_234);
    let pending = OrderSpec::stop("GBPUSD", Side::Buy, 300_000, raw("1.3"));
    broker.place_order(ACCOUNT, &pending).expect("taken");
    broker
        .close_position(ACCOUNT, opened.position, None)
        .expect("it is open");
}

#[test]
fn events_during_the_snapshot_are_kept_and_replayed() {
    // The trader's answer, the positions' or both are late, so that the events fall in between.
    for late in [&[2121_u32][..], &[2124], &[2121, 2124]] {
        let mut pair = Pair::new(worked_example());
        for kind in late {
            let refusal = Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(2);
            pair.broker.refuse(Some(*kind), 1, refusal);
        }
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.drive_until("the snapshot's requests", Duration::from_secs(3), |pair| {
            pair.sent_of(2124) > 0
        });
        pair.run(Duration::from_millis(100));
        assert!(!pair.is_live(ACCOUNT));
        pair.hand(busy);
        pair.wait_live(ACCOUNT);
        pair.assert_truth(ACCOUNT);
        pair.assert_deals(ACCOUNT);
    }
}

#[test]
fn events_at_any_moment_of_the_opening_are_told_once() {
    for moment in 0..40 {
        let mut pair = Pair::new(worked_example());
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.run(Duration::from_millis(moment * 10));
        pair.hand(busy);
        pair.wait_live(ACCOUNT);
        pair.assert_truth(ACCOUNT);
        let authorised = pair
            .sent
            .iter()
            .find(|(_, kind)| *kind == 2102)
            .map(|(at, _)| *at);
        if authorised
            .is_some_and(|at| at + Duration::from_millis(30) < Duration::from_millis(moment * 10))
        {
            pair.assert_deals(ACCOUNT);
        }
    }
}

#[test]
fn answers_may_come_in_any_order() {
    let mut pair = Pair::new(worked_example());
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.drive_until("the snapshot's requests", Duration::from_secs(3), |pair| {
        pair.sent_of(2121) > 0
    });
    pair.hand(|broker| broker.reorder_replies(2));
    pair.wait_live(ACCOUNT);
    pair.assert_truth(ACCOUNT);
}

#[test]
fn events_that_come_twice_change_nothing() {
    let mut pair = live();
    pair.hand(|broker| broker.duplicate_events(1_000));
    pair.hand(busy);
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
}

#[test]
fn an_old_event_that_comes_late_changes_nothing() {
    let mut pair = live();
    let stale = wire::ProtoOaExecutionEvent {
        ctid_trader_account_id: ACCOUNT,
        execution_type: wire::ProtoOaExecutionType::DepositWithdraw.into(),
        deposit_withdraw: Some(wire::ProtoOaDepositWithdraw {
            balance: 1,
            balance_version: Some(39),
            money_digits: Some(2),
            ..wire::ProtoOaDepositWithdraw::default()
        }),
        ..wire::ProtoOaExecutionEvent::default()
    };
    pair.inject_message(2126, None, &stale);
    let open = wire::ProtoOaExecutionEvent {
        ctid_trader_account_id: ACCOUNT,
        execution_type: wire::ProtoOaExecutionType::OrderReplaced.into(),
        position: Some(wire::ProtoOaPosition {
            position_id: 701,
            trade_data: wire::ProtoOaTradeData {
                symbol_id: 4,
                volume: 1,
                trade_side: 1,
                ..Default::default()
            },
            position_status: 1,
            utc_last_update_timestamp: Some(1),
            ..wire::ProtoOaPosition::default()
        }),
        ..wire::ProtoOaExecutionEvent::default()
    };
    pair.inject_message(2126, None, &open);
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
    pair.step_by_hand(ACCOUNT, |broker| broker.close_position(ACCOUNT, 701, None))
        .expect("open");
    let mut again = open;
    if let Some(position) = &mut again.position {
        position.utc_last_update_timestamp = Some(i64::MAX);
    }
    pair.inject_message(2126, None, &again);
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
}

#[test]
fn what_no_schema_has_is_ignored() {
    let mut pair = Pair::new(worked_example());
    pair.broker.unknown_fields(true);
    pair.broker.unknown_types(Some(2));
    pair.broker.omit_inner_payload_type(true);
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.assert_truth(ACCOUNT);
    pair.step_by_hand(ACCOUNT, busy);
    assert!(pair.downs(ACCOUNT).is_empty());
}

#[test]
fn ids_of_other_clients_are_harmless() {
    let mut pair = live();
    pair.hand(|broker| broker.foreign_ids(true));
    pair.step_by_hand(ACCOUNT, busy);
    // Ids of our form that no request has, and ids of no known form.
    let prefix = format!("{:016x}-", crate::support::pair::seed_or(1));
    for id in ["0", "1", "2", "999999", "18446744073709551616", "-1", ""] {
        let id = format!("{prefix}{id}");
        pair.inject_message(2122, Some(&id), &wire::ProtoOaTraderRes::default());
        pair.inject_message(2163, Some(&id), &wire::ProtoOaAccountLogoutRes::default());
        let refusal = wire::ProtoOaErrorRes {
            error_code: "CH_ACCESS_TOKEN_INVALID".to_owned(),
            ctid_trader_account_id: Some(ACCOUNT),
            ..wire::ProtoOaErrorRes::default()
        };
        pair.inject_message(2142, Some(&id), &refusal);
        pair.inject_message(2142, None, &refusal);
    }
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
    assert!(pair.downs(ACCOUNT).is_empty() && pair.failure().is_none());
}

#[test]
fn an_event_with_the_id_of_a_waiting_request_is_an_event() {
    let mut pair = Pair::new(worked_example());
    pair.broker.swallow_reply(Some(2121));
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.drive_until("the snapshot's requests", Duration::from_secs(3), |pair| {
        pair.sent_of(2124) > 0
    });
    let prefix = format!("{:016x}-", crate::support::pair::seed_or(1));
    for number in 1..10 {
        let id = format!("{prefix}{number}");
        let spot = wire::ProtoOaSpotEvent {
            ctid_trader_account_id: ACCOUNT,
            ..Default::default()
        };
        pair.inject_message(2131, Some(&id), &spot);
    }
    pair.run(Duration::from_secs(20));
    assert_eq!(
        pair.downs(ACCOUNT),
        [Down::TimedOut],
        "the answer is still missing"
    );
}

#[test]
fn an_answer_that_cannot_be_read_ends_the_session_at_once() {
    for kind in [2122, 2125, 2113, 2115, 2117, 2119] {
        let mut pair = Pair::new(worked_example());
        pair.link
            .tampers
            .push((kind, Tamper::Body(Bytes::from_static(b"\x12\xff"))));
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.run(Duration::from_secs(5));
        assert!(
            matches!(
                pair.downs(ACCOUNT)[..],
                [Down::Malformed(Malformed::Unreadable(_))]
            ),
            "{kind}: {:?}",
            pair.events
        );
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.run(Duration::from_secs(20));
        assert!(pair.failure().is_none());
    }
}

#[test]
fn an_event_that_cannot_be_read_ends_its_account_and_no_other() {
    let other = mahspeccy_bridge::sim::AccountSpec::new(7).token("other");
    let mut pair = Pair::new(worked_example().account(other));
    pair.open(7, "other");
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    let mut body = vec![0x10];
    prost::encoding::encode_varint(ACCOUNT.cast_unsigned(), &mut body);
    body.extend([0x22, 0x7f]);
    pair.link.tampers.push((2126, Tamper::Body(body.into())));
    pair.hand(|broker| broker.deposit(ACCOUNT, 100));
    pair.run_briefly();
    assert!(
        matches!(pair.downs(ACCOUNT)[..], [Down::Malformed(_)]),
        "{:?}",
        pair.events
    );
    assert!(pair.is_live(7) && pair.failure().is_none());
}

#[test]
fn a_frame_that_is_no_message_ends_the_connection() {
    for garbage in [
        &b"\xff\xff\xff"[..],
        b"\x08",
        b"\x0a\x05ab",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut pair = live();
        pair.inject(Bytes::copy_from_slice(garbage));
        pair.run_briefly();
        assert_eq!(pair.failure(), Some(ConnectionError::Malformed));
        assert_eq!(pair.client.poll_timeout(), None);
        pair.client.handle_pong(pair.now());
        assert_eq!(pair.client.poll_event(), None, "nothing comes out any more");
        pair.reconnect();
        pair.go_live(ACCOUNT, WORKED_TOKEN);
        pair.assert_truth(ACCOUNT);
    }
}
