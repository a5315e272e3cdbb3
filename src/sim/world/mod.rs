//! Worlds as a test describes them: brokers, accounts, orders, settings, presets and the builder.
//!
//! Plain data. Nothing here knows the server that is made of it.

pub(crate) mod account_spec;
pub(crate) mod brokers;
pub(crate) mod builder;
pub(crate) mod order_spec;
pub mod presets;
pub(crate) mod price;
pub(crate) mod settings;
pub(crate) mod spec;
