//! The worked example, step by step and to the cent.

use super::*;
use crate::sim::presets::{WORKED_ACCOUNT, WORKED_TOKEN, worked_example};

#[test]
fn the_worked_example_holds_to_the_cent_at_t0() {
    let client = Client::new(worked_example());
    let truth = client.truth(WORKED_ACCOUNT);
    let rows: Vec<(i64, i64, i64, i64)> = truth
        .positions
        .iter()
        .map(|p| (p.id, p.gross, p.net, p.used_margin))
        .collect();
    assert_eq!(
        rows,
        [
            (701, 13_711, 13_438, 46_041),
            (702, 10_599, 10_575, 23_389),
            (703, -6_618, -6_863, 43_320)
        ]
    );
    assert_eq!(
        (truth.gross, truth.net, truth.equity),
        (17_692, 17_150, 1_017_150)
    );
    assert_eq!((truth.used_margin, truth.free_margin), (112_750, 904_400));
    assert!((truth.margin_level.expect("a level") - 902.1286).abs() < 0.000_05);
}

#[test]
fn the_worked_example_holds_through_its_steps() {
    let mut client = Client::new(worked_example());
    client.broker.worked_t1a();
    let truth = client.truth(WORKED_ACCOUNT);
    assert_eq!(
        (truth.gross, truth.net, truth.equity, truth.free_margin),
        (17_708, 17_166, 1_017_166, 904_416)
    );
    client.broker.worked_t1b();
    let truth = client.truth(WORKED_ACCOUNT);
    let gross: Vec<i64> = truth.positions.iter().map(|p| p.gross).collect();
    assert_eq!(gross, [13_723, 10_332, -6_624]);
    assert_eq!(
        (truth.net, truth.equity, truth.free_margin),
        (16_889, 1_016_889, 904_139)
    );
    assert!((truth.margin_level.expect("a level") - 901.8971).abs() < 0.000_05);

    client.session(WORKED_ACCOUNT, WORKED_TOKEN);
    client.broker.worked_t2();
    let events = client.executions();
    assert_eq!(execution_shape(&events), [(2, false), (3, false)]);
    let filled = &events[1].0;
    let deal = filled.deal.as_ref().expect("a deal");
    let detail = deal.close_position_detail.as_ref().expect("a closing deal");
    assert_eq!((deal.trade_side, deal.volume), (1, 1_000_000));
    assert!((deal.execution_price.expect("a price") - 1.26425).abs() < 1e-12);
    assert!((detail.entry_price - 1.27).abs() < 1e-12);
    assert_eq!(
        (detail.gross_profit, detail.swap, detail.commission),
        (5_300, 18, -60)
    );
    assert_eq!(
        (detail.balance, detail.balance_version),
        (1_005_258, Some(41))
    );
    assert_eq!(
        (
            detail.closed_volume,
            detail.pnl_conversion_fee,
            detail.money_digits
        ),
        (Some(1_000_000), Some(0), Some(2))
    );
    assert!(
        (detail.quote_to_deposit_conversion_rate.expect("a rate") - 0.921_658_986_2).abs() < 1e-10
    );
    let position = filled.position.as_ref().expect("a position");
    assert_eq!((position.trade_data.volume, position.swap), (1_000_000, 18));
    assert_eq!(
        (position.commission, position.used_margin),
        (Some(-30), Some(11_694))
    );
    let truth = client.truth(WORKED_ACCOUNT);
    assert_eq!(
        (truth.gross, truth.net, truth.equity),
        (12_393, 11_863, 1_017_121)
    );
    assert_eq!((truth.used_margin, truth.free_margin), (101_055, 916_066));
    assert!((truth.margin_level.expect("a level") - 1_006.502_4).abs() < 0.000_05);

    client.broker.worked_t3();
    let events = client.executions();
    assert_eq!(execution_shape(&events), [(10, true)]);
    let flow = events[0].0.deposit_withdraw.as_ref().expect("a deposit");
    assert_eq!(
        (flow.operation_type, flow.delta, flow.balance),
        (0, 50_000, 1_055_258)
    );
    assert_eq!(
        (flow.balance_version, flow.equity, flow.money_digits),
        (Some(42), Some(1_067_121), Some(2))
    );
    let truth = client.truth(WORKED_ACCOUNT);
    assert_eq!((truth.equity, truth.free_margin), (1_067_121, 966_066));
    assert!((truth.margin_level.expect("a level") - 1_055.980_4).abs() < 0.000_05);
}

#[test]
fn unrealized_pnl_equals_the_figures_of_the_example() {
    let mut client = Client::new(worked_example());
    let conn = client.session(WORKED_ACCOUNT, WORKED_TOKEN);
    client.send(
        conn,
        PayloadType::ProtoOaGetPositionUnrealizedPnlReq,
        "pnl",
        &nothing_but(WORKED_ACCOUNT),
    );
    let (kind, id, body) = client.received().remove(0);
    assert_eq!(
        (kind, id.as_deref()),
        (
            number(PayloadType::ProtoOaGetPositionUnrealizedPnlRes),
            Some("pnl")
        )
    );
    let body = wire::ProtoOaGetPositionUnrealizedPnLRes::decode(body).expect("a reply");
    let rows: Vec<(i64, i64, i64)> = body
        .position_unrealized_pn_l
        .iter()
        .map(|row| {
            (
                row.position_id,
                row.gross_unrealized_pn_l,
                row.net_unrealized_pn_l,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            (701, 13_711, 13_438),
            (702, 10_599, 10_575),
            (703, -6_618, -6_863)
        ]
    );
    assert_eq!(body.money_digits, 2);
}

#[test]
fn a_subscription_begins_with_both_sides_and_goes_on_with_the_changed_one() {
    let mut client = Client::new(worked_example());
    let conn = client.session(WORKED_ACCOUNT, WORKED_TOKEN);
    let body = wire::ProtoOaSubscribeSpotsReq {
        ctid_trader_account_id: WORKED_ACCOUNT,
        symbol_id: vec![1, 2],
        ..Default::default()
    };
    client.send(conn, PayloadType::ProtoOaSubscribeSpotsReq, "spots", &body);
    client.broker.worked_t1a();
    client.broker.worked_t1b();
    let received = client.received();
    let kinds: Vec<u32> = received.iter().map(|received| received.0).collect();
    assert_eq!(
        kinds,
        [
            number(PayloadType::ProtoOaSubscribeSpotsRes),
            number(PayloadType::ProtoOaSpotEvent),
            number(PayloadType::ProtoOaSpotEvent),
            number(PayloadType::ProtoOaSpotEvent),
            number(PayloadType::ProtoOaSpotEvent)
        ]
    );
    let spots: Vec<(i64, Option<u64>, Option<u64>)> = received
        .iter()
        .skip(1)
        .map(|received| wire::ProtoOaSpotEvent::decode(received.2.clone()).expect("a spot"))
        .map(|spot| (spot.symbol_id, spot.bid, spot.ask))
        .collect();
    assert_eq!(
        spots,
        [
            (1, Some(108_500), Some(108_512)),
            (2, Some(126_410), Some(126_425)),
            (1, Some(108_400), None),
            (2, None, Some(126_440)),
        ]
    );
    client.send(conn, PayloadType::ProtoOaSubscribeSpotsReq, "again", &body);
    assert_eq!(client.error(), "ALREADY_SUBSCRIBED");
}
