//! One connection to the broker: opens it, opens channels on it, and closes it.
//!
//! The client library takes no time limit for a connection attempt and cannot be told to give up
//! on one: it leaves a thread behind that reads the socket for ever. So the socket is opened here,
//! and a second handle to it is kept. Shutting that down ends the thread.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::tcp::{AsyncTcpStream, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties};
use url::{Host, Url};

use super::error::AmqpError;
use super::timeout::{reply, within};
use crate::domain::secret::Secret;

/// Both ends notice a dead peer after at most twice this.
const HEARTBEAT_SECS: u16 = 10;

/// A command is a few hundred bytes, and what is larger comes in several frames. The library keeps 16 frames of
/// memory each way and goes round in it: with the 128 KiB that RabbitMQ proposes, 4 MiB a connection.
const FRAME_BYTES_MAX: u32 = 16 * 1024;

/// How long name lookup, TCP, TLS and the AMQP handshake may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// `200 OK` of AMQP: the code of a close without an error.
const REPLY_SUCCESS: u16 = 200;

/// Where the broker is and who we are to it.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    /// `amqp://` or `amqps://`, with the password.
    pub url: Secret,
    /// The connection's name in the broker's list: the worker's id.
    pub connection_name: String,
}

/// An open connection.
pub(super) struct BrokerConnection {
    pub(super) inner: Connection,
    _socket: SocketGuard,
}

impl BrokerConnection {
    /// Connects, or gives up after [`CONNECT_TIMEOUT`] with nothing left behind.
    pub(super) async fn open(settings: &AmqpSettings) -> Result<Self, AmqpError> {
        let uri = parse_uri(settings.url.expose())?;
        let properties = ConnectionProperties::default()
            .with_connection_name(settings.connection_name.as_str().into());
        let socket = SocketGuard::default();
        let kept = Arc::clone(&socket.0);
        let connect = Connection::connector(
            uri,
            lapin::runtime::default_runtime()?,
            async move |uri: AMQPUri, runtime| {
                let host = uri.authority.host.as_str();
                let addresses = tokio::net::lookup_host((host, uri.authority.port)).await?;
                let addresses = addresses.collect::<Vec<_>>();
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    kept.keep(plain.get_ref())?;
                }
                Ok(match uri.scheme {
                    AMQPScheme::AMQP => stream,
                    AMQPScheme::AMQPS => stream.into_tls(host, TLSConfig::default()).await?,
                })
            },
            properties,
        );
        Ok(Self {
            inner: within(CONNECT_TIMEOUT, "accept a connection", connect).await?,
            _socket: socket,
        })
    }

    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, AmqpError> {
        reply("open a channel", self.inner.create_channel()).await
    }

    /// Opens a channel on which the broker confirms what is published.
    pub(super) async fn confirming_channel(&self) -> Result<Channel, AmqpError> {
        let channel = self.channel().await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        reply("switch confirms on", confirm).await?;
        Ok(channel)
    }

    /// Closes the connection. Deliveries that are not acknowledged go back to the queue.
    pub(super) async fn close(self) -> Result<(), AmqpError> {
        let close = self.inner.close(REPLY_SUCCESS, "done".into());
        reply("close the connection", close).await
    }
}

/// Shuts the socket down when the connection, or the attempt to make one, is dropped.
#[derive(Default)]
struct SocketGuard(Arc<SocketHandle>);

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.0.shut();
    }
}

/// A second handle to the connection's socket.
#[derive(Default)]
struct SocketHandle(Mutex<SocketState>);

#[derive(Default)]
struct SocketState {
    stream: Option<TcpStream>,
    shut: bool,
}

impl SocketHandle {
    fn keep(&self, stream: &impl AsFd) -> std::io::Result<()> {
        let stream = TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.shut {
            // The attempt was given up while it was connecting.
            stream.shutdown(Shutdown::Both)?;
        }
        state.stream = Some(stream);
        Ok(())
    }

    fn shut(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.shut = true;
        if let Some(stream) = state.stream.take() {
            // It fails when the peer has closed it already, which is what we want.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Whether the text is a valid AMQP URL.
pub fn is_url(url: &Secret) -> bool {
    parse_uri(url.expose()).is_ok()
}

/// Parses the URL, and corrects what the client library gets wrong: IPv6 hosts, and a path of `/` alone, which
/// means the default vhost to other clients and a vhost without a name to this one.
pub(super) fn parse_uri(text: &str) -> Result<AMQPUri, AmqpError> {
    let mut uri: AMQPUri = text.parse().map_err(|_| AmqpError::Url)?;
    if let Some(Host::Ipv6(address)) = Url::parse(text).map_err(|_| AmqpError::Url)?.host() {
        uri.authority.host = address.to_string();
    }
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECS);
    uri.query.frame_max.get_or_insert(FRAME_BYTES_MAX);
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_vhosts_and_heartbeats_are_what_other_clients_make_of_the_url() {
        for (text, host, port, vhost) in [
            ("amqp://u:p@mq.example", "mq.example", 5672, "/"),
            ("amqps://u:p@mq.example/", "mq.example", 5671, "/"),
            ("amqp://u:p@127.0.0.1:56730/own", "127.0.0.1", 56730, "own"),
            ("amqp://u:p@[fd00::1]:1/%2f", "fd00::1", 1, "/"),
        ] {
            let uri = parse_uri(text).expect("valid");
            assert_eq!(uri.authority.host, host, "{text}");
            assert_eq!(uri.authority.port, port, "{text}");
            assert_eq!(uri.vhost, vhost, "{text}");
            assert_eq!(uri.query.heartbeat, Some(HEARTBEAT_SECS), "{text}");
        }
        let uri = parse_uri("amqp://mq.example?heartbeat=5").expect("valid");
        assert_eq!(uri.query.heartbeat, Some(5));
    }

    #[test]
    fn an_error_does_not_repeat_the_url() {
        for text in ["amqp:secret", "http://u:secret@h", "secret"] {
            let err = parse_uri(text).expect_err("invalid");
            assert!(!format!("{err} {err:?}").contains("secret"));
        }
    }
}
