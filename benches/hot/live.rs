//! A connection that was brought to life by the simulator in virtual time, and quotes for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mahspeccy_bridge::ctrader::connection::{Connection, ConnectionConfig, Transmit};
use mahspeccy_bridge::ctrader::frame::{self, SPOT_EVENT};
use mahspeccy_bridge::ctrader::wire::{ProtoMessage, ProtoOaSpotEvent};
use mahspeccy_bridge::domain::clock::WallClock;
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::domain::ledger::LastSeen;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::sim::{
    AccountSpec, CLIENT_ID, CLIENT_SECRET, Environment, Output, PositionSpec, Side, Simulator, raw,
};
use prost::Message as _;

pub(crate) const ACCOUNT: i64 = 1;
const WALL_MS: i64 = 1_750_000_000_000;

/// A connection with a live account, and when it is.
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) now: Instant,
    pub(crate) quotes: Vec<Bytes>,
}

/// Plays both ends in virtual time until the account is valued, and makes quotes that move.
pub(crate) fn live(positions: i64) -> Live {
    let start = Instant::now();
    let account = (1..=positions).fold(
        AccountSpec::new(ACCOUNT).token("token").balance(10_000_000),
        |account, id| {
            let position = PositionSpec::new(id, "EURUSD", Side::Buy, 100_000, raw("1.08000"));
            account.position(position)
        },
    );
    let world = Simulator::builder().market_paused().account(account);
    let mut broker = world.build(start, WALL_MS);
    let conn = broker.connect(Environment::Demo, start);
    let config = ConnectionConfig {
        client_id: CLIENT_ID.to_owned(),
        client_secret: Secret::new(CLIENT_SECRET),
        request_rate: 45,
        history_rate: 4,
    };
    let mut now = start;
    let mut connection = Connection::new(&config, 1, WallClock::from_unix_ms(now, WALL_MS));
    connection.open(
        AccountId(ACCOUNT),
        Secret::new("token"),
        LastSeen::default(),
        now,
    );
    let mut symbols = BTreeSet::new();
    while !connection.is_valued(AccountId(ACCOUNT)) {
        now += Duration::from_millis(5);
        assert!(now < start + Duration::from_mins(1), "it becomes live");
        while let Some(transmit) = connection.poll_transmit() {
            if let Transmit::Message(bytes) = transmit {
                broker.handle_message(conn, bytes, now);
            }
        }
        broker.handle_timeout(now);
        while let Some(output) = broker.poll_output() {
            if let Output::Send(_, bytes) = output {
                if let Some(spot) = spot(&bytes) {
                    symbols.insert(spot.symbol_id);
                }
                connection.handle_message(bytes, now);
            }
        }
        connection.handle_timeout(now);
        while connection.poll_event().is_some() {}
    }
    let quotes = (0..64_u64)
        .flat_map(|step| symbols.iter().map(move |symbol| (step, *symbol)))
        .map(|(step, symbol_id)| {
            let payload = ProtoOaSpotEvent {
                ctid_trader_account_id: ACCOUNT,
                symbol_id,
                bid: Some(108_000 + step),
                ask: Some(108_010 + step),
                ..ProtoOaSpotEvent::default()
            };
            frame::encode(SPOT_EVENT, payload.encode_to_vec().into(), None)
        })
        .collect();
    Live {
        connection,
        now,
        quotes,
    }
}

/// What prost alone makes of a message.
pub(crate) fn spot(bytes: &Bytes) -> Option<ProtoOaSpotEvent> {
    let envelope = ProtoMessage::decode(bytes.clone()).ok()?;
    (envelope.payload_type == SPOT_EVENT)
        .then(|| ProtoOaSpotEvent::decode(envelope.payload?).ok())
        .flatten()
}
