//! The health server over real sockets.

use std::time::{Duration, Instant};

use mahspeccy_bridge::http::{Health, HealthServer, HealthSnapshot, LoopHeartbeat};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Server {
    port: u16,
    snapshot: watch::Sender<HealthSnapshot>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(metrics: Option<&'static str>) -> Self {
        let server = HealthServer::bind(0).await.expect("a port");
        let port = server.local_addr().expect("bound").port();
        let (snapshot, seen) = watch::channel(HealthSnapshot::default());
        let stop = CancellationToken::new();
        let health = Health {
            worker_id: "w1".to_owned(),
            started_at: Instant::now(),
            snapshot: seen,
            metrics: metrics.map(|text| std::sync::Arc::new(move || text.to_owned()) as _),
        };
        let task = tokio::spawn(server.run(health, stop.clone()));
        Self {
            port,
            snapshot,
            stop,
            task,
        }
    }

    async fn ask(&self, method: Method, path: &str) -> (StatusCode, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let response = Client::new()
            .request(method, url)
            .send()
            .await
            .expect("an answer");
        let status = response.status();
        (status, response.text().await.expect("text"))
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path).await
    }

    async fn status(&self) -> String {
        let (code, text) = self.get("/health").await;
        assert_eq!(code, StatusCode::OK, "whatever the status");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let status = json.get("status").and_then(Value::as_str);
        status.expect("text").to_owned()
    }
}

#[tokio::test]
async fn health_has_exactly_the_keys_of_the_contract() {
    let server = Server::start(None).await;
    server.snapshot.send_modify(|now| now.active_sessions = 3);
    let (code, text) = server.get("/health").await;
    assert_eq!(code, StatusCode::OK);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let object = json.as_object().expect("an object");
    let keys: Vec<_> = object.keys().map(String::as_str).collect();
    let mut expected = vec![
        "status",
        "uptime",
        "activeSessions",
        "timestamp",
        "workerId",
        "version",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(json["status"], "ok");
    assert_eq!(json["activeSessions"], 3);
    assert_eq!(json["workerId"], "w1");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    let uptime = json["uptime"].as_f64().expect("a number");
    assert!((0.0..60.0).contains(&uptime), "{uptime}");
    assert!(((uptime * 1000.0).round() - uptime * 1000.0).abs() < 1e-6);
    let timestamp = json["timestamp"].as_str().expect("text");
    let time = OffsetDateTime::parse(timestamp, &Rfc3339).expect("RFC 3339");
    assert!((OffsetDateTime::now_utc() - time).whole_seconds().abs() < 60);
    assert!(
        timestamp.len() == 24 && timestamp.ends_with('Z'),
        "{timestamp}"
    );
}

#[tokio::test]
async fn status_and_readiness_follow_the_snapshot() {
    let server = Server::start(None).await;
    assert_eq!(server.status().await, "ok");
    assert_eq!(server.get("/readyz").await.0, StatusCode::OK);

    server
        .snapshot
        .send_modify(|now| now.ctrader = Some("application refused".to_owned()));
    assert_eq!(server.status().await, "degraded");
    assert_eq!(server.get("/readyz").await.0, StatusCode::OK);

    server
        .snapshot
        .send_modify(|now| now.rabbitmq = Some("connection refused".to_owned()));
    assert_eq!(server.status().await, "degraded");
    let (code, text) = server.get("/readyz").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "rabbitmq: connection refused\n");

    server.snapshot.send_modify(|now| {
        now.draining = true;
        now.rabbitmq = None;
    });
    assert_eq!(server.status().await, "draining");
    let (code, text) = server.get("/readyz").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "draining\n");
    assert_eq!(server.get("/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_stalled_loop_is_named_and_one_that_goes_on_is_not() {
    let server = Server::start(None).await;
    let beat = |age: u64| LoopHeartbeat {
        at: Instant::now()
            .checked_sub(Duration::from_secs(age))
            .expect("the machine is up for longer"),
        age_max: Duration::from_secs(5),
    };
    server.snapshot.send_modify(|now| {
        now.loops.insert("writer", beat(1));
        now.loops.insert("lock", beat(9));
    });
    let (code, text) = server.get("/livez").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.starts_with("the lock loop is silent for 9."), "{text}");
    server.snapshot.send_modify(|now| {
        now.loops.insert("lock", beat(0));
    });
    assert_eq!(server.get("/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let server = Server::start(None).await;
    for path in ["/", "/healthz", "/health/", "/metrics"] {
        assert_eq!(server.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for method in [Method::POST, Method::DELETE, Method::PUT] {
        let (code, _) = server.ask(method, "/health").await;
        assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED);
    }
    let server = Server::start(Some("bridge_slots_held 7\n")).await;
    let (code, text) = server.get("/metrics").await;
    assert_eq!(
        (code, text.as_str()),
        (StatusCode::OK, "bridge_slots_held 7\n")
    );
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_says_so() {
    let server = Server::start(None).await;
    let err = HealthServer::bind(server.port).await.expect_err("taken");
    let expected = format!(
        "cannot listen on port {} for the health server",
        server.port
    );
    assert_eq!(err.to_string(), expected);
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_hold_up_neither_others_nor_the_stop() {
    let server = Server::start(None).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port))
            .await
            .expect("accepted");
        stream.write_all(b"GET /health HT").await.expect("sent");
        slow.push(stream);
    }
    assert_eq!(server.get("/livez").await.0, StatusCode::OK);

    let cut = async {
        for stream in &mut slow {
            // Nothing but the end, or a reset.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), cut)
        .await
        .expect("every slow client is cut off");

    let _held = TcpStream::connect(("127.0.0.1", server.port)).await;
    server.stop.cancel();
    tokio::time::timeout(Duration::from_secs(30), server.task)
        .await
        .expect("it stops with a client connected")
        .expect("no panic");
}

#[tokio::test]
async fn an_answer_ends_the_connection() {
    let server = Server::start(None).await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .expect("accepted");
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("the end");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("connection: close\r\n"), "{text}");
}
