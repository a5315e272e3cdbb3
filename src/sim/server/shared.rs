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

use super::queue::Link;

/// The time the broker is told.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The broker and the way to its sockets.
pub(super) struct Core {
    pub(super) broker: Broker,
    pub(super) links: HashMap<ConnId, Arc<Link>>,
    /// When the driver wakes.
    pub(super) armed: Option<Instant>,
}

impl Core {
    /// Carries out what the broker wants done.
    fn pump(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send(conn, frame) => {
                    if self.links.get(&conn).is_some_and(|link| !link.push(frame)) {
                        self.links.remove(&conn);
                        self.broker.slow_reader(conn);
                    }
                }
                Output::Close(conn, how) => {
                    if let Some(link) = self.links.remove(&conn) {
                        link.end(how);
                    }
                }
                Output::Freeze(conn) => {
                    if let Some(link) = self.links.get(&conn) {
                        link.freeze();
                    }
                }
            }
        }
    }
}

/// What every task of the server shares.
pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    /// The driver has to look again.
    pub(super) wake: Notify,
    pub(super) tls: tokio_rustls::TlsAcceptor,
    pub(super) stall_tls: AtomicBool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the broker, does what follows from it and re-arms the driver if it must be earlier.
    pub(super) fn act<R>(&self, act: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.lock();
        let result = act(&mut core);
        core.pump();
        let next = core.broker.poll_timeout();
        if next < core.armed {
            self.wake.notify_one();
        }
        result
    }

    pub(super) fn open(&self, environment: Environment) -> (ConnId, Arc<Link>) {
        self.act(|core| {
            let conn = core.broker.connect(environment, now());
            let link = Arc::new(Link::default());
            core.links.insert(conn, Arc::clone(&link));
            (conn, link)
        })
    }

    pub(super) fn message(&self, conn: ConnId, bytes: Bytes) {
        self.act(|core| core.broker.handle_message(conn, bytes, now()));
    }

    pub(super) fn gone(&self, conn: ConnId) {
        self.act(|core| {
            core.links.remove(&conn);
            core.broker.disconnected(conn);
        });
    }
}
