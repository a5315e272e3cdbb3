//! A real worker on a simulated market: fills it with sessions and watches it from outside.

use std::time::{Duration, Instant};

use mahspeccy_bridge::sim::server::Handle;
use sqlx::{Connection as _, PgConnection, Row as _};
use time::OffsetDateTime;
use tokio::time::{interval, sleep};

use crate::process::{Meter, memory_mib};
use crate::services::{Services, credentials, migrated, publish_starts, wal};
use crate::worker::{Rows, Worker};
use crate::world::Density;
use crate::{Arguments, EVENTS_PER_SESSION, Failure, world};

/// How long all sessions may take to be live.
const LIVE_WITHIN: Duration = Duration::from_mins(10);

/// How long the requests of the start are waited for before the run is measured.
const HISTORY_WITHIN: Duration = Duration::from_mins(1);

/// How long the last deals may take to be stored.
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// How often rows, memory and health are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Cold starts that are timed.
const STARTS: usize = 5;

/// A worker without sessions.
pub(crate) struct Idle {
    /// From the start of the process to `/readyz`, the middle of several.
    pub(crate) cold_start: Duration,
    pub(crate) cores: f64,
    pub(crate) memory_mib: f64,
}

/// What a run saw.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) sessions: u32,
    pub(crate) seconds: f64,
    /// Spot events a second that the worker counted.
    pub(crate) events: f64,
    pub(crate) cores: f64,
    pub(crate) memory_mib: f64,
    /// Before the first session.
    pub(crate) memory_empty_mib: f64,
    /// Of a connected row, the oldest seen.
    pub(crate) row_age_max: f64,
    /// Fewest rows seen connected.
    pub(crate) connected_min: i64,
    /// From the event to its row, mean, seconds.
    pub(crate) event_to_row: f64,
    /// Rows written a second, whole and only refreshed.
    pub(crate) rows: (f64, f64),
    /// Bytes of WAL a row written.
    pub(crate) wal_per_row: f64,
    /// Commands taken in a second.
    pub(crate) commands: f64,
    /// From the first command to the last live session.
    pub(crate) storm: Duration,
    pub(crate) reconnects: f64,
    pub(crate) refusals: u64,
    /// Deals made while it was measured, and of those the ones not stored in the end.
    pub(crate) deals: (usize, usize),
    /// The slowest response of `/livez`.
    pub(crate) health_max: Duration,
}

pub(crate) async fn idle(
    services: &Services,
    arguments: &Arguments,
    span: Duration,
) -> Result<Idle, Failure> {
    let database = migrated(services, arguments, "idle").await?;
    let sim = world::start(1, false).await?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let mut worker = Worker::start(services, arguments, &database, &sim, Rows::Usual)?;
        starts.push(worker.ready().await?);
        worker.stop().await?;
    }
    starts.sort();
    let mut worker = Worker::start(services, arguments, &database, &sim, Rows::Usual)?;
    worker.ready().await?;
    // What the start itself costs is over by then.
    sleep(Duration::from_secs(3)).await;
    let meter = Meter::start(worker.pid)?;
    sleep(span).await;
    let idle = Idle {
        cold_start: starts.get(STARTS / 2).copied().unwrap_or_default(),
        cores: meter.cores()?,
        memory_mib: memory_mib(worker.pid)?,
    };
    worker.stop().await?;
    database.drop().await?;
    Ok(idle)
}

pub(crate) async fn run(
    services: &Services,
    arguments: &Arguments,
    sessions: u32,
    span: Duration,
    rows: Rows,
) -> Result<Run, Failure> {
    let database = migrated(services, arguments, &sessions.to_string()).await?;
    let sim = world::start(sessions, true).await?;
    let mut pg = PgConnection::connect(&database.url).await?;
    credentials(&mut pg, sessions).await?;
    let mut worker = Worker::start(services, arguments, &database, &sim, rows)?;
    worker.ready().await?;
    let memory_empty_mib = memory_mib(worker.pid)?;

    let began = Instant::now();
    publish_starts(services, sessions).await?;
    until(
        &mut pg,
        LIVE_WITHIN,
        "select count(*) from bridge.sessions",
        sessions,
    )
    .await?;
    let commands = f64::from(sessions) / began.elapsed().as_secs_f64();
    let live = "select count(*) from public.ctrader_cache where is_connected";
    until(&mut pg, LIVE_WITHIN, live, sessions).await?;
    let storm = began.elapsed();
    let density = Density::new(&sim, EVENTS_PER_SESSION * f64::from(sessions), sessions);
    let density = density.reached(&sim).await;
    // Histories are asked for at four a second and connection: what is left of them goes on beside the run.
    let history_deadline = Instant::now() + HISTORY_WITHIN;
    while Instant::now() < history_deadline
        && worker.metrics().await?.sum("bridge_ctrader_request_queue") > 0.0
    {
        sleep(POLL_INTERVAL).await;
    }
    eprintln!(
        "load: live after {:.1} s, histories read after {:.1} s",
        storm.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );

    let mut run = watch(&worker, &mut pg, &sim, span, density).await?;
    run.sessions = sessions;
    run.memory_empty_mib = memory_empty_mib;
    run.commands = commands;
    run.storm = storm;
    eprintln!("load: {run:?}");
    worker.stop().await?;
    pg.close().await?;
    database.drop().await?;
    Ok(run)
}

/// The counted part of a run.
async fn watch(
    worker: &Worker,
    pg: &mut PgConnection,
    sim: &Handle,
    span: Duration,
    mut density: Density,
) -> Result<Run, Failure> {
    let since_ms = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000)?;
    let (sim_before, before, wal_before) = (
        sim.with(|broker| broker.stats()),
        worker.metrics().await?,
        wal(pg).await?,
    );
    let (meter, began) = (Meter::start(worker.pid)?, Instant::now());
    let mut run = Run {
        sessions: 0,
        seconds: 0.0,
        events: 0.0,
        cores: 0.0,
        memory_mib: 0.0,
        memory_empty_mib: 0.0,
        row_age_max: 0.0,
        connected_min: i64::MAX,
        event_to_row: 0.0,
        rows: (0.0, 0.0),
        wal_per_row: 0.0,
        commands: 0.0,
        storm: Duration::ZERO,
        reconnects: 0.0,
        refusals: 0,
        deals: (0, 0),
        health_max: Duration::ZERO,
    };
    let health = worker.watch_health();
    let mut polls = interval(POLL_INTERVAL);
    while began.elapsed() < span {
        polls.tick().await;
        density.correct(sim);
        let row = sqlx::query(
            "select count(*), coalesce(extract(epoch from clock_timestamp() - min(updated_at)), 0)::float8
             from public.ctrader_cache where is_connected",
        )
        .fetch_one(&mut *pg)
        .await?;
        run.connected_min = run.connected_min.min(row.try_get(0)?);
        run.row_age_max = run.row_age_max.max(row.try_get(1)?);
        run.memory_mib = run.memory_mib.max(memory_mib(worker.pid)?);
    }
    run.cores = meter.cores()?;
    run.health_max = health.end()?;
    run.seconds = began.elapsed().as_secs_f64();
    let (sim_after, after, wal_after) = (
        sim.with(|broker| broker.stats()),
        worker.metrics().await?,
        wal(pg).await?,
    );
    let grew = |name: &str| after.sum(name) - before.sum(name);
    run.events = grew("bridge_ctrader_events_total{type=\"spot\"}") / run.seconds;
    let whole = grew("bridge_cache_rows_total{kind=\"changed\"}");
    let same = grew("bridge_cache_rows_total{kind=\"heartbeat\"}");
    run.rows = (whole / run.seconds, same / run.seconds);
    run.wal_per_row = (wal_after - wal_before) / (whole + same).max(1.0);
    run.event_to_row = grew("bridge_event_to_row_seconds_sum")
        / grew("bridge_event_to_row_seconds_count").max(1.0);
    run.reconnects = grew("bridge_reconnects_total");
    run.refusals = sim_after.rate_refusals - sim_before.rate_refusals + sim_after.slow_readers
        - sim_before.slow_readers;
    run.deals = deals(pg, sim, since_ms).await?;
    Ok(run)
}

/// Deals since a moment, and how many of them are not stored however long that is waited for.
async fn deals(
    pg: &mut PgConnection,
    sim: &Handle,
    since_ms: i64,
) -> Result<(usize, usize), Failure> {
    let accounts = sim.with(|broker| u32::try_from(broker.account_ids().len()))?;
    let made = world::deals_since(sim, accounts, since_ms);
    let until = Instant::now() + STORED_WITHIN;
    loop {
        let stored: i64 = sqlx::query_scalar(
            "select count(distinct deal_id) from public.ctrader_deals where deal_id = any($1)",
        )
        .bind(&made)
        .fetch_one(&mut *pg)
        .await?;
        let missing = made.len().saturating_sub(usize::try_from(stored)?);
        if missing == 0 || Instant::now() >= until {
            return Ok((made.len(), missing));
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn until(
    pg: &mut PgConnection,
    within: Duration,
    count: &'static str,
    wanted: u32,
) -> Result<(), Failure> {
    let deadline = Instant::now() + within;
    loop {
        let counted: i64 = sqlx::query_scalar(count).fetch_one(&mut *pg).await?;
        if counted >= i64::from(wanted) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{counted} of {wanted}: {count}").into());
        }
        sleep(POLL_INTERVAL).await;
    }
}
