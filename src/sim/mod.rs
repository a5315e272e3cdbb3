//! A simulator of cTrader's Open API, for tests and for trying things without an account.
//!
//! It owns both halves of the other end: a sans-IO server ([`Broker`]: bytes and time in, bytes and
//! deadlines out) and a tokio shell over it ([`server::Handle`]: WebSocket, and TCP with length
//! prefixes, plain or over TLS, all on one port per environment). It uses the generated messages and
//! nothing else of the bridge; its money arithmetic is its own, so that the two ends cannot share a
//! mistake.
//!
//! A test builds a world, starts it, scripts it through [`server::Handle::with`] and looks at the truth:
//!
//! ```no_run
//! use mahspeccy_bridge::sim::{AccountSpec, PositionSpec, Refusal, Side, Simulator, raw};
//!
//! # async fn example() -> std::io::Result<()> {
//! let sim = Simulator::builder()
//!     .seed(7)
//!     .app("client-id", "client-secret")
//!     .market_paused()
//!     .account(AccountSpec::new(1001).token("token-a").balance(1_000_000).position(PositionSpec::new(
//!         501, "EURUSD", Side::Buy, 1_000_000, raw("1.08000"),
//!     )))
//!     .account(AccountSpec::new(1002).token("token-a").live().currency("USD").broker("Beta"))
//!     .start()
//!     .await?;
//! let _url = sim.demo_url(); // ws://127.0.0.1:…; also demo_tls_url() and ca_pem()
//!
//! sim.with(|broker| broker.set_quote("EURUSD", raw("1.08400"), None)); // a bid-only spot
//! sim.with(|broker| broker.close_position(1001, 501, Some(500_000))).expect("it is open");
//! sim.with(|broker| broker.refuse(Some(2124), 2, Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(1)));
//! sim.unplug().await; // listeners closed, sockets reset
//! sim.plug_in().await?; // the same ports again
//! let truth = sim.with(|broker| broker.truth(1001)).expect("the account exists");
//! println!("equity {} level {:?}", truth.equity, truth.margin_level);
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | build | [`Simulator::builder`], [`AccountSpec`], [`PositionSpec`], [`BrokerSpec`], [`presets::worked_example`] |
//! | move prices | [`Broker::set_quote`], [`Broker::market_pause`], [`Broker::tick_rate`] |
//! | trade by hand | [`Broker::open_market`], [`Broker::place_order`], [`Broker::close_position`], [`Broker::amend_levels`], [`Broker::deposit`], [`Broker::bonus`], [`Broker::swap`], [`Broker::trail_stop`], [`Broker::stop_out`], … |
//! | break things | `faults`: [`Broker::refuse`], [`Broker::drop_account`], [`Broker::half_open_all`], …; [`server::Handle::unplug`] |
//! | look | [`Broker::truth`], [`Broker::connections`], [`Broker::requests_of`], [`Broker::deals`], [`Broker::stats`] |
//!
//! Invariants: operations by hand happen at once, at the latest time the broker was told; the same
//! seed and the same calls give the same bytes; prices are raw (1/100000), volumes 1/100 unit, money
//! in the account's smallest unit.

mod account_spec;
mod accounts;
mod auth;
mod broker;
mod build;
mod by_hand;
mod cash;
mod closing;
mod conn;
mod dispatch;
mod envelope;
mod faults;
mod fills;
mod history;
mod inspect;
mod ledger;
mod limits;
mod market;
mod money;
mod num;
mod order_spec;
mod orders;
pub mod presets;
mod protection;
pub mod server;
mod spec;
mod spots;
mod statics;
#[cfg(test)]
mod tests;
mod tokens;
mod trade;

pub use account_spec::{AccountSpec, PositionSpec};
pub use broker::{Broker, Close, ConnId, MAX_FRAME, Output, Seen, Settings, Stats};
pub use build::{Builder, CLIENT_ID, CLIENT_SECRET};
pub use envelope::{Refusal, Route};
pub use faults::{Rotation, Unauthorised};
pub use inspect::{AccountTruth, ConnView, PositionTruth};
pub use ledger::{Entry, What};
pub use limits::Limits;
pub use num::{RAW_PER_UNIT, raw};
pub use order_spec::{OrderKind, OrderSpec};
pub use orders::Placed;
pub use protection::OrderChange;
pub use spec::{
    AccountKind, AssetSpec, BrokerSpec, Commission, Environment, LeverageSpec, MarginType, Side,
    SymbolSpec,
};
pub use tokens::LIFETIME;

/// The way in: [`Simulator::builder`].
#[derive(Clone, Copy, Debug)]
pub struct Simulator;

impl Simulator {
    /// A world to be.
    pub fn builder() -> Builder {
        Builder::new()
    }
}
