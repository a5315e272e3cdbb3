//! What the worker shows of itself: the health routes and the metrics.

pub(in crate::worker) mod gauges;
pub(in crate::worker) mod server;
pub(in crate::worker) mod status;
