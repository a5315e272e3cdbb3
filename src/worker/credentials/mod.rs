//! Renews the tokens of cTrader grants.

pub(in crate::worker) mod refresher;
