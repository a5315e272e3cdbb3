//! What the bridge is about, in pure values: no clock, no async, no wire types.

pub mod command;
pub mod deal;
pub mod decimal;
pub mod ids;
pub mod row;
pub mod secret;
pub mod status;
