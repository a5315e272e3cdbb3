//! What the simulated server knows, as plain data, and the arithmetic over it.
//!
//! The whole of it is one struct, [`broker::Broker`]. Nothing here sends anything.

pub(crate) mod account;
pub(crate) mod broker;
pub(crate) mod budget;
pub(crate) mod connection;
pub(crate) mod envelope;
pub(crate) mod faults;
pub(crate) mod journal;
pub(crate) mod money;
pub(crate) mod order;
pub(crate) mod payload;
pub(crate) mod ratio;
pub(crate) mod refusal;
pub(crate) mod request;
pub(crate) mod stats;
pub(crate) mod subscriber;
pub(crate) mod timer;
pub(crate) mod tokens;
pub(crate) mod truth;
pub(crate) mod venue;
