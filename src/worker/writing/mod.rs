//! From the latest state of each session to batches of rows in Postgres.

pub(in crate::worker) mod outbox;
pub(in crate::worker) mod row_stats;
pub(in crate::worker) mod writer;
