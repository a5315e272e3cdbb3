//! Streams cTrader accounts into a Supabase app's Postgres, around the clock.
//!
//! Read in this order: [`domain`] has the accounts, rows and commands as pure values; [`ctrader`] is the protocol
//! without I/O; the adapters [`ws`], [`amqp`], [`pg`] and [`http`] know one technology each; [`worker`] wires
//! them; [`cli`] has the subcommands, `worker` among them, and `main` calls it.
//!
//! `domain ← ctrader ← {ws, amqp, pg, http} ← worker ← cli ← main`: adapters never import each other, `domain` has
//! no clock and no async, `ctrader` has no socket.

pub mod domain;
pub mod ctrader;
pub mod ws;
pub mod amqp;
pub mod pg;
pub mod http;
pub mod metrics;
pub mod config;
pub mod failure;
pub mod shutdown;
pub mod telemetry;
pub mod token_cipher;
pub mod worker;
pub mod cli;
#[cfg(feature = "sim")]
pub mod sim;
