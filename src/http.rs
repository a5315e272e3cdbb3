//! The health server: fixed routes that report a snapshot.
//!
//! It knows nothing of what it reports: the worker keeps the [`HealthSnapshot`] up to date. It names no user.
//! Each connection serves one request and ends after `CONNECTION_TIMEOUT`, and there are at most
//! `CONNECTIONS_MAX`, so that slow clients cannot block the server.
//!
//! To stop it, cancel the token given to [`HealthServer::run`]. That comes last in a shutdown: a draining worker
//! still reports its state.

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

/// From accepting a connection to its end. A response takes well under a millisecond.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// More than all health checks and scrapers of one machine together.
const CONNECTIONS_MAX: usize = 128;
/// RFC 3339, UTC, milliseconds.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The state of the worker.
#[derive(Debug, Clone, Default)]
pub struct HealthSnapshot {
    /// Whether the worker is draining.
    pub draining: bool,
    /// Why Postgres cannot be used; `None` if it can.
    pub postgres: Option<String>,
    /// Why no commands can be received.
    pub rabbitmq: Option<String>,
    /// Why cTrader cannot be used. The worker is degraded then, but ready: it still applies commands.
    pub ctrader: Option<String>,
    /// Why the worker has no permit for a connection to cTrader, although cTrader could be used.
    pub permit: Option<String>,
    /// The number of sessions that this worker has.
    pub active_sessions: usize,
    /// The loops without which the worker does nothing, by name.
    pub loops: BTreeMap<&'static str, LoopHeartbeat>,
}

/// The last sign of life of a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopHeartbeat {
    /// When the loop ran last.
    pub at: Instant,
    /// The age at which the loop counts as stalled.
    pub age_max: Duration,
}

impl HealthSnapshot {
    /// Returns the loop whose heartbeat is the most overdue, and its age.
    pub fn stalled(&self, now: Instant) -> Option<(&'static str, Duration)> {
        self.loops
            .iter()
            .map(|(name, beat)| (*name, now.saturating_duration_since(beat.at), beat.age_max))
            .filter(|(_, age, age_max)| age > age_max)
            .max_by_key(|(_, age, age_max)| age.saturating_sub(*age_max))
            .map(|(name, age, _)| (name, age))
    }

    /// Returns the reasons why the worker is not ready.
    fn unready_reasons(&self) -> Vec<String> {
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

/// What the responses are made of.
#[derive(Clone)]
pub struct Health {
    /// The id of this worker.
    pub worker_id: String,
    /// When the process started.
    pub started_at: Instant,
    /// The state of the worker.
    pub snapshot: watch::Receiver<HealthSnapshot>,
    /// Renders `/metrics`; without it there is no such path.
    pub metrics: Option<RenderMetrics>,
}

/// The server could not listen on its port.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on port {port} for the health server")]
pub struct BindError {
    port: u16,
    source: io::Error,
}

/// The server, bound to its port.
#[derive(Debug)]
pub struct HealthServer {
    listener: TcpListener,
}

impl HealthServer {
    /// Listens on all addresses: of IPv6 and IPv4, or of IPv4 alone if the machine has no IPv6. With port 0 the
    /// system chooses one.
    ///
    /// # Errors
    /// When the port is taken or not allowed.
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

    /// Returns the address that it listens on.
    ///
    /// # Errors
    /// When the system does not return it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves requests until `stop` is cancelled.
    pub async fn run(self, health: Health, stop: CancellationToken) {
        if let Ok(address) = self.listener.local_addr() {
            info!(%address, "the health server listens");
        }
        let listener = BoundedListener {
            listener: self.listener,
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        };
        let served = axum::serve(listener, router(health))
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        // axum retries accepting for ever.
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
    let reasons = health.snapshot.borrow().unready_reasons();
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

/// Accepts connections up to a limit, and gives each a deadline.
struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("nobody closes the semaphore");
        // The inherent function of the same name returns errors; the trait's retries.
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

/// A connection whose reads and writes fail after its deadline.
struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    /// Polls the deadline after the socket was pending, so that one of the two wakes the task.
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
    fn status_is_the_worst_of_all_states() {
        let mut snapshot = HealthSnapshot::default();
        assert_eq!(snapshot.status(), "ok");
        snapshot.ctrader = Some("refused".to_owned());
        assert_eq!(snapshot.status(), "degraded");
        assert!(snapshot.unready_reasons().is_empty());
        snapshot.rabbitmq = Some("closed".to_owned());
        assert_eq!(snapshot.unready_reasons(), ["rabbitmq: closed"]);
        snapshot.draining = true;
        assert_eq!(snapshot.status(), "draining");
        assert_eq!(snapshot.unready_reasons(), ["draining", "rabbitmq: closed"]);
    }

    #[test]
    fn the_most_overdue_loop_is_named() {
        let now = Instant::now() + Duration::from_secs(100);
        let beat = |age, age_max| LoopHeartbeat {
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
