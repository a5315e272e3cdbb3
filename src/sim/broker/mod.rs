//! The simulated cTrader, sans-IO: bytes and time in, bytes and deadlines out.
//!
//! Drive it with `connect`, `handle_message`, `disconnected` and `handle_timeout`; after each, drain
//! `poll_output` and re-arm `poll_timeout`. Operations made by hand happen at the latest time it was
//! told. One message is one bare `ProtoMessage`: framing belongs to the shell.
//!
//! The struct is in `state::broker`; each file here adds the methods of one subject to it.

mod activity;
mod auth;
mod balance;
mod build;
mod clock;
mod closing;
mod connections;
mod fills;
mod history;
mod journal;
mod lookup;
mod margin;
mod market;
mod opening;
mod order_checks;
mod orders;
mod outgoing;
mod pending_orders;
mod protection;
mod reference_data;
mod requests;
mod snapshots;
mod spots;
mod tokens;
mod trading;
mod valuation;
