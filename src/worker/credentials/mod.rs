//! Renews the tokens of cTrader grants. [`refresher`] decides and sends, [`grant`] reads and commits.

pub(in crate::worker) mod grant;
pub(in crate::worker) mod refresher;
