//! A connection as the server knows it, and what the shell has to do with it.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::sim::world::spec::Environment;

use super::budget::Budget;

/// A connection, numbered from 1 in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// End of stream, with nothing said.
    Normal,
    /// WebSocket close 1000 with reason `Bye`.
    Bye,
    /// TCP reset.
    Reset,
}

/// What the shell has to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this `ProtoMessage`.
    Send(ConnId, Bytes),
    /// Close the connection; nothing comes for it any more.
    Close(ConnId, Close),
    /// Stop reading and writing without closing.
    Freeze(ConnId),
}

/// One socket as the server knows it.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    pub(crate) environment: Environment,
    pub(crate) app: Option<String>,
    /// Accounts authorised here, with the number of the grant.
    pub(crate) accounts: BTreeMap<i64, usize>,
    /// (account, symbol) → with timestamps.
    pub(crate) spots: BTreeMap<(i64, i64), bool>,
    pub(crate) last_in: Instant,
    pub(crate) last_out: Instant,
    pub(crate) budget: Budget,
    pub(crate) frozen: bool,
    pub(crate) requests: u64,
}
