//! What is to be done later, and durations in milliseconds.

use std::time::Duration;

use bytes::Bytes;

use super::connection::ConnId;
use super::order::PendingFill;

/// Something to be done later.
#[derive(Debug)]
pub(crate) enum Timer {
    Send(ConnId, Bytes),
    Fill(PendingFill),
}

/// A duration in whole milliseconds.
pub(crate) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
