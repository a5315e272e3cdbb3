//! The worker's health routes and metrics.

pub(in crate::worker) mod gauges;
pub(in crate::worker) mod server;
pub(in crate::worker) mod status;
