//! What a test does to the simulated server, and what it may look at.
//!
//! Each file adds methods to `state::broker::Broker`: faults, trades and prices by hand, inspection.

mod account_changes;
mod faults;
pub(crate) mod inspect;
mod manual_trading;
mod market;
mod tokens;
mod worked_example;
