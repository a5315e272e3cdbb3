//! Snapshots and history: what they show, how late they may be, and how a page ends.

use std::time::Duration;

use super::*;

fn protected() -> AccountSpec {
    AccountSpec::new(7).token("t").position(
        PositionSpec::new(501, "EURUSD", Side::Buy, 900_000, raw("1.08"))
            .levels(Some(raw("1.07")), Some(raw("1.10"))),
    )
}

fn reconcile(client: &mut Client, conn: ConnId, protective: bool) -> wire::ProtoOaReconcileRes {
    let body = wire::ProtoOaReconcileReq {
        payload_type: None,
        ctid_trader_account_id: 7,
        return_protection_orders: Some(protective),
    };
    client.send(conn, PayloadType::ProtoOaReconcileReq, "r", &body);
    client.body(PayloadType::ProtoOaReconcileRes)
}

#[test]
fn a_snapshot_has_what_is_open_and_protective_orders_when_asked() {
    let world = Simulator::builder().market_paused().account(protected());
    let mut client = Client::new(world);
    let conn = client.session(7, "t");
    let limit = OrderSpec::limit("EURUSD", Side::Buy, 100_000, raw("1.08"));
    client.broker.place_order(7, &limit).expect("accepted");
    client.received();
    let plain = reconcile(&mut client, conn, false);
    assert_eq!((plain.position.len(), plain.order.len()), (1, 1));
    let full = reconcile(&mut client, conn, true);
    let protective = full
        .order
        .iter()
        .find(|order| order.order_type == 4)
        .expect("a protective order");
    assert!(protective.stop_price.is_some() && protective.limit_price.is_some());
    assert_eq!((protective.stop_loss, protective.take_profit), (None, None));
    client.broker.close_position(7, 501, None).expect("closed");
    client.received();
    assert!(reconcile(&mut client, conn, true).position.is_empty());
}

#[test]
fn a_snapshot_may_lag() {
    let world = Simulator::builder().market_paused().account(protected());
    let mut client = Client::new(world);
    let conn = client.session(7, "t");
    client.broker.reconcile_lag(Duration::from_millis(500));
    client.wait(Duration::from_secs(1));
    client
        .broker
        .close_position(7, 501, Some(400_000))
        .expect("closed");
    client
        .broker
        .open_market(7, "GBPUSD", Side::Sell, 100_000)
        .expect("opened");
    client.received();
    let volumes = |client: &mut Client| -> Vec<i64> {
        let seen = reconcile(client, conn, false);
        let volumes = seen.position.iter().map(|held| held.trade_data.volume);
        volumes.collect()
    };
    client.wait(Duration::from_millis(499));
    assert_eq!(volumes(&mut client), [900_000]);
    client.wait(Duration::from_millis(1));
    assert_eq!(volumes(&mut client), [500_000, 100_000]);
    client.broker.reconcile_lag(Duration::ZERO);
    client.broker.close_position(7, 501, None).expect("closed");
    client.received();
    assert_eq!(volumes(&mut client), [100_000]);
}

/// Ids of the deals of a range, and whether there are more.
fn deals(client: &mut Client, conn: ConnId, from: i64, to: i64) -> (Vec<i64>, bool) {
    let body = wire::ProtoOaDealListReq {
        payload_type: None,
        ctid_trader_account_id: 7,
        from_timestamp: Some(from),
        to_timestamp: Some(to),
        max_rows: None,
    };
    client.send(conn, PayloadType::ProtoOaDealListReq, "d", &body);
    let page: wire::ProtoOaDealListRes = client.body(PayloadType::ProtoOaDealListRes);
    let ids = page.deal.iter().map(|deal| deal.deal_id).collect();
    (ids, page.has_more)
}

#[test]
fn deals_of_one_millisecond_may_lie_on_both_sides_of_a_page() {
    for newest_first in [false, true] {
        let mut client = Client::new(quiet().history(2, newest_first));
        let conn = client.session(7, "t");
        client.wait(Duration::from_secs(1));
        let at = client.broker.wall_ms();
        for _ in 0..3 {
            client
                .broker
                .open_market(7, "EURUSD", Side::Buy, 100_000)
                .expect("opened");
        }
        client.received();
        let all: Vec<i64> = client
            .broker
            .deals(7)
            .iter()
            .map(|deal| deal.deal_id)
            .collect();
        assert_eq!(all.len(), 3);
        // No range is narrower: whoever pages by time alone never sees the third.
        let (page, more) = deals(&mut client, conn, at, at);
        let seen = if newest_first {
            [all[2], all[1]]
        } else {
            [all[0], all[1]]
        };
        assert_eq!((page, more), (seen.to_vec(), true));
        assert_eq!(deals(&mut client, conn, at + 1, at + 9), (vec![], false));
    }
}

#[test]
fn a_deal_shows_in_history_after_a_while() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    client.broker.history_lag(Duration::from_secs(2));
    client
        .broker
        .open_market(7, "EURUSD", Side::Buy, 100_000)
        .expect("opened");
    client.received();
    let at = client.broker.wall_ms();
    client.wait(Duration::from_millis(1_999));
    assert_eq!(deals(&mut client, conn, at, at).0.len(), 0);
    client.wait(Duration::from_millis(1));
    assert_eq!(deals(&mut client, conn, at, at).0.len(), 1);
}

#[test]
fn ranges_have_bounds() {
    let mut client = Client::new(quiet());
    let conn = client.session(7, "t");
    for (from, to) in [(-1, 5), (6, 5), (0, 2_147_483_646_001)] {
        let body = wire::ProtoOaDealListReq {
            payload_type: None,
            ctid_trader_account_id: 7,
            from_timestamp: Some(from),
            to_timestamp: Some(to),
            max_rows: None,
        };
        client.send(conn, PayloadType::ProtoOaDealListReq, "d", &body);
        assert_eq!(client.error(), "INCORRECT_BOUNDARIES");
    }
    // A week is the most for cash, and it is enough.
    for (to, answer) in [
        (604_800_000, PayloadType::ProtoOaCashFlowHistoryListRes),
        (604_800_001, PayloadType::ProtoOaErrorRes),
    ] {
        let body = wire::ProtoOaCashFlowHistoryListReq {
            payload_type: None,
            ctid_trader_account_id: 7,
            from_timestamp: 0,
            to_timestamp: to,
        };
        client.send(conn, PayloadType::ProtoOaCashFlowHistoryListReq, "c", &body);
        assert_eq!(client.kinds(), [answer]);
    }
}

#[test]
fn what_has_no_price_has_no_profit() {
    let unquoted = SymbolSpec::new(70, "NEW", 4, 2);
    let mut client = Client::new(
        Simulator::builder()
            .market_paused()
            .broker(presets::alpha().symbol(unquoted))
            .account(protected().position(PositionSpec::new(
                502,
                "NEW",
                Side::Buy,
                100_000,
                raw("1.5"),
            ))),
    );
    let conn = client.session(7, "t");
    let body = wire::ProtoOaGetPositionUnrealizedPnLReq {
        payload_type: None,
        ctid_trader_account_id: 7,
    };
    client.send(
        conn,
        PayloadType::ProtoOaGetPositionUnrealizedPnlReq,
        "p",
        &body,
    );
    let told: wire::ProtoOaGetPositionUnrealizedPnLRes =
        client.body(PayloadType::ProtoOaGetPositionUnrealizedPnlRes);
    let rows: Vec<i64> = told
        .position_unrealized_pn_l
        .iter()
        .map(|row| row.position_id)
        .collect();
    assert_eq!(rows, [501]);
}

#[test]
fn digits_of_money_may_differ_between_objects_and_be_absent() {
    for (account, trader, position) in [
        (protected().position_money_digits(8), Some(2), Some(8)),
        (protected().money_digits_on_trader_only(), Some(2), None),
        (protected().money_digits_absent(), None, None),
    ] {
        let world = Simulator::builder().market_paused().account(account);
        let mut client = Client::new(world);
        let conn = client.session(7, "t");
        client.send(conn, PayloadType::ProtoOaTraderReq, "t", &nothing_but(7));
        let told: wire::ProtoOaTraderRes = client.body(PayloadType::ProtoOaTraderRes);
        assert_eq!(told.trader.money_digits, trader);
        let seen = reconcile(&mut client, conn, false);
        assert_eq!(seen.position[0].money_digits, position);
    }
}
