//! The cTrader protocol without I/O.

pub mod wire;
