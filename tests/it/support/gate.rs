//! A gate between a worker and a server: open, shut silently, or slammed.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What a gate does to those who pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// They pass.
    Open,
    /// Nothing passes, nothing ends, and who comes new is taken in and hears nothing: half open.
    Still,
    /// Whoever was inside is thrown out, and who comes new is too.
    Slammed,
}

/// Forwards bytes both ways, as long as it is open.
pub(crate) struct Gate {
    addr: SocketAddr,
    passage: watch::Sender<Passage>,
    _task: AbortOnDropHandle<()>,
}

impl Gate {
    /// An open one, at this address.
    pub(crate) async fn at(address: &str, server: SocketAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (passage, seen) = watch::channel(Passage::Open);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, seen.clone()));
            }
        });
        Self {
            addr,
            passage,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

async fn relay(client: TcpStream, server: SocketAddr, passage: watch::Receiver<Passage>) {
    if *passage.borrow() == Passage::Slammed {
        return;
    }
    let mut opened = passage.clone();
    if opened.wait_for(|now| *now != Passage::Still).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut slammed = passage.clone();
    tokio::select! {
        () = forward(from_client, to_server, passage.clone()) => {}
        () = forward(from_server, to_client, passage) => {}
        _ = slammed.wait_for(|now| *now == Passage::Slammed) => {}
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut passage: watch::Receiver<Passage>,
) {
    let mut buffer = [0; 8_192];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if passage
            .wait_for(|now| *now != Passage::Still)
            .await
            .is_err()
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}
