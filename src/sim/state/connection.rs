//! Connections as the server knows them, and what it asks the shell to do with them.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::sim::world::spec::Environment;

use super::budget::RequestBudget;

/// A connection, numbered from 1 in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// End of stream, without a close frame.
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
    /// Close the connection. No more output follows for it.
    Close(ConnId, Close),
    /// Stop reading and writing without closing.
    Freeze(ConnId),
}

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    pub(crate) environment: Environment,
    pub(crate) app: Option<String>,
    /// Accounts authorised here, with the number of the grant.
    pub(crate) accounts: BTreeMap<i64, usize>,
    /// Spot subscriptions: (account, symbol) → whether with timestamps.
    pub(crate) spots: BTreeMap<(i64, i64), bool>,
    pub(crate) last_in: Instant,
    pub(crate) last_out: Instant,
    pub(crate) budget: RequestBudget,
    pub(crate) frozen: bool,
    pub(crate) requests: u64,
}
