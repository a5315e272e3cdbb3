//! Timers, and durations in milliseconds.

use std::time::Duration;

use bytes::Bytes;

use super::connection::ConnId;
use super::order::PendingFill;

/// What the server does once a time has come.
#[derive(Debug)]
pub(crate) enum TimerAction {
    Send(ConnId, Bytes),
    Fill(PendingFill),
}

/// A duration in whole milliseconds.
pub(crate) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
