//! Opens a socket: name resolution, TCP, TLS and WebSocket upgrade, all within one deadline, since an endpoint
//! under maintenance may accept TCP and then never finish the handshake.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, connect_async_tls_with_config};

use super::Socket;
use crate::ctrader::frame::MESSAGE_BYTES_MAX;

/// For name resolution, TCP, TLS and upgrade together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The read buffer of a socket: one TLS record, which holds hundreds of quotes. The library's default of 128 KiB
/// would take more memory than the rest of a connection.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The deadline passed.
    #[error("no answer within {} s", DIAL_TIMEOUT.as_secs())]
    TimedOut,
    /// A step failed.
    #[error("connecting failed")]
    Failed(#[source] Box<Error>),
}

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// An extra certificate cannot be used as a root.
    #[error("an extra root certificate is unusable")]
    Root(#[source] rustls::Error),
    /// The provider does not support the default protocol versions.
    #[error("the TLS provider is unusable")]
    Provider(#[source] rustls::Error),
}

/// Opens sockets. It trusts the public roots and some extra ones.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<ClientConfig>,
}

impl Dialer {
    /// Returns a dialer that also trusts `extra_roots`.
    ///
    /// # Errors
    /// When one of them cannot be used as a root.
    pub fn new(
        extra_roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        for root in extra_roots {
            roots.add(root).map_err(TlsError::Root)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Provider)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// Opens a socket to a `wss://` or `ws://` URL.
    ///
    /// # Errors
    /// When it does not open in time.
    pub async fn dial(&self, url: &str) -> Result<Socket, DialError> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let connector = Some(Connector::Rustls(Arc::clone(&self.tls)));
        // `true` disables Nagle's algorithm: small frames must not wait for one another.
        let dialing = connect_async_tls_with_config(url, Some(config), true, connector);
        match tokio::time::timeout(DIAL_TIMEOUT, dialing).await {
            Ok(Ok((stream, _response))) => Ok(Socket { stream }),
            Ok(Err(error)) => Err(DialError::Failed(Box::new(error))),
            Err(_) => Err(DialError::TimedOut),
        }
    }
}
