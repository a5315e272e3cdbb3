//! RabbitMQ: consumes commands, and moves those that cannot be applied to the dead-letter queue.
//!
//! `topology` has the names and declares them. `connection` opens one connection. `consumer` keeps one open for as long as
//! the worker runs and decides when to take deliveries. `handler` is what the consumer calls for each command. `delivery`
//! handles one delivery from its arrival to its acknowledgement. `message` has the headers and properties that the others
//! share. `publisher` publishes a command, `dead_letters` lists, requeues and drops dead letters, and `probe` tells an
//! operator why a broker cannot be used.
//!
//! The recovery of the client library is not used. Whatever fails, the whole connection is dropped and a new one is made,
//! which needs no knowledge of the states that a half-broken connection can be in.
//!
//! No error here contains the URL, which may have a password.

pub mod connection;
pub mod consumer;
pub mod dead_letters;
mod delivery;
pub mod error;
pub mod handler;
mod message;
pub mod probe;
pub mod publisher;
mod timeout;
pub mod topology;

pub use connection::{AmqpSettings, is_url};
pub use consumer::{ConnectionState, Consumer, ConsumerHandle};
pub use error::AmqpError;
pub use handler::ApplyError;
