//! Postgres: the claims, the desired state, the credentials, and the rows that the app reads.
//!
//! Adapters only: what to write, and when, is decided by the worker. Each function is one statement or
//! one transaction on a connection that the caller leases from [`connect::Database`], so that a caller
//! who gives up waiting loses that connection and nothing else.
//!
//! Invariants: a row is written only under the epoch of its slot, checked in the statement that writes;
//! no error or log of this module shows a URL, a token or a user.

pub mod cache;
pub mod claims;
pub mod commands;
pub mod connect;
pub mod deals;
pub mod history;
mod error;
pub mod fleet;
pub mod listen;
pub mod numeric;
pub mod overview;
pub mod pooler;
pub mod probe;
pub mod schema;
pub mod sessions;
pub mod tokens;

pub use error::PgError;
