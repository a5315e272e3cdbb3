//! Tokens on the wire: a refresh token is spent once, its answer counts however late it comes, and a
//! newer token takes over a session that goes on.

use std::time::Duration;

use mahspeccy_bridge::ctrader::connection::{Down, Event, Refreshed};
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::sim::presets::{WORKED_ACCOUNT as ACCOUNT, WORKED_TOKEN, worked_example};
use mahspeccy_bridge::sim::{Refusal, TokenRefreshEffect};

use crate::support::pair::Pair;

const REFRESH: u32 = 2173;
const REFRESH_TOKEN: &str = "refresh-worked-token";

fn refresh(pair: &mut Pair, ticket: u64, token: &str) {
    let now = pair.now();
    pair.client.refresh_token(ticket, &Secret::new(token), now);
    pair.drain();
}

fn refreshed(pair: &Pair) -> Vec<(u64, Refreshed)> {
    let events = pair.events.iter().filter_map(|(_, event)| {
        if let Event::TokenRefreshed(ticket, refreshed) = event {
            Some((*ticket, refreshed.clone()))
        } else {
            None
        }
    });
    events.collect()
}

#[test]
fn a_refresh_token_brings_the_next_pair_and_works_once() {
    let mut pair = Pair::new(worked_example());
    refresh(&mut pair, 1, REFRESH_TOKEN);
    pair.settle();
    let told = refreshed(&pair);
    let [(1, Refreshed::Pair(first))] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(first.access.expose(), "worked-token~1");
    assert!(first.expires_in_secs > 2_000_000);
    let next = first.refresh.expose().to_owned();
    refresh(&mut pair, 2, REFRESH_TOKEN);
    refresh(&mut pair, 3, &next);
    pair.settle();
    let told = refreshed(&pair);
    assert!(
        matches!(&told[1], (2, Refreshed::Refused(refusal)) if refusal.code == "CH_ACCESS_TOKEN_INVALID")
    );
    assert!(matches!(&told[2], (3, Refreshed::Pair(_))));
}

#[test]
fn an_answer_that_comes_after_minutes_still_counts() {
    let mut pair = Pair::new(worked_example());
    pair.settle();
    pair.hand(|broker| broker.delay_replies(Duration::from_mins(3)));
    refresh(&mut pair, 1, REFRESH_TOKEN);
    pair.run(Duration::from_secs(170));
    assert_eq!(
        refreshed(&pair),
        [],
        "far beyond any other request's deadline"
    );
    pair.run(Duration::from_secs(20));
    assert!(matches!(&refreshed(&pair)[..], [(1, Refreshed::Pair(_))]));
    assert_eq!(pair.sent_of(REFRESH), 1);
}

#[test]
fn a_connection_that_ends_tells_what_may_have_been_spent_and_what_not() {
    let mut pair = Pair::new(worked_example());
    // Before the application is authorised nothing else may leave.
    refresh(&mut pair, 1, REFRESH_TOKEN);
    assert_eq!(pair.sent_of(REFRESH), 0);
    pair.client.finish();
    pair.drain();
    assert_eq!(refreshed(&pair), [(1, Refreshed::Unsent)]);

    let mut pair = Pair::new(worked_example());
    pair.settle();
    pair.broker.swallow_reply(Some(REFRESH));
    refresh(&mut pair, 2, REFRESH_TOKEN);
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.sent_of(REFRESH), 1);
    assert_eq!(refreshed(&pair), [], "no deadline: it may still come");
    pair.client.finish();
    pair.drain();
    assert_eq!(refreshed(&pair), [(2, Refreshed::Lost)]);
}

#[test]
fn a_refresh_that_came_too_often_is_sent_again_and_other_refusals_are_told() {
    let mut pair = Pair::new(worked_example());
    pair.broker.refuse(
        Some(REFRESH),
        1,
        Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(1),
    );
    refresh(&mut pair, 1, REFRESH_TOKEN);
    pair.run(Duration::from_secs(4));
    assert!(matches!(&refreshed(&pair)[..], [(1, Refreshed::Pair(_))]));
    pair.broker
        .refuse(Some(REFRESH), 1, Refusal::new("CH_SERVER_NOT_REACHABLE"));
    refresh(&mut pair, 2, "refresh-worked-token~1");
    pair.settle();
    assert!(
        matches!(&refreshed(&pair)[1], (2, Refreshed::Refused(refusal)) if refusal.code == "CH_SERVER_NOT_REACHABLE")
    );
}

/// Rotates the grant elsewhere and hands the new access token over.
fn rotate(pair: &mut Pair, how: TokenRefreshEffect) -> String {
    let (access, _) = pair
        .hand(|broker| {
            broker.set_token_refresh_effect(how);
            broker.refresh_elsewhere(REFRESH_TOKEN)
        })
        .expect("it works once");
    let now = pair.now();
    pair.client
        .renew_token(AccountId(ACCOUNT), Secret::new(access.clone()), now);
    access
}

#[test]
fn a_session_that_outlives_its_token_is_authorised_by_the_next_one() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.run(Duration::from_secs(3));
    let (auths, snapshots) = (pair.sent_of(2102), pair.sent_of(2124));
    rotate(&mut pair, TokenRefreshEffect::KeepsSessions);
    pair.run(Duration::from_secs(9));
    assert_eq!(
        pair.sent_of(2102),
        auths,
        "cTrader may still end it by itself"
    );
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.sent_of(2102), auths + 1);
    assert!(pair.sent_of(2124) > snapshots, "and is looked at");
    assert!(pair.downs(ACCOUNT).is_empty());
    pair.hand(|broker| broker.set_quote("EURUSD", Some(108_400), None));
    pair.settle();
    pair.assert_truth(ACCOUNT);
}

#[test]
fn a_session_that_ends_with_its_token_is_not_authorised_behind_its_back() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    let access = rotate(&mut pair, TokenRefreshEffect::EndsSessions);
    pair.settle();
    assert_eq!(pair.downs(ACCOUNT), [Down::TokenInvalidated]);
    pair.run(Duration::from_secs(12));
    assert_eq!(pair.sent_of(2102), 1, "that is its owner's to decide");
    pair.go_live(ACCOUNT, &access);
    pair.assert_truth(ACCOUNT);
}

#[test]
fn a_newer_token_that_is_refused_ends_the_session() {
    let mut pair = Pair::new(worked_example());
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    let now = pair.now();
    pair.client
        .renew_token(AccountId(ACCOUNT), Secret::new("nobodys"), now);
    pair.run(Duration::from_secs(11));
    let downs = pair.downs(ACCOUNT);
    assert!(
        matches!(&downs[..], [Down::Refused(refusal)] if refusal.code == "CH_ACCESS_TOKEN_INVALID"),
        "{downs:?}"
    );
}
