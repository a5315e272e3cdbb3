//! What the broker keeps per connection and hands to its shell.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::envelope::Refusal;
use super::limits::{Budget, Limits};
use super::orders::Fill;
use super::spec::Environment;

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

/// How the simulated server behaves where the real one is configurable or unknown.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches a test turns one at a time"
)]
pub struct Settings {
    /// A client silent for this long is cut off.
    pub idle_cutoff: Duration,
    /// The server sends a heartbeat after this much silence of its own.
    pub heartbeat_after: Duration,
    /// Connections an application may have, over both environments.
    pub connection_cap: usize,
    /// Time between ORDER_ACCEPTED and ORDER_FILLED of a client's order.
    pub fill_gap: Duration,
    /// The same of an order made by hand.
    pub hand_gap: Duration,
    /// Market and pending orders are filled in so many parts, where the volume allows it.
    pub fill_parts: u32,
    /// Time between two parts.
    pub part_gap: Duration,
    /// Withdrawals are told with a positive `delta`; which sign the real server sends is not known.
    pub unsigned_withdrawals: bool,
    /// An account that is not of the fair kind is stopped out by halves, not by whole positions.
    pub partial_stop_out: bool,
    /// Rows a history reply holds at most.
    pub history_chunk: usize,
    /// History lists run from the newest row to the oldest.
    pub newest_first: bool,
    /// Balance changes are followed by `ProtoOATraderUpdatedEvent`.
    pub trader_updates: bool,
    /// Request budgets.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_cutoff: Duration::from_secs(30),
            heartbeat_after: Duration::from_secs(25),
            connection_cap: 25,
            fill_gap: Duration::from_millis(600),
            hand_gap: Duration::ZERO,
            fill_parts: 1,
            part_gap: Duration::ZERO,
            unsigned_withdrawals: false,
            partial_stop_out: false,
            history_chunk: 50,
            newest_first: false,
            trader_updates: false,
            limits: Limits::default(),
        }
    }
}

/// One socket as the server knows it.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) environment: Environment,
    pub(super) app: Option<String>,
    /// Accounts authorised here, with the number of the grant.
    pub(super) accounts: BTreeMap<i64, usize>,
    /// (account, symbol) → with timestamps.
    pub(super) spots: BTreeMap<(i64, i64), bool>,
    pub(super) last_in: Instant,
    pub(super) last_out: Instant,
    pub(super) budget: Budget,
    pub(super) frozen: bool,
    pub(super) requests: u64,
}

/// A request that passed the envelope.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) conn: ConnId,
    pub(super) kind: u32,
    pub(super) id: Option<String>,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn parse<M: Message + Default>(&self) -> Result<M, Refusal> {
        M::decode(self.body.clone())
            .map_err(|_| Refusal::new("INVALID_REQUEST").description("Malformed message"))
    }
}

/// A request as seen on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The connection.
    pub conn: ConnId,
    /// Its payload type.
    pub kind: u32,
    /// The account it names; 0 if none.
    pub account: i64,
    /// When.
    pub at: Instant,
}

/// Something to be done later.
#[derive(Debug)]
pub(super) enum Timer {
    Send(ConnId, Bytes),
    Fill(Fill),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Requests received, without heartbeats.
    pub requests: u64,
    /// Heartbeats received.
    pub heartbeats: u64,
    /// Messages sent.
    pub sent: u64,
    /// Spot events sent.
    pub spots: u64,
    /// Execution events sent.
    pub executions: u64,
    /// Requests refused by the rate limits.
    pub rate_refusals: u64,
    /// Connections cut off for silence.
    pub idle_cutoffs: u64,
    /// Connections cut off because they read too slowly; the shell counts it.
    pub slow_readers: u64,
}
