//! The tokio shell over the broker: listeners, sockets and the clock. Protocol lives in the broker.
//!
//! One port per environment serves everything, as the real one does: the first byte tells TLS from
//! plain, the first byte inside tells WebSocket (`GET …`) from length-prefixed TCP. Tasks: a driver
//! that keeps the broker's deadlines, an acceptor per port, one task per socket. They share the broker
//! under a lock that is never held across an await.
//!
//! Each socket has a bounded queue ([`QUEUE_MAX`]); a client that lets it fill is reset and counted.
//! Everything ends when the last [`Handle`] is dropped.

mod handle;
mod queue;
mod shared;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

pub use handle::Handle;
pub use queue::QUEUE_MAX;
