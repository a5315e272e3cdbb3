//! Starting where something is wrong, and what never gets into a log.

use std::time::Duration;

use mahspeccy_bridge::sim::{AccountSpec, CLIENT_SECRET, Simulator};

use super::support::fleet::{DEADLINE, Fleet, free_port};
use super::support::pgbouncer::{PgBouncer, PoolMode};
use super::support::wait::eventually;

fn quiet() -> mahspeccy_bridge::sim::Builder {
    Simulator::builder()
        .market_paused()
        .account(AccountSpec::new(1001).token("token-a-8c1f"))
}

/// Exit code and standard error of a call that ends by itself.
async fn ends(mut command: tokio::process::Command, within: Duration) -> (Option<i32>, String) {
    let output = tokio::time::timeout(within, command.output())
        .await
        .expect("it ends by itself")
        .expect("it runs");
    (
        output.status.code(),
        String::from_utf8(output.stderr).expect("text"),
    )
}

#[tokio::test]
async fn every_fault_of_the_configuration_is_listed_at_once() {
    let fleet = Fleet::new(quiet()).await;
    let mut call = fleet.call(&["worker"]);
    call.env_remove("CTRADER_CLIENT_ID")
        .env("DATABASE_URL", "mysql://root:hunter2@localhost/x")
        .env("AMQP_URL", "not a url with hunter2")
        .env("CTRADER_DEMO_URL", "ws://demo.ctraderapi.com:5035")
        .env("PORT", "hunter2")
        .env("MAX_SESSIONS", "0")
        .env("TOKEN_ENCRYPTION_KEY", "aHVudGVyMg==");
    let (code, output) = ends(call, DEADLINE).await;
    assert_eq!(code, Some(64), "{output}");
    for name in [
        "CTRADER_CLIENT_ID",
        "DATABASE_URL",
        "AMQP_URL",
        "CTRADER_DEMO_URL",
        "PORT",
        "MAX_SESSIONS",
        "TOKEN_ENCRYPTION_KEY",
    ] {
        assert_eq!(
            output.lines().filter(|line| line.starts_with(name)).count(),
            1,
            "{name} in: {output}"
        );
    }
    assert!(!output.contains("hunter2"), "{output}");
}

#[tokio::test]
async fn a_schema_that_is_not_there_is_named_with_the_version_that_is_needed() {
    let fleet = Fleet::new(quiet()).await;
    sqlx::query("drop schema bridge cascade")
        .execute(fleet.db.pool())
        .await
        .expect("it was there");
    let (code, output) = ends(fleet.call(&["worker"]), DEADLINE).await;
    assert_eq!(code, Some(69), "{output}");
    let needed = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
        .expect("the folder")
        .filter(|file| {
            file.as_ref()
                .expect("a file")
                .file_name()
                .to_string_lossy()
                .ends_with("sql")
        })
        .count();
    assert!(
        output.contains("migrate") && output.contains(&needed.to_string()),
        "{output}"
    );
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once_and_never_shown() {
    let fleet = Fleet::new(quiet()).await;
    // A role with a password of its own: the server of the tests may trust everybody else.
    let role = format!("{}_reader", fleet.db.name());
    let statement = format!("create role {role} nologin");
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(fleet.db.pool())
        .await
        .expect("a role");
    let mut url = url::Url::parse(fleet.db.url()).expect("a url");
    url.set_username(&role).expect("a name");
    url.set_password(Some("hunter2")).expect("a password");
    let mut call = fleet.call(&["worker"]);
    call.env("DATABASE_URL", url.as_str());
    let (code, output) = ends(call, Duration::from_secs(20)).await;
    let statement = format!("drop role {role}");
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(fleet.db.pool())
        .await
        .expect("it was there");
    assert_eq!(code, Some(69), "{output}");
    assert!(
        output.contains("Postgres") && !output.contains("hunter2"),
        "{output}"
    );
}

#[tokio::test]
async fn a_transaction_pooler_is_refused_by_what_it_does_and_a_session_pooler_serves() {
    let mut fleet = Fleet::new(quiet()).await;
    let transactions = PgBouncer::start(fleet.db.url(), PoolMode::Transaction, 10);
    let mut call = fleet.call(&["worker"]);
    call.env("DATABASE_URL", transactions.url());
    let (code, output) = ends(call, DEADLINE).await;
    assert_eq!(code, Some(64), "{output}");
    assert!(
        output.contains("transaction pooler") && output.contains("5432"),
        "{output}"
    );

    let sessions = PgBouncer::start(fleet.db.url(), PoolMode::Session, 20);
    let worker = fleet.worker_with(&[("DATABASE_URL", sessions.url())]).await;
    fleet
        .connect("pooled@example.org", 1001, "token-a-8c1f")
        .await;
    fleet.start("pooled@example.org", None).await;
    fleet.until_live("pooled@example.org", 1001).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_broker_that_stays_away_past_the_deadline_ends_the_start() {
    let fleet = Fleet::new(quiet()).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = closed.local_addr().expect("an address").port();
    drop(closed);
    let mut call = fleet.call(&["worker"]);
    call.env(
        "AMQP_URL",
        format!("amqp://guest:hunter2@127.0.0.1:{port}/%2f"),
    );
    // Its own port: two workers of one test could not both have the default.
    call.env("PORT", free_port().to_string());
    let (code, output) = ends(call, Duration::from_mins(1)).await;
    assert_eq!(code, Some(69), "{output}");
    assert!(
        output.contains("RabbitMQ") && !output.contains("hunter2"),
        "{output}"
    );
}

#[tokio::test]
async fn a_full_run_logs_no_secret_and_names_no_user_in_its_health() {
    let mut fleet = Fleet::new(quiet()).await;
    let worker = fleet.worker_with(&[("RUST_LOG", "trace")]).await;
    let user = "lance-4711@example.org";
    fleet.connect(user, 1001, "wrong-token-77aa").await;
    fleet.start(user, None).await;
    fleet
        .until_row("the refusal", DEADLINE, user, 1001, |row| {
            row.status == "failed"
        })
        .await;
    fleet.connect(user, 1001, "token-a-8c1f").await;
    fleet.until_live(user, 1001).await;
    fleet.sim.unplug().await;
    fleet
        .until_row("the loss", DEADLINE, user, 1001, |row| !row.connected)
        .await;
    fleet.sim.plug_in().await.expect("the ports are free");
    fleet.until_live(user, 1001).await;
    fleet.vhost.close_all_connections().await;
    let amqp_password = url::Url::parse(fleet.vhost.url())
        .expect("a url")
        .password()
        .map(ToOwned::to_owned);
    eventually("the worker to be ready again", DEADLINE, async || {
        worker.get("/readyz").await.0 == 200
    })
    .await;
    let (_, health) = worker.get("/health").await;
    assert!(
        !health.contains(user) && !health.contains("lance"),
        "{health}"
    );
    let log = worker.drain().await;
    assert!(log.len() > 2_000, "this is the log: {log}");
    let mut secrets = vec![
        "wrong-token-77aa",
        "token-a-8c1f",
        "refresh-unused",
        CLIENT_SECRET,
    ];
    secrets.extend(amqp_password.as_deref());
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret is in the log");
    }
}

#[tokio::test]
async fn the_command_line_publishes_and_says_so() {
    let mut fleet = Fleet::new(quiet()).await;
    let worker = fleet.worker().await;
    fleet.connect("cli@example.org", 1001, "token-a-8c1f").await;
    let started = fleet
        .call(&["start", "cli@example.org"])
        .output()
        .await
        .expect("it runs");
    assert!(started.status.success(), "{started:?}");
    fleet.until_live("cli@example.org", 1001).await;
    let stopped = fleet
        .call(&["stop", "cli@example.org", "--account", "1001"])
        .output()
        .await
        .expect("it runs");
    assert!(stopped.status.success(), "{stopped:?}");
    fleet
        .until_row(
            "the row to be stopped",
            DEADLINE,
            "cli@example.org",
            1001,
            |row| row.status == "stopped",
        )
        .await;
    let (code, output) = ends(fleet.call(&["start", ""]), DEADLINE).await;
    assert_eq!((code, output.trim()), (Some(64), "userId is empty"));
    worker.drain().await;
}
