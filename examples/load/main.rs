//! The whole worker under load, beside a Node peer with one socket per user: one table of what was measured.
//!
//! `scripts/load` runs it with private servers. It uses `DATABASE_URL` and `AMQP_URL`, simulates cTrader in its
//! own process, and measures workers and peer from outside: `/proc`, `/metrics`, and the rows.
//! It makes databases of its own and drops them again.

mod bridge;
mod hot;
mod peer;
mod process;
mod services;
mod table;
mod worker;
mod world;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

type Failure = Box<dyn std::error::Error>;

/// Spot events a second that each session gets.
const EVENTS_PER_SESSION: f64 = 10.0;

#[derive(Parser)]
struct Arguments {
    /// The worker's binary, without the simulator
    #[arg(long)]
    worker: PathBuf,
    /// The Node peer's folder; left out, there is no baseline
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Sessions of each run
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
    sessions: Vec<u32>,
    /// Sessions of the peer
    #[arg(long, default_value_t = 1_000)]
    peer_sessions: u32,
    /// Seconds that the largest run is measured; the others take a fifth of it
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Connections of a worker
    #[arg(long, default_value_t = 20)]
    connections: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match Box::pin(measure(&arguments)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("load: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<(), Failure> {
    let services = services::Services::from_env()?;
    let short = Duration::from_secs((arguments.seconds / 5).max(10));
    let idle = bridge::idle(&services, arguments, Duration::from_secs(20)).await?;
    eprintln!("load: the hot path by itself");
    let hot = tokio::task::spawn_blocking(|| hot::measure().map_err(|failure| failure.to_string()))
        .await??;
    eprintln!("load: the writer beside a bare loop");
    let writer = writer::run(&services, arguments).await?;
    let largest = arguments.sessions.iter().max().copied().unwrap_or_default();
    let mut runs = Vec::new();
    for sessions in &arguments.sessions {
        let long = Duration::from_secs(arguments.seconds);
        let span = if *sessions == largest { long } else { short };
        eprintln!("load: {sessions} sessions for {} s", span.as_secs());
        runs.push(bridge::run(&services, arguments, *sessions, span, worker::Rows::Usual).await?);
    }
    eprintln!("load: {largest} sessions that write no rows");
    let unwritten = bridge::run(&services, arguments, largest, short, worker::Rows::Rare).await?;
    let peers = match &arguments.peer {
        Some(folder) => Some(peer::run(&services, folder, arguments.peer_sessions, short).await?),
        None => None,
    };
    print!(
        "{}",
        table::render(&idle, &runs, &unwritten, peers.as_ref(), &writer, &hot)
    );
    Ok(())
}
