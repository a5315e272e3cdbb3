//! RabbitMQ: commands in, and the ones that cannot be applied out to the dead-letter queue.
//!
//! `topology` has the names, `link` opens one connection, `consumer` keeps one open for ever and
//! decides when to take deliveries, `settle` brings one delivery to its end, `publisher` sends a
//! command, `dead` looks after those that were dead-lettered, `probe` finds out what is wrong. No recovery of the client library is used: whatever fails, the whole connection is
//! dropped and made anew, which needs no knowledge of the states a half-broken one can be in.
//!
//! No error here contains the URL: what could not be connected to is for the operator to know.

pub mod backoff;
pub mod consumer;
pub mod dead;
mod link;
pub mod probe;
pub mod publisher;
mod settle;
pub mod topology;

use std::time::Duration;

pub use consumer::{ApplyError, ConnectionState, Consumer, ConsumerHandle};
pub use link::is_url;

use crate::domain::secret::Secret;

/// Where the broker is and who we are to it.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    /// `amqp://` or `amqps://`, with the password.
    pub url: Secret,
    /// The connection's name in the broker's list: the worker's id.
    pub connection_name: String,
}

/// What can go wrong with the broker.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The URL cannot be read. It is checked with the configuration too.
    #[error("AMQP_URL is not a valid AMQP URL")]
    Url,
    /// The broker did not answer.
    #[error("the broker did not {what} within {} s", after.as_secs())]
    Timeout {
        /// What we waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// Somebody declared one of our names differently.
    #[error("the broker already has the {what} {name} with other arguments: {detail}")]
    Topology {
        /// `exchange` or `queue`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The broker's words.
        detail: String,
    },
    /// A published message reached no queue.
    #[error("the broker has no queue for what was published to {exchange}: {detail}")]
    Unroutable {
        /// Where it was published.
        exchange: &'static str,
        /// The broker's words.
        detail: String,
    },
    /// A published message was refused.
    #[error("the broker refused to store what was published to {exchange}")]
    Refused {
        /// Where it was published.
        exchange: &'static str,
    },
    /// The broker ended our consumption, as it does when the queue is deleted.
    #[error("the broker cancelled the consumer")]
    Cancelled,
    /// The connection is gone and said nothing about it.
    #[error("the connection is closed")]
    Closed,
    /// A task of ours panicked.
    #[error("a task that handled a delivery panicked")]
    Panicked,
    /// What the client library says.
    #[error(transparent)]
    Client(#[from] lapin::Error),
}
