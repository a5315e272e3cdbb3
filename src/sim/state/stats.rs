//! What the server counts.

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
    pub idle_timeouts: u64,
    /// Connections cut off because they read too slowly; the shell counts it.
    pub slow_readers: u64,
}
