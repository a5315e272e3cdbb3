//! The hot path, a quote at a time: prost's bare decode of the same bytes, and what the protocol core makes of
//! them, down to the account. Each is shown with what it allocates.
//!
//! `cargo bench --bench hot`

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::{Bencher, black_box};
use mahspeccy_bridge::ctrader::connection::{Connection, ConnectionConfig, Transmit};
use mahspeccy_bridge::ctrader::wire::{ProtoMessage, ProtoOaPayloadType, ProtoOaSpotEvent};
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::domain::ledger::Known;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::sim::{
    AccountSpec, CLIENT_ID, CLIENT_SECRET, Environment, Output, PositionSpec, Side, Simulator, raw,
};
use prost::Message as _;
use time::OffsetDateTime;

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

const ACCOUNT: i64 = 1;
const WALL_MS: i64 = 1_750_000_000_000;

fn main() {
    divan::main();
}

/// A connection with a live account, and when it is.
struct Live {
    connection: Connection,
    now: Instant,
    quotes: Vec<Bytes>,
}

/// Plays both ends in virtual time until the account is valued, and makes quotes that move.
fn live(positions: i64) -> Live {
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
    let mut connection = Connection::new(&config, 1, now, WALL_MS);
    connection.open(
        AccountId(ACCOUNT),
        Secret::new("token"),
        Known::default(),
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
            let envelope = ProtoMessage {
                payload_type: (ProtoOaPayloadType::ProtoOaSpotEvent as i32).cast_unsigned(),
                payload: Some(payload.encode_to_vec().into()),
                client_msg_id: None,
            };
            envelope.encode_to_vec().into()
        })
        .collect();
    Live {
        connection,
        now,
        quotes,
    }
}

fn spot(bytes: &Bytes) -> Option<ProtoOaSpotEvent> {
    let envelope = ProtoMessage::decode(bytes.clone()).ok()?;
    let kind = (ProtoOaPayloadType::ProtoOaSpotEvent as i32).cast_unsigned();
    (envelope.payload_type == kind)
        .then(|| ProtoOaSpotEvent::decode(envelope.payload?).ok())
        .flatten()
}

/// What prost alone takes for the envelope and the quote in it.
#[divan::bench]
fn decode_alone(bencher: Bencher) {
    let Live { quotes, .. } = live(1);
    let mut next = quotes.iter().cycle();
    bencher.bench_local(move || next.next().and_then(spot));
}

/// From the message to the account's quote; what goes out is polled as the link does.
#[divan::bench(args = [1, 5, 50])]
fn decode_and_apply(bencher: Bencher, positions: i64) {
    let Live {
        mut connection,
        now,
        quotes,
    } = live(positions);
    let mut next = quotes.iter().cycle();
    bencher.bench_local(move || {
        if let Some(quote) = next.next() {
            connection.handle_message(quote.clone(), now);
        }
        black_box(connection.poll_event())
    });
}

/// The row of an account, as a round makes it.
#[divan::bench(args = [1, 5, 50])]
fn row(bencher: Bencher, positions: i64) {
    let Live { connection, .. } = live(positions);
    let wall = OffsetDateTime::UNIX_EPOCH;
    bencher.bench_local(move || connection.peek_row(AccountId(ACCOUNT), |_| wall));
}
