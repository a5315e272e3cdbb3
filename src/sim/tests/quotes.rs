//! Subscriptions: what is told at once, what is refused, and what comes after the end.

use super::*;

fn subscription(symbols: &[i64], with_time: bool) -> wire::ProtoOaSubscribeSpotsReq {
    wire::ProtoOaSubscribeSpotsReq {
        payload_type: None,
        ctid_trader_account_id: 7,
        symbol_id: symbols.to_vec(),
        subscribe_to_spot_timestamp: Some(with_time),
    }
}

fn spots(client: &mut Client) -> Vec<wire::ProtoOaSpotEvent> {
    let spots = client
        .received()
        .into_iter()
        .filter(|(kind, ..)| *kind == number(PayloadType::ProtoOaSpotEvent));
    spots
        .map(|(_, _, body)| wire::ProtoOaSpotEvent::decode(body).expect("a spot"))
        .collect()
}

#[test]
fn a_timestamp_comes_only_when_asked_for() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client.send(
        conn,
        PayloadType::ProtoOaSubscribeSpotsReq,
        "s",
        &subscription(&[1], false),
    );
    client.send(
        conn,
        PayloadType::ProtoOaSubscribeSpotsReq,
        "s",
        &subscription(&[2], true),
    );
    client
        .broker
        .set_quote_at(presets::ALPHA, "EURUSD", raw("1.09"), None);
    client
        .broker
        .set_quote_at(presets::ALPHA, "GBPUSD", None, raw("1.27"));
    let seen: Vec<_> = spots(&mut client)
        .iter()
        .map(|spot| {
            (
                spot.symbol_id,
                spot.bid.is_some(),
                spot.ask.is_some(),
                spot.timestamp.is_some(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (1, true, true, false),
            (2, true, true, true),
            (1, true, false, false),
            (2, false, true, true)
        ]
    );
}

#[test]
fn a_subscription_that_makes_no_sense_is_refused() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client.send(
        conn,
        PayloadType::ProtoOaSubscribeSpotsReq,
        "s",
        &subscription(&[999], false),
    );
    assert_eq!(client.error(), "UNKNOWN_SYMBOL");
    client.send(
        conn,
        PayloadType::ProtoOaSubscribeSpotsReq,
        "s",
        &subscription(&[1], false),
    );
    client.received();
    client.send(
        conn,
        PayloadType::ProtoOaSubscribeSpotsReq,
        "s",
        &subscription(&[1], false),
    );
    assert_eq!(client.error(), "ALREADY_SUBSCRIBED");
}

#[test]
fn a_quote_may_still_come_after_the_end() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client.broker.stray_spots(true);
    let end = wire::ProtoOaUnsubscribeSpotsReq {
        payload_type: None,
        ctid_trader_account_id: 7,
        symbol_id: vec![1],
    };
    client.send(
        conn,
        PayloadType::ProtoOaSubscribeSpotsReq,
        "s",
        &subscription(&[1], false),
    );
    client.received();
    client.send(conn, PayloadType::ProtoOaUnsubscribeSpotsReq, "u", &end);
    assert_eq!(
        client.kinds(),
        [
            PayloadType::ProtoOaUnsubscribeSpotsRes,
            PayloadType::ProtoOaSpotEvent
        ]
    );
    client.broker.set_quote("EURUSD", raw("1.09"), None);
    assert!(client.kinds().is_empty());
}

#[test]
fn a_symbol_that_changed_is_named_and_no_more() {
    let mut client = Client::new(quiet());
    client.session(7, "t");
    client.broker.symbol_changed(presets::ALPHA, "XAUUSD");
    let event: wire::ProtoOaSymbolChangedEvent =
        client.body(PayloadType::ProtoOaSymbolChangedEvent);
    assert_eq!(event.symbol_id, [41]);
}

#[test]
fn chains_have_one_to_three_symbols_and_none_for_the_same_asset() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    for (from, to, symbols) in [(2, 1, vec![1]), (3, 1, vec![4, 1]), (9, 1, vec![9, 2, 1])] {
        let body = wire::ProtoOaSymbolsForConversionReq {
            payload_type: None,
            ctid_trader_account_id: 7,
            first_asset_id: from,
            last_asset_id: to,
        };
        client.send(
            conn,
            PayloadType::ProtoOaSymbolsForConversionReq,
            "c",
            &body,
        );
        let chain: wire::ProtoOaSymbolsForConversionRes =
            client.body(PayloadType::ProtoOaSymbolsForConversionRes);
        let ids: Vec<i64> = chain.symbol.iter().map(|symbol| symbol.symbol_id).collect();
        assert_eq!(ids, symbols);
    }
    let same = wire::ProtoOaSymbolsForConversionReq {
        payload_type: None,
        ctid_trader_account_id: 7,
        first_asset_id: 1,
        last_asset_id: 1,
    };
    client.send(
        conn,
        PayloadType::ProtoOaSymbolsForConversionReq,
        "c",
        &same,
    );
    assert_eq!(client.error(), "SYMBOL_NOT_FOUND");
}
