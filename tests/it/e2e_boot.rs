//! Starting over TLS, from a file, several at once, and the calls that are not a worker.

use mahspeccy_bridge::sim::{AccountSpec, Builder, Simulator};
use serde_json::Value;

use super::support::fleet::{DEADLINE, Fleet, free_port};

const USER: &str = "lance@example.org";

fn world() -> Builder {
    let account = AccountSpec::new(1001).token("token-a").balance(1_000_000);
    Simulator::builder().account(account)
}

#[tokio::test]
async fn over_tls_a_server_is_trusted_by_the_authority_that_is_named() {
    let mut fleet = Fleet::new(world()).await;
    let authority = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(authority.path(), fleet.sim.ca_pem()).expect("it can be written");
    let path = authority.path().to_str().expect("a path").to_owned();
    let (demo, live) = (fleet.sim.demo_tls_url(), fleet.sim.live_tls_url());
    fleet.connect(USER, 1001, "token-a").await;

    let urls = [
        ("CTRADER_DEMO_URL", demo.as_str()),
        ("CTRADER_LIVE_URL", live.as_str()),
    ];
    let stranger = fleet.worker_with(&urls).await;
    fleet.start(USER, None).await;
    let row = fleet
        .until_row("the failure to be reported", DEADLINE, USER, 1001, |row| {
            row.last_error.is_some()
        })
        .await;
    assert!(!row.connected, "{row:?}");
    assert_eq!(fleet.sim.with(|broker| broker.stats().requests), 0);
    stranger.drain().await;

    let mut trusting = urls.to_vec();
    trusting.push(("CTRADER_CA_FILE", path.as_str()));
    let worker = fleet.worker_with(&trusting).await;
    fleet.until_live(USER, 1001).await;
    fleet.until_true(USER, 1001).await;
    worker.drain().await;
}

#[tokio::test]
async fn commands_published_before_the_first_worker_are_applied_by_it() {
    let mut fleet = Fleet::new(world()).await;
    fleet.connect(USER, 1001, "token-a").await;
    // The call declares the queue itself, so an empty broker is enough.
    let output = fleet
        .call(&["start", USER, "--account", "1001"])
        .output()
        .await;
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.starts_with("start ") && text.trim_end().ends_with("confirmed"),
        "{text}"
    );
    assert_eq!(fleet.vhost.queue_depth("bridge.commands").await, Some(1));
    let worker = fleet.worker().await;
    fleet.until_live(USER, 1001).await;
    let output = fleet.call(&["stop", USER]).output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    fleet
        .until_row("the stop to be applied", DEADLINE, USER, 1001, |row| {
            row.status == "stopped" && !row.connected
        })
        .await;
    worker.drain().await;
}

#[tokio::test]
async fn calls_that_cannot_be_understood_or_carried_out_end_with_their_codes() {
    let fleet = Fleet::new(world()).await;
    let nobody = format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port());
    let long = "x".repeat(321);
    for (arguments, url, expected) in [
        (&["start"][..], None, 64),
        (&["start", ""], None, 64),
        (&["start", &long], None, 64),
        (&["stop", USER, "--account", "0"], None, 64),
        (&["stop", USER, "--account", "-1"], None, 64),
        (
            &["stop", USER, "--account", "9223372036854775808"],
            None,
            64,
        ),
        (&["start", USER, "--amount", "1"], None, 64),
        (&["begin", USER], None, 64),
        (&["start", USER], Some("https://example.org"), 64),
        (&["start", USER], Some(&*nobody), 69),
        (&["stop", USER], Some(&*nobody), 69),
        (&["--version"], None, 0),
        (&["--help"], None, 0),
    ] {
        let mut call = fleet.call(arguments);
        if let Some(url) = url {
            call.env("AMQP_URL", url);
        }
        let output = tokio::time::timeout(DEADLINE, call.output()).await;
        let output = output.expect("it ends by itself").expect("it runs");
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{arguments:?} {output:?}"
        );
        let text = if expected == 0 {
            &output.stdout
        } else {
            &output.stderr
        };
        assert!(!text.is_empty(), "{arguments:?} {output:?}");
    }
    assert_eq!(
        fleet
            .vhost
            .queue_depth("bridge.commands")
            .await
            .unwrap_or(0),
        0
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_fault_of_the_configuration() {
    let fleet = Fleet::new(world()).await;
    let taken = std::net::TcpListener::bind("[::]:0")
        .or_else(|_| std::net::TcpListener::bind("0.0.0.0:0"))
        .expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let mut call = fleet.call(&["worker"]);
    call.env("PORT", port.to_string());
    let output = tokio::time::timeout(DEADLINE, call.output()).await;
    let output = output.expect("it ends by itself").expect("it runs");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.contains(&port.to_string()), "{text}");
}

#[tokio::test]
async fn an_idle_worker_ends_by_itself_when_the_file_of_variables_says_so() {
    let mut fleet = Fleet::new(world()).await;
    std::fs::write(
        fleet.directory().join(".env"),
        "IDLE_EXIT_SECS=4\nWORKER_ID=from-the-file\nPORT=1\n",
    )
    .expect("it can be written");
    let mut worker = fleet.worker().await;
    let health: Value = serde_json::from_str(&worker.get("/health").await.1).expect("json");
    assert_eq!(health["workerId"], worker.id.as_str(), "real variables win");
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    let live = fleet.until_live(USER, 1001).await;
    fleet
        .until_row("rounds past the time", DEADLINE, USER, 1001, |row| {
            row.connected && row.updated > live.updated + 6.0
        })
        .await;
    fleet.stop(USER, None).await;
    assert_eq!(worker.ended(DEADLINE).await.code(), Some(0));
    let row = fleet.row(USER, 1001).await.expect("it is there");
    assert_eq!((row.connected, row.status.as_str()), (false, "stopped"));
}
