//! What no event reported: lost events, gaps, and the deals and cash operations that explain them.

use std::time::Duration;

use mahspeccy_bridge::ctrader::connection::Event;
use mahspeccy_bridge::domain::deal::Source;
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::domain::ledger::Unexplained;
use mahspeccy_bridge::sim::presets::ALPHA;
use mahspeccy_bridge::sim::{AccountSpec, Broker, PositionSpec, Refusal, Side, Simulator, raw};

use crate::support::pair::{Pair, Tamper};

const ACCOUNT: i64 = 1001;
const EXECUTION: u32 = 2126;
const DEAL_LIST: u32 = 2133;
const CASH_FLOW: u32 = 2143;
const WEEK_MS: i64 = 604_800_000;

fn pair() -> Pair {
    let spec = AccountSpec::new(ACCOUNT)
        .token("token")
        .broker(ALPHA)
        .balance(1_000_000)
        .position(PositionSpec::new(
            501,
            "EURUSD",
            Side::Buy,
            2_000_000,
            raw("1.08"),
        ));
    Pair::new(Simulator::builder().market_paused().account(spec))
}

fn live() -> Pair {
    let mut pair = pair();
    pair.go_live(ACCOUNT, "token");
    pair
}

/// A week ago, and a bit.
fn week_ago(pair: &Pair) -> i64 {
    pair.wall_ms() - WEEK_MS
}

fn ledger(pair: &Pair) -> Vec<i64> {
    let mut ids: Vec<i64> = pair
        .broker
        .deals(ACCOUNT)
        .iter()
        .map(|deal| deal.deal_id)
        .collect();
    ids.sort_unstable();
    ids
}

fn open_and_close(broker: &mut Broker, symbol: &str) {
    let position = broker
        .open_market(ACCOUNT, symbol, Side::Sell, 100_000)
        .expect("there is money");
    broker
        .close_position(ACCOUNT, position, None)
        .expect("it is open");
}

#[test]
fn a_first_look_has_the_last_week_in_windows_of_a_week_and_never_delays_going_live() {
    let mut pair = pair();
    pair.open(ACCOUNT, "token");
    pair.drive_until("it to be live", Duration::from_secs(5), |pair| {
        pair.is_live(ACCOUNT)
    });
    assert_eq!(pair.sent_of(DEAL_LIST), 0);
    let from_ms = week_ago(&pair);
    let report = pair.fetch_history(ACCOUNT, from_ms);
    assert_eq!((report.is_partial, report.unexplained), (false, None));
    assert_eq!(report.from_ms, from_ms);
    assert!(report.through_ms >= from_ms + WEEK_MS);
    assert_eq!(pair.deal_ids(ACCOUNT), ledger(&pair), "the position's own");
    assert_eq!((pair.sent_of(DEAL_LIST), pair.sent_of(CASH_FLOW)), (2, 0));
}

#[test]
fn a_lost_closing_event_is_noticed_and_its_deal_is_found() {
    for lost in ["the closing", "the opening and the closing"] {
        let mut pair = live();
        pair.fetch_history(ACCOUNT, week_ago(&pair));
        // Accepted and filled, and then accepted and filled.
        let frames = if lost == "the closing" { 2 } else { 4 };
        pair.hand(|broker| broker.settings_mut().trader_updates = false);
        if frames == 2 {
            pair.hand(|broker| broker.open_market(ACCOUNT, "GBPUSD", Side::Buy, 100_000))
                .expect("there is money");
            pair.run_briefly();
        }
        for _ in 0..frames {
            pair.link.tampers.push((EXECUTION, Tamper::Lose));
        }
        pair.hand(|broker| {
            let open = broker.truth(ACCOUNT).expect("it exists").positions;
            match open.iter().find(|position| position.id != 501) {
                Some(position) => drop(broker.close_position(ACCOUNT, position.id, None)),
                None => open_and_close(broker, "GBPUSD"),
            }
        });
        pair.run_briefly();
        assert!(pair.link.tampers.is_empty(), "all were lost");
        // The next change of the balance tells that one was missed.
        pair.hand(|broker| broker.deposit(ACCOUNT, 100));
        pair.drive_until("the loss to be noticed", Duration::from_secs(2), |pair| {
            pair.events
                .iter()
                .any(|(_, event)| *event == Event::GapDetected(AccountId(ACCOUNT)))
        });
        pair.wait_live(ACCOUNT);
        pair.assert_truth(ACCOUNT);
        let report = pair.fetch_history(ACCOUNT, week_ago(&pair));
        assert_eq!(report.unexplained, None, "{lost}");
        assert_eq!(pair.deal_ids(ACCOUNT), ledger(&pair), "{lost}");
        assert!(pair.downs(ACCOUNT).is_empty());
    }
}

#[test]
fn a_balance_that_changes_without_its_event_asks_for_a_new_snapshot() {
    let mut pair = live();
    pair.hand(|broker| broker.settings_mut().trader_updates = true);
    pair.link.tampers.push((EXECUTION, Tamper::Lose));
    pair.link.tampers.push((EXECUTION, Tamper::Lose));
    // The trader's update has the new balance, and nothing tells which position it came from.
    pair.hand(|broker| broker.close_position(ACCOUNT, 501, None))
        .expect("it is open");
    pair.run(Duration::from_secs(2));
    pair.wait_live(ACCOUNT);
    pair.assert_truth(ACCOUNT);
    assert_eq!(pair.lives(ACCOUNT), 2);
}

#[test]
fn events_that_overtake_each_other_are_no_loss() {
    let mut pair = live();
    pair.link.weather.overtaken = 400;
    for _ in 0..20 {
        pair.hand(|broker| broker.deposit(ACCOUNT, 100));
        pair.hand(|broker| broker.deposit(ACCOUNT, -50));
        pair.run_briefly();
    }
    pair.link.weather.overtaken = 0;
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
    assert_eq!(pair.lives(ACCOUNT), 1);
}

#[test]
fn an_opening_that_no_event_told_of_is_seen_by_the_audit_and_its_deal_found() {
    let mut pair = live();
    pair.fetch_history(ACCOUNT, week_ago(&pair));
    pair.run(Duration::from_secs(5));
    pair.link.tampers.push((EXECUTION, Tamper::Lose));
    pair.link.tampers.push((EXECUTION, Tamper::Lose));
    // Opening changes no balance: no version is jumped over.
    pair.hand(|broker| broker.open_market(ACCOUNT, "GBPUSD", Side::Buy, 100_000))
        .expect("there is money");
    pair.drive_until(
        "the difference to be seen",
        Duration::from_mins(8),
        |pair| {
            pair.events
                .iter()
                .any(|(_, event)| *event == Event::SnapshotDiverged(AccountId(ACCOUNT)))
        },
    );
    pair.wait_valued(ACCOUNT);
    pair.assert_truth(ACCOUNT);
    let report = pair.fetch_history(ACCOUNT, week_ago(&pair));
    assert_eq!(report.unexplained, None);
    assert_eq!(pair.deal_ids(ACCOUNT), ledger(&pair));
}

#[test]
fn what_happened_while_nobody_was_connected_is_explained_by_deals_and_cash() {
    let mut pair = live();
    let through = pair.fetch_history(ACCOUNT, week_ago(&pair)).through_ms;
    let before = ledger(&pair);
    pair.hand(|broker| {
        broker.half_open_all();
        open_and_close(broker, "GBPUSD");
        broker.deposit(ACCOUNT, 12_300);
        broker
            .close_position(ACCOUNT, 501, Some(1_000_000))
            .expect("it is open");
        broker
            .open_market(ACCOUNT, "USDJPY", Side::Buy, 100_000)
            .expect("there is money");
        open_and_close(broker, "GBPUSD");
        broker.deposit(ACCOUNT, -700);
    });
    pair.reconnect();
    pair.go_live(ACCOUNT, "token");
    pair.assert_truth(ACCOUNT);
    let report = pair.fetch_history(ACCOUNT, through - 3_600_000);
    assert_eq!(report.unexplained, None);
    let found: Vec<i64> = ledger(&pair)
        .into_iter()
        .filter(|id| !before.contains(id))
        .collect();
    let told: Vec<i64> = pair
        .deal_ids(ACCOUNT)
        .into_iter()
        .filter(|id| !before.contains(id))
        .collect();
    assert_eq!(told, found);
    assert!(pair.sent_of(CASH_FLOW) > 0, "two deposits");
    let is_gap = |event: &Event| matches!(event, Event::Deal(_, Source::Gap, _));
    assert!(pair.events.iter().any(|(_, event)| is_gap(event)));
}

#[test]
fn a_history_that_lags_is_asked_again_until_it_explains_the_account() {
    let mut pair = live();
    let through = pair.fetch_history(ACCOUNT, week_ago(&pair)).through_ms;
    let known = ledger(&pair);
    pair.hand(|broker| {
        broker.half_open_all();
        broker.history_lag(Duration::from_secs(4));
        open_and_close(broker, "GBPUSD");
        broker
            .open_market(ACCOUNT, "USDJPY", Side::Buy, 100_000)
            .expect("there is money");
    });
    pair.reconnect();
    pair.go_live(ACCOUNT, "token");
    let before = pair.sent_of(DEAL_LIST);
    let report = pair.fetch_history(ACCOUNT, through - 3_600_000);
    assert_eq!(report.unexplained, None);
    assert!(pair.sent_of(DEAL_LIST) > before + 1, "more than once");
    let ids = pair.deal_ids(ACCOUNT);
    for deal in ledger(&pair) {
        assert!(known.contains(&deal) || ids.contains(&deal), "{deal}");
    }
}

#[test]
fn what_nothing_explains_is_reported_and_not_asked_for_ever() {
    let mut pair = live();
    let through = pair.fetch_history(ACCOUNT, week_ago(&pair)).through_ms;
    pair.hand(|broker| {
        broker.half_open_all();
        broker.history_lag(Duration::from_hours(10));
        broker
            .close_position(ACCOUNT, 501, None)
            .expect("it is open");
    });
    pair.reconnect();
    pair.go_live(ACCOUNT, "token");
    let before = pair.sent_of(DEAL_LIST);
    let report = pair.fetch_history(ACCOUNT, through - 3_600_000);
    let left = Unexplained {
        changes: 1,
        positions: 1,
    };
    assert_eq!(report.unexplained, Some(left));
    assert!(pair.sent_of(DEAL_LIST) - before < 10);
    assert!(pair.is_live(ACCOUNT));
}

#[test]
fn paging_is_proof_against_any_order_and_equal_times() {
    for newest_first in [false, true] {
        for chunk in [1, 3, 50] {
            let mut pair = live();
            pair.hand(|broker| {
                broker.settings_mut().newest_first = newest_first;
                broker.settings_mut().history_chunk = chunk;
            });
            // A pair of deals at each moment, which fits no page of one.
            let at_once = if chunk == 1 { 1 } else { 2 };
            for _ in 0..6 {
                for _ in 0..at_once {
                    pair.hand(|broker| broker.open_market(ACCOUNT, "EURUSD", Side::Buy, 100_000))
                        .expect("there is money");
                }
                pair.run(Duration::from_millis(40));
            }
            pair.reconnect();
            pair.go_live(ACCOUNT, "token");
            let report = pair.fetch_history(ACCOUNT, week_ago(&pair));
            assert!(!report.is_partial, "{newest_first} {chunk}");
            let mut ids = pair.deal_ids(ACCOUNT);
            ids.dedup();
            assert_eq!(ids, ledger(&pair), "{newest_first} {chunk}");
        }
    }
}

#[test]
fn more_deals_in_a_millisecond_than_fit_an_answer_make_a_part_of_the_history() {
    let mut pair = live();
    pair.hand(|broker| {
        broker.settings_mut().history_chunk = 2;
        for _ in 0..5 {
            broker
                .open_market(ACCOUNT, "EURUSD", Side::Buy, 100_000)
                .expect("there is money");
        }
    });
    pair.reconnect();
    pair.go_live(ACCOUNT, "token");
    assert!(pair.fetch_history(ACCOUNT, week_ago(&pair)).is_partial);
}

#[test]
fn a_long_absence_is_read_a_week_at_a_time_within_the_historical_budget() {
    let mut pair = live();
    let report = pair.fetch_history(ACCOUNT, pair.wall_ms() - 52 * WEEK_MS);
    assert!(!report.is_partial);
    assert_eq!(pair.sent_of(DEAL_LIST), 53, "and the hour ahead");
    let socket = &pair.broker.connections()[0];
    assert!(socket.most_history_per_second <= 5);
    assert_eq!(socket.rate_refusals, 0);
}

#[test]
fn history_that_is_refused_is_asked_again_and_the_session_goes_on() {
    for refusal in [
        Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(1),
        Refusal::new("REQUEST_FREQUENCY_EXCEEDED"),
        Refusal::new("TIMEOUT_ERROR"),
        Refusal::new("UNKNOWN_ERROR"),
        Refusal::new("INCORRECT_BOUNDARIES"),
        Refusal::new("SOMETHING_NEW"),
    ] {
        let mut pair = live();
        pair.broker.refuse(Some(DEAL_LIST), 3, refusal.clone());
        let report = pair.fetch_history(ACCOUNT, week_ago(&pair));
        assert!(!report.is_partial, "{refusal:?}");
        assert_eq!(pair.deal_ids(ACCOUNT), ledger(&pair), "{refusal:?}");
        assert!(pair.downs(ACCOUNT).is_empty());
    }
}

#[test]
fn history_that_is_not_answered_is_asked_again_and_the_session_goes_on() {
    let mut pair = live();
    pair.broker.swallow_reply(Some(DEAL_LIST));
    let report = pair.fetch_history(ACCOUNT, week_ago(&pair));
    assert!(!report.is_partial);
    assert_eq!(pair.deal_ids(ACCOUNT), ledger(&pair));
    assert!(pair.downs(ACCOUNT).is_empty());
}

#[test]
fn pauses_grow_where_the_servers_own_figure_is_too_small() {
    let mut pair = live();
    let refusal = Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(1);
    pair.broker.refuse(Some(DEAL_LIST), 6, refusal);
    let before = pair.elapsed();
    pair.fetch_history(ACCOUNT, week_ago(&pair));
    let took = pair.elapsed().saturating_sub(before);
    assert!(
        took >= Duration::from_secs(2 + 4 + 8 + 16 + 32 + 64),
        "{took:?}"
    );
    assert_eq!(pair.sent_of(DEAL_LIST), 6 + 2);
}

#[test]
fn a_lost_cash_operation_is_found_by_the_balances_version() {
    let mut pair = live();
    pair.fetch_history(ACCOUNT, week_ago(&pair));
    pair.link.tampers.push((EXECUTION, Tamper::Lose));
    pair.hand(|broker| broker.deposit(ACCOUNT, 12_345));
    pair.drive_until("the loss to be noticed", Duration::from_mins(11), |pair| {
        pair.lives(ACCOUNT) == 2
    });
    pair.run_briefly();
    pair.assert_truth(ACCOUNT);
    let report = pair.fetch_history(ACCOUNT, week_ago(&pair));
    assert_eq!(report.unexplained, None);
}

#[test]
fn an_opening_that_an_account_without_positions_lost_is_seen() {
    let spec = AccountSpec::new(ACCOUNT)
        .token("token")
        .broker(ALPHA)
        .balance(1_000_000);
    let mut pair = Pair::new(Simulator::builder().market_paused().account(spec));
    pair.go_live(ACCOUNT, "token");
    pair.run(Duration::from_secs(5));
    for _ in 0..2 {
        pair.link.tampers.push((EXECUTION, Tamper::Lose));
    }
    pair.hand(|broker| broker.open_market(ACCOUNT, "GBPUSD", Side::Buy, 100_000))
        .expect("there is money");
    pair.drive_until(
        "the difference to be seen",
        Duration::from_mins(11),
        |pair| {
            pair.row(ACCOUNT)
                .is_some_and(|row| row.positions.len() == 1)
        },
    );
    pair.wait_valued(ACCOUNT);
    pair.assert_truth(ACCOUNT);
}

#[test]
fn what_the_history_explains_before_the_new_snapshot_is_still_lost() {
    let mut pair = live();
    pair.fetch_history(ACCOUNT, week_ago(&pair));
    for _ in 0..2 {
        pair.link.tampers.push((EXECUTION, Tamper::Lose));
    }
    pair.hand(|broker| broker.close_position(ACCOUNT, 501, None))
        .expect("it is open");
    pair.hand(|broker| broker.deposit(ACCOUNT, 100));
    // The history is quicker than the half second in which the event may still come.
    let from_ms = week_ago(&pair);
    let now = pair.now();
    pair.client.fetch_history(AccountId(ACCOUNT), from_ms, now);
    pair.drain();
    pair.run(Duration::from_secs(2));
    pair.wait_live(ACCOUNT);
    pair.assert_truth(ACCOUNT);
    assert_eq!(pair.lives(ACCOUNT), 2);
}
