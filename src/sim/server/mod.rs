//! The tokio shell over [`Broker`]: listeners, sockets and the clock. Protocol lives in the broker.
//!
//! One port per environment serves everything, as the real one does: the first byte tells TLS from
//! plain, the first byte inside tells WebSocket (`GET …`) from length-prefixed TCP. Tasks: a driver
//! that keeps the broker's deadlines, an acceptor per port, one task per socket. They share the broker
//! under a lock that is never held across an await.
//!
//! Each socket has a bounded queue ([`QUEUE_MAX`]); a client that lets it fill is reset and counted.
//! Everything ends when the last [`Handle`] is dropped.

mod link;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::broker::{Broker, Close, ConnId, Output};
use super::build::Builder;
use super::spec::Environment;
use link::Link;

/// Messages that wait for one socket at most: a second of the heaviest stream a client is meant to bear.
pub const QUEUE_MAX: usize = 131_072;
/// The driver sleeps at least this long, so that a fast market comes in batches.
const STEP: Duration = Duration::from_millis(1);

/// The time the broker is told.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The broker and the way to its sockets.
struct Core {
    broker: Broker,
    links: HashMap<ConnId, Arc<Link>>,
    armed: Option<Instant>,
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
struct Shared {
    core: Mutex<Core>,
    wake: Notify,
    tls: tokio_rustls::TlsAcceptor,
    stall_tls: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the broker, does what follows from it and re-arms the driver if it must be earlier.
    fn act<R>(&self, act: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.lock();
        let result = act(&mut core);
        core.pump();
        let next = core.broker.poll_timeout();
        if next < core.armed {
            self.wake.notify_one();
        }
        result
    }

    fn open(&self, environment: Environment) -> (ConnId, Arc<Link>) {
        self.act(|core| {
            let conn = core.broker.connect(environment, now());
            let link = Arc::new(Link::default());
            core.links.insert(conn, Arc::clone(&link));
            (conn, link)
        })
    }

    fn message(&self, conn: ConnId, bytes: Bytes) {
        self.act(|core| core.broker.handle_message(conn, bytes, now()));
    }

    fn gone(&self, conn: ConnId) {
        self.act(|core| {
            core.links.remove(&conn);
            core.broker.disconnected(conn);
        });
    }
}

/// One plugged-in time: from binding the ports to closing everything.
struct Plug {
    /// Ends sockets and acceptors.
    all: CancellationToken,
    /// Ends acceptors only.
    accepting: CancellationToken,
    tasks: TaskTracker,
}

/// A running simulator. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    plug: Arc<Mutex<Option<Plug>>>,
    demo: SocketAddr,
    live: SocketAddr,
    pem: Arc<str>,
    _stop: Arc<DropGuard>,
    stopped: CancellationToken,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("demo", &self.demo)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Starts the simulator on loopback.
    ///
    /// # Errors
    /// If a port cannot be bound or the certificate cannot be made.
    pub async fn start(self) -> io::Result<Handle> {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let (demo_port, live_port) = self.ports;
        let demo = TcpListener::bind(("127.0.0.1", demo_port)).await?;
        let live = TcpListener::bind(("127.0.0.1", live_port)).await?;
        let identity = tls::identity().map_err(io::Error::other)?;
        let broker = self.build(now(), super::faults::millis(wall));
        let shared = Arc::new(Shared {
            core: Mutex::new(Core {
                broker,
                links: HashMap::new(),
                armed: None,
            }),
            wake: Notify::new(),
            tls: identity.acceptor,
            stall_tls: AtomicBool::new(false),
        });
        let stopped = CancellationToken::new();
        let handle = Handle {
            demo: demo.local_addr()?,
            live: live.local_addr()?,
            shared: Arc::clone(&shared),
            plug: Arc::new(Mutex::new(None)),
            pem: identity.pem.into(),
            _stop: Arc::new(stopped.clone().drop_guard()),
            stopped: stopped.clone(),
        };
        TaskTracker::new().spawn(drive(shared, stopped));
        handle.accept_on(demo, live);
        Ok(handle)
    }
}

/// Keeps the broker's deadlines.
async fn drive(shared: Arc<Shared>, stopped: CancellationToken) {
    loop {
        let deadline = {
            let mut core = shared.lock();
            core.armed = core.broker.poll_timeout();
            core.armed
                .unwrap_or_else(|| now() + Duration::from_secs(1))
                .max(now() + STEP)
        };
        tokio::select! {
            () = stopped.cancelled() => return,
            () = tokio::time::sleep_until(deadline.into()) => {
                shared.act(|core| core.broker.handle_timeout(now()));
            }
            () = shared.wake.notified() => {}
        }
    }
}

async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    environment: Environment,
    (accepting, all, tasks): (CancellationToken, CancellationToken, TaskTracker),
) {
    loop {
        let stream: io::Result<(TcpStream, SocketAddr)> = tokio::select! {
            () = accepting.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                tasks.spawn(socket::serve(
                    Arc::clone(&shared),
                    stream,
                    environment,
                    all.clone(),
                ));
            }
            // Out of descriptors, or the peer left at once: give the rest a chance.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl Handle {
    fn slot(&self) -> MutexGuard<'_, Option<Plug>> {
        self.plug.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_on(&self, demo: TcpListener, live: TcpListener) {
        let mut slot = self.slot();
        let plug = slot.get_or_insert_with(|| {
            let all = self.stopped.child_token();
            Plug {
                accepting: all.child_token(),
                all,
                tasks: TaskTracker::new(),
            }
        });
        if plug.accepting.is_cancelled() {
            plug.accepting = plug.all.child_token();
        }
        for (listener, environment) in [(demo, Environment::Demo), (live, Environment::Live)] {
            let tokens = (plug.accepting.clone(), plug.all.clone(), plug.tasks.clone());
            plug.tasks.spawn(accept(
                Arc::clone(&self.shared),
                listener,
                environment,
                tokens,
            ));
        }
    }

    /// Does something with the broker, at the time of now: scripts it, trades by hand, looks at it.
    pub fn with<R>(&self, act: impl FnOnce(&mut Broker) -> R) -> R {
        self.shared.act(|core| {
            core.broker.handle_timeout(now());
            act(&mut core.broker)
        })
    }

    /// Address of the demo listener.
    pub fn demo_addr(&self) -> SocketAddr {
        self.demo
    }

    /// Address of the live listener.
    pub fn live_addr(&self) -> SocketAddr {
        self.live
    }

    /// `ws://` URL of the demo listener.
    pub fn demo_url(&self) -> String {
        format!("ws://{}", self.demo)
    }

    /// `ws://` URL of the live listener.
    pub fn live_url(&self) -> String {
        format!("ws://{}", self.live)
    }

    /// `wss://` URL of the demo listener; trust [`Self::ca_pem`].
    pub fn demo_tls_url(&self) -> String {
        format!("wss://localhost:{}", self.demo.port())
    }

    /// `wss://` URL of the live listener; trust [`Self::ca_pem`].
    pub fn live_tls_url(&self) -> String {
        format!("wss://localhost:{}", self.live.port())
    }

    /// The authority that signed the server's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// TLS handshakes are accepted and then never answered.
    pub fn stall_tls(&self, on: bool) {
        self.shared.stall_tls.store(on, Ordering::Relaxed);
    }

    /// No new connections: the ports are closed, open sockets live on.
    pub fn stop_accepting(&self) {
        if let Some(plug) = self.slot().as_ref() {
            plug.accepting.cancel();
        }
    }

    /// The opposite of [`Self::stop_accepting`] and [`Self::unplug`]: listens on the same ports.
    ///
    /// # Errors
    /// If a port cannot be bound again.
    pub async fn plug_in(&self) -> io::Result<()> {
        let listening = self
            .slot()
            .as_ref()
            .is_some_and(|plug| !plug.accepting.is_cancelled());
        if listening {
            return Ok(());
        }
        let demo = TcpListener::bind(self.demo).await?;
        let live = TcpListener::bind(self.live).await?;
        self.accept_on(demo, live);
        Ok(())
    }

    /// Pulls the plug: closes the listeners and resets every socket. Returns when all are gone.
    pub async fn unplug(&self) {
        let Some(plug) = self.slot().take() else {
            return;
        };
        plug.all.cancel();
        plug.tasks.close();
        plug.tasks.wait().await;
    }

    /// Resets every socket; the listeners stay.
    pub fn kill_sockets(&self) {
        self.with(Broker::reset_all);
    }

    /// Closes every socket with what is given.
    pub fn close_sockets(&self, how: Close) {
        self.with(|broker| {
            for conn in broker.open_connections() {
                broker.close(conn, how);
            }
        });
    }
}
