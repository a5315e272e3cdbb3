//! The worker's process, watched from outside.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mahspeccy_bridge::sim::server::Handle;
use mahspeccy_bridge::sim::{CLIENT_ID, CLIENT_SECRET};
use tokio::process::{Child, Command as Process};
use tokio::time::{sleep, timeout};

use crate::services::{Database, Services};
use crate::{Arguments, Failure};

/// How long a worker may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a worker may take to drain.
const DRAINED_WITHIN: Duration = Duration::from_mins(1);

/// How long it is left in peace between two questions after its health.
const HEALTH_PAUSE: Duration = Duration::from_millis(100);

/// How often a start is looked at.
const START_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How often a run writes rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As by default.
    Usual,
    /// Once a minute: what is left is reading and arithmetic.
    Rare,
}

/// A worker that runs.
pub(crate) struct Worker {
    child: Child,
    pub(crate) pid: u32,
    port: u16,
    _files: tempfile::TempDir,
    http: reqwest::Client,
}

impl Worker {
    pub(crate) fn start(
        services: &Services,
        arguments: &Arguments,
        database: &Database,
        sim: &Handle,
        rows: Rows,
    ) -> Result<Self, Failure> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let files = tempfile::tempdir()?;
        let authority = files.path().join("ca.pem");
        std::fs::write(&authority, sim.ca_pem())?;
        let log = std::fs::File::create(files.path().join("log"))?;
        let child = Process::new(&arguments.worker)
            .arg("worker")
            .env("DATABASE_URL", &database.url)
            .env("AMQP_URL", &services.amqp_url)
            .env("CTRADER_CLIENT_ID", CLIENT_ID)
            .env("CTRADER_CLIENT_SECRET", CLIENT_SECRET)
            .env("CTRADER_DEMO_URL", sim.demo_tls_url())
            .env("CTRADER_LIVE_URL", sim.live_tls_url())
            .env("CTRADER_CA_FILE", &authority)
            .env("CTRADER_CONNECTIONS", arguments.connections.to_string())
            .env(
                "CTRADER_CONNECTION_LIMIT",
                (2 * arguments.connections).to_string(),
            )
            .env("MAX_SESSIONS", "100000")
            .env(
                "CACHE_WRITE_INTERVAL_MS",
                if rows == Rows::Rare { "60000" } else { "2000" },
            )
            // As the image has it.
            .env("MALLOC_ARENA_MAX", "1")
            .env("WORKER_ID", "load")
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            pid: child.id().ok_or("the worker has no process id")?,
            child,
            port,
            _files: files,
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .build()?,
        })
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.http.get(self.url("/readyz")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    fn url(&self, route: &str) -> String {
        format!("http://127.0.0.1:{}{route}", self.port)
    }

    pub(crate) async fn ready(&mut self) -> Result<Duration, Failure> {
        let began = Instant::now();
        while !self.is_ready().await {
            if began.elapsed() > READY_WITHIN {
                return Err("the worker did not become ready".into());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the worker ended: {status}").into());
            }
            sleep(START_POLL_INTERVAL).await;
        }
        Ok(began.elapsed())
    }

    pub(crate) async fn metrics(&self) -> Result<Figures, Failure> {
        let answer = self.http.get(self.url("/metrics")).send().await?;
        Ok(Figures(answer.text().await?))
    }

    /// Asks `/livez` time and again, on a thread of its own: this process has other things to do.
    pub(crate) fn watch_health(&self) -> HealthWatch {
        let (port, stop) = (self.port, Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let watch = thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                slowest = slowest.max(livez(port)?);
                thread::sleep(HEALTH_PAUSE);
            }
            Ok(slowest)
        });
        HealthWatch { stop, watch }
    }

    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        Process::new("kill")
            .args(["-TERM", &self.pid.to_string()])
            .status()
            .await?;
        let ended = timeout(DRAINED_WITHIN, self.child.wait()).await;
        let status = ended.map_err(|_| "the worker did not drain in time")??;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the worker ended with {status}").into())
        }
    }
}

/// Somebody asks how the worker is.
pub(crate) struct HealthWatch {
    stop: Arc<AtomicBool>,
    watch: JoinHandle<std::io::Result<Duration>>,
}

impl HealthWatch {
    /// The slowest response.
    pub(crate) fn end(self) -> Result<Duration, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.watch.join().map_err(|_| "the watch panicked")??)
    }
}

fn livez(port: u16) -> std::io::Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(began.elapsed())
    } else {
        Err(std::io::Error::other(
            "the worker reports that it is not well",
        ))
    }
}

/// `/metrics` at one moment.
pub(crate) struct Figures(String);

impl Figures {
    /// The sum of all samples whose name and labels begin so.
    pub(crate) fn sum(&self, prefix: &str) -> f64 {
        self.0
            .lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}
