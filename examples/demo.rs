//! The main job on one screen: the simulator, a real worker, and its live rows.
//!
//! `scripts/demo` runs it with private servers. It uses `DATABASE_URL` and `AMQP_URL`, starts the
//! worker given with `--worker` as a child, connects a few users, publishes their start commands,
//! and shows their rows until Ctrl-C or for `--seconds`. Then it stops the sessions and the worker.
//! With `--page`, a Deno, it also serves the example page to the first of the users.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use mahspeccy_bridge::amqp::{AmqpSettings, publisher};
use mahspeccy_bridge::domain::command::{Command, CommandKind};
use mahspeccy_bridge::domain::ids::UserId;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::sim::server::Handle;
use mahspeccy_bridge::sim::{
    AccountSpec, CLIENT_ID, CLIENT_SECRET, PositionSpec, Side, Simulator, raw,
};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row};
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use uuid::Uuid;

/// How long the worker may take to make the first row live.
const LIVE_WITHIN: Duration = Duration::from_secs(30);

/// How long the page's server may take to print its address.
const PAGE_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take to drain.
const DRAINED_WITHIN: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Arguments {
    /// The worker's binary
    #[arg(long)]
    worker: PathBuf,
    /// Users to connect
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=200))]
    users: u16,
    /// A Deno to serve the example page with
    #[arg(long)]
    page: Option<PathBuf>,
    /// End after so many seconds, and fail unless every row was live and moved
    #[arg(long)]
    seconds: Option<u64>,
}

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match Box::pin(demo(&arguments)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("the demo failed: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(arguments: &Arguments) -> Result<(), Failure> {
    let database_url = std::env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let amqp_url = std::env::var("AMQP_URL").map_err(|_| "AMQP_URL is not set")?;
    let sim = world(arguments.users).start().await?;
    let log = Log(std::env::temp_dir().join(format!("bridge-demo-{}.log", Uuid::new_v4())));
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect(&database_url)
        .await?;
    if arguments.page.is_some() {
        // The page reads as Supabase's signed-in user does, whom the migrations let in where there is one.
        sqlx::raw_sql(include_str!("dashboard/supabase.sql"))
            .execute(&pool)
            .await?;
    }

    let mut migrate = Process::new(&arguments.worker);
    let migrated = Child::spawn(migrate.arg("migrate"))?.ended().await?;
    if !migrated.success() {
        return Err("the migrations failed".into());
    }
    let users: Vec<UserId> = (1..=arguments.users)
        .map(|n| UserId::new(format!("demo-{n}@example.org")))
        .collect::<Result<_, _>>()?;
    connect_users(&pool, &users).await?;

    let mut worker = start_worker(arguments, &sim, &log.0)?;
    // Its server ends with it.
    let page = match (&arguments.page, users.first()) {
        (Some(deno), Some(user)) => Some(serve_page(deno, user, &log.0).await),
        _ => None,
    };
    let address = page.as_ref().map(|page| match page {
        Ok((_, address)) => format!("the page of the first account: {address}"),
        Err(failure) => format!("no page: {failure}"),
    });
    let shown = show(
        arguments,
        &pool,
        &amqp_url,
        &users,
        &mut worker,
        address.as_deref(),
    )
    .await;
    let stopped = stop(&pool, &amqp_url, &users, worker).await;
    if shown.is_err() || stopped.is_err() {
        eprintln!("the worker's log:\n{}", std::fs::read_to_string(&log.0)?);
    }
    shown.and(stopped)
}

/// A market that moves, and accounts that trade now and then.
fn world(users: u16) -> mahspeccy_bridge::sim::Builder {
    let mut world = Simulator::builder().seed(7).ticks_per_second(3.0);
    for n in 1..=i64::from(users) {
        let account = AccountSpec::new(5_150_700 + n)
            .token(&format!("demo-token-{n}"))
            .login(9_000_000 + n)
            .balance(1_000_000 + n * 12_345)
            .activity(Duration::from_secs(6))
            .position(PositionSpec::new(
                n * 10 + 1,
                "EURUSD",
                Side::Buy,
                n * 1_000_000,
                raw("1.08450"),
            ))
            .position(PositionSpec::new(
                n * 10 + 2,
                "XAUUSD",
                Side::Sell,
                1_000 * n,
                raw("2346.10"),
            ))
            .position(PositionSpec::new(
                n * 10 + 3,
                "USDJPY",
                Side::Buy,
                2_000_000,
                raw("151.200"),
            ));
        world = world.account(account);
    }
    world
}

async fn connect_users(pool: &PgPool, users: &[UserId]) -> Result<(), Failure> {
    for (n, user) in (1..).zip(users) {
        sqlx::query(
            "insert into bridge.credentials (user_id, account_id, is_live, is_primary, access_token, refresh_token)
             values ($1, $2, false, true, $3, 'unused')
             on conflict (user_id, account_id) do update set access_token = excluded.access_token",
        )
        .bind(user.as_str())
        .bind(5_150_700_i64 + n)
        .bind(format!("demo-token-{n}"))
        .execute(pool)
        .await?;
    }
    Ok(())
}

/// A child process, which is killed with the value if it has not ended by then.
///
/// Not tokio's: that would be a feature of tokio which the bridge has no need of, and everything built on tokio
/// would be built twice.
struct Child {
    id: u32,
    ended: oneshot::Receiver<std::io::Result<ExitStatus>>,
    status: Option<ExitStatus>,
}

impl Child {
    fn spawn(command: &mut Process) -> std::io::Result<Self> {
        Ok(Self::watch(command.spawn()?))
    }

    /// Waits for it on a thread of its own.
    fn watch(mut child: std::process::Child) -> Self {
        let (id, (sender, ended)) = (child.id(), oneshot::channel());
        std::thread::spawn(move || sender.send(child.wait()));
        Self {
            id,
            ended,
            status: None,
        }
    }

    /// Waits for its end. Cancel safe.
    async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = (&mut self.ended).await.map_err(std::io::Error::other)??;
        self.status = Some(status);
        Ok(status)
    }

    fn signal(&self, name: &str) -> std::io::Result<()> {
        if self.status.is_none() {
            let id = self.id.to_string();
            Process::new("kill").args(["-s", name, &id]).status()?;
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() && self.ended.try_recv().is_err() {
            // It may be ending by itself.
            let _ = self.signal("KILL");
        }
    }
}

/// The file that the children log to. It is removed with the value.
struct Log(PathBuf);

impl Drop for Log {
    fn drop(&mut self) {
        // There is none if the demo failed before the worker was started.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn start_worker(arguments: &Arguments, sim: &Handle, log: &Path) -> Result<Child, Failure> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let log = File::create(log)?;
    let mut worker = Process::new(&arguments.worker);
    worker
        .arg("worker")
        .env("CTRADER_CLIENT_ID", CLIENT_ID)
        .env("CTRADER_CLIENT_SECRET", CLIENT_SECRET)
        .env("CTRADER_DEMO_URL", sim.demo_url())
        .env("CTRADER_LIVE_URL", sim.live_url())
        .env("WORKER_ID", "demo")
        .env("PORT", port.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(Child::spawn(&mut worker)?)
}

/// The example page's server as a child, and its address.
async fn serve_page(deno: &Path, user: &UserId, log: &Path) -> Result<(Child, String), Failure> {
    let log = File::options().append(true).open(log)?;
    let mut server = Process::new(deno)
        .args(["run", "--frozen", "--quiet", "-A"])
        .args(["examples/dashboard/serve.ts", user.as_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let output = server.stdout.take().ok_or("its output is not there")?;
    let server = Child::watch(server);
    let first_line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map(|_| line)
    });
    let address = tokio::time::timeout(PAGE_WITHIN, first_line)
        .await
        .map_err(|_| "its server did not start in time")???;
    match address.trim() {
        "" => Err("its server did not start".into()),
        address => Ok((server, address.to_owned())),
    }
}

async fn publish(amqp_url: &str, kind: CommandKind, user: &UserId) -> Result<(), Failure> {
    let settings = AmqpSettings {
        url: Secret::new(amqp_url),
        connection_name: "demo".to_owned(),
    };
    let issued_at = OffsetDateTime::now_utc();
    let command = Command {
        id: Uuid::new_v4(),
        kind,
        user: user.clone(),
        account: None,
        issued_at,
    };
    Ok(publisher::publish(&settings, &command).await?)
}

/// A row of the table.
struct Seen {
    user_key: String,
    connected: bool,
    equity: Option<String>,
    line: String,
}

async fn read_rows(pool: &PgPool, keys: &[String]) -> Result<Vec<Seen>, Failure> {
    let rows = sqlx::query(
        "select user_key, trader_login, is_connected, status, currency, balance::text, equity::text,
                unrealized_net::text, margin_level::text, position_count,
                extract(epoch from clock_timestamp() - updated_at)::float8 as age
         from public.ctrader_cache where user_key = any($1) order by trader_login nulls last, user_key",
    )
    .bind(keys)
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let text = |name: &str| {
                row.try_get::<Option<String>, _>(name)
                    .map(Option::unwrap_or_default)
            };
            let login: Option<i64> = row.try_get("trader_login")?;
            let line = format!(
                "{:>9}  {:<12} {:>3} {:>14} {:>14} {:>11} {:>12} {:>9} {:>6.1} s",
                login.map_or_else(String::new, |login| login.to_string()),
                row.try_get::<String, _>("status")?,
                text("currency")?,
                text("balance")?,
                text("equity")?,
                text("unrealized_net")?,
                text("margin_level")?,
                row.try_get::<i32, _>("position_count")?,
                row.try_get::<f64, _>("age")?,
            );
            Ok(Seen {
                user_key: row.try_get("user_key")?,
                connected: row.try_get("is_connected")?,
                equity: row.try_get("equity")?,
                line,
            })
        })
        .collect()
}

/// Publishes the starts and shows the rows; in the end every row must have been live and moved.
async fn show(
    arguments: &Arguments,
    pool: &PgPool,
    amqp_url: &str,
    users: &[UserId],
    worker: &mut Child,
    page: Option<&str>,
) -> Result<(), Failure> {
    for user in users {
        publish(amqp_url, CommandKind::Start, user).await?;
    }
    let keys: Vec<String> = users.iter().map(UserId::key).collect();
    let started = Instant::now();
    let until = arguments
        .seconds
        .map(|seconds| started + Duration::from_secs(seconds));
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let mut moved: BTreeMap<String, bool> = BTreeMap::new();
    let mut round = tokio::time::interval(Duration::from_secs(1));
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = round.tick() => {}
            pressed = tokio::signal::ctrl_c() => { pressed?; break }
            _ = terminated.recv() => break,
            ended = worker.ended() => return Err(format!("the worker ended: {}", ended?).into()),
        }
        let rows = read_rows(pool, &keys).await?;
        for row in rows.iter().filter(|row| row.connected) {
            if let Some(equity) = &row.equity {
                let begun = first
                    .entry(row.user_key.clone())
                    .or_insert_with(|| equity.clone());
                *moved.entry(row.user_key.clone()).or_default() |= begun != equity;
            }
        }
        draw(&rows, page);
        if first.len() < users.len() && started.elapsed() > LIVE_WITHIN {
            return Err(format!("only {} of {} rows became live", first.len(), users.len()).into());
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            break;
        }
    }
    let all_moved = moved.len() == users.len() && moved.values().all(|moved| *moved);
    if arguments.seconds.is_some() && !all_moved {
        return Err("not every row was live and moved".into());
    }
    Ok(())
}

fn draw(rows: &[Seen], page: Option<&str>) {
    let mut out = std::io::stdout().lock();
    let clear = if out.is_terminal() {
        "\x1b[2J\x1b[H"
    } else {
        ""
    };
    let heading = format!(
        "{:>9}  {:<12} {:>3} {:>14} {:>14} {:>11} {:>12} {:>9} {:>8}",
        "login", "status", "", "balance", "equity", "net P&L", "margin %", "positions", "row age"
    );
    let lines: String = rows
        .iter()
        .flat_map(|row| [row.line.as_str(), "\n"])
        .collect();
    let page = page.map_or_else(String::new, |page| format!("\n{page}\n"));
    // A closed terminal ends the demo by its signal.
    let _ = writeln!(out, "{clear}{heading}\n{lines}{page}");
}

/// Stops the sessions and the worker, and takes the users away again.
async fn stop(
    pool: &PgPool,
    amqp_url: &str,
    users: &[UserId],
    mut worker: Child,
) -> Result<(), Failure> {
    for user in users {
        publish(amqp_url, CommandKind::Stop, user).await?;
    }
    worker.signal("TERM")?;
    let ended = tokio::time::timeout(DRAINED_WITHIN, worker.ended()).await;
    let status = ended.map_err(|_| "the worker did not drain in time")??;
    for user in users {
        sqlx::query("delete from bridge.credentials where user_id = $1")
            .bind(user.as_str())
            .execute(pool)
            .await?;
    }
    pool.close().await;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the worker ended with {status}").into())
    }
}
