//! The metrics: a running worker has all of the contract's, and they are correct.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mahspeccy_bridge::sim::{AccountSpec, PositionSpec, Side, Simulator, raw};

use super::support::fleet::{DEADLINE, Fleet, Worker};
use super::support::wait::eventually;

/// Names and labels, as the contract has them; a histogram by its count.
const CONTRACT: [(&str, &[&str]); 22] = [
    ("bridge_sessions", &["status"]),
    ("bridge_slots_held", &[]),
    ("bridge_commands_total", &["command", "outcome"]),
    ("bridge_ctrader_connections", &["environment", "state"]),
    ("bridge_ctrader_events_total", &["type"]),
    ("bridge_ctrader_requests_total", &["outcome"]),
    ("bridge_ctrader_request_queue", &[]),
    ("bridge_reconnects_total", &["environment", "reason"]),
    ("bridge_cache_rows_total", &["kind"]),
    ("bridge_cache_write_seconds_count", &[]),
    ("bridge_event_to_row_seconds_count", &[]),
    ("bridge_row_age_seconds_max", &[]),
    ("bridge_deals_total", &["source"]),
    ("bridge_pnl_drift_count", &[]),
    ("bridge_token_refresh_total", &["outcome"]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
    ("process_threads", &[]),
    ("process_open_fds", &[]),
    ("process_max_fds", &[]),
    ("process_start_time_seconds", &[]),
    ("bridge_cache_write_seconds_bucket", &["le"]),
];

/// Series by name and labels.
#[derive(Debug)]
struct Series(BTreeMap<String, f64>);

impl Series {
    async fn of(worker: &Worker) -> Self {
        let (code, text) = worker.get("/metrics").await;
        assert_eq!(code, 200);
        let series = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                (name.to_owned(), value.parse().expect("a number"))
            });
        Self(series.collect())
    }

    fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }
}

/// The labels that a metric has.
fn labels(series: &Series, name: &str) -> Option<BTreeSet<String>> {
    let key = series
        .0
        .keys()
        .find(|key| key.split('{').next() == Some(name))?;
    let inside = key
        .split_once('{')
        .map_or("", |(_, labels)| labels.trim_end_matches('}'));
    let names = inside.split(',').filter_map(|pair| pair.split('=').next());
    Some(
        names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

#[tokio::test]
async fn a_running_worker_has_all_metrics_of_the_contract_and_they_are_true() {
    let world = Simulator::builder().ticks_per_second(20.0).account(
        AccountSpec::new(1001)
            .token("token-a-8c1f")
            .activity(Duration::from_millis(300))
            .position(PositionSpec::new(
                501,
                "EURUSD",
                Side::Buy,
                100_000,
                raw("1.1"),
            )),
    );
    let mut fleet = Fleet::new(world).await;
    let worker = fleet
        .worker_with(&[("CACHE_WRITE_INTERVAL_MS", "200")])
        .await;
    let before = Series::of(&worker).await;
    assert!((before.get(r#"bridge_sessions{status="live"}"#)).abs() < 0.5);

    fleet
        .connect("metrics@example.org", 1001, "token-a-8c1f")
        .await;
    fleet.start("metrics@example.org", None).await;
    fleet.start("unconnected@example.org", None).await;
    fleet
        .vhost
        .publish(
            "bridge.commands",
            "start",
            b"?",
            lapin::BasicProperties::default(),
        )
        .await;
    fleet.until_live("metrics@example.org", 1001).await;
    gauges_are_true(&worker).await;
    let moving = [
        r#"bridge_ctrader_events_total{type="spot"}"#,
        r#"bridge_ctrader_requests_total{outcome="sent"}"#,
        r#"bridge_ctrader_requests_total{outcome="answered"}"#,
        r#"bridge_cache_rows_total{kind="changed"}"#,
        "bridge_cache_write_seconds_count",
        "bridge_event_to_row_seconds_count",
        r#"bridge_deals_total{source="event"}"#,
    ];
    let series = eventually("everything to be counted", DEADLINE, async || {
        let series = Series::of(&worker).await;
        let still: Vec<_> = moving
            .iter()
            .filter(|name| series.get(name) < 1.0)
            .collect();
        if still.is_empty() {
            Ok(series)
        } else {
            Err(format!("{still:?}"))
        }
    })
    .await;
    assert!(
        series.get("bridge_row_age_seconds_max") < 20.0,
        "{series:?}"
    );
    assert!(series.get("process_resident_memory_bytes") > 1e6);
    assert!(series.get("process_open_fds") > 5.0);

    // A socket that is cut is counted, with the reason.
    fleet.sim.kill_sockets();
    eventually("the cut to be counted", DEADLINE, async || {
        let series = Series::of(&worker).await;
        let cuts = series
            .0
            .iter()
            .filter(|(name, _)| name.starts_with(r#"bridge_reconnects_total{environment="demo""#));
        cuts.map(|(_, count)| count).sum::<f64>() >= 1.0
    })
    .await;
    let series = Series::of(&worker).await;
    for (name, expected) in CONTRACT {
        let found = labels(&series, name).unwrap_or_else(|| panic!("{name} in {series:?}"));
        let expected: BTreeSet<String> = expected.iter().map(|label| (*label).to_owned()).collect();
        assert_eq!(found, expected, "{name}");
    }
    worker.drain().await;
}

/// Of two sessions, one of a user who has connected nothing, and three commands.
async fn gauges_are_true(worker: &Worker) {
    let expected = [
        (r#"bridge_sessions{status="live"}"#, 1.0),
        (r#"bridge_sessions{status="failed"}"#, 1.0),
        ("bridge_slots_held", 2.0),
        (
            r#"bridge_commands_total{command="start",outcome="applied"}"#,
            2.0,
        ),
        (
            r#"bridge_commands_total{command="unknown",outcome="dead"}"#,
            1.0,
        ),
        (
            r#"bridge_ctrader_connections{environment="demo",state="up"}"#,
            1.0,
        ),
        (
            r#"bridge_ctrader_connections{environment="live",state="idle"}"#,
            1.0,
        ),
    ];
    eventually("the gauges to be correct", DEADLINE, async || {
        let series = Series::of(worker).await;
        let wrong: Vec<_> = expected
            .iter()
            .map(|(name, value)| (*name, series.get(name), *value))
            .filter(|(_, found, value)| (found - value).abs() > 0.1)
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{wrong:?}"))
        }
    })
    .await;
}
