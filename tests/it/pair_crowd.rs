//! Many accounts on one connection, and sessions that are opened and closed at any moment.

use std::time::Duration;

use mahspeccy_bridge::ctrader::connection::{Down, Event};
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::sim::presets::{
    ALPHA, BETA, WORKED_ACCOUNT as ACCOUNT, WORKED_TOKEN, worked_account, worked_example,
};
use mahspeccy_bridge::sim::{AccountSpec, Builder, PositionSpec, Refusal, Side, Simulator, raw};

use crate::support::pair::Pair;

const CROWD: i64 = 300;

fn crowd(positions: bool) -> Builder {
    (1..=CROWD).fold(Simulator::builder().market_paused(), |world, id| {
        let broker = if id % 3 == 0 { BETA } else { ALPHA };
        let spec = AccountSpec::new(id).token("crowd").broker(broker);
        world.account(if positions {
            spec.position(PositionSpec::new(
                id,
                "USDJPY",
                Side::Buy,
                100_000,
                raw("150"),
            ))
        } else {
            spec
        })
    })
}

/// Opens the crowd at once; returns how long it took until all were live.
fn open_crowd(pair: &mut Pair) -> Duration {
    for id in 1..=CROWD {
        pair.open(id, "crowd");
    }
    let all = usize::try_from(CROWD).expect("few");
    pair.drive_until("all to be live", Duration::from_mins(2), |pair| {
        pair.events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Live(_)))
            .count()
            == all
    });
    let took = pair.elapsed();
    pair.run_briefly();
    let sockets = pair.broker.connections();
    assert!(
        sockets[0].most_requests_per_second <= 50,
        "{}",
        sockets[0].most_requests_per_second
    );
    assert_eq!(sockets[0].rate_refusals, 0);
    took
}

#[test]
fn three_hundred_accounts_open_within_the_budget() {
    let mut pair = Pair::new(crowd(false));
    let took = open_crowd(&mut pair);
    assert!(
        took < Duration::from_secs(300 * 3 / 50).mul_f64(1.3),
        "{took:?}"
    );
    assert_eq!(pair.sent_of(2112), 2, "assets once a broker");
    for id in 1..=CROWD {
        pair.assert_truth(id);
    }
}

#[test]
fn three_hundred_accounts_with_positions_ask_the_broker_once() {
    let mut pair = Pair::new(crowd(true));
    let took = open_crowd(&mut pair);
    assert!(
        took < Duration::from_secs(300 * 3 / 50).mul_f64(1.3),
        "{took:?}"
    );
    // The subscriptions of the last come after everybody's snapshots.
    pair.drive_until("all to be valued", Duration::from_secs(30), |pair| {
        (1..=CROWD).all(|id| pair.client.is_valued(AccountId(id)))
    });
    assert!(
        pair.elapsed() < Duration::from_secs(300 * 4 / 50).mul_f64(1.3),
        "{:?}",
        pair.elapsed()
    );
    assert_eq!(pair.broker.connections()[0].rate_refusals, 0);
    for kind in [2112, 2114, 2116, 2118] {
        assert_eq!(pair.sent_of(kind), 2, "{kind} once a broker");
    }
    pair.hand(|broker| broker.set_quote("USDJPY", raw("151.5"), raw("151.6")));
    pair.run_briefly();
    for id in 1..=CROWD {
        pair.assert_truth(id);
    }
}

#[test]
fn a_session_can_be_closed_at_any_moment_and_opened_again() {
    for moment in 0..60 {
        let mut pair = Pair::new(worked_example());
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.run(Duration::from_millis(moment * 7));
        pair.close(ACCOUNT);
        pair.run(Duration::from_secs(3));
        assert_eq!(
            pair.downs(ACCOUNT),
            [Down::LoggedOut],
            "closed after {} ms",
            moment * 7
        );
        assert!(
            pair.broker.authorised_on(ACCOUNT).is_empty(),
            "closed after {} ms",
            moment * 7
        );
        pair.go_live(ACCOUNT, WORKED_TOKEN);
        pair.assert_truth(ACCOUNT);
        assert_eq!(pair.downs(ACCOUNT).len(), 1);
    }
}

#[test]
fn a_session_opened_the_moment_it_is_closed_lives() {
    for moment in 0..60 {
        let mut pair = Pair::new(worked_example());
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.run(Duration::from_millis(moment * 7));
        pair.close(ACCOUNT);
        pair.drive_until("the end", Duration::from_secs(20), |pair| {
            !pair.downs(ACCOUNT).is_empty()
        });
        pair.go_live(ACCOUNT, WORKED_TOKEN);
        pair.assert_truth(ACCOUNT);
        assert_eq!(
            pair.downs(ACCOUNT),
            [Down::LoggedOut],
            "closed after {} ms",
            moment * 7
        );
    }
}

#[test]
fn opening_twice_is_opening_once() {
    let mut pair = Pair::new(worked_example());
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.wait_live(ACCOUNT);
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.run_briefly();
    assert_eq!((pair.lives(ACCOUNT), pair.sent_of(2102)), (1, 1));
    pair.close(ACCOUNT);
    pair.close(ACCOUNT);
    pair.run_briefly();
    pair.close(ACCOUNT);
    assert_eq!(pair.downs(ACCOUNT), [Down::LoggedOut, Down::LoggedOut]);
    assert_eq!(pair.sent_of(2162), 1);
}

#[test]
fn a_session_closed_while_its_authorisation_is_blocked_is_not_authorised_after() {
    let mut pair = Pair::new(worked_example());
    let blocked = Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(5);
    pair.broker.refuse(Some(2102), 1, blocked.clone());
    pair.open(ACCOUNT, WORKED_TOKEN);
    pair.drive_until("the authorisation", Duration::from_secs(1), |pair| {
        pair.sent_of(2102) > 0
    });
    // The log-out is blocked for longer than the authorisation.
    pair.broker.refuse(Some(2162), 1, blocked.retry_after(9));
    pair.close(ACCOUNT);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.sent_of(2102), 1);
    assert!(pair.broker.authorised_on(ACCOUNT).is_empty());
    assert_eq!(pair.downs(ACCOUNT), [Down::LoggedOut]);
}

#[test]
fn an_account_that_asked_for_all_and_closes_holds_nobody_up() {
    for moment in 0..40 {
        let other = AccountSpec::new(7)
            .token("other")
            .broker(ALPHA)
            .position(PositionSpec::new(
                801,
                "GBPTRY",
                Side::Buy,
                100_000,
                raw("41"),
            ));
        let world = Simulator::builder()
            .market_paused()
            .account(worked_account())
            .account(other);
        let mut pair = Pair::new(world);
        pair.broker.swallow_reply(Some(2162));
        pair.open(ACCOUNT, WORKED_TOKEN);
        pair.open(7, "other");
        pair.run(Duration::from_millis(60 + moment * 7));
        pair.close(ACCOUNT);
        pair.drive_until("the other to be live", Duration::from_secs(3), |pair| {
            pair.is_live(7)
        });
        pair.run_briefly();
        pair.assert_truth(7);
    }
}
