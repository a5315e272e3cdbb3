//! What can go wrong with the broker.

use std::time::Duration;

/// Why the broker could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The URL cannot be parsed. The configuration checks it too.
    #[error("AMQP_URL is not a valid AMQP URL")]
    Url,
    /// The broker did not reply in time.
    #[error("the broker did not {what} within {} s", after.as_secs())]
    Timeout {
        /// What we waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The broker has one of our names with other arguments.
    #[error("the broker already has the {what} {name} with other arguments: {detail}")]
    Topology {
        /// `exchange` or `queue`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The broker's message.
        detail: String,
    },
    /// A published message reached no queue.
    #[error("the broker has no queue for what was published to {exchange}: {detail}")]
    Unroutable {
        /// The exchange it was published to.
        exchange: &'static str,
        /// The broker's message.
        detail: String,
    },
    /// The broker did not store a published message.
    #[error("the broker refused to store what was published to {exchange}")]
    Refused {
        /// The exchange it was published to.
        exchange: &'static str,
    },
    /// The broker cancelled our subscription, as it does when the queue is deleted.
    #[error("the broker cancelled the consumer")]
    Cancelled,
    /// The connection is closed, for an unknown reason.
    #[error("the connection is closed")]
    Closed,
    /// One of our tasks panicked.
    #[error("a task that handled a delivery panicked")]
    Panicked,
    /// An error of the client library.
    #[error(transparent)]
    Client(#[from] lapin::Error),
}
