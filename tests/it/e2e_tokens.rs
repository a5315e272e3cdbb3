//! Tokens are renewed ahead of their end and when they are refused, each refresh token is sent once,
//! and no account is without a pair that works if there is one.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mahspeccy_bridge::sim::{AccountSpec, Builder, Simulator, TokenRefreshEffect};

use super::support::fleet::{DEADLINE, Fleet};
use super::support::wait::eventually;

const USER: &str = "lance@example.org";
const OTHER: &str = "other@example.org";

/// Of requests.
const ACCOUNT_AUTH: u32 = 2102;
const REFRESH: u32 = 2173;

fn world() -> Builder {
    Simulator::builder()
        .market_paused()
        .account(AccountSpec::new(1001).token("token-a").balance(1_000_000))
        .account(AccountSpec::new(1002).token("token-a").balance(2_000_000))
}

/// A user with both accounts of one grant, streaming.
async fn both(fleet: &Fleet) {
    fleet
        .grant(USER, 1001, ("token-a", "refresh-token-a"))
        .await;
    sqlx::query(
        "insert into bridge.credentials (user_id, account_id, is_live, is_primary, access_token, refresh_token)
         values ($1, 1002, false, false, 'token-a', 'refresh-token-a')",
    )
    .bind(USER)
    .execute(fleet.db.pool())
    .await
    .expect("the second account");
    for account in [1001, 1002] {
        fleet.start(USER, Some(account)).await;
        fleet.until_live(USER, account).await;
    }
}

fn refreshes(fleet: &Fleet) -> usize {
    fleet.sim.with(|broker| broker.requests_of(REFRESH))
}

/// The pair that works, by the simulator.
fn pair(fleet: &Fleet) -> (String, String) {
    fleet
        .sim
        .with(|broker| broker.tokens_of(1001))
        .expect("a grant")
}

/// Both rows have the pair that works, and both sessions stream.
async fn until_renewed(fleet: &Fleet, before: &(String, String)) {
    eventually("the new pair to be stored", DEADLINE, async || {
        let working = pair(fleet);
        for account in [1001, 1002] {
            let stored = fleet.stored(USER, account).await;
            if working == *before || stored != working {
                return Err((stored, working));
            }
        }
        Ok(())
    })
    .await;
    for account in [1001, 1002] {
        fleet.until_live(USER, account).await;
        fleet.until_true(USER, account).await;
    }
}

/// The access token is over: the next authorisation is refused.
fn expire(fleet: &Fleet) {
    fleet.sim.with(|broker| {
        let (access, _) = broker.tokens_of(1001).expect("a grant");
        broker.expire_token_in(&access, Duration::ZERO);
        broker.drop_account(1001);
    });
}

#[tokio::test]
async fn ten_renewals_in_a_row_leave_every_account_with_a_pair_that_works() {
    let mut fleet = Fleet::new(world()).await;
    let mut worker = fleet.worker().await;
    both(&fleet).await;
    let mut expected = 0;
    for round in 0..10 {
        let before = pair(&fleet);
        match round {
            // Ahead of its end.
            0 => {
                sqlx::query("update bridge.credentials set expires_at = now() + interval '1 hour'")
                    .execute(fleet.db.pool())
                    .await
                    .expect("both rows");
                expected += 1;
                until_renewed(&fleet, &before).await;
            }
            // The answer is lost: nobody knows the new pair, and the old token is not sent again.
            4 => {
                fleet.sim.with(|broker| broker.swallow_reply(Some(REFRESH)));
                expire(&fleet);
                expected += 1;
                eventually("it to be sent", DEADLINE, async || {
                    refreshes(&fleet) == expected
                })
                .await;
                let tried = fleet.sim.with(|broker| broker.requests_of(ACCOUNT_AUTH));
                eventually("the old token to be refused again", DEADLINE, async || {
                    fleet.sim.with(|broker| broker.requests_of(ACCOUNT_AUTH)) > tried
                })
                .await;
                // The user connects again, and that works at once.
                let (access, refresh) = pair(&fleet);
                sqlx::query("update bridge.credentials set access_token = $1, refresh_token = $2")
                    .bind(access)
                    .bind(refresh)
                    .execute(fleet.db.pool())
                    .await
                    .expect("both rows");
                until_renewed(&fleet, &before).await;
            }
            // Killed between the reply and its use: the pair is committed before that.
            7 => {
                expire(&fleet);
                expected += 1;
                eventually("the new pair to be committed", DEADLINE, async || {
                    fleet.stored(USER, 1001).await != before
                })
                .await;
                worker.signal("KILL").await;
                worker.ended(DEADLINE).await;
                worker = fleet.worker().await;
                until_renewed(&fleet, &before).await;
            }
            _ => {
                // Both of what cTrader may do to the sessions of the old token, in turn.
                let how = if round % 2 == 0 {
                    TokenRefreshEffect::KeepsSessions
                } else {
                    TokenRefreshEffect::EndsSessions
                };
                fleet.sim.with(|broker| {
                    broker.set_token_refresh_effect(how);
                    broker.expired_as_invalid(round % 3 == 0);
                });
                expire(&fleet);
                expected += 1;
                until_renewed(&fleet, &before).await;
            }
        }
        assert_eq!(
            refreshes(&fleet),
            expected,
            "round {round}: each token once"
        );
    }
    worker.drain().await;
}

#[tokio::test]
async fn two_workers_and_two_users_of_one_grant_send_its_token_once() {
    let mut fleet = Fleet::new(world()).await;
    let workers = [fleet.worker().await, fleet.worker().await];
    for (user, account) in [(USER, 1001), (OTHER, 1002)] {
        fleet
            .grant(user, account, ("token-a", "refresh-token-a"))
            .await;
        fleet.start(user, Some(account)).await;
        fleet.until_live(user, account).await;
    }
    let before = pair(&fleet);
    fleet.sim.with(|broker| {
        broker.expire_token_in("token-a", Duration::ZERO);
        broker.drop_account(1001);
        broker.drop_account(1002);
    });
    for (user, account) in [(USER, 1001), (OTHER, 1002)] {
        eventually("the pair to be stored", DEADLINE, async || {
            let (stored, working) = (fleet.stored(user, account).await, pair(&fleet));
            stored == working && working != before
        })
        .await;
        fleet.until_live(user, account).await;
    }
    assert_eq!(refreshes(&fleet), 1);
    for worker in workers {
        worker.drain().await;
    }
}

#[tokio::test]
async fn another_users_sealed_copy_of_a_grant_is_given_the_pair_that_the_first_got() {
    let key = STANDARD.encode([9; 32]);
    let mut fleet = Fleet::new(world()).await;
    let worker = fleet
        .worker_with(&[("TOKEN_ENCRYPTION_KEY", key.as_str())])
        .await;
    // Stored plain; sealed from their first renewal on.
    for (user, account) in [(USER, 1001), (OTHER, 1002)] {
        fleet
            .grant(user, account, ("token-a", "refresh-token-a"))
            .await;
        fleet.start(user, Some(account)).await;
        fleet.until_live(user, account).await;
    }
    for round in 1..=3 {
        let before: BTreeMap<i64, (String, String)> = [
            (1001, fleet.stored(USER, 1001).await),
            (1002, fleet.stored(OTHER, 1002).await),
        ]
        .into();
        expire(&fleet);
        fleet.sim.with(|broker| broker.drop_account(1002));
        for (user, account) in [(USER, 1001), (OTHER, 1002)] {
            eventually("another pair to be stored", DEADLINE, async || {
                let stored = fleet.stored(user, account).await;
                let sealed = stored.0.starts_with("enc:v1:") && stored.1.starts_with("enc:v1:");
                Some(&stored) != before.get(&account) && sealed
            })
            .await;
            fleet.until_live(user, account).await;
        }
        assert_eq!(refreshes(&fleet), round, "each token once");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_grant_that_is_dead_is_said_once_and_a_new_one_is_taken_at_once() {
    let spec = AccountSpec::new(1001).token("token-a").token("token-b");
    let mut fleet = Fleet::new(Simulator::builder().account(spec)).await;
    let worker = fleet.worker_with(&[("FAILED_RETRY_SECS", "2")]).await;
    fleet
        .grant(USER, 1001, ("token-a", "refresh-token-a"))
        .await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    fleet.sim.with(|broker| broker.revoke("token-a"));
    let row = fleet
        .until_row("the end of the grant", DEADLINE, USER, 1001, |row| {
            row.status == "failed"
        })
        .await;
    let reason = row.last_error.expect("a reason");
    assert!(reason.contains("connect cTrader again"), "{reason}");
    // It is tried again, for ever, and its refresh token is not.
    let tried = fleet.sim.with(|broker| broker.requests_of(ACCOUNT_AUTH));
    eventually("two more tries", DEADLINE, async || {
        fleet.sim.with(|broker| broker.requests_of(ACCOUNT_AUTH)) >= tried + 2
    })
    .await;
    assert_eq!(refreshes(&fleet), 1);
    fleet
        .grant(USER, 1001, ("token-b", "refresh-token-b"))
        .await;
    fleet.until_live(USER, 1001).await;
    assert_eq!(refreshes(&fleet), 1);
    worker.drain().await;
}

#[tokio::test]
async fn a_token_that_another_renewed_is_not_renewed_in_answer() {
    let mut fleet = Fleet::new(world()).await;
    let worker = fleet.worker().await;
    both(&fleet).await;
    // The app renews it over HTTP, and has stored what it got before the worker hears of anything.
    worker.signal("STOP").await;
    let (access, refresh) = fleet
        .sim
        .with(|broker| broker.refresh_elsewhere("refresh-token-a"))
        .expect("it works once");
    sqlx::query("update bridge.credentials set access_token = $1, refresh_token = $2")
        .bind(access)
        .bind(refresh)
        .execute(fleet.db.pool())
        .await
        .expect("both rows");
    worker.signal("CONT").await;
    // What follows the news that the old token is over is an authorisation by the new one.
    eventually("both to be authorised anew", DEADLINE, async || {
        fleet.sim.with(|broker| broker.requests_of(ACCOUNT_AUTH)) >= 4
    })
    .await;
    for account in [1001, 1002] {
        fleet.until_live(USER, account).await;
        fleet.until_true(USER, account).await;
    }
    assert_eq!(refreshes(&fleet), 0);
    worker.drain().await;
}
