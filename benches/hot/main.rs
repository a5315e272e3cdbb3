//! The hot path, a quote at a time: prost's bare decode of the same bytes, and what the protocol core makes of
//! them, down to the account. Each is shown with what it allocates.
//!
//! `cargo bench --bench hot`

mod live;

use divan::{Bencher, black_box};
use mahspeccy_bridge::domain::ids::AccountId;
use time::OffsetDateTime;

use live::{ACCOUNT, Live, live, spot};

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
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
