//! How the simulated server behaves where the real one is configurable or unknown.
//!
//! Plain values, which a test may change while the server runs.

use std::time::Duration;

/// How the simulated server behaves where the real one is configurable or unknown.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches a test turns one at a time"
)]
pub struct Settings {
    /// A client silent for this long is cut off.
    pub idle_timeout: Duration,
    /// The server sends a heartbeat after this much silence of its own.
    pub heartbeat_after: Duration,
    /// Connections an application may have, over both environments.
    pub connection_cap: usize,
    /// Time between ORDER_ACCEPTED and ORDER_FILLED of a client's order.
    pub fill_delay: Duration,
    /// The same of an order made by hand.
    pub manual_fill_delay: Duration,
    /// Market and pending orders are filled in so many parts, where the volume allows it.
    pub fill_parts: u32,
    /// Time between two parts.
    pub partial_fill_delay: Duration,
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
            idle_timeout: Duration::from_secs(30),
            heartbeat_after: Duration::from_secs(25),
            connection_cap: 25,
            fill_delay: Duration::from_millis(600),
            manual_fill_delay: Duration::ZERO,
            fill_parts: 1,
            partial_fill_delay: Duration::ZERO,
            unsigned_withdrawals: false,
            partial_stop_out: false,
            history_chunk: 50,
            newest_first: false,
            trader_updates: false,
            limits: Limits::default(),
        }
    }
}

/// What a connection may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Non-historical requests per second and connection.
    pub requests_per_second: u32,
    /// Historical requests per second and connection.
    pub history_per_second: u32,
    /// Seconds a payload type stays blocked after a breach.
    pub block_seconds: u64,
    /// A breach is answered with `REQUEST_FREQUENCY_EXCEEDED` and blocks nothing.
    pub frequency_error: bool,
    /// Nothing is refused; windows still count.
    pub off: bool,
    /// Historical requests in any ten minutes before the rolling quota refuses; `None` = no such quota.
    pub history_quota: Option<usize>,
}

impl Default for Limits {
    /// The documented 50 and 5 requests per second.
    fn default() -> Self {
        Self {
            requests_per_second: 50,
            history_per_second: 5,
            block_seconds: 1,
            frequency_error: false,
            off: false,
            history_quota: None,
        }
    }
}
