//! Streams cTrader accounts into a Supabase app's Postgres.

pub mod ctrader;
pub mod domain;
#[cfg(feature = "sim")]
pub mod sim;
