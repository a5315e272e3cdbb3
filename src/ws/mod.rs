//! The WebSocket that carries the protocol: one binary message is one `ProtoMessage`.
//!
//! Knows sockets and nothing of what is said over them; `worker::link` drives a
//! [`crate::ctrader::connection::Connection`] with it.

pub mod dial;
pub mod fault;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long the other end may refuse to take what we send before the socket counts as dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A binary message.
    Message(Bytes),
    /// An answer to a ping.
    Pong,
    /// Something that only shows that the other end lives.
    Other,
}

/// Why a socket is over.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The other end closed it.
    #[error("closed by cTrader (code {code:?})")]
    Closed {
        /// The WebSocket close code, if one was given.
        code: Option<u16>,
    },
    /// It broke.
    #[error("the socket broke")]
    Broken(#[source] Box<Error>),
    /// Nothing could be sent for too long.
    #[error("the socket takes nothing any more")]
    Stuck,
}

impl From<Error> for SocketError {
    fn from(error: Error) -> Self {
        if matches!(error, Error::ConnectionClosed | Error::AlreadyClosed) {
            Self::Closed { code: None }
        } else {
            Self::Broken(Box::new(error))
        }
    }
}

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// The next thing that comes in.
    ///
    /// # Errors
    /// When the socket is over.
    ///
    /// # Cancel safety
    /// Cancel safe: a message is lost at no await.
    pub async fn receive(&mut self) -> Result<Incoming, SocketError> {
        match self.stream.next().await {
            Some(message) => incoming(message?),
            None => Err(SocketError::Closed { code: None }),
        }
    }

    /// What has already come in, without waiting; `None` when nothing has.
    ///
    /// # Errors
    /// When the socket is over.
    pub fn receive_ready(&mut self) -> Result<Option<Incoming>, SocketError> {
        match self.stream.next().now_or_never() {
            None => Ok(None),
            Some(Some(message)) => incoming(message?).map(Some),
            Some(None) => Err(SocketError::Closed { code: None }),
        }
    }

    /// Queues a binary message; [`Socket::flush`] sends it.
    ///
    /// # Errors
    /// When the socket is over or takes nothing any more.
    pub async fn feed(&mut self, message: Bytes) -> Result<(), SocketError> {
        self.queue(Message::Binary(message)).await
    }

    /// Queues a ping.
    ///
    /// # Errors
    /// When the socket is over or takes nothing any more.
    pub async fn feed_ping(&mut self) -> Result<(), SocketError> {
        self.queue(Message::Ping(Bytes::new())).await
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// When the socket is over or takes nothing any more.
    pub async fn flush(&mut self) -> Result<(), SocketError> {
        let flushed = tokio::time::timeout(WRITE_TIMEOUT, self.stream.flush()).await;
        Ok(flushed.map_err(|_| SocketError::Stuck)??)
    }

    /// Says goodbye, if the other end still listens.
    pub async fn close(mut self) {
        // Whether it heard us changes nothing: the socket is dropped either way.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.close(None)).await;
    }

    async fn queue(&mut self, message: Message) -> Result<(), SocketError> {
        let queued = tokio::time::timeout(WRITE_TIMEOUT, self.stream.feed(message)).await;
        Ok(queued.map_err(|_| SocketError::Stuck)??)
    }
}

fn incoming(message: Message) -> Result<Incoming, SocketError> {
    match message {
        Message::Binary(bytes) => Ok(Incoming::Message(bytes)),
        Message::Pong(_) => Ok(Incoming::Pong),
        Message::Ping(_) | Message::Text(_) | Message::Frame(_) => Ok(Incoming::Other),
        Message::Close(frame) => Err(SocketError::Closed {
            code: frame.map(|frame| frame.code.into()),
        }),
    }
}
