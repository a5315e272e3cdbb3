//! What a quote costs: nothing on the heap, however many positions it values. And what a session costs.

use bytes::Bytes;
use mahspeccy_bridge::ctrader::frame::{self, SPOT_EVENT};
use mahspeccy_bridge::ctrader::wire::ProtoOaSpotEvent;
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::sim::{AccountSpec, Builder, PositionSpec, Side, Simulator, raw};
use prost::Message as _;

use super::support::pair::Pair;

const ACCOUNT: i64 = 7;

/// Measured 2.5 KB with three positions; the bound is what a session may never grow to.
const SESSION_BYTES_MAX: i64 = 8 * 1024;

fn account(id: i64, positions: i64) -> AccountSpec {
    (1..=positions).fold(
        AccountSpec::new(id).token("token").balance(10_000_000),
        |account, n| {
            let position =
                PositionSpec::new(id * 100 + n, "USDJPY", Side::Buy, 100_000, raw("150"));
            account.position(position)
        },
    )
}

fn world() -> Builder {
    Simulator::builder().market_paused()
}

fn quote(symbol_id: i64, step: u64) -> Bytes {
    let spot = ProtoOaSpotEvent {
        ctid_trader_account_id: ACCOUNT,
        symbol_id,
        bid: Some(15_000_000 + step),
        ask: Some(15_000_010 + step),
        ..ProtoOaSpotEvent::default()
    };
    frame::encode(SPOT_EVENT, spot.encode_to_vec().into(), None)
}

#[test]
fn a_quote_allocates_nothing() {
    for positions in [1, 5, 50] {
        let mut pair = Pair::new(world().account(account(ACCOUNT, positions)));
        pair.go_live(ACCOUNT, "token");
        pair.wait_valued(ACCOUNT);
        // Those that follow the first one's, once everything has its place.
        pair.run_briefly();
        let symbols: Vec<i64> = pair.broker.connections()[0]
            .spots
            .iter()
            .map(|(_, symbol)| *symbol)
            .collect();
        assert!(!symbols.is_empty());
        let now = pair.now();
        let quotes: Vec<Bytes> = (1..200)
            .flat_map(|step| symbols.iter().map(move |symbol| quote(*symbol, step)))
            .collect();
        // Bytes made of a vector allocate when they are first shared; those of a socket are shared already.
        let shared = quotes.clone();
        let before = pair
            .client
            .peek_row(AccountId(ACCOUNT), |_| time::OffsetDateTime::UNIX_EPOCH);
        let allocated = allocation_counter::measure(|| {
            for quote in quotes {
                pair.client.handle_message(quote, now);
                assert!(pair.client.poll_event().is_none());
                assert!(pair.client.poll_timeout().is_some());
            }
        });
        assert_eq!(
            allocated.count_total, 0,
            "{positions} positions: {allocated:?}"
        );
        let after = pair
            .client
            .peek_row(AccountId(ACCOUNT), |_| time::OffsetDateTime::UNIX_EPOCH);
        assert_ne!(before, after, "the quotes counted");
        drop(shared);
    }
}

#[test]
fn a_session_keeps_within_its_memory() {
    const SESSIONS: i64 = 40;
    let world = (1..=SESSIONS + 1).fold(world(), |world, id| world.account(account(id, 3)));
    let mut pair = Pair::new(world);
    // The first one brings what all share.
    pair.go_live(1, "token");
    let empty = allocation_counter::measure(|| {});
    assert_eq!(empty.bytes_current, 0);
    // The simulator's own memory is in it too, and the link's: ours is no more than all of it.
    let grown = allocation_counter::measure(|| {
        for id in 2..=SESSIONS + 1 {
            pair.go_live(id, "token");
        }
    });
    let both = grown.bytes_current / SESSIONS;
    let freed = allocation_counter::measure(|| pair.client.finish());
    let each = -freed.bytes_current / (SESSIONS + 1);
    eprintln!("{each} bytes a session, {both} with the simulator's");
    assert!(each < SESSION_BYTES_MAX, "{each} bytes");
}
