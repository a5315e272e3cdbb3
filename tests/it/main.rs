//! The one integration test binary: a file a behaviour.
//!
//! Most of them need a real Postgres and a real RabbitMQ, named by `DATABASE_URL` and `AMQP_URL`;
//! `scripts/test` starts both. Without them such a test fails. It is never skipped.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that panics has failed, as it should"
)]

mod support;

mod amqp_consumer;
mod amqp_poison;
mod amqp_publisher;
mod amqp_support;
mod amqp_topology;
mod bindings;
mod cli_check;
mod cli_dead;
mod cli_status;
mod config;
mod e2e_boot;
mod e2e_credentials;
mod e2e_faults;
mod e2e_ledger;
mod e2e_order;
mod e2e_outage;
mod e2e_patience;
mod e2e_rows;
mod e2e_secrets;
mod e2e_shutdown;
mod e2e_start;
mod e2e_startup;
mod e2e_storm;
mod e2e_tokens;
mod fleet_handover;
mod fleet_outage;
mod fleet_soak;
mod fleet_takeover;
mod fuzz;
mod fuzz_corpus;
mod health;
mod hot_path;
mod model;
mod model_fleet;
mod ops_files;
mod ops_health;
mod ops_metrics;
mod ops_trace;
mod pg_cache;
mod pg_cache_fence;
mod pg_claims;
mod pg_commands;
mod pg_connect;
mod pg_deals;
mod pg_history;
mod pg_numeric;
mod pg_pooler;
mod pg_roles;
mod pg_rows;
mod pg_schema;
mod pg_support;
mod pg_token_refresh;
mod pair_crowd;
mod pair_checks;
mod pair_events;
mod pair_history;
mod pair_quotes;
mod pair_random;
mod pair_refusals;
mod pair_silence;
mod pair_snapshot;
mod pair_tokens;
mod pair_truth;
mod support_works;
mod tidy;
