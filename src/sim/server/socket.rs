//! One socket: detects its protocol, then forwards messages both ways until it ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use crate::sim::state::connection::{Close, ConnId};
use crate::sim::state::envelope::MAX_FRAME;
use crate::sim::world::spec::Environment;

use super::queue::{Batch, SendQueue};
use super::shared::SharedServer;

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// A client has this long to send its first byte and to finish its handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A graceful close waits this long for the peer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A stream over a TCP socket that can be reset.
trait ResettableSocket: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl ResettableSocket for BufReader<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref()
    }
}

impl ResettableSocket for BufReader<TlsStream<TcpStream>> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().get_ref().0
    }
}

/// Makes dropping the socket a reset. An error means that it is gone already.
fn reset_on_drop(socket: &impl ResettableSocket) {
    let _ = socket.tcp().set_zero_linger();
}

/// Serves one accepted socket. Ends with the socket, or when `all` is cancelled.
pub(super) async fn serve(
    shared: Arc<SharedServer>,
    stream: TcpStream,
    environment: Environment,
    all: CancellationToken,
) {
    // A socket that cannot be set up, or sends nothing in time, is dropped: nobody needs the error.
    let _ = stream.set_nodelay(true);
    let mut first = [0_u8; 1];
    let peeked = tokio::select! {
        () = all.cancelled() => return,
        peeked = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first)) => peeked,
    };
    if !matches!(peeked, Ok(Ok(1))) {
        return;
    }
    if first != [TLS_HANDSHAKE] {
        return Box::pin(detect_protocol(
            &shared,
            BufReader::new(stream),
            environment,
            &all,
        ))
        .await;
    }
    if shared.stall_tls.load(Ordering::Relaxed) {
        all.cancelled().await;
        return;
    }
    let handshake = tokio::select! {
        () = all.cancelled() => return,
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, shared.tls.accept(stream)) => handshake,
    };
    if let Ok(Ok(stream)) = handshake {
        Box::pin(detect_protocol(
            &shared,
            BufReader::new(stream),
            environment,
            &all,
        ))
        .await;
    }
}

/// Detects the protocol: WebSocket begins with `GET`, anything else is a length prefix.
async fn detect_protocol<S: BufferedSocket>(
    shared: &SharedServer,
    mut stream: S,
    environment: Environment,
    all: &CancellationToken,
) {
    let websocket = tokio::select! {
        () = all.cancelled() => return reset_on_drop(&stream),
        peeked = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.fill_buf()) => match peeked {
            Ok(Ok(bytes)) => bytes.starts_with(b"G"),
            Ok(Err(_)) | Err(_) => return,
        },
    };
    if websocket {
        let upgraded = tokio::select! {
            () = all.cancelled() => return,
            upgraded = tokio::time::timeout(HANDSHAKE_TIMEOUT, tokio_tungstenite::accept_async(stream)) => upgraded,
        };
        if let Ok(Ok(stream)) = upgraded {
            serve_transport(shared, WsTransport(stream), environment, all).await;
        }
    } else {
        let transport = TcpTransport {
            stream,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
        };
        serve_transport(shared, transport, environment, all).await;
    }
}

trait BufferedSocket: ResettableSocket + tokio::io::AsyncBufRead {}
impl<T: ResettableSocket + tokio::io::AsyncBufRead> BufferedSocket for T {}

/// One of the two ways to send messages.
trait Transport {
    /// The next message; `None` at the end. Cancel safe.
    async fn receive(&mut self) -> Option<Bytes>;
    async fn send(&mut self, batch: Batch) -> io::Result<Option<Close>>;
    async fn finish(&mut self, how: Close);
    fn reset_on_drop(&self);
}

async fn serve_transport(
    shared: &SharedServer,
    mut transport: impl Transport,
    environment: Environment,
    all: &CancellationToken,
) {
    let (conn, queue) = shared.connected(environment);
    let reset = tokio::select! {
        () = all.cancelled() => true,
        () = queue.reset.cancelled() => true,
        () = exchange_messages(shared, &mut transport, conn, &queue) => false,
    };
    if reset {
        transport.reset_on_drop();
    }
    shared.disconnected(conn);
}

/// Forwards messages both ways until one side ends. Never returns once the connection is frozen.
async fn exchange_messages(
    shared: &SharedServer,
    transport: &mut impl Transport,
    conn: ConnId,
    queue: &SendQueue,
) {
    loop {
        tokio::select! {
            biased;
            () = queue.frozen.cancelled() => std::future::pending().await,
            batch = queue.next() => match transport.send(batch).await {
                Ok(None) => {}
                Ok(Some(how)) => return transport.finish(how).await,
                Err(_) => return,
            },
            message = transport.receive() => match message {
                Some(bytes) => shared.message(conn, bytes),
                None => return,
            },
        }
    }
}

struct WsTransport<S>(WebSocketStream<S>);

impl<S: ResettableSocket> Transport for WsTransport<S> {
    async fn receive(&mut self) -> Option<Bytes> {
        loop {
            match self.0.next().await? {
                Ok(Message::Binary(bytes)) => return Some(bytes),
                Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        }
    }

    async fn send(&mut self, batch: Batch) -> io::Result<Option<Close>> {
        for frame in batch.frames {
            self.0
                .feed(Message::Binary(frame))
                .await
                .map_err(io::Error::other)?;
        }
        self.0.flush().await.map_err(io::Error::other)?;
        Ok(batch.end)
    }

    async fn finish(&mut self, how: Close) {
        // The peer may be gone: then the close frame is not needed.
        if how == Close::Bye {
            let frame = CloseFrame {
                code: CloseCode::Normal,
                reason: "Bye".into(),
            };
            let _ = self.0.close(Some(frame)).await;
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
                while self.0.next().await.is_some() {}
            })
            .await;
        }
        let _ = self.0.get_mut().shutdown().await;
    }

    fn reset_on_drop(&self) {
        reset_on_drop(self.0.get_ref());
    }
}

struct TcpTransport<S> {
    stream: S,
    inbound: BytesMut,
    outbound: BytesMut,
}

impl<S: ResettableSocket> TcpTransport<S> {
    /// Takes a whole message from the inbound bytes. A length of zero or beyond [`MAX_FRAME`] is an error.
    fn next_message(&mut self) -> Result<Option<Bytes>, ()> {
        let Some(prefix) = self.inbound.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length == 0 || length > MAX_FRAME {
            return Err(());
        }
        if self.inbound.len() < 4 + length {
            return Ok(None);
        }
        self.inbound.advance(4);
        Ok(Some(self.inbound.split_to(length).freeze()))
    }
}

impl<S: ResettableSocket> Transport for TcpTransport<S> {
    async fn receive(&mut self) -> Option<Bytes> {
        loop {
            match self.next_message() {
                Ok(Some(bytes)) => return Some(bytes),
                Ok(None) => {}
                Err(()) => return None,
            }
            if self.stream.read_buf(&mut self.inbound).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn send(&mut self, batch: Batch) -> io::Result<Option<Close>> {
        self.outbound.clear();
        for frame in batch.frames {
            let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
            self.outbound.put_u32(length);
            self.outbound.put_slice(&frame);
        }
        self.stream.write_all(&self.outbound).await?;
        self.stream.flush().await?;
        Ok(batch.end)
    }

    async fn finish(&mut self, _how: Close) {
        let _ = self.stream.shutdown().await;
    }

    fn reset_on_drop(&self) {
        reset_on_drop(&self.stream);
    }
}
