//! The one integration test binary: a file a behaviour.
//!
//! Most of them need a real Postgres and a real RabbitMQ, named by `DATABASE_URL` and `AMQP_URL`;
//! `scripts/test` starts both. Without them such a test fails. It is never skipped.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that panics has failed, as it should"
)]

mod support;

mod bindings;
mod config;
mod health;
mod pair_crowd;
mod pair_events;
mod pair_quotes;
mod pair_random;
mod pair_refusals;
mod pair_silence;
mod pair_snapshot;
mod pair_truth;
mod support_works;
