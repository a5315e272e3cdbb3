//! `check`: every dependency broken in turn; the line that names it, and what the worker does then.

use std::time::Duration;

use mahspeccy_bridge::sim::{AccountSpec, Builder, Simulator};
use url::Url;

use super::support::fleet::{DEADLINE, Fleet, free_port};
use super::support::pgbouncer::{PgBouncer, PoolMode};
use super::support::wait::eventually;

/// The lines of a report, in order.
const LINES: [&str; 10] = [
    "Postgres",
    "pooler",
    "schema",
    "rights",
    "locks",
    "clock",
    "RabbitMQ",
    "queues",
    "cTrader demo",
    "cTrader live",
];

fn quiet() -> Builder {
    Simulator::builder()
        .market_paused()
        .account(AccountSpec::new(1001).token("token-a-8c1f"))
}

/// A report.
struct Report {
    code: Option<i32>,
    text: String,
}

impl Report {
    async fn of(fleet: &Fleet, variables: &[(&str, &str)]) -> Self {
        let mut call = fleet.call(&["check"]);
        call.envs(variables.iter().copied());
        let output = tokio::time::timeout(DEADLINE, call.output())
            .await
            .expect("it ends by itself")
            .expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(!text.contains("hunter2"), "{text}");
        Self {
            code: output.status.code(),
            text,
        }
    }

    /// The line about something: its outcome and its text.
    fn line(&self, what: &str) -> (&str, &str) {
        let lines = self
            .text
            .lines()
            .filter_map(|line| line.split_at_checked(6));
        let mut about = lines.filter(|(_, rest)| rest.starts_with(&format!("{what}  ")));
        let (outcome, rest) = about
            .next()
            .unwrap_or_else(|| panic!("{what} in {}", self.text));
        assert!(
            about.next().is_none(),
            "one line about {what} in {}",
            self.text
        );
        (outcome.trim(), rest[what.len()..].trim())
    }

    /// That this alone fails, with cause and fix in its one line; the rest holds or was not tried.
    fn blames(&self, what: &str, cause: &str, fix: &str) {
        assert_eq!(self.code, Some(69), "{}", self.text);
        let (outcome, text) = self.line(what);
        assert_eq!(outcome, "FAIL", "{}", self.text);
        let (shown_cause, shown_fix) = text.split_once(". To fix it: ").expect("two clauses");
        assert!(shown_cause.contains(cause), "{text}");
        assert!(shown_fix.contains(fix), "{text}");
        for other in LINES.iter().filter(|line| **line != what) {
            assert_ne!(self.line(other).0, "FAIL", "{}", self.text);
        }
    }
}

/// The exit code of a worker that ends by itself.
async fn worker_ends(fleet: &Fleet, variables: &[(&str, &str)]) -> Option<i32> {
    let mut call = fleet.call(&["worker"]);
    call.env("PORT", free_port().to_string())
        .envs(variables.iter().copied());
    let output = tokio::time::timeout(Duration::from_mins(1), call.output())
        .await
        .expect("it ends by itself")
        .expect("it runs");
    output.status.code()
}

fn with_password(url: &str, password: &str) -> String {
    let mut url = Url::parse(url).expect("a url");
    url.set_password(Some(password)).expect("it takes one");
    url.into()
}

fn with_port(url: &str, port: u16) -> String {
    let mut url = Url::parse(url).expect("a url");
    url.set_port(Some(port)).expect("it takes one");
    url.into()
}

async fn execute(fleet: &Fleet, statement: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
        .execute(fleet.db.pool())
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
}

#[tokio::test]
async fn all_holds_with_tls_and_a_root_of_ones_own() {
    let fleet = Fleet::new(quiet()).await;
    let roots = fleet.directory().join("roots.pem");
    std::fs::write(&roots, fleet.sim.ca_pem()).expect("a file");
    let report = Report::of(
        &fleet,
        &[
            ("CTRADER_DEMO_URL", &fleet.sim.demo_tls_url()),
            ("CTRADER_LIVE_URL", &fleet.sim.live_tls_url()),
            ("CTRADER_CA_FILE", roots.to_str().expect("text")),
        ],
    )
    .await;
    assert_eq!(report.code, Some(0), "{}", report.text);
    for what in LINES {
        assert_eq!(report.line(what).0, "ok", "{}", report.text);
    }
    assert_eq!(report.text.lines().count(), LINES.len());
    // No terminal, no colours.
    assert!(!report.text.contains('\x1b'), "{:?}", report.text);
}

#[tokio::test]
async fn a_wrong_password_of_postgres_is_named() {
    let fleet = Fleet::new(quiet()).await;
    let guarded = PgBouncer::guarded(fleet.db.url(), "right");
    let good = with_password(guarded.url(), "right");
    let report = Report::of(&fleet, &[("DATABASE_URL", &good)]).await;
    assert_eq!(report.code, Some(0), "{}", report.text);
    let bad = with_password(guarded.url(), "hunter2");
    let report = Report::of(&fleet, &[("DATABASE_URL", &bad)]).await;
    report.blames("Postgres", "password", "user and password in DATABASE_URL");
    assert_eq!(
        worker_ends(&fleet, &[("DATABASE_URL", &bad)]).await,
        Some(69)
    );
}

#[tokio::test]
async fn a_wrong_port_of_postgres_is_named() {
    let fleet = Fleet::new(quiet()).await;
    let closed = with_port(fleet.db.url(), free_port());
    let report = Report::of(&fleet, &[("DATABASE_URL", &closed)]).await;
    report.blames("Postgres", "nothing listens", "port in DATABASE_URL");
    for what in ["pooler", "schema", "rights", "locks", "clock"] {
        assert_eq!(report.line(what).0, "skip");
    }
    // Down or misspelt, nobody can tell: the worker waits for it, but not for ever.
    assert_eq!(
        worker_ends(&fleet, &[("DATABASE_URL", &closed)]).await,
        Some(69)
    );
}

#[tokio::test]
async fn a_port_where_something_else_listens_is_named() {
    let fleet = Fleet::new(quiet()).await;
    let broker = Url::parse(fleet.vhost.url()).expect("a url");
    let port = broker.port().expect("a port");
    let report = Report::of(
        &fleet,
        &[("DATABASE_URL", &with_port(fleet.db.url(), port))],
    )
    .await;
    report.blames("Postgres", "", "DATABASE_URL");
}

#[tokio::test]
async fn a_name_that_is_not_known_is_named() {
    let fleet = Fleet::new(quiet()).await;
    let url = "postgres://me:hunter2@nowhere.invalid:5432/postgres";
    let report = Report::of(&fleet, &[("DATABASE_URL", url)]).await;
    report.blames(
        "Postgres",
        "host name of nowhere.invalid",
        "host and port in DATABASE_URL",
    );
}

#[tokio::test]
async fn a_transaction_pooler_is_named() {
    let fleet = Fleet::new(quiet()).await;
    let pooler = PgBouncer::start(fleet.db.url(), PoolMode::Transaction, 10);
    let report = Report::of(&fleet, &[("DATABASE_URL", pooler.url())]).await;
    report.blames(
        "pooler",
        "transaction pooler",
        "session pooler in DATABASE_URL",
    );
    assert_eq!(
        worker_ends(&fleet, &[("DATABASE_URL", pooler.url())]).await,
        Some(64)
    );
}

#[tokio::test]
async fn a_schema_that_is_missing_or_old_is_named() {
    let fleet = Fleet::new(quiet()).await;
    execute(
        &fleet,
        "delete from bridge._sqlx_migrations where version = (select max(version) from bridge._sqlx_migrations)",
    )
    .await;
    let report = Report::of(&fleet, &[]).await;
    report.blames("schema", "is needed", "mahspeccy-bridge migrate");
    assert_eq!(worker_ends(&fleet, &[]).await, Some(69));

    execute(&fleet, "drop schema bridge cascade").await;
    let report = Report::of(&fleet, &[]).await;
    report.blames("schema", "no bridge schema", "mahspeccy-bridge migrate");
    assert_eq!(report.line("rights").0, "skip");
    assert_eq!(worker_ends(&fleet, &[]).await, Some(69));
}

#[tokio::test]
async fn a_role_without_rights_is_named() {
    let fleet = Fleet::new(quiet()).await;
    let role = format!("{}_guest", fleet.db.name());
    execute(
        &fleet,
        &format!(
            "create role {role} login; grant usage on schema bridge to {role};
                  grant select on all tables in schema bridge to {role}"
        ),
    )
    .await;
    let mut url = Url::parse(fleet.db.url()).expect("a url");
    url.set_username(&role).expect("a name");
    let report = Report::of(&fleet, &[("DATABASE_URL", url.as_str())]).await;
    execute(&fleet, &format!("drop owned by {role}; drop role {role}")).await;
    report.blames(
        "rights",
        "may not",
        "connect as the role that ran `migrate`",
    );
}

#[tokio::test]
async fn the_role_that_the_migrations_make_for_workers_has_all_rights() {
    let fleet = Fleet::new(quiet()).await;
    let role = format!("{}_worker", fleet.db.name());
    execute(
        &fleet,
        &format!("create role {role} login in role bridge_worker"),
    )
    .await;
    let mut url = Url::parse(fleet.db.url()).expect("a url");
    url.set_username(&role).expect("a name");
    let report = Report::of(&fleet, &[("DATABASE_URL", url.as_str())]).await;
    execute(&fleet, &format!("drop role {role}")).await;
    assert_eq!(report.code, Some(0), "{}", report.text);
}

#[tokio::test]
async fn a_broker_that_refuses_us_is_named() {
    let fleet = Fleet::new(quiet()).await;
    let bad = with_password(fleet.vhost.url(), "hunter2");
    let report = Report::of(&fleet, &[("AMQP_URL", &bad)]).await;
    report.blames("RabbitMQ", "refuses user or password", "AMQP_URL");
    assert_eq!(report.line("queues").0, "skip");

    let mut elsewhere = Url::parse(fleet.vhost.url()).expect("a url");
    elsewhere.set_path("no-such-vhost");
    let report = Report::of(&fleet, &[("AMQP_URL", elsewhere.as_str())]).await;
    report.blames("RabbitMQ", "vhost", "the vhost at the end of AMQP_URL");

    let closed = with_port(fleet.vhost.url(), free_port());
    let report = Report::of(&fleet, &[("AMQP_URL", &closed)]).await;
    report.blames("RabbitMQ", "nothing listens", "port in AMQP_URL");
    assert_eq!(
        worker_ends(&fleet, &[("AMQP_URL", &closed)]).await,
        Some(69)
    );
}

#[tokio::test]
async fn a_broker_user_without_rights_is_named() {
    let fleet = Fleet::new(quiet()).await;
    for (configure, write, read) in [("^$", "^$", "^$"), (".*", "^$", ".*"), (".*", ".*", "^$")] {
        fleet.vhost.permit(configure, write, read).await;
        let report = Report::of(&fleet, &[]).await;
        report.blames("queues", "ACCESS_REFUSED", "set_permissions");
    }
    fleet.vhost.permit("^$", "^$", "^$").await;
    assert_eq!(worker_ends(&fleet, &[]).await, Some(69));
    // The named fix is enough.
    fleet
        .vhost
        .permit(r"^bridge\.", r"^bridge\.", r"^bridge\.")
        .await;
    let report = Report::of(&fleet, &[]).await;
    assert_eq!(report.code, Some(0), "{}", report.text);
}

#[tokio::test]
async fn a_wrong_client_secret_is_named_and_the_worker_waits() {
    let mut fleet = Fleet::new(quiet()).await;
    let wrong = [("CTRADER_CLIENT_SECRET", "hunter2")];
    let report = Report::of(&fleet, &wrong).await;
    assert_eq!(report.code, Some(69), "{}", report.text);
    for what in ["cTrader demo", "cTrader live"] {
        let (outcome, text) = report.line(what);
        assert_eq!(outcome, "FAIL", "{}", report.text);
        assert!(
            text.contains("refuses the application: CH_CLIENT_AUTH_FAILURE"),
            "{text}"
        );
        assert!(
            text.contains("set CTRADER_CLIENT_ID and CTRADER_CLIENT_SECRET"),
            "{text}"
        );
    }
    // Whoever mends it restarts the worker; until then commands are taken and sessions fail.
    let worker = fleet.worker_with(&wrong).await;
    fleet
        .connect("secret@example.org", 1001, "token-a-8c1f")
        .await;
    fleet.start("secret@example.org", None).await;
    let row = fleet
        .until_row(
            "the session to fail",
            DEADLINE,
            "secret@example.org",
            1001,
            |row| row.status == "failed",
        )
        .await;
    assert!(
        row.last_error
            .is_some_and(|why| why.contains("refuses this application"))
    );
    worker.drain().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_named_and_the_worker_waits() {
    let mut fleet = Fleet::new(quiet()).await;
    let url = fleet.sim.demo_tls_url();
    let untrusted = [("CTRADER_DEMO_URL", url.as_str())];
    let report = Report::of(&fleet, &untrusted).await;
    report.blames("cTrader demo", "is not trusted", "CTRADER_CA_FILE");
    let worker = fleet.worker_with(&untrusted).await;
    fleet.connect("tls@example.org", 1001, "token-a-8c1f").await;
    fleet.start("tls@example.org", None).await;
    fleet
        .until_row(
            "the session to wait",
            DEADLINE,
            "tls@example.org",
            1001,
            |row| row.status == "reconnecting" && !row.connected,
        )
        .await;
    eventually("the worker to report it", DEADLINE, async || {
        let (_, health) = worker.get("/health").await;
        health.contains("degraded").then_some(()).ok_or(health)
    })
    .await;
    worker.drain().await;
}

#[tokio::test]
async fn a_host_that_is_not_ctraders_is_named() {
    let fleet = Fleet::new(quiet()).await;
    let closed = format!("ws://127.0.0.1:{}", free_port());
    let report = Report::of(&fleet, &[("CTRADER_LIVE_URL", &closed)]).await;
    report.blames("cTrader live", "nothing listens", "CTRADER_LIVE_URL");
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_is_named_and_the_worker_says_so() {
    let mut fleet = Fleet::new(quiet()).await;
    // Whose clock is wrong nobody can tell; here it is the server's, for this database alone.
    execute(
        &fleet,
        &format!(
            "create schema lying; grant usage on schema lying to public;
             create function lying.clock_timestamp() returns timestamptz language sql volatile
                as $$ select pg_catalog.clock_timestamp() + interval '1 hour' $$;
             alter database {} set search_path = lying, pg_catalog, public",
            fleet.db.name()
        ),
    )
    .await;
    let report = Report::of(&fleet, &[]).await;
    report.blames("clock", "3600.0 s behind Postgres", "NTP");
    let worker = fleet.worker().await;
    let log = worker.drain().await;
    assert!(log.contains("clock"), "{log}");
}
