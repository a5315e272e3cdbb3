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

mod broker;
mod script;
pub mod server;
mod state;
#[cfg(test)]
mod tests;
mod world;

pub use script::inspect::ConnectionInfo;
pub use state::broker::Broker;
pub use state::connection::{Close, ConnId, Output};
pub use state::envelope::MAX_FRAME;
pub use state::faults::{TokenRefreshEffect, UnauthorisedReply};
pub use state::journal::{JournalEntry, JournalEvent};
pub use state::order::PlacedOrder;
pub use state::refusal::{Refusal, RefusalMessage};
pub use state::request::RequestRecord;
pub use state::stats::Stats;
pub use state::tokens::ACCESS_TOKEN_LIFETIME;
pub use state::truth::{AccountTruth, PositionTruth};
pub use world::account_spec::{AccountSpec, PositionSpec};
pub use world::builder::{Builder, CLIENT_ID, CLIENT_SECRET, Simulator};
pub use world::order_spec::{OrderAmendment, OrderKind, OrderSpec};
pub use world::presets;
pub use world::price::{RAW_PER_UNIT, raw};
pub use world::settings::{Limits, Settings};
pub use world::spec::{
    AccountKind, AssetSpec, BrokerSpec, Commission, Environment, LeverageSpec, MarginType, Side,
    SymbolSpec,
};
