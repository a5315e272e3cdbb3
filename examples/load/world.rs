//! The simulated market of a run: accounts with three positions each, and a stream of the wanted density.

use std::time::{Duration, Instant};

use mahspeccy_bridge::sim::server::Handle;
use mahspeccy_bridge::sim::{AccountSpec, PositionSpec, Side, Simulator, raw};
use tokio::time::sleep;

use crate::Failure;

/// The first account.
const FIRST: i64 = 5_000_001;

/// One account in so many trades, every half minute.
const TRADERS_ONE_IN: i64 = 50;

/// How often a trader trades.
const TRADES_EVERY: Duration = Duration::from_secs(30);

/// How long the density is corrected at before it is corrected.
const CORRECTION_INTERVAL: Duration = Duration::from_secs(3);

/// Corrections before a run is measured.
const CORRECTIONS_BEFORE: usize = 4;

pub(crate) fn account(n: u32) -> i64 {
    FIRST + i64::from(n)
}

pub(crate) fn token(n: u32) -> String {
    format!("load-token-{n}")
}

pub(crate) fn user(n: u32) -> String {
    format!("load-{n}@example.org")
}

/// Accounts in euro with a position in EURUSD, XAUUSD and USDJPY each: three symbols are quoted to value them.
pub(crate) async fn start(sessions: u32, trades: bool) -> Result<Handle, Failure> {
    let mut world = Simulator::builder()
        .seed(11)
        .ticks_per_second(1.0)
        // The peer has one socket per user, more than a real server would take.
        .connection_cap(100_000);
    for n in 0..sessions {
        let n_wide = i64::from(n);
        let id = n_wide * 3 + 1;
        let account = AccountSpec::new(account(n))
            .token(&token(n))
            .balance(10_000_000 + n_wide)
            .position(PositionSpec::new(
                id,
                "EURUSD",
                Side::Buy,
                1_000_000,
                raw("1.08450"),
            ))
            .position(PositionSpec::new(
                id + 1,
                "XAUUSD",
                Side::Sell,
                1_000,
                raw("2346.10"),
            ))
            .position(PositionSpec::new(
                id + 2,
                "USDJPY",
                Side::Buy,
                2_000_000,
                raw("151.200"),
            ));
        world = world.account(if trades && n_wide % TRADERS_ONE_IN == 0 {
            account.activity(TRADES_EVERY)
        } else {
            account
        });
    }
    Ok(world.start().await?)
}

/// Makes the market send so many spot events a second in all, and keeps it there: its pace is random, and
/// a busy machine slows it down.
pub(crate) struct Density {
    wanted: f64,
    rate: f64,
    corrected: Instant,
    spots: f64,
}

impl Density {
    pub(crate) fn new(sim: &Handle, events_per_second: f64, sessions: u32) -> Self {
        // A little more than asked for, so that the run has no less.
        let wanted = events_per_second * 1.02;
        let rate = wanted / (3.0 * f64::from(sessions));
        sim.with(|broker| broker.tick_rate_all(rate));
        Self {
            wanted,
            rate,
            corrected: Instant::now(),
            spots: spots(sim),
        }
    }

    /// Waits until it is what was asked for.
    pub(crate) async fn reached(mut self, sim: &Handle) -> Self {
        for _ in 0..CORRECTIONS_BEFORE {
            sleep(CORRECTION_INTERVAL).await;
            self.correct(sim);
        }
        self
    }

    /// Corrects the pace by what came since the last correction, now and then.
    pub(crate) fn correct(&mut self, sim: &Handle) {
        let since = self.corrected.elapsed();
        if since < CORRECTION_INTERVAL {
            return;
        }
        let now = spots(sim);
        let seen = (now - self.spots) / since.as_secs_f64();
        (self.corrected, self.spots) = (Instant::now(), now);
        if seen > 0.0 {
            self.rate *= self.wanted / seen;
            sim.with(|broker| broker.tick_rate_all(self.rate));
        }
    }
}

/// Spot events sent so far.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn spots(sim: &Handle) -> f64 {
    sim.with(|broker| broker.stats().spots) as f64
}

/// Ids of the deals that traders made, after a moment of the wall clock.
pub(crate) fn deals_since(sim: &Handle, sessions: u32, since_ms: i64) -> Vec<i64> {
    sim.with(|broker| {
        (0..sessions)
            .filter(|n| i64::from(*n) % TRADERS_ONE_IN == 0)
            .flat_map(|n| broker.deals(account(n)))
            .filter(|deal| deal.execution_timestamp >= since_ms)
            .map(|deal| deal.deal_id)
            .collect()
    })
}
