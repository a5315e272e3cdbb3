//! The health server: a snapshot in, fixed routes out.
//!
//! It knows nothing of what it reports on; whoever does keeps the [`HealthSnapshot`] up to date. It
//! names no user. Each connection carries one request and ends after `CONNECTION_TIMEOUT`, and
//! there are at most `CONNECTIONS_MAX`, so that slow clients cannot hold the server.
//!
//! To stop: cancel the token given to [`HealthServer::run`], last of all, since a draining worker
//! still has something to say.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// From accepting a connection to its end. An answer takes well under a millisecond.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// More than all checks and scrapers of one machine together.
const CONNECTIONS_MAX: usize = 128;
/// RFC 3339, UTC, milliseconds.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// What is the case now.
#[derive(Debug, Clone, Default)]
pub struct HealthSnapshot {
    /// After the first SIGTERM.
    pub draining: bool,
    /// Why Postgres cannot be used.
    pub postgres: Option<String>,
    /// Why no commands can be received.
    pub rabbitmq: Option<String>,
    /// Why cTrader cannot be used. It makes the worker degraded, but not unready: commands are
    /// taken all the same.
    pub ctrader: Option<String>,
    /// Why no connection to cTrader may be opened, though it could.
    pub permit: Option<String>,
    /// Sessions this worker has.
    pub active_sessions: usize,
    /// The loops without which the process does nothing, by name.
    pub loops: BTreeMap<&'static str, Beat>,
}

/// The sign of life of a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// When the loop went round last.
    pub at: Instant,
    /// How old that may become.
    pub age_max: Duration,
}

impl HealthSnapshot {
    /// The loop whose sign of life is the most overdue, and since how long it is silent.
    pub fn stalled(&self, now: Instant) -> Option<(&'static str, Duration)> {
        self.loops
            .iter()
            .map(|(name, beat)| (*name, now.saturating_duration_since(beat.at), beat.age_max))
            .filter(|(_, age, age_max)| age > age_max)
            .max_by_key(|(_, age, age_max)| age.saturating_sub(*age_max))
            .map(|(name, age, _)| (name, age))
    }

    /// Why no work should be sent here.
    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining {
            reasons.push("draining".to_owned());
        }
        for (what, down) in [
            ("postgres", &self.postgres),
            ("rabbitmq", &self.rabbitmq),
            ("ctrader", &self.permit),
        ] {
            if let Some(reason) = down {
                reasons.push(format!("{what}: {reason}"));
            }
        }
        reasons
    }

    fn status(&self) -> &'static str {
        let degraded = [&self.postgres, &self.rabbitmq, &self.ctrader, &self.permit]
            .into_iter()
            .any(Option::is_some);
        if self.draining {
            "draining"
        } else if degraded {
            "degraded"
        } else {
            "ok"
        }
    }
}

/// Renders the metrics as Prometheus text.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the answers are made of.
#[derive(Clone)]
pub struct Health {
    /// This worker.
    pub worker_id: String,
    /// When the process started.
    pub started_at: Instant,
    /// What is the case.
    pub snapshot: watch::Receiver<HealthSnapshot>,
    /// For `/metrics`; without it there is no such path.
    pub metrics: Option<RenderMetrics>,
}

/// The port could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on port {port} for the health server")]
pub struct BindError {
    port: u16,
    source: io::Error,
}

/// The server, listening already.
#[derive(Debug)]
pub struct HealthServer {
    listener: TcpListener,
}

impl HealthServer {
    /// Listens on all addresses, of IPv6 and IPv4 if the machine has the former. Port 0 means any.
    ///
    /// # Errors
    /// When the port is taken or not ours to take.
    pub async fn bind(port: u16) -> Result<Self, BindError> {
        let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let bound = match TcpListener::bind(any_v6).await {
            Err(err) if err.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(any_v4).await,
            bound => bound,
        };
        match bound {
            Ok(listener) => Ok(Self { listener }),
            Err(source) => Err(BindError { port, source }),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`.
    pub async fn run(self, health: Health, stop: CancellationToken) {
        if let Ok(address) = self.listener.local_addr() {
            info!(%address, "the health server listens");
        }
        let listener = BoundedListener {
            listener: self.listener,
            free: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        };
        let served = axum::serve(listener, router(health))
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        // Accepting is retried in there for ever.
        debug_assert!(served.is_ok());
    }
}

fn router(health: Health) -> Router {
    let mut router = Router::new()
        .route("/health", get(get_health))
        .route("/livez", get(get_livez))
        .route("/readyz", get(get_readyz));
    if health.metrics.is_some() {
        router = router.route("/metrics", get(get_metrics));
    }
    router
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "GET only\n"))
        .layer(map_response(async |mut response: Response| {
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }))
        .with_state(health)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthJson<'a> {
    status: &'static str,
    /// Seconds, to the millisecond.
    uptime: f64,
    active_sessions: usize,
    timestamp: String,
    worker_id: &'a str,
    version: &'static str,
}

async fn get_health(State(health): State<Health>) -> Response {
    let snapshot = health.snapshot.borrow();
    let uptime_ms = health.started_at.elapsed().as_millis();
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds are exact in a double for 285,000 years"
    )]
    let uptime = uptime_ms as f64 / 1000.0;
    let json = HealthJson {
        status: snapshot.status(),
        uptime,
        active_sessions: snapshot.active_sessions,
        timestamp: OffsetDateTime::now_utc()
            .format(TIMESTAMP)
            .expect("the format has only parts that every time has"),
        worker_id: &health.worker_id,
        version: env!("CARGO_PKG_VERSION"),
    };
    Json(json).into_response()
}

async fn get_livez(State(health): State<Health>) -> Response {
    match health.snapshot.borrow().stalled(Instant::now()) {
        None => "ok\n".into_response(),
        Some((name, age)) => {
            let text = format!("the {name} loop is silent for {:.1} s\n", age.as_secs_f64());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn get_readyz(State(health): State<Health>) -> Response {
    let reasons = health.snapshot.borrow().unready();
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    let text = reasons.join("\n") + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn get_metrics(State(health): State<Health>) -> Response {
    let text = health.metrics.map(|render| render()).unwrap_or_default();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// Accepts while there is room, and gives each connection its time.
struct BoundedListener {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = Arc::clone(&self.free)
            .acquire_owned()
            .await
            .expect("nobody closes the semaphore");
        // The inherent function of the same name gives errors; the trait's waits them out.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let stream = BoundedStream {
            stream,
            deadline: Box::pin(sleep(CONNECTION_TIMEOUT)),
            _permit: permit,
        };
        (stream, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection whose reads and writes fail once its time is over.
struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    /// Polled last, so that it wakes the task which the socket does not.
    fn expired<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.deadline
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.expired(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => self.expired(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_the_worst_of_what_is_the_case() {
        let mut snapshot = HealthSnapshot::default();
        assert_eq!(snapshot.status(), "ok");
        snapshot.ctrader = Some("refused".to_owned());
        assert_eq!(snapshot.status(), "degraded");
        assert!(snapshot.unready().is_empty());
        snapshot.rabbitmq = Some("closed".to_owned());
        assert_eq!(snapshot.unready(), ["rabbitmq: closed"]);
        snapshot.draining = true;
        assert_eq!(snapshot.status(), "draining");
        assert_eq!(snapshot.unready(), ["draining", "rabbitmq: closed"]);
    }

    #[test]
    fn the_most_overdue_loop_is_named() {
        let now = Instant::now() + Duration::from_secs(100);
        let beat = |age, age_max| Beat {
            at: now
                .checked_sub(Duration::from_secs(age))
                .expect("long after the start"),
            age_max: Duration::from_secs(age_max),
        };
        let mut snapshot = HealthSnapshot::default();
        snapshot.loops.insert("writer", beat(5, 5));
        assert_eq!(snapshot.stalled(now), None);
        snapshot.loops.insert("roster", beat(40, 30));
        snapshot.loops.insert("lock", beat(20, 5));
        assert_eq!(
            snapshot.stalled(now),
            Some(("lock", Duration::from_secs(20)))
        );
    }
}
