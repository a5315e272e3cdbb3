//! The hot path in this process, each with its baseline beside it: a quote from its message to the account,
//! and from the socket to the account.

#[path = "../../benches/hot/live.rs"]
mod live;

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::ws::dial::Dialer;
use mahspeccy_bridge::ws::{Incoming, Socket};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, accept_async, connect_async_tls_with_config,
};

use crate::{Failure, process};
use live::{ACCOUNT, Live, live, spot};

/// Times each is measured; the quickest counts, since only others make one slower.
const TURNS: usize = 7;

/// Quotes of a turn.
const QUOTES: u32 = 200_000;

/// How long a socket is read.
const SOCKET_SPAN: Duration = Duration::from_secs(2);

/// Quotes that leave together.
const BATCHES: [usize; 3] = [1, 16, 256];

/// Nanoseconds a quote.
pub(crate) struct Hot {
    pub(crate) decode: f64,
    /// Decoded and applied, by positions.
    pub(crate) applied: Vec<(i64, f64)>,
    /// The figures and the row of three positions.
    pub(crate) row: f64,
    pub(crate) sockets: Vec<Loopback>,
}

/// One way to get quotes over loopback.
pub(crate) struct Loopback {
    pub(crate) tls: bool,
    pub(crate) batch: usize,
    /// The reader's processor time a quote, microseconds: ours, and that of the same libraries in a bare loop.
    pub(crate) ours: f64,
    pub(crate) bare: f64,
}

pub(crate) fn measure() -> Result<Hot, Failure> {
    let Live { quotes, .. } = live(1);
    let decode = quickest(QUOTES, || {
        for quote in quotes.iter().cycle().take(QUOTES as usize) {
            black_box(spot(quote));
        }
    });
    let applied = [1, 5, 50].map(|positions| {
        let Live {
            mut connection,
            now,
            quotes,
        } = live(positions);
        let each = quickest(QUOTES, || {
            for quote in quotes.iter().cycle().take(QUOTES as usize) {
                connection.handle_message(quote.clone(), now);
                black_box(connection.poll_event());
            }
        });
        (positions, each)
    });
    let Live { connection, .. } = live(3);
    let rows = QUOTES / 50;
    let row = quickest(rows, || {
        for _ in 0..rows {
            black_box(connection.peek_row(AccountId(ACCOUNT), |_| OffsetDateTime::UNIX_EPOCH));
        }
    });
    let mut sockets = Vec::new();
    for tls in [false, true] {
        for batch in BATCHES {
            let [ours, bare] = [Reader::Ours, Reader::Bare].map(|reader| over(tls, batch, reader));
            sockets.push(Loopback {
                tls,
                batch,
                ours: ours?,
                bare: bare?,
            });
        }
    }
    Ok(Hot {
        decode,
        applied: applied.into(),
        row,
        sockets,
    })
}

/// Nanoseconds each, in the quickest of several turns.
fn quickest(count: u32, mut turn: impl FnMut()) -> f64 {
    let turns = (0..TURNS).map(|_| {
        let began = Instant::now();
        turn();
        began.elapsed()
    });
    turns.min().unwrap_or_default().as_secs_f64() * 1e9 / f64::from(count)
}

#[derive(Clone, Copy, PartialEq)]
enum Reader {
    /// The bridge's socket and connection.
    Ours,
    /// The WebSocket library and prost.
    Bare,
}

/// Microseconds of the reader's processor time a quote. The next batch leaves when the last one was read.
fn over(tls: bool, batch: usize, reader: Reader) -> Result<f64, Failure> {
    let (ready, port) = std::sync::mpsc::channel();
    let (read, next) = mpsc::unbounded_channel();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()])?;
    let root = cert.der().clone();
    let acceptor = tls
        .then(|| acceptor(root.clone(), &signing_key.serialize_der()))
        .transpose()?;
    let sender = thread::spawn(move || -> Result<(), String> {
        let runtime = runtime().map_err(|error| error.to_string())?;
        let served = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = ready.send(listener.local_addr()?.port());
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            match acceptor {
                Some(acceptor) => send(acceptor.accept(stream).await?, batch, next).await,
                None => send(stream, batch, next).await,
            }
        });
        served.map_err(|error: io::Error| error.to_string())
    });
    let port = port.recv()?;
    let scheme = if tls { "wss" } else { "ws" };
    let url = format!("{scheme}://localhost:{port}");
    let each = runtime()?.block_on(async {
        match reader {
            Reader::Ours => read_ours(&url, root, batch, &read).await,
            Reader::Bare => read_bare(&url, root, batch, &read).await,
        }
    });
    drop(read);
    sender.join().map_err(|_| "the sender panicked")??;
    each
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn acceptor(
    root: CertificateDer<'static>,
    key: &[u8],
) -> Result<tokio_rustls::TlsAcceptor, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![root], PrivatePkcs8KeyDer::from(key.to_vec()).into())?;
    Ok(Arc::new(config).into())
}

async fn send(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    batch: usize,
    mut next: mpsc::UnboundedReceiver<()>,
) -> io::Result<()> {
    let Live { quotes, .. } = live(3);
    let mut quotes = quotes.iter().cycle();
    let mut socket = accept_async(stream).await.map_err(io::Error::other)?;
    loop {
        for quote in quotes.by_ref().take(batch) {
            let message = Message::Binary(quote.clone());
            socket.feed(message).await.map_err(io::Error::other)?;
        }
        socket.flush().await.map_err(io::Error::other)?;
        if next.recv().await.is_none() {
            return Ok(());
        }
    }
}

/// Counts what a reader read, and asks for the next batch when one is whole.
struct Reading<'a> {
    read: &'a mpsc::UnboundedSender<()>,
    batch: usize,
    left: usize,
    count: u32,
    began: Instant,
    cpu: Duration,
}

impl<'a> Reading<'a> {
    fn start(batch: usize, read: &'a mpsc::UnboundedSender<()>) -> Result<Self, Failure> {
        Ok(Self {
            read,
            batch,
            left: batch,
            count: 0,
            began: Instant::now(),
            cpu: process::thread_cpu()?,
        })
    }

    fn goes_on(&self) -> bool {
        self.began.elapsed() < SOCKET_SPAN
    }

    fn one(&mut self) -> Result<(), Failure> {
        self.count += 1;
        self.left -= 1;
        if self.left == 0 {
            self.left = self.batch;
            self.read.send(())?;
        }
        Ok(())
    }

    /// Microseconds of this thread's processor time each.
    fn micros(&self) -> Result<f64, Failure> {
        let spent = process::thread_cpu()?.saturating_sub(self.cpu);
        Ok(spent.as_secs_f64() * 1e6 / f64::from(self.count))
    }
}

async fn read_ours(
    url: &str,
    root: CertificateDer<'static>,
    batch: usize,
    read: &mpsc::UnboundedSender<()>,
) -> Result<f64, Failure> {
    let Live {
        mut connection,
        now,
        ..
    } = live(3);
    let mut socket: Socket = Dialer::new([root])?.dial(url).await?;
    let mut reading = Reading::start(batch, read)?;
    while reading.goes_on() {
        let mut incoming = Some(socket.receive().await?);
        while let Some(message) = incoming {
            if let Incoming::Message(bytes) = message {
                connection.handle_message(bytes, now);
                black_box(connection.poll_event());
            }
            reading.one()?;
            incoming = socket.receive_ready()?;
        }
    }
    reading.micros()
}

async fn read_bare(
    url: &str,
    root: CertificateDer<'static>,
    batch: usize,
    read: &mpsc::UnboundedSender<()>,
) -> Result<f64, Failure> {
    let mut socket = bare(url, root).await?;
    let mut reading = Reading::start(batch, read)?;
    while reading.goes_on() {
        let message = socket.next().await.ok_or("the sender is gone")??;
        black_box(spot(&message.into_data()));
        reading.one()?;
    }
    reading.micros()
}

async fn bare(
    url: &str,
    root: CertificateDer<'static>,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = Some(Connector::Rustls(Arc::new(tls)));
    let (socket, _) = connect_async_tls_with_config(url, None, true, connector).await?;
    Ok(socket)
}
