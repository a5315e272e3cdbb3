//! A bridge of its own for a test: a database, a vhost, a simulator, and the real binary as a child.
//!
//! A worker's log goes to a file and is printed when the test fails. Everything ends with the test.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use lapin::BasicProperties;
use mahspeccy_bridge::domain::ids::UserId;
use mahspeccy_bridge::sim::server::Handle;
use mahspeccy_bridge::sim::{Builder, CLIENT_ID, CLIENT_SECRET};
use serde_json::{Value, json};
use sqlx::Row;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;
use uuid::Uuid;

use super::postgres::TestDatabase;
use super::rabbitmq::TestVhost;
use super::wait::eventually;
pub(crate) use super::worker::Worker;

/// Generous: the machine may be busy with all the other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_mahspeccy-bridge");

/// A bridge and all it stands on.
pub(crate) struct Fleet {
    pub(crate) db: TestDatabase,
    pub(crate) vhost: TestVhost,
    pub(crate) sim: Handle,
    logs: tempfile::TempDir,
    started: usize,
}

/// A row of `public.ctrader_cache`, amounts as text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CacheRow {
    pub(crate) connected: bool,
    pub(crate) status: String,
    pub(crate) last_error: Option<String>,
    pub(crate) amounts: [Option<String>; 8],
    pub(crate) positions: Value,
    pub(crate) orders: Value,
    pub(crate) age: f64,
    /// When it was written, by [`Fleet::clock`].
    pub(crate) updated: f64,
    pub(crate) event_at: Option<String>,
    pub(crate) epoch: i64,
    pub(crate) seq: i64,
}

impl Fleet {
    /// A world, and a database with the schema.
    pub(crate) async fn new(world: Builder) -> Self {
        let (db, vhost) = tokio::join!(TestDatabase::migrated(), TestVhost::create());
        Self::with(db, vhost, world).await
    }

    async fn with(db: TestDatabase, vhost: TestVhost, world: Builder) -> Self {
        Self {
            db,
            vhost,
            sim: world.start().await.expect("the simulator starts"),
            logs: tempfile::tempdir().expect("a folder"),
            started: 0,
        }
    }

    /// The same with an empty database that is there already.
    pub(crate) async fn on(db: TestDatabase, world: Builder) -> Self {
        let fleet = Self::with(db, TestVhost::create().await, world).await;
        let migrated = fleet.call(&["migrate"]).output().await.expect("it runs");
        assert!(migrated.status.success(), "{migrated:?}");
        fleet
    }

    /// The binary with this fleet's environment and nothing else. All but the migrations run with a
    /// worker's rights.
    pub(crate) fn call(&self, arguments: &[&str]) -> Command {
        let url = match arguments {
            ["migrate"] => self.db.url().to_owned(),
            _ => self.db.worker_url(),
        };
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .env_clear()
            .current_dir(self.logs.path())
            .env("DATABASE_URL", url)
            .env("AMQP_URL", self.vhost.url())
            .env("CTRADER_CLIENT_ID", CLIENT_ID)
            .env("CTRADER_CLIENT_SECRET", CLIENT_SECRET)
            .env("CTRADER_DEMO_URL", self.sim.demo_url())
            .env("CTRADER_LIVE_URL", self.sim.live_url())
            .env("LOG_FORMAT", "json")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// A worker's command, in a network namespace or not.
    fn inside(&self, namespace: Option<&str>) -> Command {
        let worker = self.call(&["worker"]);
        let Some(namespace) = namespace else {
            return worker;
        };
        // `ip` becomes what it is told to run: the process is the worker's.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, BINARY, "worker"]);
        let worker = worker.as_std();
        command.env_clear().envs(
            worker
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(self.logs.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Where the binary runs.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.logs.path()
    }

    /// A worker that is ready.
    pub(crate) async fn worker(&mut self) -> Worker {
        self.worker_with(&[]).await
    }

    /// A worker that is ready, with these variables besides.
    pub(crate) async fn worker_with(&mut self, variables: &[(&str, &str)]) -> Worker {
        // The port may be taken between the check and the bind: then another one.
        for _ in 0..5 {
            let mut worker = self.spawn(variables);
            let ready = eventually("the worker to be ready or to end", DEADLINE, async || {
                if worker.child.try_wait().expect("it can be asked").is_some() {
                    return Some(false);
                }
                let url = format!("http://127.0.0.1:{}/readyz", worker.port);
                reqwest::get(url)
                    .await
                    .is_ok_and(|answer| answer.status() == 200)
                    .then_some(true)
            })
            .await;
            if ready {
                return worker;
            }
        }
        panic!("no worker became ready");
    }

    /// A worker that has just been started.
    pub(crate) fn spawn(&mut self, variables: &[(&str, &str)]) -> Worker {
        self.spawn_in(None, variables)
    }

    /// The same in a network namespace.
    pub(crate) fn spawn_in(
        &mut self,
        namespace: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Worker {
        self.started += 1;
        let id = format!("worker-{}", self.started);
        let log = self.logs.path().join(format!("{id}.log"));
        let file = std::fs::File::create(&log).expect("a log");
        let port = free_port();
        let child = self
            .inside(namespace)
            .env("WORKER_ID", &id)
            .env("PORT", port.to_string())
            .envs(variables.iter().copied())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("the worker starts");
        Worker {
            child,
            id,
            port,
            log,
        }
    }

    /// What the app does when a user connects an account.
    pub(crate) async fn connect(&self, user: &str, account: i64, token: &str) {
        self.connect_on(user, account, token, false, true).await;
    }

    pub(crate) async fn connect_on(
        &self,
        user: &str,
        account: i64,
        token: &str,
        live: bool,
        primary: bool,
    ) {
        self.store((user, account), (live, primary), token, "refresh-unused")
            .await;
    }

    /// A grant as the app stores it, with what renews it.
    pub(crate) async fn grant(&self, user: &str, account: i64, tokens: (&str, &str)) {
        self.store((user, account), (false, true), tokens.0, tokens.1)
            .await;
    }

    async fn store(
        &self,
        (user, account): (&str, i64),
        (live, primary): (bool, bool),
        access: &str,
        refresh: &str,
    ) {
        sqlx::query(
            "insert into bridge.credentials (user_id, account_id, is_live, is_primary, access_token, refresh_token)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (user_id, account_id) do update set
                access_token = excluded.access_token, refresh_token = excluded.refresh_token,
                updated_at = clock_timestamp()",
        )
        .bind(user)
        .bind(account)
        .bind(live)
        .bind(primary)
        .bind(access)
        .bind(refresh)
        .execute(self.db.pool())
        .await
        .expect("the credentials are stored");
    }

    /// The tokens that are stored.
    pub(crate) async fn stored(&self, user: &str, account: i64) -> (String, String) {
        sqlx::query_as(
            "select access_token, refresh_token from bridge.credentials
             where user_id = $1 and account_id = $2",
        )
        .bind(user)
        .bind(account)
        .fetch_one(self.db.pool())
        .await
        .expect("credentials")
    }

    pub(crate) async fn start(&self, user: &str, account: Option<i64>) {
        self.command("start", user, json!(account)).await;
    }

    pub(crate) async fn stop(&self, user: &str, account: Option<i64>) {
        self.command("stop", user, json!(account)).await;
    }

    /// Publishes a command as the edge function does.
    pub(crate) async fn command(&self, command: &str, user: &str, account: Value) {
        self.command_at(
            command,
            user,
            account,
            OffsetDateTime::now_utc(),
            Uuid::new_v4(),
        )
        .await;
    }

    pub(crate) async fn command_at(
        &self,
        command: &str,
        user: &str,
        account: Value,
        issued_at: OffsetDateTime,
        id: Uuid,
    ) {
        let mut body = json!({
            "id": id,
            "command": command,
            "userId": user,
            "issuedAt": issued_at.format(&Rfc3339).expect("a time"),
        });
        if !account.is_null() {
            body["accountId"] = account;
        }
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(id.to_string().into());
        self.vhost
            .publish(
                "bridge.commands",
                command,
                body.to_string().as_bytes(),
                properties,
            )
            .await;
    }

    pub(crate) async fn row(&self, user: &str, account: i64) -> Option<CacheRow> {
        let key = UserId::new(user).expect("valid").key();
        let row = sqlx::query(
            "select is_connected, status, last_error, positions::text as positions, orders::text as orders, epoch, seq,
                    extract(epoch from clock_timestamp() - updated_at)::float8 as age,
                    extract(epoch from updated_at)::float8 as updated, event_at::text as event_at,
                    array[balance::text, equity::text, unrealized_gross::text, unrealized_net::text, used_margin::text,
                          free_margin::text, margin_level::text, bonus::text] as amounts
             from public.ctrader_cache where user_key = $1 and account_id = $2",
        )
        .bind(key)
        .bind(account)
        .fetch_optional(self.db.pool())
        .await
        .expect("the cache can be read")?;
        let json = |name: &str| {
            let text: Option<String> = row.get(name);
            text.map_or(Value::Null, |text| {
                serde_json::from_str(&text).expect("json")
            })
        };
        let amounts: Vec<Option<String>> = row.get("amounts");
        Some(CacheRow {
            connected: row.get("is_connected"),
            status: row.get("status"),
            last_error: row.get("last_error"),
            amounts: amounts.try_into().expect("eight of them"),
            positions: json("positions"),
            orders: json("orders"),
            age: row.get("age"),
            updated: row.get("updated"),
            event_at: row.get("event_at"),
            epoch: row.get("epoch"),
            seq: row.get("seq"),
        })
    }

    /// Seconds since the epoch by the clock that the rows' times are of: how long something took is
    /// two times in it count, not when a busy test came to read it.
    pub(crate) async fn clock(&self) -> f64 {
        sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8")
            .fetch_one(self.db.pool())
            .await
            .expect("the clock can be read")
    }

    /// Waits until a row meets the condition.
    pub(crate) async fn until_row(
        &self,
        what: &str,
        within: Duration,
        user: &str,
        account: i64,
        condition: impl Fn(&CacheRow) -> bool,
    ) -> CacheRow {
        eventually(what, within, async || {
            let row = self.row(user, account).await;
            row.clone().filter(&condition).ok_or(row)
        })
        .await
    }

    pub(crate) async fn until_live(&self, user: &str, account: i64) -> CacheRow {
        let live = |row: &CacheRow| row.connected && row.status == "live";
        self.until_row("the row to be live", DEADLINE, user, account, live)
            .await
    }

    /// Waits until the row agrees with the simulator's own arithmetic.
    pub(crate) async fn until_true(&self, user: &str, account: i64) -> CacheRow {
        eventually("the row to be correct", DEADLINE, async || {
            let row = self.row(user, account).await.ok_or("no row".to_owned())?;
            let truth = self.truth(account);
            let positions = row.positions.as_array().map(Vec::len);
            let holds = row.connected && row.amounts == truth.0 && positions == Some(truth.1);
            if holds {
                Ok(row)
            } else {
                Err(format!("{row:?}, and the truth is {truth:?}"))
            }
        })
        .await
    }

    /// The simulator's figures in the order of [`CacheRow::amounts`], and how many positions.
    pub(crate) fn truth(&self, account: i64) -> ([Option<String>; 8], usize) {
        let truth = self
            .sim
            .with(|broker| broker.truth(account))
            .expect("the account exists");
        let money = |units: i64| Some(decimal(units, truth.money_digits));
        let level = (truth.used_margin > 0).then(|| {
            // Percent with four digits, halves away from zero, in integers.
            let (equity, used) = (i128::from(truth.equity), i128::from(truth.used_margin));
            let scaled = equity.abs() * 1_000_000;
            let level = (2 * scaled + used) / (2 * used) * equity.signum();
            decimal(i64::try_from(level).expect("a level"), 4)
        });
        let amounts = [
            money(truth.balance),
            money(truth.equity),
            money(truth.gross),
            money(truth.net),
            money(truth.used_margin),
            money(truth.free_margin),
            level,
            money(truth.active_bonus),
        ];
        (amounts, truth.positions.len())
    }

    /// What `bridge.sessions` has.
    pub(crate) async fn session(&self, user: &str, account: i64) -> Option<(String, String)> {
        sqlx::query_as(
            "select desired, status from bridge.sessions where user_id = $1 and account_id = $2",
        )
        .bind(user)
        .bind(account)
        .fetch_optional(self.db.pool())
        .await
        .expect("the sessions can be read")
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// An integer with its point put in.
pub(crate) fn decimal(units: i64, digits: u32) -> String {
    let (sign, magnitude) = (if units < 0 { "-" } else { "" }, units.unsigned_abs());
    let unit = 10u64.pow(digits);
    let mut text = format!("{sign}{}", magnitude / unit);
    if digits > 0 {
        write!(
            text,
            ".{:0width$}",
            magnitude % unit,
            width = digits as usize
        )
        .expect("into a string");
    }
    text
}
