//! The simulator against the worked example, the event sequences and the state machines.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::presets::{WORKED_ACCOUNT, WORKED_TOKEN, worked_example};
use super::*;
use crate::ctrader::wire;

/// A client of the sans-IO broker that remembers what it got.
struct Client {
    broker: Broker,
    now: Instant,
}

/// One received message: payload type, clientMsgId, body.
type Received = (u32, Option<String>, Bytes);

impl Client {
    fn new(world: Builder) -> Self {
        let now = Instant::now();
        Self {
            broker: world.build(now, 1_750_000_000_000),
            now,
        }
    }

    fn connect(&mut self, environment: Environment) -> ConnId {
        self.broker.connect(environment, self.now)
    }

    fn send(&mut self, conn: ConnId, kind: u32, id: &str, body: &impl Message) {
        let message = wire::ProtoMessage {
            payload_type: kind,
            payload: Some(body.encode_to_vec().into()),
            client_msg_id: Some(id.to_owned()),
        };
        self.broker
            .handle_message(conn, message.encode_to_vec().into(), self.now);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.broker.handle_timeout(self.now);
    }

    /// Everything sent to a connection since the last look.
    fn drain(&mut self) -> Vec<(ConnId, Received)> {
        let mut all = Vec::new();
        while let Some(output) = self.broker.poll_output() {
            if let Output::Send(conn, frame) = output {
                let message = wire::ProtoMessage::decode(frame).expect("an envelope");
                all.push((
                    conn,
                    (
                        message.payload_type,
                        message.client_msg_id,
                        message.payload.unwrap_or_default(),
                    ),
                ));
            }
        }
        all
    }

    fn received(&mut self) -> Vec<Received> {
        self.drain()
            .into_iter()
            .map(|(_, received)| received)
            .collect()
    }

    fn app(&mut self, conn: ConnId) {
        let body = wire::ProtoOaApplicationAuthReq {
            payload_type: None,
            client_id: CLIENT_ID.to_owned(),
            client_secret: CLIENT_SECRET.to_owned(),
        };
        self.send(conn, 2100, "app", &body);
    }

    fn account(&mut self, conn: ConnId, account: i64, token: &str) {
        let body = wire::ProtoOaAccountAuthReq {
            payload_type: None,
            ctid_trader_account_id: account,
            access_token: token.to_owned(),
        };
        self.send(conn, 2102, "auth", &body);
    }

    /// A demo connection with one account authorised.
    fn session(&mut self, account: i64, token: &str) -> ConnId {
        let conn = self.connect(Environment::Demo);
        self.app(conn);
        self.account(conn, account, token);
        let kinds: Vec<u32> = self.received().iter().map(|received| received.0).collect();
        assert_eq!(kinds, [2101, 2103]);
        conn
    }

    /// Error code of the only message received.
    fn error(&mut self) -> String {
        let received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        let (kind, _, body) = received.into_iter().next().expect("one message");
        match kind {
            2142 => {
                wire::ProtoOaErrorRes::decode(body)
                    .expect("an error")
                    .error_code
            }
            2132 => {
                wire::ProtoOaOrderErrorEvent::decode(body)
                    .expect("an error")
                    .error_code
            }
            50 => {
                wire::ProtoErrorRes::decode(body)
                    .expect("an error")
                    .error_code
            }
            other => panic!("{other} is no error"),
        }
    }

    /// Execution events received: (type, by the server, position status, order id's presence, clientMsgId).
    fn executions(&mut self) -> Vec<(wire::ProtoOaExecutionEvent, Option<String>)> {
        let events = self
            .received()
            .into_iter()
            .filter(|received| received.0 == 2126);
        events
            .map(|(_, id, body)| {
                (
                    wire::ProtoOaExecutionEvent::decode(body).expect("an event"),
                    id,
                )
            })
            .collect()
    }

    fn truth(&self, account: i64) -> AccountTruth {
        self.broker.truth(account).expect("the account exists")
    }
}

fn shape(events: &[(wire::ProtoOaExecutionEvent, Option<String>)]) -> Vec<(i32, bool)> {
    events
        .iter()
        .map(|(event, _)| (event.execution_type, event.is_server_event.unwrap_or(false)))
        .collect()
}

fn nothing_but(account: i64) -> wire::ProtoOaTraderReq {
    wire::ProtoOaTraderReq {
        payload_type: None,
        ctid_trader_account_id: account,
    }
}

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
    assert_eq!(shape(&events), [(2, false), (3, false)]);
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
    assert_eq!(shape(&events), [(10, true)]);
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
fn unrealized_pnl_says_what_the_example_says() {
    let mut client = Client::new(worked_example());
    let conn = client.session(WORKED_ACCOUNT, WORKED_TOKEN);
    client.send(conn, 2187, "pnl", &nothing_but(WORKED_ACCOUNT));
    let (kind, id, body) = client.received().remove(0);
    assert_eq!((kind, id.as_deref()), (2188, Some("pnl")));
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
    client.send(conn, 2127, "spots", &body);
    client.broker.worked_t1a();
    client.broker.worked_t1b();
    let received = client.received();
    let kinds: Vec<u32> = received.iter().map(|received| received.0).collect();
    assert_eq!(kinds, [2128, 2131, 2131, 2131, 2131]);
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
    client.send(conn, 2127, "again", &body);
    assert_eq!(client.error(), "ALREADY_SUBSCRIBED");
}

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
    assert_eq!(shape(&events), [(2, false), (3, false), (2, true)]);
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
    assert_eq!(shape(&events), [(2, false), (3, false), (4, true)]);
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

    client
        .broker
        .amend_levels(7, placed.position, Some(raw("1.07")), None)
        .expect("amended");
    let events = client.executions();
    assert_eq!(shape(&events), [(4, false)]);
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
    assert_eq!(kinds, [2107]);

    client
        .broker
        .close_position(7, placed.position, None)
        .expect("closed");
    let events = client.executions();
    assert_eq!(shape(&events), [(2, false), (3, false), (5, true)]);
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
    let change = OrderChange {
        limit: Some(raw("1.081")),
        ..OrderChange::default()
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
    assert_eq!(shape(&events), [(2, false), (4, false), (5, false)]);
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
    assert_eq!(shape(&client.executions()), [(3, true), (2, true)]);
    client
        .broker
        .set_quote("EURUSD", raw("1.0699"), raw("1.0701"));
    let events = client.executions();
    assert_eq!(
        shape(&events),
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
    client.send(conn, 2106, "mine", &body);
    let first: Vec<(ConnId, u32, Option<String>)> = client
        .drain()
        .into_iter()
        .map(|(conn, (kind, id, _))| (conn, kind, id))
        .collect();
    let id = Some("mine".to_owned());
    assert_eq!(first, [(conn, 2126, id.clone()), (other, 2126, id)]);
    client.wait(Duration::from_millis(599));
    assert_eq!(client.executions().len(), 0);
    client.wait(Duration::from_millis(1));
    assert_eq!(shape(&client.executions()), [(3, false), (3, false)]);
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
    client.send(conn, 2121, "x", &nothing_but(7));
    assert_eq!(client.error(), "ACCOUNT_NOT_AUTHORIZED");
    client.broker.unauthorised_as(Unauthorised::Text);
    client.send(conn, 2121, "x", &nothing_but(7));
    assert_eq!(client.error(), "INVALID_REQUEST");
    client.account(conn, 7, "t");
    client.received();
    client.account(conn, 7, "t");
    assert_eq!(client.error(), "ALREADY_LOGGED_IN");
    client.send(conn, 2121, "x", &nothing_but(7));
    assert_eq!(client.received()[0].0, 2122);
    client.send(conn, 2189, "x", &nothing_but(7));
    assert_eq!(client.error(), "UNSUPPORTED_MESSAGE");
    client.broker.expire_token_in("t", Duration::ZERO);
    client.broker.drop_account(7);
    assert_eq!(client.received()[0].0, 2164);
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
    client.send(conn, 2173, "r", &body);
    let received = client.received();
    let kinds: Vec<u32> = received.iter().map(|received| received.0).collect();
    assert_eq!(kinds, [2147, 2164, 2174]);
    let pair = wire::ProtoOaRefreshTokenRes::decode(received[2].2.clone()).expect("a pair");
    client.send(conn, 2173, "r", &body);
    assert_eq!(client.error(), "CH_ACCESS_TOKEN_INVALID");
    client.account(conn, 7, "t");
    assert_eq!(client.error(), "CH_ACCESS_TOKEN_INVALID");
    client.account(conn, 7, &pair.access_token);
    assert_eq!(client.received()[0].0, 2103);
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
        [51]
    );
    client.send(conn, 51, "", &wire::ProtoHeartbeatEvent::default());
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
        Some(2121),
        1,
        Refusal::new("TIMEOUT_ERROR").route(Route::CommonError),
    );
    client.send(conn, 2121, "a", &nothing_but(WORKED_ACCOUNT));
    assert_eq!(client.error(), "TIMEOUT_ERROR");
    for _ in 0..60 {
        client.send(conn, 2121, "a", &nothing_but(WORKED_ACCOUNT));
    }
    let kinds: Vec<u32> = client.received().iter().map(|r| r.0).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == 2122).count(), 47);
    assert_eq!(kinds.iter().filter(|kind| **kind == 2142).count(), 13);
    let view = client.broker.connections().remove(0);
    assert_eq!(
        (view.most_requests_per_second, view.rate_refusals),
        (63, 13)
    );
    client.wait(Duration::from_millis(1_001));
    client.send(conn, 2121, "a", &nothing_but(WORKED_ACCOUNT));
    assert_eq!(client.received()[0].0, 2122);
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
    client.send(conn, 2133, "d", &body);
    let page = wire::ProtoOaDealListRes::decode(client.received().remove(0).2).expect("a page");
    assert_eq!((page.deal.len(), page.has_more), (2, true));
    assert!(page.deal[0].close_position_detail.is_none());
    client.broker.settings_mut().newest_first = true;
    client.send(conn, 2133, "d", &body);
    let page = wire::ProtoOaDealListRes::decode(client.received().remove(0).2).expect("a page");
    assert!(page.deal[0].close_position_detail.is_some());
    body.from_timestamp = Some(10);
    body.to_timestamp = Some(9);
    client.send(conn, 2133, "d", &body);
    assert_eq!(client.error(), "INCORRECT_BOUNDARIES");
    let week = wire::ProtoOaCashFlowHistoryListReq {
        payload_type: None,
        ctid_trader_account_id: WORKED_ACCOUNT,
        from_timestamp: 0,
        to_timestamp: 604_800_001,
    };
    client.send(conn, 2143, "c", &week);
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
        client.send(conn, 2127, "s", &body);
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
        .filter(|received| received.0 == 2131)
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
