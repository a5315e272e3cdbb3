//! Streams cTrader accounts into a Supabase app's Postgres.

pub mod ctrader;
pub mod domain;
pub mod pg;
