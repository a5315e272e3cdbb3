//! A running simulator: its listeners, the task that keeps the broker's deadlines, and what a test does to both.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::sim::state::broker::Broker;
use crate::sim::state::connection::Close;
use crate::sim::state::timer::millis;
use crate::sim::world::builder::Builder;
use crate::sim::world::spec::Environment;

use super::shared::{ServerState, SharedServer, now};
use super::socket::serve;
use super::tls::identity;

/// The driver sleeps at least this long, so that a fast market comes in batches.
const STEP: Duration = Duration::from_millis(1);

/// One plugged-in time: from binding the ports to closing everything.
struct Listening {
    /// Ends sockets and acceptors.
    all: CancellationToken,
    /// Ends acceptors only.
    accepting: CancellationToken,
    tasks: TaskTracker,
}

/// A running simulator. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<SharedServer>,
    listening: Arc<Mutex<Option<Listening>>>,
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
        let identity = identity().map_err(io::Error::other)?;
        let broker = self.build(now(), millis(wall));
        let shared = Arc::new(SharedServer {
            state: Mutex::new(ServerState {
                broker,
                queues: HashMap::new(),
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
            listening: Arc::new(Mutex::new(None)),
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
async fn drive(shared: Arc<SharedServer>, stopped: CancellationToken) {
    loop {
        let deadline = {
            let mut state = shared.lock();
            state.armed = state.broker.poll_timeout();
            state
                .armed
                .unwrap_or_else(|| now() + Duration::from_secs(1))
                .max(now() + STEP)
        };
        tokio::select! {
            () = stopped.cancelled() => return,
            () = tokio::time::sleep_until(deadline.into()) => {
                shared.update(|state| state.broker.handle_timeout(now()));
            }
            () = shared.wake.notified() => {}
        }
    }
}

async fn accept(
    shared: Arc<SharedServer>,
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
                tasks.spawn(serve(Arc::clone(&shared), stream, environment, all.clone()));
            }
            // Out of descriptors, or the peer left at once: give the rest a chance.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl Handle {
    fn listening(&self) -> MutexGuard<'_, Option<Listening>> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_on(&self, demo: TcpListener, live: TcpListener) {
        let mut listening = self.listening();
        let listening = listening.get_or_insert_with(|| {
            let all = self.stopped.child_token();
            Listening {
                accepting: all.child_token(),
                all,
                tasks: TaskTracker::new(),
            }
        });
        if listening.accepting.is_cancelled() {
            listening.accepting = listening.all.child_token();
        }
        for (listener, environment) in [(demo, Environment::Demo), (live, Environment::Live)] {
            let tokens = (
                listening.accepting.clone(),
                listening.all.clone(),
                listening.tasks.clone(),
            );
            listening.tasks.spawn(accept(
                Arc::clone(&self.shared),
                listener,
                environment,
                tokens,
            ));
        }
    }

    /// Does something with the broker, at the time of now: scripts it, trades by hand, looks at it.
    pub fn with<R>(&self, act: impl FnOnce(&mut Broker) -> R) -> R {
        self.shared.update(|state| {
            state.broker.handle_timeout(now());
            act(&mut state.broker)
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
        if let Some(listening) = self.listening().as_ref() {
            listening.accepting.cancel();
        }
    }

    /// The opposite of [`Self::stop_accepting`] and [`Self::unplug`]: listens on the same ports.
    ///
    /// # Errors
    /// If a port cannot be bound again.
    pub async fn plug_in(&self) -> io::Result<()> {
        let listening = self
            .listening()
            .as_ref()
            .is_some_and(|listening| !listening.accepting.is_cancelled());
        if listening {
            return Ok(());
        }
        let demo = TcpListener::bind(self.demo).await?;
        let live = TcpListener::bind(self.live).await?;
        self.accept_on(demo, live);
        Ok(())
    }

    /// Pulls the listening: closes the listeners and resets every socket. Returns when all are gone.
    pub async fn unplug(&self) {
        let Some(listening) = self.listening().take() else {
            return;
        };
        listening.all.cancel();
        listening.tasks.close();
        listening.tasks.wait().await;
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
