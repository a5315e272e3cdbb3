//! No secret is ever printed, whatever goes wrong and however much is logged.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapin::BasicProperties;
use mahspeccy_bridge::sim::{AccountSpec, Builder, Simulator};
use tokio::process::Command;
use url::Url;

use super::support::fleet::{DEADLINE, Fleet, free_port};
use super::support::services;
use super::support::wait::eventually;

const USER: &str = "lance-4711@example.org";

/// Whatever comes out must not contain any of these.
const SECRETS: [&str; 9] = [
    "pg-password-5d1c",
    "amqp-password-90ab",
    "client-secret-3e7f",
    "access-token-a1b2",
    "replaced-token-c3d4",
    "invalid-token-e5f6",
    "refresh-token-0718",
    "in-the-payload-29ca",
    // The key of encrypted tokens, as it is in its variable.
    "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
];

fn world() -> Builder {
    let account = AccountSpec::new(1001)
        .token("access-token-a1b2")
        .token("replaced-token-c3d4")
        .balance(1_000_000);
    Simulator::builder()
        .app("client-id", "client-secret-3e7f")
        .account(account)
}

fn assert_silent(output: &str, further: &[&str]) {
    for secret in SECRETS.iter().chain(further) {
        let line = output.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} was printed");
    }
}

/// The database's URL with a password, which a server that trusts us does not ask for.
fn with_password(fleet: &Fleet) -> Option<String> {
    let mut url = Url::parse(fleet.db.url()).expect("a URL");
    if url.password().is_some() {
        return None;
    }
    url.set_password(Some("pg-password-5d1c"))
        .expect("a Postgres URL takes a password");
    Some(url.into())
}

async fn credentials(fleet: &Fleet, token: &str) {
    sqlx::query(
        "insert into bridge.credentials (user_id, account_id, is_live, access_token, refresh_token)
         values ($1, 1001, false, $2, 'refresh-token-0718')
         on conflict (user_id, account_id) do update set access_token = excluded.access_token",
    )
    .bind(USER)
    .bind(token)
    .execute(fleet.db.pool())
    .await
    .expect("the credentials are stored");
}

#[tokio::test]
async fn a_run_through_every_fault_logs_no_secret_and_no_user() {
    let mut fleet = Fleet::new(world()).await;
    let database_url = with_password(&fleet).unwrap_or_else(|| fleet.db.url().to_owned());
    let key = STANDARD.encode("0123456789abcdef0123456789abcdef");
    let worker = fleet
        .worker_with(&[
            ("RUST_LOG", "trace"),
            ("DATABASE_URL", &database_url),
            ("CTRADER_CLIENT_ID", "client-id"),
            ("CTRADER_CLIENT_SECRET", "client-secret-3e7f"),
            ("TOKEN_ENCRYPTION_KEY", &key),
        ])
        .await;
    for refused in ["invalid-token-e5f6", "enc:v1:aW52YWxpZC10b2tlbi1lNWY2"] {
        credentials(&fleet, refused).await;
        fleet.start(USER, None).await;
        fleet
            .until_row("the refusal", DEADLINE, USER, 1001, |row| {
                row.status == "failed"
            })
            .await;
        // So that the next one is a failure of its own.
        fleet.stop(USER, None).await;
        fleet
            .until_row("the stop", DEADLINE, USER, 1001, |row| {
                row.status == "stopped"
            })
            .await;
    }
    credentials(&fleet, "access-token-a1b2").await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    credentials(&fleet, "replaced-token-c3d4").await;

    // cTrader, then the broker, then Postgres.
    fleet.sim.unplug().await;
    fleet
        .until_row("the loss", DEADLINE, USER, 1001, |row| !row.connected)
        .await;
    fleet.sim.plug_in().await.expect("the ports are free");
    fleet.until_live(USER, 1001).await;
    for poison in [
        "{\"userId\": \"in-the-payload-29ca",
        "{\"id\": \"in-the-payload-29ca\"}",
        "in-the-payload-29ca",
    ] {
        fleet
            .vhost
            .publish(
                "bridge.commands",
                "start",
                poison.as_bytes(),
                BasicProperties::default(),
            )
            .await;
    }
    eventually("the poison to be dead-lettered", DEADLINE, async || {
        fleet.vhost.queue_depth("bridge.commands.dead").await == Some(3)
    })
    .await;
    fleet.vhost.close_all_connections().await;
    let since = fleet.clock().await;
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name like 'mahspeccy-bridge%'",
    )
    .execute(fleet.db.pool())
    .await
    .expect("it is allowed");
    fleet
        .until_row("the row under a new claim", DEADLINE, USER, 1001, |row| {
            row.connected && row.updated > since && row.epoch > 1
        })
        .await;
    eventually("the worker to be ready again", DEADLINE, async || {
        worker.get("/readyz").await.0 == 200
    })
    .await;
    for path in ["/health", "/readyz", "/livez", "/metrics", "/"] {
        let (_, body) = worker.get(path).await;
        assert_silent(&body, &[USER, "lance"]);
    }

    let amqp = Url::parse(fleet.vhost.url()).expect("a URL");
    let password = amqp
        .password()
        .expect("the vhost's user has one")
        .to_owned();
    let log = worker.drain().await;
    assert!(
        log.contains("\"TRACE\"") || log.contains("\"DEBUG\""),
        "{log}"
    );
    assert_silent(&log, &[USER, &password]);
}

/// Everything that a call printed until it ended by itself.
async fn printed_by(mut call: Command, within: Duration) -> (Option<i32>, String) {
    let output = tokio::time::timeout(within, call.output())
        .await
        .expect("it ends by itself")
        .expect("it runs");
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8(printed).expect("text"),
    )
}

/// A port that nobody listens on, for as long as nobody else takes it.
fn closed() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[tokio::test]
async fn dependencies_that_stay_away_or_refuse_are_said_without_their_passwords() {
    let fleet = Fleet::new(world()).await;
    let mut refusing = services::amqp_url();
    refusing.set_path(fleet.vhost.name());
    refusing.set_username("nobody-here").expect("a name");
    refusing
        .set_password(Some("amqp-password-90ab"))
        .expect("a password");
    let away = format!("postgres://lance:pg-password-5d1c@{}/x", closed());
    let (refusing, away) = (
        ("AMQP_URL", refusing.as_str()),
        ("DATABASE_URL", away.as_str()),
    );
    let ends = async |arguments: &[&str], variable: (&str, &str), within: u64| {
        let mut call = fleet.call(arguments);
        call.env(variable.0, variable.1)
            .env("PORT", free_port().to_string())
            .env("RUST_LOG", "trace")
            .env("CTRADER_CLIENT_SECRET", "client-secret-3e7f");
        let (code, output) = printed_by(call, Duration::from_secs(within)).await;
        assert_eq!(code, Some(69), "{arguments:?}: {output}");
        assert_silent(&output, &[]);
        let lower = output.to_ascii_lowercase();
        assert!(lower.contains("refused"), "{arguments:?}: {output}");
    };
    // Workers wait up to their deadline of 30 s, the others don't; side by side, to wait once.
    tokio::join!(
        ends(&["start", USER], refusing, 20),
        ends(&["stop", USER, "--account", "1001"], refusing, 20),
        ends(&["migrate"], away, 20),
        ends(&["worker"], refusing, 45),
        ends(&["worker"], away, 45),
    );
}

#[tokio::test]
async fn a_variable_in_the_wrong_place_is_named_and_not_shown() {
    let fleet = Fleet::new(world()).await;
    let mut call = fleet.call(&["worker"]);
    for (variable, secret) in [
        ("DATABASE_URL", "amqp://x:pg-password-5d1c@localhost/"),
        ("AMQP_URL", "postgres://x:amqp-password-90ab@localhost/"),
        ("CTRADER_DEMO_URL", "https://client-secret-3e7f.example/"),
        ("CTRADER_LIVE_URL", "access-token-a1b2"),
        ("TOKEN_ENCRYPTION_KEY", "refresh-token-0718"),
        ("CTRADER_CONNECTIONS", "replaced-token-c3d4"),
        ("LOG_FORMAT", "invalid-token-e5f6"),
        ("CTRADER_CA_FILE", "/nowhere/in-the-payload-29ca"),
    ] {
        call.env(variable, secret);
    }
    call.env_remove("CTRADER_CLIENT_SECRET");
    let (code, output) = printed_by(call, DEADLINE).await;
    assert_eq!(code, Some(64), "{output}");
    assert_eq!(output.lines().count(), 9, "{output}");
    assert_silent(&output, &[]);
}
