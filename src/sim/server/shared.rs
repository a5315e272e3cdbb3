//! The broker and the queues of its sockets, under one lock that is never held across an await.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::sim::state::broker::Broker;
use crate::sim::state::connection::{ConnId, Output};
use crate::sim::world::spec::Environment;

use super::queue::SendQueue;

/// The time the broker is told.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The broker and the way to its sockets.
pub(super) struct ServerState {
    pub(super) broker: Broker,
    pub(super) queues: HashMap<ConnId, Arc<SendQueue>>,
    /// When the driver wakes.
    pub(super) armed: Option<Instant>,
}

impl ServerState {
    /// Carries out what the broker wants done.
    fn deliver_outputs(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send(conn, frame) => {
                    if self
                        .queues
                        .get(&conn)
                        .is_some_and(|queue| !queue.push(frame))
                    {
                        self.queues.remove(&conn);
                        self.broker.slow_reader(conn);
                    }
                }
                Output::Close(conn, how) => {
                    if let Some(queue) = self.queues.remove(&conn) {
                        queue.end(how);
                    }
                }
                Output::Freeze(conn) => {
                    if let Some(queue) = self.queues.get(&conn) {
                        queue.freeze();
                    }
                }
            }
        }
    }
}

/// What every task of the server shares.
pub(super) struct SharedServer {
    pub(super) state: Mutex<ServerState>,
    /// The driver has to look again.
    pub(super) wake: Notify,
    pub(super) tls: tokio_rustls::TlsAcceptor,
    pub(super) stall_tls: AtomicBool,
}

impl SharedServer {
    pub(super) fn lock(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the broker, does what follows from it and re-arms the driver if it must be earlier.
    pub(super) fn update<R>(&self, act: impl FnOnce(&mut ServerState) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        state.deliver_outputs();
        let next = state.broker.poll_timeout();
        if next < state.armed {
            self.wake.notify_one();
        }
        result
    }

    pub(super) fn connected(&self, environment: Environment) -> (ConnId, Arc<SendQueue>) {
        self.update(|state| {
            let conn = state.broker.connect(environment, now());
            let queue = Arc::new(SendQueue::default());
            state.queues.insert(conn, Arc::clone(&queue));
            (conn, queue)
        })
    }

    pub(super) fn message(&self, conn: ConnId, bytes: Bytes) {
        self.update(|state| state.broker.handle_message(conn, bytes, now()));
    }

    pub(super) fn disconnected(&self, conn: ConnId) {
        self.update(|state| {
            state.queues.remove(&conn);
            state.broker.disconnected(conn);
        });
    }
}
