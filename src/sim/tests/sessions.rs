//! Auth states, tokens, limits, silence, history and the market.

use std::time::Duration;

use super::*;
use crate::sim::presets::{WORKED_ACCOUNT, WORKED_TOKEN, worked_example};

#[test]
fn who_is_not_authorised_is_told_by_the_documented_code() {
    let world = Simulator::builder()
        .market_paused()
        .account(AccountSpec::new(7).token("t"))
        .account(AccountSpec::new(8).token("t").live())
        .account(AccountSpec::new(9).token("other"))
        .account(AccountSpec::new(10).token("t").disabled());
    let mut client = Client::new(world);
    let conn = client.connect(Environment::Demo);
    client.account(conn, 7, "t");
    assert_eq!(client.error(), "CH_CLIENT_NOT_AUTHENTICATED");
    client.app(conn);
    client.received();
    client.app(conn);
    assert_eq!(client.error(), "CH_CLIENT_ALREADY_AUTHENTICATED");
    for (account, token, code) in [
        (7, "wrong", "CH_ACCESS_TOKEN_INVALID"),
        (8, "t", "CANT_ROUTE_REQUEST"),
        (9, "t", "ACCOUNT_NOT_AUTHORIZED"),
        (10, "t", "RET_ACCOUNT_DISABLED"),
        (11, "t", "CH_CTID_TRADER_ACCOUNT_NOT_FOUND"),
    ] {
        client.account(conn, account, token);
        assert_eq!(client.error(), code);
    }
    client.send(conn, PayloadType::ProtoOaTraderReq, "x", &nothing_but(7));
    assert_eq!(client.error(), "ACCOUNT_NOT_AUTHORIZED");
    client
        .broker
        .set_unauthorised_reply(UnauthorisedReply::Text);
    client.send(conn, PayloadType::ProtoOaTraderReq, "x", &nothing_but(7));
    assert_eq!(client.error(), "INVALID_REQUEST");
    client.account(conn, 7, "t");
    client.received();
    client.account(conn, 7, "t");
    assert_eq!(client.error(), "ALREADY_LOGGED_IN");
    client.send(conn, PayloadType::ProtoOaTraderReq, "x", &nothing_but(7));
    assert_eq!(
        client.received()[0].0,
        number(PayloadType::ProtoOaTraderRes)
    );
    client.send_number(conn, UNKNOWN, "x", &nothing_but(7));
    assert_eq!(client.error(), "UNSUPPORTED_MESSAGE");
    client.broker.expire_token_in("t", Duration::ZERO);
    client.broker.drop_account(7);
    assert_eq!(
        client.received()[0].0,
        number(PayloadType::ProtoOaAccountDisconnectEvent)
    );
    client.account(conn, 7, "t");
    assert_eq!(client.error(), "OA_AUTH_TOKEN_EXPIRED");
}

#[test]
fn a_refresh_ends_the_sessions_and_the_new_token_opens_them_again() {
    let mut client = Client::new(
        Simulator::builder()
            .market_paused()
            .account(AccountSpec::new(7).token("t")),
    );
    let conn = client.session(7, "t");
    let body = wire::ProtoOaRefreshTokenReq {
        payload_type: None,
        refresh_token: "refresh-t".to_owned(),
    };
    client.send(conn, PayloadType::ProtoOaRefreshTokenReq, "r", &body);
    let received = client.received();
    let kinds: Vec<u32> = received.iter().map(|received| received.0).collect();
    assert_eq!(
        kinds,
        [
            number(PayloadType::ProtoOaAccountsTokenInvalidatedEvent),
            number(PayloadType::ProtoOaAccountDisconnectEvent),
            number(PayloadType::ProtoOaRefreshTokenRes)
        ]
    );
    let pair = wire::ProtoOaRefreshTokenRes::decode(received[2].2.clone()).expect("a pair");
    client.send(conn, PayloadType::ProtoOaRefreshTokenReq, "r", &body);
    assert_eq!(client.error(), "CH_ACCESS_TOKEN_INVALID");
    client.account(conn, 7, "t");
    assert_eq!(client.error(), "CH_ACCESS_TOKEN_INVALID");
    client.account(conn, 7, &pair.access_token);
    assert_eq!(
        client.received()[0].0,
        number(PayloadType::ProtoOaAccountAuthRes)
    );
}

#[test]
fn connections_of_an_application_are_capped() {
    let mut client = Client::new(Simulator::builder().market_paused().connection_cap(2));
    for _ in 0..2 {
        let conn = client.connect(Environment::Demo);
        client.app(conn);
    }
    client.received();
    let third = client.connect(Environment::Live);
    client.app(third);
    assert_eq!(client.error(), "CONNECTIONS_LIMIT_EXCEEDED");
}

#[test]
fn silence_brings_a_heartbeat_and_then_the_cut() {
    let mut client = Client::new(worked_example());
    let conn = client.session(WORKED_ACCOUNT, WORKED_TOKEN);
    client.wait(Duration::from_secs(25));
    assert_eq!(
        client.received().iter().map(|r| r.0).collect::<Vec<_>>(),
        [HEARTBEAT_EVENT]
    );
    client.heartbeat(conn);
    assert_eq!(client.received(), [], "a heartbeat is never answered");
    client.wait(Duration::from_secs(29));
    assert_eq!(client.broker.open_connections(), [conn]);
    client.wait(Duration::from_secs(1));
    assert_eq!(client.broker.open_connections(), []);
}

#[test]
fn scripted_refusals_run_out_and_the_rate_limit_blocks_by_payload_type() {
    let mut client = Client::new(worked_example());
    let conn = client.session(WORKED_ACCOUNT, WORKED_TOKEN);
    client.broker.refuse(
        Some(number(PayloadType::ProtoOaTraderReq)),
        1,
        Refusal::new("TIMEOUT_ERROR").sent_as(RefusalMessage::CommonError),
    );
    client.send(
        conn,
        PayloadType::ProtoOaTraderReq,
        "a",
        &nothing_but(WORKED_ACCOUNT),
    );
    assert_eq!(client.error(), "TIMEOUT_ERROR");
    for _ in 0..60 {
        client.send(
            conn,
            PayloadType::ProtoOaTraderReq,
            "a",
            &nothing_but(WORKED_ACCOUNT),
        );
    }
    let kinds: Vec<u32> = client.received().iter().map(|r| r.0).collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == number(PayloadType::ProtoOaTraderRes))
            .count(),
        47
    );
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == number(PayloadType::ProtoOaErrorRes))
            .count(),
        13
    );
    let view = client.broker.connections().remove(0);
    assert_eq!(
        (view.most_requests_per_second, view.rate_refusals),
        (63, 13)
    );
    client.wait(Duration::from_millis(1_001));
    client.send(
        conn,
        PayloadType::ProtoOaTraderReq,
        "a",
        &nothing_but(WORKED_ACCOUNT),
    );
    assert_eq!(
        client.received()[0].0,
        number(PayloadType::ProtoOaTraderRes)
    );
}

#[test]
fn history_comes_in_chunks_in_either_order() {
    let world = worked_example().history(2, false);
    let mut client = Client::new(world);
    let conn = client.session(WORKED_ACCOUNT, WORKED_TOKEN);
    client.wait(Duration::from_secs(1));
    client.broker.worked_t2();
    client.received();
    let mut body = wire::ProtoOaDealListReq {
        ctid_trader_account_id: WORKED_ACCOUNT,
        ..Default::default()
    };
    client.send(conn, PayloadType::ProtoOaDealListReq, "d", &body);
    let page = wire::ProtoOaDealListRes::decode(client.received().remove(0).2).expect("a page");
    assert_eq!((page.deal.len(), page.has_more), (2, true));
    assert!(page.deal[0].close_position_detail.is_none());
    client.broker.settings_mut().newest_first = true;
    client.send(conn, PayloadType::ProtoOaDealListReq, "d", &body);
    let page = wire::ProtoOaDealListRes::decode(client.received().remove(0).2).expect("a page");
    assert!(page.deal[0].close_position_detail.is_some());
    body.from_timestamp = Some(10);
    body.to_timestamp = Some(9);
    client.send(conn, PayloadType::ProtoOaDealListReq, "d", &body);
    assert_eq!(client.error(), "INCORRECT_BOUNDARIES");
    let week = wire::ProtoOaCashFlowHistoryListReq {
        payload_type: None,
        ctid_trader_account_id: WORKED_ACCOUNT,
        from_timestamp: 0,
        to_timestamp: 604_800_001,
    };
    client.send(conn, PayloadType::ProtoOaCashFlowHistoryListReq, "c", &week);
    assert_eq!(client.error(), "INCORRECT_BOUNDARIES");
}

#[test]
fn the_same_seed_gives_the_same_market() {
    let run = |seed| {
        let account = AccountSpec::new(7).token("t");
        let mut client = Client::new(
            Simulator::builder()
                .seed(seed)
                .ticks_per_second(20.0)
                .account(account),
        );
        let conn = client.session(7, "t");
        let body = wire::ProtoOaSubscribeSpotsReq {
            ctid_trader_account_id: 7,
            symbol_id: vec![1, 50, 60],
            ..Default::default()
        };
        client.send(conn, PayloadType::ProtoOaSubscribeSpotsReq, "s", &body);
        for _ in 0..100 {
            client.wait(Duration::from_millis(100));
        }
        client.received()
    };
    let (one, same, other) = (run(3), run(3), run(4));
    assert_eq!(one, same);
    assert_ne!(one, other);
    let spots: Vec<wire::ProtoOaSpotEvent> = one
        .iter()
        .filter(|received| received.0 == number(PayloadType::ProtoOaSpotEvent))
        .map(|received| wire::ProtoOaSpotEvent::decode(received.2.clone()).expect("a spot"))
        .collect();
    assert!(spots.len() > 500, "{}", spots.len());
    let bid_only = spots
        .iter()
        .filter(|spot| spot.bid.is_some() && spot.ask.is_none())
        .count();
    let ask_only = spots
        .iter()
        .filter(|spot| spot.bid.is_none() && spot.ask.is_some())
        .count();
    assert!(bid_only > 50 && ask_only > 50, "{bid_only} {ask_only}");
    assert!(
        spots
            .iter()
            .filter(|s| s.symbol_id == 50)
            .all(|s| s.bid.unwrap_or(0) % 10_000 == 0),
        "one digit"
    );
}
