//! The health routes when it matters: while the worker is busy, and when its main loop has stalled.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mahspeccy_bridge::config::{Config, Env};
use mahspeccy_bridge::shutdown::Stages;
use mahspeccy_bridge::sim::{
    AccountSpec, CLIENT_ID, CLIENT_SECRET, PositionSpec, Side, Simulator, raw,
};
use mahspeccy_bridge::worker::{self, WorkerConfig};
use tokio::sync::oneshot;

use super::support::fleet::{DEADLINE, Fleet, free_port};
use super::support::wait::eventually;

/// What a check of Fly's waits for at most, and then some.
const ANSWER_MAX: Duration = Duration::from_millis(50);

async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}"))
        .await
        .ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

/// A whole worker on one thread, which this test can hold up: whatever blocks a thread of a real one for
/// good does the same to it.
#[tokio::test]
async fn livez_says_which_loop_has_stalled_and_is_well_when_it_goes_on() {
    let fleet = Fleet::new(Simulator::builder().market_paused()).await;
    let port = free_port();
    let env = Env::from_pairs([
        ("DATABASE_URL", fleet.db.url().to_owned()),
        ("AMQP_URL", fleet.vhost.url().to_owned()),
        ("CTRADER_CLIENT_ID", CLIENT_ID.to_owned()),
        ("CTRADER_CLIENT_SECRET", CLIENT_SECRET.to_owned()),
        ("CTRADER_DEMO_URL", fleet.sim.demo_url()),
        ("CTRADER_LIVE_URL", fleet.sim.live_url()),
        ("WORKER_ID", "held-up".to_owned()),
        ("PORT", port.to_string()),
    ]);
    let config = Config::for_worker(&env).expect("a good configuration");
    let stages = Stages::default();
    let told = stages.clone();
    let (block, blocked) = oneshot::channel::<mpsc::Receiver<()>>();
    let worker = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            tokio::spawn(async move {
                if let Ok(release) = blocked.await {
                    // On purpose: the thread stands still.
                    let _ = release.recv();
                }
            });
            worker::run(WorkerConfig::from(config), told).await
        })
    });
    eventually("the worker to be ready", DEADLINE, async || {
        get(port, "/readyz")
            .await
            .is_some_and(|(code, _)| code == 200)
    })
    .await;
    let well = get(port, "/livez").await.expect("an answer");
    assert_eq!(well.0, 200, "{}", well.1);

    let (release, released) = mpsc::channel();
    block.send(released).expect("it waits for it");
    let body = eventually("the stall to be reported", DEADLINE, async || {
        let (code, body) = get(port, "/livez").await?;
        (code == 503).then_some(body)
    })
    .await;
    assert!(body.contains("the main loop is silent"), "{body}");

    release.send(()).expect("it is still held");
    eventually("the worker to be well again", DEADLINE, async || {
        get(port, "/livez")
            .await
            .is_some_and(|(code, _)| code == 200)
    })
    .await;
    stages.advance();
    let ended = tokio::task::spawn_blocking(move || worker.join())
        .await
        .expect("it was waited for");
    ended.expect("no panic").expect("it drained");
}

/// The most that this machine can do beside other tests, not what a worker can.
#[tokio::test]
async fn health_routes_answer_at_once_while_many_accounts_stream() {
    let mut world = Simulator::builder().ticks_per_second(50.0);
    for account in 0..40 {
        world = world.account(
            AccountSpec::new(1001 + account)
                .token("token-a-8c1f")
                .activity(Duration::from_secs(1))
                .position(PositionSpec::new(
                    501 + account,
                    "EURUSD",
                    Side::Buy,
                    100_000,
                    raw("1.1"),
                )),
        );
    }
    let mut fleet = Fleet::new(world).await;
    let worker = fleet
        .worker_with(&[("CACHE_WRITE_INTERVAL_MS", "100")])
        .await;
    for account in 0..40 {
        let user = format!("user-{account}@example.org");
        fleet.connect(&user, 1001 + account, "token-a-8c1f").await;
        fleet.start(&user, None).await;
    }
    fleet.until_live("user-39@example.org", 1040).await;
    let mut took = Vec::new();
    for path in ["/health", "/livez", "/readyz", "/metrics"].repeat(25) {
        let began = Instant::now();
        let answer = get(worker.port, path).await;
        took.push(began.elapsed());
        assert_eq!(answer.expect("an answer").0, 200, "{path}");
    }
    took.sort_unstable();
    // The slower half is the machine's, which may have no processor for the client.
    let half = took[took.len() / 2];
    println!("half within {half:?}, all within {:?}", took.last());
    assert!(
        half < ANSWER_MAX,
        "half within {half:?}, all within {:?}",
        took.last()
    );
    worker.drain().await;
}
