//! The simulator against the worked example, the event sequences and the state machines.

mod cash;
mod faults;
mod parts;
mod quotes;
mod reads;
mod sessions;
mod trading;
mod worked;

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::state::payload::{ERROR_RES, HEARTBEAT_EVENT, UNKNOWN, named, number};
use super::*;
use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};

/// A client of the sans-IO server.
struct Client {
    broker: Broker,
    now: Instant,
}

const OA_ERROR: u32 = number(PayloadType::ProtoOaErrorRes);
const ORDER_ERROR: u32 = number(PayloadType::ProtoOaOrderErrorEvent);

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

    fn send(&mut self, conn: ConnId, kind: PayloadType, id: &str, body: &impl Message) {
        self.send_number(conn, number(kind), id, body);
    }

    fn heartbeat(&mut self, conn: ConnId) {
        let beat = wire::ProtoHeartbeatEvent::default();
        self.send_number(conn, HEARTBEAT_EVENT, "", &beat);
    }

    /// Sends a message of any payload type, known or not.
    fn send_number(&mut self, conn: ConnId, payload_type: u32, id: &str, body: &impl Message) {
        let message = wire::ProtoMessage {
            payload_type,
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

    /// Everything sent to a connection since the last call.
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
        self.send(conn, PayloadType::ProtoOaApplicationAuthReq, "app", &body);
    }

    fn account(&mut self, conn: ConnId, account: i64, token: &str) {
        let body = wire::ProtoOaAccountAuthReq {
            payload_type: None,
            ctid_trader_account_id: account,
            access_token: token.to_owned(),
        };
        self.send(conn, PayloadType::ProtoOaAccountAuthReq, "auth", &body);
    }

    /// A demo connection with one account authorised.
    fn session(&mut self, account: i64, token: &str) -> ConnId {
        let conn = self.connect(Environment::Demo);
        self.app(conn);
        self.account(conn, account, token);
        assert_eq!(
            self.kinds(),
            [
                PayloadType::ProtoOaApplicationAuthRes,
                PayloadType::ProtoOaAccountAuthRes
            ]
        );
        conn
    }

    /// Error code of the only message received.
    fn error(&mut self) -> String {
        let received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        let (kind, _, body) = received.into_iter().next().expect("one message");
        match kind {
            OA_ERROR => {
                wire::ProtoOaErrorRes::decode(body)
                    .expect("an error")
                    .error_code
            }
            ORDER_ERROR => {
                wire::ProtoOaOrderErrorEvent::decode(body)
                    .expect("an error")
                    .error_code
            }
            ERROR_RES => {
                wire::ProtoErrorRes::decode(body)
                    .expect("an error")
                    .error_code
            }
            other => panic!("{other} is no error"),
        }
    }

    /// Execution events received, each with its clientMsgId.
    fn executions(&mut self) -> Vec<(wire::ProtoOaExecutionEvent, Option<String>)> {
        let events = self
            .received()
            .into_iter()
            .filter(|received| received.0 == number(PayloadType::ProtoOaExecutionEvent));
        events
            .map(|(_, id, body)| {
                (
                    wire::ProtoOaExecutionEvent::decode(body).expect("an event"),
                    id,
                )
            })
            .collect()
    }

    /// Payload types received, all of the Open API.
    fn kinds(&mut self) -> Vec<PayloadType> {
        let received = self.received();
        let types = received.iter().map(|received| named(received.0));
        types.map(|kind| kind.expect("a known type")).collect()
    }

    /// The body of the only message received.
    fn body<M: Message + Default>(&mut self, kind: PayloadType) -> M {
        self.body_of(number(kind))
    }

    /// The same for any payload type.
    fn body_of<M: Message + Default>(&mut self, payload_type: u32) -> M {
        let mut received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        let (of, _, body) = received.remove(0);
        assert_eq!(of, payload_type);
        M::decode(body).expect("a body")
    }

    fn truth(&self, account: i64) -> AccountTruth {
        self.broker.truth(account).expect("the account exists")
    }
}

fn execution_shape(events: &[(wire::ProtoOaExecutionEvent, Option<String>)]) -> Vec<(i32, bool)> {
    events
        .iter()
        .map(|(event, _)| (event.execution_type, event.is_server_event.unwrap_or(false)))
        .collect()
}

/// A quiet market, and account 7 for the token "t".
fn quiet() -> Builder {
    Simulator::builder()
        .market_paused()
        .account(AccountSpec::new(7).token("t"))
}

fn nothing_but(account: i64) -> wire::ProtoOaTraderReq {
    wire::ProtoOaTraderReq {
        payload_type: None,
        ctid_trader_account_id: account,
    }
}
