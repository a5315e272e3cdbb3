//! The cTrader Open API without I/O: messages, the request budget, sessions of accounts.
//!
//! Everything here takes the time as an argument and owns no socket, so that every fault can be
//! replayed in a test in microseconds. `worker::link::driver` drives it.

mod ask;
mod catalog;
pub mod connection;
pub mod convert;
pub mod error;
pub mod frame;
mod liveness;
mod request;
mod session;
pub mod throttle;
pub mod wire;
