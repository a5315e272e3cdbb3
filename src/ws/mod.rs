//! The WebSocket below the protocol: one binary message is one `ProtoMessage`.
//!
//! This module knows sockets and nothing of the messages on them: `worker::link` drives a
//! [`crate::ctrader::connection::Connection`] with it.

pub mod diagnose;
pub mod dial;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long a write may be blocked before the socket counts as dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a socket received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A binary message.
    Message(Bytes),
    /// The reply to a ping.
    Pong,
    /// A frame that only shows that the other end is alive.
    Other,
}

/// Why a socket ended.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The other end closed it.
    #[error("closed by cTrader (code {code:?})")]
    Closed {
        /// The WebSocket close code, if one was given.
        code: Option<u16>,
    },
    /// A read or write failed.
    #[error("the socket broke")]
    Broken(#[source] Box<Error>),
    /// A write was blocked for too long.
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
    /// Waits for the next message.
    ///
    /// # Errors
    /// When the socket has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: no message is lost.
    pub async fn receive(&mut self) -> Result<Incoming, SocketError> {
        match self.stream.next().await {
            Some(message) => incoming(message?),
            None => Err(SocketError::Closed { code: None }),
        }
    }

    /// Returns the next message if one has arrived already; never waits.
    ///
    /// # Errors
    /// When the socket has ended.
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
    /// When the socket has ended or a write is blocked for too long.
    pub async fn feed(&mut self, message: Bytes) -> Result<(), SocketError> {
        self.queue(Message::Binary(message)).await
    }

    /// Queues a ping.
    ///
    /// # Errors
    /// When the socket has ended or a write is blocked for too long.
    pub async fn feed_ping(&mut self) -> Result<(), SocketError> {
        self.queue(Message::Ping(Bytes::new())).await
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// When the socket has ended or a write is blocked for too long.
    pub async fn flush(&mut self) -> Result<(), SocketError> {
        let flushed = tokio::time::timeout(WRITE_TIMEOUT, self.stream.flush()).await;
        Ok(flushed.map_err(|_| SocketError::Stuck)??)
    }

    /// Sends a close frame, if the other end still reads.
    pub async fn close(mut self) {
        // The socket is dropped whether or not the frame could be sent.
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
