//! What cTrader refuses, withdraws or does not answer, and what that does to whom.

use std::time::Duration;

use mahspeccy_bridge::ctrader::connection::{ConnectionError, Down, Event};
use mahspeccy_bridge::ctrader::error::{Disposition, RequestError};
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::sim::presets::{
    ALPHA, WORKED_ACCOUNT as ACCOUNT, WORKED_TOKEN, worked_account,
};
use mahspeccy_bridge::sim::{
    AccountSpec, Broker, Builder, Limits, PositionSpec, Refusal, RefusalMessage, Side, Simulator,
    UnauthorisedReply, raw,
};

use crate::support::pair::Pair;

/// It comes after the other one, which so asks the broker first.
const NEIGHBOUR: i64 = 7_000_077;

fn neighbour() -> AccountSpec {
    AccountSpec::new(NEIGHBOUR)
        .token("neighbour")
        .broker(ALPHA)
        .position(PositionSpec::new(
            801,
            "USDJPY",
            Side::Sell,
            1_000_000,
            raw("151"),
        ))
}

fn world() -> Builder {
    Simulator::builder()
        .market_paused()
        .account(worked_account())
        .account(neighbour())
}

fn both_open() -> Pair {
    let mut pair = Pair::new(world());
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.open(NEIGHBOUR, "neighbour");
    pair
}

fn both_live() -> Pair {
    let mut pair = both_open();
    pair.wait_live(ACCOUNT);
    pair.wait_live(NEIGHBOUR);
    pair
}

/// Every request that an opening needs.
const REQUESTS: [u32; 9] = [2100, 2102, 2121, 2124, 2112, 2114, 2116, 2118, 2127];

#[test]
fn a_blocked_request_waits_and_then_succeeds() {
    for kind in REQUESTS {
        for refusal in [
            Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(4),
            Refusal::new("REQUEST_FREQUENCY_EXCEEDED"),
            Refusal::new("BLOCKED_PAYLOAD_TYPE").sent_as(RefusalMessage::CommonError),
        ] {
            let mut pair = Pair::new(world());
            pair.broker.refuse(Some(kind), 2, refusal);
            pair.open(ACCOUNT, WORKED_TOKEN);
            pair.open(NEIGHBOUR, "neighbour");
            // Live without prices if need be, and with them once the block is over.
            pair.wait_valued(ACCOUNT);
            pair.wait_valued(NEIGHBOUR);
            pair.assert_truth(ACCOUNT);
            pair.assert_truth(NEIGHBOUR);
            assert!(pair.downs(ACCOUNT).is_empty() && pair.downs(NEIGHBOUR).is_empty());
        }
    }
}

#[test]
fn a_blocked_kind_rests_as_long_as_it_was_told_and_the_others_pass() {
    let mut pair = Pair::new(world());
    let blocked = Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(7);
    pair.broker.refuse(Some(2124), 1, blocked);
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.run(Duration::from_secs(2));
    pair.open(NEIGHBOUR, "neighbour");
    pair.run(Duration::from_secs(2));
    assert_eq!((pair.sent_of(2124), pair.sent_of(2121)), (1, 2));
    pair.wait_live(ACCOUNT);
    let times: Vec<Duration> = pair
        .sent
        .iter()
        .filter(|(_, kind)| *kind == 2124)
        .map(|(at, _)| *at)
        .collect();
    assert!(
        times[1].abs_diff(times[0]) >= Duration::from_secs(7),
        "{times:?}"
    );
}

#[test]
fn limits_lower_than_we_think_are_lived_with() {
    for frequency_error in [false, true] {
        let limits = Limits {
            requests_per_second: 6,
            frequency_error,
            ..Limits::default()
        };
        let mut pair = Pair::new(world().limits(limits));
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.open(NEIGHBOUR, "neighbour");
        pair.wait_live(ACCOUNT);
        pair.wait_live(NEIGHBOUR);
        pair.assert_truth(ACCOUNT);
        assert!(pair.broker.stats().rate_refusals > 0);
    }
}

#[test]
fn a_refused_application_ends_the_connection() {
    for code in [
        "CH_CLIENT_AUTH_FAILURE",
        "CH_OA_CLIENT_NOT_FOUND",
        "CONNECTIONS_LIMIT_EXCEEDED",
    ] {
        let mut pair = Pair::new(world());
        pair.broker.refuse(Some(2100), 1, Refusal::new(code));
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.run_briefly();
        let Some(ConnectionError::ApplicationRefused(refusal)) = pair.failure() else {
            panic!("{:?}", pair.events);
        };
        assert_eq!(refusal.code, code);
        assert_eq!(pair.sent_of(2102), 0);
    }
    let mut pair = Pair::new(world());
    pair.broker.refuse(
        Some(2100),
        1,
        Refusal::new("CH_CLIENT_ALREADY_AUTHENTICATED"),
    );
    pair.run_briefly();
    assert_eq!(
        pair.events.first().map(|(_, event)| event),
        Some(&Event::Ready)
    );
}

#[test]
fn a_refused_account_is_down_with_the_reason_and_its_neighbour_goes_live() {
    for (code, expected) in [
        ("CH_ACCESS_TOKEN_INVALID", Disposition::RefreshToken),
        ("OA_AUTH_TOKEN_EXPIRED", Disposition::RefreshToken),
        ("CANT_ROUTE_REQUEST", Disposition::BackOff),
        ("RET_ACCOUNT_DISABLED", Disposition::GiveUp),
        ("SOMETHING_NEW", Disposition::BackOff),
    ] {
        for kind in [2102, 2121, 2124, 2112, 2127] {
            for message in [RefusalMessage::OaError, RefusalMessage::CommonError] {
                let mut pair = Pair::new(world());
                let refusal = Refusal::new(code).sent_as(message);
                pair.broker.refuse_account(ACCOUNT, Some(kind), 1, refusal);
                pair.open(ACCOUNT, WORKED_TOKEN);
                pair.open(NEIGHBOUR, "neighbour");
                pair.wait_live(NEIGHBOUR);
                pair.assert_truth(NEIGHBOUR);
                let downs = pair.downs(ACCOUNT);
                let [Down::Refused(refusal)] = &downs[..] else {
                    panic!("{code} of {kind}: {:?}", pair.events);
                };
                assert_eq!(
                    (refusal.code.as_str(), refusal.disposition()),
                    (code, expected)
                );
            }
        }
    }
}

#[test]
fn tokens_and_hosts_of_others_are_refused() {
    let live_account = AccountSpec::new(5).token("five").live();
    let mut pair = Pair::new(world().account(live_account));
    pair.open(ACCOUNT, "no such token");
    pair.open(NEIGHBOUR, WORKED_TOKEN);
    pair.open(5, "five");
    pair.open(6, "five");
    pair.run_briefly();
    let codes = [ACCOUNT, NEIGHBOUR, 5, 6].map(|account| match &pair.downs(account)[..] {
        [Down::Refused(refusal)] => refusal.code.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(
        codes,
        [
            "CH_ACCESS_TOKEN_INVALID",
            "ACCOUNT_NOT_AUTHORIZED",
            "CANT_ROUTE_REQUEST",
            "CH_CTID_TRADER_ACCOUNT_NOT_FOUND"
        ]
    );
}

#[test]
fn an_account_that_somebody_else_authorised_here_is_not_trusted() {
    let mut pair = both_live();
    pair.broker
        .refuse_account(ACCOUNT, Some(2102), 1, Refusal::new("ALREADY_LOGGED_IN"));
    pair.close(ACCOUNT);
    pair.run_briefly();
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.run_briefly();
    assert_eq!(
        pair.downs(ACCOUNT),
        [Down::LoggedOut, Down::ForeignAuthorisation]
    );
    assert_eq!(pair.sent_of(2162), 2, "it is logged out");
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.assert_truth(ACCOUNT);
    assert!(pair.downs(NEIGHBOUR).is_empty());
}

#[test]
fn a_request_for_an_account_that_is_not_authorised_says_so() {
    for variant in [UnauthorisedReply::Code, UnauthorisedReply::Text] {
        let mut pair = Pair::new(world());
        pair.broker.set_unauthorised_reply(variant);
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.drive_until("the snapshot's request", Duration::from_secs(3), |pair| {
            pair.sent_of(2121) > 0
        });
        pair.link
            .tampers
            .push((2164, crate::support::pair::Tamper::Lose));
        pair.hand(|broker| broker.drop_account(ACCOUNT));
        pair.run_briefly();
        // It was authorised: its token is as good as it was.
        assert_eq!(pair.downs(ACCOUNT), [Down::Dropped]);
    }
}

#[test]
fn an_answer_that_never_comes_ends_the_session_and_its_neighbour_asks_itself() {
    for kind in [2102, 2121, 2124, 2112, 2114, 2116, 2118, 2127] {
        let mut pair = both_open();
        pair.broker.swallow_reply(Some(kind));
        pair.run(Duration::from_secs(17));
        let downs = [pair.downs(ACCOUNT), pair.downs(NEIGHBOUR)].concat();
        assert_eq!(downs, [Down::TimedOut], "{kind}");
        let (lost, other) = if pair.downs(ACCOUNT).is_empty() {
            (NEIGHBOUR, ACCOUNT)
        } else {
            (ACCOUNT, NEIGHBOUR)
        };
        pair.wait_live(other);
        pair.assert_truth(other);
        assert!(!pair.is_live(lost));
    }
}

#[test]
fn a_dropped_account_leaves_its_neighbours_alone() {
    let mut pair = both_live();
    pair.hand(|broker| broker.drop_account(ACCOUNT));
    pair.run_briefly();
    assert_eq!(pair.downs(ACCOUNT), [Down::Dropped]);
    assert!(!pair.is_live(ACCOUNT));
    pair.assert_truth(NEIGHBOUR);
    pair.hand(|broker| broker.set_quote("USDJPY", raw("150.001"), raw("150.011")));
    pair.run_briefly();
    pair.assert_truth(NEIGHBOUR);
    pair.go_live(ACCOUNT, WORKED_TOKEN);
    pair.assert_truth(ACCOUNT);
}

#[test]
fn an_invalidated_token_ends_its_accounts_and_no_others() {
    let mut pair = both_live();
    pair.hand(|broker| broker.revoke(WORKED_TOKEN));
    pair.run_briefly();
    assert_eq!(pair.downs(ACCOUNT), [Down::TokenInvalidated]);
    pair.assert_truth(NEIGHBOUR);
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.run_briefly();
    assert!(
        matches!(&pair.downs(ACCOUNT)[..], [_, Down::Refused(refusal)] if refusal.code == "CH_ACCESS_TOKEN_INVALID")
    );
}

#[test]
fn a_session_opened_anew_is_not_ended_by_what_ended_the_one_before() {
    // 2147 comes first and ends the session; 2164 follows when the next one is already on its way.
    let mut pair = both_live();
    pair.hand(|broker| {
        broker
            .refresh_elsewhere(&format!("refresh-{WORKED_TOKEN}"))
            .expect("good")
    });
    pair.drive_until("the end", Duration::from_secs(1), |pair| {
        !pair.downs(ACCOUNT).is_empty()
    });
    let (token, _) = pair.broker.tokens_of(ACCOUNT).expect("there is one");
    let late = mahspeccy_bridge::ctrader::wire::ProtoOaAccountDisconnectEvent {
        ctid_trader_account_id: ACCOUNT,
        ..Default::default()
    };
    pair.open(ACCOUNT, &token);
    pair.inject_message(2164, None, &late);
    pair.wait_live(ACCOUNT);
    assert_eq!(pair.downs(ACCOUNT), [Down::TokenInvalidated]);
    pair.assert_truth(ACCOUNT);
}

#[test]
fn a_blocked_application_ends_everything() {
    let mut pair = both_live();
    pair.hand(|broker| broker.block_app("blocked by an administrator"));
    pair.run_briefly();
    let reason = Some("blocked by an administrator".to_owned());
    assert_eq!(
        pair.failure(),
        Some(ConnectionError::Disconnected { reason })
    );
}

#[test]
fn maintenance_is_told_with_its_end() {
    let mut pair = Pair::new(world());
    pair.run_briefly();
    pair.hand(|broker| broker.maintenance(Some(Duration::from_mins(30))));
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.run_briefly();
    let downs = pair.downs(ACCOUNT);
    let [Down::Refused(refusal)] = &downs[..] else {
        panic!("{downs:?}");
    };
    let end = refusal.maintenance_end_ms.expect("it was sent");
    assert!(
        (1_750_001_800_000..1_750_001_810_000).contains(&end),
        "{end}"
    );
}

#[test]
fn a_socket_that_closes_can_be_followed_by_another() {
    for end in [
        Broker::close_all_with_bye as fn(&mut Broker),
        Broker::reset_all,
    ] {
        let mut pair = both_live();
        pair.hand(end);
        pair.run_briefly();
        assert!(!pair.connected);
        pair.hand(|broker| broker.close_position(ACCOUNT, 701, None))
            .expect("it is open");
        pair.reconnect();
        pair.open(NEIGHBOUR, "neighbour");
        pair.go_live(ACCOUNT, WORKED_TOKEN);
        pair.assert_truth(ACCOUNT);
        pair.wait_live(NEIGHBOUR);
        pair.assert_truth(NEIGHBOUR);
    }
}

#[test]
fn a_token_is_verified_by_its_accounts() {
    let mut pair = both_live();
    for (ticket, token) in [(1, WORKED_TOKEN), (2, "no such token")] {
        pair.client
            .verify_token(ticket, &Secret::new(token), pair.now());
        pair.drain();
    }
    pair.broker.swallow_reply(Some(2149));
    pair.run_briefly();
    pair.client
        .verify_token(3, &Secret::new(WORKED_TOKEN), pair.now());
    pair.drain();
    pair.run(Duration::from_secs(16));
    let verified: Vec<(u64, Result<Vec<AccountId>, RequestError>)> = pair
        .events
        .iter()
        .filter_map(|(_, event)| {
            let Event::TokenVerified(ticket, answer) = event else {
                return None;
            };
            let covered = answer
                .as_ref()
                .map(|covered| covered.keys().copied().collect());
            Some((*ticket, covered.map_err(Clone::clone)))
        })
        .collect();
    assert!(
        verified.iter().any(|(ticket, answer)| *ticket == 2
            && matches!(answer, Err(RequestError::Refused(refusal)) if refusal.code == "CH_ACCESS_TOKEN_INVALID")),
        "{verified:?}"
    );
    assert_eq!(
        verified
            .iter()
            .filter(|(_, answer)| *answer == Ok(vec![AccountId(ACCOUNT)]))
            .count(),
        1
    );
    assert!(
        verified
            .iter()
            .any(|(_, answer)| *answer == Err(RequestError::NoAnswer)),
        "{verified:?}"
    );
}
