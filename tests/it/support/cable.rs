//! A cable between a worker and a server, which a test cuts at any byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::pair::Chance;

/// Forwards bytes both ways; each connection ends, in the middle of a message if need be, after so many
/// bytes from the server.
pub(crate) struct Cable {
    addr: SocketAddr,
    /// The most bytes that a connection forwards; 0: any number.
    bytes_max: Arc<AtomicU64>,
    cuts: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Cable {
    /// A whole one.
    pub(crate) async fn to(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (bytes_max, cuts) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (most, count) = (Arc::clone(&bytes_max), Arc::clone(&cuts));
        let chance = Mutex::new(Chance::new(seed));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let most = Arc::clone(&most);
                let draw = chance.lock().expect("nobody panics").below(u64::MAX);
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else {
                        return;
                    };
                    forward(client, server, &most, draw).await;
                    count.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self {
            addr,
            bytes_max,
            cuts,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn ws_url(&self) -> String {
        format!("ws://{}", self.addr)
    }

    /// From now on no connection, old or new, forwards more than that.
    pub(crate) fn limit_bytes(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// From now on nothing is cut.
    pub(crate) fn repair(&self) {
        self.limit_bytes(0);
    }

    /// Connections that are over.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, most: &AtomicU64, draw: u64) {
    // A cut is a reset: what was not read yet is gone too.
    for socket in [&client, &server] {
        #[expect(deprecated, reason = "a linger of zero never blocks")]
        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = tokio::io::copy(&mut from_client, &mut to_server);
    let down = async {
        let (mut carried, mut buffer) = (0, [0; 4_096]);
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let most = most.load(Ordering::Relaxed);
            let left = if most == 0 {
                read
            } else {
                let left = (draw % most).saturating_sub(carried);
                usize::try_from(left).map_or(read, |left| left.min(read))
            };
            if to_client.write_all(&buffer[..left]).await.is_err() || left < read {
                return;
            }
            carried += read as u64;
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}
