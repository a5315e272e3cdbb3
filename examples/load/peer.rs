//! The baseline: a bridge in Node with one socket per user (`bench/peer-node`), on the same stream.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mahspeccy_bridge::sim::{CLIENT_ID, CLIENT_SECRET};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::process::{Meter, memory_mib};
use crate::services::{Database, Services};
use crate::{EVENTS_PER_SESSION, Failure, world};

/// How long the peer may take until all its sessions are live.
const LIVE_WITHIN: Duration = Duration::from_mins(3);

/// What the peer cost.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) sessions: u32,
    /// Microseconds of processor time an event, in all.
    pub(crate) event_micros: f64,
    /// The same without rows.
    pub(crate) without_rows: f64,
    /// The same without rows and arithmetic.
    pub(crate) without_arithmetic: f64,
    pub(crate) events: f64,
    pub(crate) cores: f64,
    pub(crate) memory_mib: f64,
    /// Before the first session.
    pub(crate) memory_empty_mib: f64,
}

/// A line of its own figures.
#[derive(Deserialize)]
struct Report {
    live: u32,
    events: f64,
}

struct Cost {
    events: f64,
    cores: f64,
    memory_mib: f64,
}

pub(crate) async fn run(
    services: &Services,
    folder: &Path,
    sessions: u32,
    span: Duration,
) -> Result<Peer, Failure> {
    let empty = measure(services, folder, 0, Duration::from_secs(3), &[]).await?;
    eprintln!(
        "load: the Node peer, {sessions} sessions for {} s",
        span.as_secs()
    );
    let all = measure(services, folder, sessions, span, &[]).await?;
    let short = span / 2;
    let dry = [("PEER_ROWS", "0")];
    let without_rows = measure(services, folder, sessions, short, &dry).await?;
    let bare = [("PEER_ROWS", "0"), ("PEER_ARITHMETIC", "0")];
    let without_arithmetic = measure(services, folder, sessions, short, &bare).await?;
    let micros = |cost: &Cost| cost.cores * 1e6 / cost.events;
    let peer = Peer {
        sessions,
        event_micros: micros(&all),
        without_rows: micros(&without_rows),
        without_arithmetic: micros(&without_arithmetic),
        events: all.events,
        cores: all.cores,
        memory_mib: all.memory_mib,
        memory_empty_mib: empty.memory_mib,
    };
    eprintln!("load: {peer:?}");
    Ok(peer)
}

async fn measure(
    services: &Services,
    folder: &Path,
    sessions: u32,
    span: Duration,
    variables: &[(&str, &str)],
) -> Result<Cost, Failure> {
    let database = Database::create(services, "peer").await?;
    let sim = world::start(sessions, false).await?;
    let files = tempfile::tempdir()?;
    let list = files.path().join("sessions.json");
    let given: Vec<_> = (0..sessions)
        .map(|n| {
            serde_json::json!({ "user": world::user(n), "account": world::account(n), "token": world::token(n) })
        })
        .collect();
    std::fs::write(&list, serde_json::to_vec(&given)?)?;
    let authority = files.path().join("ca.pem");
    std::fs::write(&authority, sim.ca_pem())?;
    let mut peer = Command::new("node")
        .arg(folder.join("peer.mjs"))
        .arg(&list)
        .env("PEER_URL", sim.demo_tls_url())
        .env("PEER_CLIENT_ID", CLIENT_ID)
        .env("PEER_CLIENT_SECRET", CLIENT_SECRET)
        .env("DATABASE_URL", &database.url)
        .env("NODE_EXTRA_CA_CERTS", &authority)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let cost = observe(&mut peer, &sim, sessions, span).await?;
    peer.kill().await?;
    database.drop().await?;
    Ok(cost)
}

async fn observe(
    peer: &mut Child,
    sim: &mahspeccy_bridge::sim::server::Handle,
    sessions: u32,
    span: Duration,
) -> Result<Cost, Failure> {
    let pid = peer.id().ok_or("the peer has no process id")?;
    let out = peer.stdout.take().ok_or("the peer has no output")?;
    let mut lines = BufReader::new(out).lines();
    let all_live = async {
        loop {
            if report(&mut lines).await?.live >= sessions {
                return Ok::<_, Failure>(());
            }
        }
    };
    timeout(LIVE_WITHIN, all_live)
        .await
        .map_err(|_| "the peer's sessions did not become live")??;
    if sessions > 0 {
        let density = world::Density::new(sim, EVENTS_PER_SESSION * f64::from(sessions), sessions);
        density.reached(sim).await;
    }
    // The lines printed meanwhile are old.
    let mut before = report(&mut lines).await?;
    let drained = Instant::now() + Duration::from_secs(1);
    while Instant::now() < drained {
        before = report(&mut lines).await?;
    }
    let (meter, began) = (Meter::start(pid)?, Instant::now());
    sleep(span).await;
    let cores = meter.cores()?;
    let took = began.elapsed();
    let mut after = report(&mut lines).await?;
    let lines_due = took.as_secs();
    for _ in 1..lines_due {
        after = report(&mut lines).await?;
    }
    // Lines come once a second: as many of them as seconds went by.
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let events = (after.events - before.events) / lines_due as f64;
    Ok(Cost {
        events,
        cores,
        memory_mib: memory_mib(pid)?,
    })
}

async fn report(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<Report, Failure> {
    let line = lines.next_line().await?.ok_or("the peer ended")?;
    Ok(serde_json::from_str(&line)?)
}
