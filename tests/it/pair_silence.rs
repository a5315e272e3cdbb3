//! Heartbeats on an idle connection, and when silence ends it.

use std::time::Duration;

use mahspeccy_bridge::ctrader::connection::ConnectionError;
use mahspeccy_bridge::sim::presets::{WORKED_ACCOUNT as ACCOUNT, WORKED_TOKEN, worked_example};

use crate::support::pair::Pair;

const HEARTBEAT: u32 = 51;

fn live() -> Pair {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair
}

fn gaps_before_heartbeats(pair: &Pair) -> Vec<Duration> {
    let pairs = pair.sent.windows(2);
    let heartbeats = pairs.filter(|pair| pair[1].1 == HEARTBEAT);
    heartbeats
        .map(|pair| pair[1].0.abs_diff(pair[0].0))
        .collect()
}

#[test]
fn a_heartbeat_leaves_after_ten_seconds_of_own_silence_and_not_before() {
    for answers_pings in [true, false] {
        let mut pair = Pair::new(worked_example());
        pair.answers_pings = answers_pings;
        pair.go_live(ACCOUNT, WORKED_TOKEN);
        pair.run(Duration::from_mins(10));
        let gaps = gaps_before_heartbeats(&pair);
        assert!(gaps.len() >= 58, "{}", gaps.len());
        assert!(
            gaps.iter().all(|gap| *gap == Duration::from_secs(10)),
            "{gaps:?}"
        );
        assert_eq!(pair.broker.stats().idle_timeouts, 0);
        assert!(pair.connected && pair.suspicions().is_empty());
        pair.assert_truth(ACCOUNT);
    }
}

#[test]
fn requests_stand_in_for_heartbeats() {
    let mut pair = live();
    for _ in 0..12 {
        pair.run(Duration::from_secs(5));
        pair.client.verify_token(
            1,
            &mahspeccy_bridge::domain::secret::Secret::new(WORKED_TOKEN),
            pair.now(),
        );
        pair.drain();
    }
    assert_eq!(pair.sent_of(HEARTBEAT), 0);
}

#[test]
fn a_market_that_speaks_is_not_pinged() {
    let mut pair = Pair::new(worked_example().ticks_per_second(5.0));
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.hand(mahspeccy_bridge::sim::Broker::market_resume);
    pair.run_briefly();
    let before = pair.pings.len();
    pair.run(Duration::from_mins(1));
    assert_eq!(pair.pings.len(), before);
    assert!(pair.suspicions().is_empty());
}

#[test]
fn a_frozen_link_that_answered_pings_is_suspect_in_time_and_then_given_up() {
    let mut pair = live();
    pair.run(Duration::from_secs(20));
    let frozen_at = pair.elapsed();
    pair.hand(mahspeccy_bridge::sim::Broker::half_open_all);
    pair.run(Duration::from_secs(30));
    let suspicions = pair.suspicions();
    assert_eq!(suspicions.len(), 1);
    assert!(
        !suspicions[0].1 && suspicions[0].0.abs_diff(frozen_at) <= Duration::from_millis(2_300),
        "{suspicions:?}"
    );
    assert_eq!(pair.failure(), Some(ConnectionError::Silent));
    let (failed_at, _) = pair.events.last().expect("it failed");
    assert!(failed_at.abs_diff(frozen_at) <= Duration::from_millis(10_100));
}

#[test]
fn a_link_that_comes_back_is_believed_again() {
    let mut pair = live();
    pair.answers_pings = false;
    pair.run(Duration::from_secs(5));
    assert!(!pair.client.is_following());
    pair.answers_pings = true;
    pair.run(Duration::from_secs(2));
    assert!(pair.client.is_following());
    let states: Vec<bool> = pair
        .suspicions()
        .iter()
        .map(|(_, following)| *following)
        .collect();
    assert_eq!(states, [false, true]);
    pair.assert_truth(ACCOUNT);
}

#[test]
fn a_server_that_answers_no_pings_is_given_up_after_a_minute() {
    let mut pair = Pair::new(worked_example());
    pair.answers_pings = false;
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.run(Duration::from_mins(3));
    assert!(
        pair.suspicions().is_empty() && pair.failure().is_none(),
        "its heartbeats are enough"
    );
    let frozen_at = pair.elapsed();
    pair.hand(mahspeccy_bridge::sim::Broker::half_open_all);
    pair.run(Duration::from_secs(70));
    assert!(pair.suspicions().is_empty());
    assert_eq!(pair.failure(), Some(ConnectionError::Silent));
    let (failed_at, _) = pair.events.last().expect("it failed");
    assert!(failed_at.abs_diff(frozen_at) <= Duration::from_mins(1));
}

#[test]
fn an_unanswered_application_ends_the_connection() {
    let mut pair = Pair::new(worked_example());
    pair.broker.swallow_reply(Some(2100));
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.failure(), Some(ConnectionError::Unanswered));
    assert_eq!(pair.sent_of(2102), 0);
}
