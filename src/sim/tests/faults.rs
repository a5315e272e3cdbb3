//! Scripted faults: each does what its name promises, and nothing else.

use std::time::Duration;

use super::*;

#[test]
fn a_reply_is_late_or_lost_and_its_effect_stays() {
    let refresh = |token: &str| wire::ProtoOaRefreshTokenReq {
        payload_type: None,
        refresh_token: token.to_owned(),
    };
    let mut client = Client::new(quiet());
    let conn = client.connect(Environment::Demo);
    client.app(conn);
    client.received();
    client.broker.delay_reply(
        number(PayloadType::ProtoOaRefreshTokenReq),
        Duration::from_secs(20),
    );
    client.send(
        conn,
        PayloadType::ProtoOaRefreshTokenReq,
        "r",
        &refresh("refresh-t"),
    );
    let version = wire::ProtoOaVersionReq::default();
    client.send(conn, PayloadType::ProtoOaVersionReq, "v", &version);
    assert_eq!(
        client.kinds(),
        [PayloadType::ProtoOaVersionRes],
        "other replies are in time"
    );
    client.wait(Duration::from_secs(20));
    let pair = client
        .received()
        .into_iter()
        .find(|(kind, ..)| *kind == number(PayloadType::ProtoOaRefreshTokenRes))
        .expect("a late answer");
    let pair = wire::ProtoOaRefreshTokenRes::decode(pair.2).expect("a pair");
    client
        .broker
        .swallow_reply(Some(number(PayloadType::ProtoOaRefreshTokenReq)));
    client.send(
        conn,
        PayloadType::ProtoOaRefreshTokenReq,
        "r",
        &refresh(&pair.refresh_token),
    );
    assert!(client.kinds().is_empty());
    client.send(
        conn,
        PayloadType::ProtoOaRefreshTokenReq,
        "r",
        &refresh(&pair.refresh_token),
    );
    assert_eq!(client.error(), "CH_ACCESS_TOKEN_INVALID", "it is spent");
    let (access, _) = client.broker.tokens_of(7).expect("a living pair");
    assert_ne!(access, pair.access_token);
}

#[test]
fn replies_are_turned_round_and_events_doubled_and_lost() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client.broker.reorder_replies(2);
    client.send(conn, PayloadType::ProtoOaTraderReq, "a", &nothing_but(7));
    client.send(
        conn,
        PayloadType::ProtoOaVersionReq,
        "b",
        &wire::ProtoOaVersionReq::default(),
    );
    assert_eq!(
        client.kinds(),
        [
            PayloadType::ProtoOaVersionRes,
            PayloadType::ProtoOaTraderRes
        ]
    );
    client.broker.duplicate_events(1);
    client.broker.deposit(7, 1);
    client.broker.drop_events(1);
    client.broker.deposit(7, 1);
    client.broker.deposit(7, 1);
    let versions: Vec<Option<i64>> = client
        .executions()
        .iter()
        .map(|(event, _)| {
            let cash = event.deposit_withdraw.as_ref();
            cash.and_then(|cash| cash.balance_version)
        })
        .collect();
    assert_eq!(versions, [Some(2), Some(2), Some(4)]);
}

#[test]
fn a_log_out_is_accepted_and_then_the_session_ends() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    let other = client.session(7, "t");
    client.send(
        conn,
        PayloadType::ProtoOaAccountLogoutReq,
        "l",
        &wire::ProtoOaAccountLogoutReq {
            payload_type: None,
            ctid_trader_account_id: 7,
        },
    );
    let got: Vec<(ConnId, u32, bool)> = client
        .drain()
        .into_iter()
        .map(|(conn, (kind, id, _))| (conn, kind, id.is_some()))
        .collect();
    assert_eq!(
        got,
        [
            (conn, number(PayloadType::ProtoOaAccountLogoutRes), true),
            (
                conn,
                number(PayloadType::ProtoOaAccountDisconnectEvent),
                false
            )
        ]
    );
    assert_eq!(client.broker.authorised_on(7), [other]);
    client.broker.deposit(7, 1);
    let events = client.drain();
    assert_eq!((events.len(), events[0].0), (1, other));
}

#[test]
fn a_revoked_token_and_a_blocked_application_end_what_they_opened() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client.broker.revoke("t");
    assert_eq!(
        client.kinds(),
        [
            PayloadType::ProtoOaAccountsTokenInvalidatedEvent,
            PayloadType::ProtoOaAccountDisconnectEvent
        ]
    );
    client.account(conn, 7, "t");
    assert_eq!(client.error(), "CH_ACCESS_TOKEN_INVALID");
    client.broker.block_app("blocked by an administrator");
    let event: wire::ProtoOaClientDisconnectEvent =
        client.body(PayloadType::ProtoOaClientDisconnectEvent);
    assert_eq!(event.reason.as_deref(), Some("blocked by an administrator"));
    assert_eq!(client.broker.open_connections(), []);
}

#[test]
fn a_silent_rotation_leaves_the_sessions_alone() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client
        .broker
        .set_token_refresh_effect(TokenRefreshEffect::KeepsSessions);
    let pair = client.broker.refresh_elsewhere("refresh-t");
    let (access, _) = pair.expect("a new pair");
    assert!(client.kinds().is_empty());
    client.account(conn, 7, &access);
    assert_eq!(client.error(), "ALREADY_LOGGED_IN");
}

#[test]
fn either_host_lists_all_accounts_of_a_token() {
    let world = quiet().account(AccountSpec::new(8).token("t").live());
    let mut client = Client::new(world);
    for host in [Environment::Demo, Environment::Live] {
        let conn = client.connect(host);
        client.app(conn);
        client.received();
        let body = wire::ProtoOaGetAccountListByAccessTokenReq {
            payload_type: None,
            access_token: "t".to_owned(),
        };
        client.send(
            conn,
            PayloadType::ProtoOaGetAccountsByAccessTokenReq,
            "l",
            &body,
        );
        let list: wire::ProtoOaGetAccountListByAccessTokenRes =
            client.body(PayloadType::ProtoOaGetAccountsByAccessTokenRes);
        let listed = list.ctid_trader_account.iter();
        let listed: Vec<_> = listed
            .map(|account| (account.ctid_trader_account_id, account.is_live))
            .collect();
        assert_eq!(listed, [(7, Some(false)), (8, Some(true))]);
    }
}

#[test]
fn a_refusal_travels_by_any_of_four_messages() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    let order = wire::ProtoOaCancelOrderReq {
        payload_type: None,
        ctid_trader_account_id: 7,
        order_id: 5,
    };
    for (message, kind) in [
        (
            RefusalMessage::OaError,
            number(PayloadType::ProtoOaErrorRes),
        ),
        (RefusalMessage::CommonError, ERROR_RES),
        (
            RefusalMessage::OrderError,
            number(PayloadType::ProtoOaOrderErrorEvent),
        ),
        (
            RefusalMessage::Rejected,
            number(PayloadType::ProtoOaExecutionEvent),
        ),
    ] {
        let refusal = Refusal::new("TRADING_DISABLED").sent_as(message);
        client
            .broker
            .refuse(Some(number(PayloadType::ProtoOaCancelOrderReq)), 1, refusal);
        client.send(conn, PayloadType::ProtoOaCancelOrderReq, "mine", &order);
        let received = client.received();
        assert_eq!(received.len(), 1);
        assert_eq!(
            (received[0].0, received[0].1.as_deref()),
            (kind, Some("mine"))
        );
    }
    client.send(conn, PayloadType::ProtoOaCancelOrderReq, "mine", &order);
    let error: wire::ProtoOaOrderErrorEvent = client.body(PayloadType::ProtoOaOrderErrorEvent);
    assert_eq!(
        (error.error_code.as_str(), error.order_id),
        ("ORDER_NOT_FOUND", Some(5))
    );
    client.broker.zero_order_error_ids(true);
    client.send(conn, PayloadType::ProtoOaCancelOrderReq, "mine", &order);
    let error: wire::ProtoOaOrderErrorEvent = client.body(PayloadType::ProtoOaOrderErrorEvent);
    assert_eq!((error.order_id, error.position_id), (Some(0), Some(0)));
}

#[test]
fn maintenance_ends_in_seconds_by_one_message_and_in_milliseconds_by_the_other() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client.broker.maintenance(Some(Duration::from_mins(1)));
    client.send(conn, PayloadType::ProtoOaTraderReq, "x", &nothing_but(7));
    let error: wire::ProtoOaErrorRes = client.body(PayloadType::ProtoOaErrorRes);
    assert_eq!(error.maintenance_end_timestamp, Some(1_750_000_060));
    client
        .broker
        .maintenance_sent_as(RefusalMessage::CommonError);
    client.send(conn, PayloadType::ProtoOaTraderReq, "x", &nothing_but(7));
    let error: wire::ProtoErrorRes = client.body_of(ERROR_RES);
    assert_eq!(error.error_code, "SERVER_IS_UNDER_MAINTENANCE");
    assert_eq!(error.maintenance_end_timestamp, Some(1_750_000_060_000));
    client.broker.maintenance(None);
    client.send(conn, PayloadType::ProtoOaTraderReq, "x", &nothing_but(7));
    assert_eq!(client.kinds(), [PayloadType::ProtoOaTraderRes]);
}

#[test]
fn what_is_too_long_or_no_message_is_refused() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    let long = vec![0; MAX_FRAME + 1];
    client.broker.handle_message(conn, long.into(), client.now);
    assert_eq!(client.error(), "FRAME_TOO_LONG");
    let broken = Bytes::from_static(&[0xff; 5]);
    client.broker.handle_message(conn, broken, client.now);
    assert_eq!(client.error(), "INVALID_REQUEST");
}

#[test]
fn a_frozen_socket_receives_and_sends_nothing() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client.broker.half_open(conn);
    client.send(conn, PayloadType::ProtoOaTraderReq, "x", &nothing_but(7));
    client.broker.deposit(7, 1);
    client.wait(Duration::from_mins(2));
    assert_eq!(client.received(), []);
    assert_eq!(client.broker.open_connections(), [conn], "and does not end");
}

#[test]
fn numbers_and_types_that_no_schema_has_can_be_sent() {
    let mut client = Client::new(quiet());
    client.session(7, "t");
    client.broker.unknown_enums(1);
    client
        .broker
        .open_market(7, "EURUSD", Side::Buy, 100_000)
        .expect("opened");
    let events = client.executions();
    assert_eq!(execution_shape(&events), [(99, false), (3, false)]);
    assert_eq!(
        events[0].0.order.as_ref().map(|order| order.order_type),
        Some(99)
    );
    client.broker.unknown_types(Some(1));
    client.broker.deposit(7, 1);
    let numbers: Vec<u32> = client.received().iter().map(|(kind, ..)| *kind).collect();
    let execution = number(PayloadType::ProtoOaExecutionEvent);
    assert_eq!(numbers, [UNKNOWN, execution]);
}

#[test]
fn events_of_others_carry_their_ids() {
    let mut client = Client::new(quiet());
    client.session(7, "t");
    client.broker.foreign_ids(true);
    client
        .broker
        .open_market(7, "EURUSD", Side::Buy, 100_000)
        .expect("opened");
    let ids: Vec<bool> = client
        .executions()
        .iter()
        .map(|(_, id)| id.as_ref().is_some_and(|id| id.starts_with("terminal-")))
        .collect();
    assert_eq!(ids, [true, true]);
}

#[test]
fn history_has_a_quota_and_a_breach_may_come_without_a_block() {
    let history = |client: &mut Client, conn| {
        let body = wire::ProtoOaDealListReq {
            ctid_trader_account_id: 7,
            ..Default::default()
        };
        client.send(conn, PayloadType::ProtoOaDealListReq, "h", &body);
        client.kinds()
    };
    let limits = Limits {
        history_quota: Some(2),
        ..Limits::default()
    };
    let mut client = Client::new(quiet().limits(limits).idle_timeout(Duration::from_hours(1)));
    let conn = client.session(7, "t");
    for answer in [
        PayloadType::ProtoOaDealListRes,
        PayloadType::ProtoOaDealListRes,
        PayloadType::ProtoOaErrorRes,
    ] {
        client.wait(Duration::from_secs(2));
        client.received();
        assert_eq!(history(&mut client, conn), [answer]);
    }
    client.wait(Duration::from_mins(10));
    client.received();
    assert_eq!(
        history(&mut client, conn),
        [PayloadType::ProtoOaDealListRes],
        "the window has moved on"
    );

    let limits = Limits {
        history_per_second: 1,
        frequency_error: true,
        ..Limits::default()
    };
    let mut client = Client::new(quiet().limits(limits));
    let conn = client.session(7, "t");
    assert_eq!(
        history(&mut client, conn),
        [PayloadType::ProtoOaDealListRes]
    );
    let body = wire::ProtoOaDealListReq {
        ctid_trader_account_id: 7,
        ..Default::default()
    };
    client.send(conn, PayloadType::ProtoOaDealListReq, "h", &body);
    let error: wire::ProtoOaErrorRes = client.body(PayloadType::ProtoOaErrorRes);
    assert_eq!(error.error_code, "REQUEST_FREQUENCY_EXCEEDED");
    assert_eq!(error.retry_after, None);
}
