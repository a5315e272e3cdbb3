//! What the bridge is about, in pure values: no clock, no async, no wire types.

pub mod ids;
pub mod secret;
pub mod status;
pub mod command;
pub mod decimal;
pub mod backoff;
pub mod clock;
pub mod market;
pub mod position;
pub mod deal;
pub mod account;
pub mod ledger;
pub mod equity;
pub mod fence;
pub mod fleet;
pub mod row;
