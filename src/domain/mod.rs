//! What the bridge is about, in pure values: no clock, no async, no wire types.

pub mod account;
pub mod deal;
pub mod decimal;
pub mod equity;
pub mod ids;
pub mod market;
pub mod position;
pub mod row;
pub mod secret;
pub mod status;
