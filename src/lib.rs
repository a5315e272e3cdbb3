//! Streams cTrader accounts into a Supabase app's Postgres.

pub mod amqp;
pub mod config;
pub mod ctrader;
pub mod domain;
pub mod http;
pub mod shutdown;
pub mod telemetry;
