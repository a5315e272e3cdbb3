//! Tokens: missing, taken away, encrypted, refused, replaced, and those of two users of one account.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mahspeccy_bridge::sim::{AccountSpec, Simulator};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::Value;

use super::support::fleet::{CacheRow, DEADLINE, Fleet};
use super::support::wait::eventually;

const USER: &str = "lance@example.org";
const OTHER: &str = "other@example.org";

const KEY: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

/// Of requests: `ProtoOAAccountAuthReq`, and the same of the application.
const ACCOUNT_AUTH: u32 = 2102;
const APPLICATION_AUTH: u32 = 2100;

/// The coordinator reads everything every 10 s; what a wakeup announces is there long before.
const AT_ONCE_SECS: f64 = 5.0;

fn account(id: i64, token: &str) -> AccountSpec {
    AccountSpec::new(id).token(token).balance(1_000_000)
}

fn sealed(key: &[u8; 32], user: &str, token: &str) -> String {
    let nonce = [7; 12];
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes"));
    let mut text = token.as_bytes().to_vec();
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(user),
        &mut text,
    )
    .expect("a short text");
    format!("enc:v1:{}", STANDARD.encode([&nonce[..], &text].concat()))
}

async fn failed(fleet: &Fleet, user: &str, account: i64, because: &str) -> CacheRow {
    let row = fleet
        .until_row(
            "the failure to be reported",
            DEADLINE,
            user,
            account,
            |row| {
                row.status == "failed"
                    && row
                        .last_error
                        .as_deref()
                        .is_some_and(|error| error.contains(because))
            },
        )
        .await;
    assert!(!row.connected, "{row:?}");
    eventually("the session to have the same", DEADLINE, async || {
        let session: (String, Option<String>) = sqlx::query_as(
            "select status, last_error from bridge.sessions where user_id = $1 and account_id = $2",
        )
        .bind(user)
        .bind(account)
        .fetch_one(fleet.db.pool())
        .await
        .expect("the session can be read");
        let matches = session.0 == "failed" && session.1 == row.last_error;
        matches.then_some(()).ok_or(session)
    })
    .await;
    row
}

#[tokio::test]
async fn a_session_follows_its_credentials_as_they_come_and_go() {
    let mut fleet = Fleet::new(Simulator::builder().account(account(1001, "token-a"))).await;
    let worker = fleet.worker().await;
    // Without an account the placeholder's row has the reason; with one, the account's own.
    fleet.start(OTHER, None).await;
    failed(&fleet, OTHER, 0, "connect cTrader first").await;
    fleet.start(USER, Some(1001)).await;
    let without = failed(&fleet, USER, 1001, "connect cTrader first").await;
    assert_eq!(without.amounts[0], None);

    let connected_at = fleet.clock().await;
    fleet.connect(USER, 1001, "token-a").await;
    let live = fleet.until_live(USER, 1001).await;
    assert!(live.updated - connected_at < AT_ONCE_SECS, "{live:?}");
    assert_eq!(live.last_error, None);

    sqlx::query("delete from bridge.credentials where user_id = $1")
        .bind(USER)
        .execute(fleet.db.pool())
        .await
        .expect("they were there");
    let removed_at = fleet.clock().await;
    let removed = failed(&fleet, USER, 1001, "connect cTrader first").await;
    assert!(removed.updated - removed_at < AT_ONCE_SECS, "{removed:?}");
    eventually("the account to be logged out", DEADLINE, async || {
        let on = fleet.sim.with(|broker| broker.authorised_on(1001));
        on.is_empty()
    })
    .await;

    fleet.connect(USER, 1001, "token-a").await;
    fleet.until_live(USER, 1001).await;
    worker.drain().await;
}

#[tokio::test]
async fn encrypted_tokens_open_with_the_key_for_their_user_alone() {
    let world = Simulator::builder()
        .account(account(1001, "token-a"))
        .account(account(1002, "token-b"));
    let mut fleet = Fleet::new(world).await;
    let key = STANDARD.encode(KEY);
    let worker = fleet
        .worker_with(&[("TOKEN_ENCRYPTION_KEY", key.as_str())])
        .await;
    fleet
        .connect(USER, 1001, &sealed(&KEY, USER, "token-a"))
        .await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;

    // Copied from somebody else's row, and sealed with another key.
    for unreadable in [
        sealed(&KEY, USER, "token-a"),
        sealed(&[1; 32], OTHER, "token-a"),
    ] {
        fleet.connect(OTHER, 1001, &unreadable).await;
        fleet.start(OTHER, None).await;
        let row = failed(&fleet, OTHER, 1001, "cannot be decrypted").await;
        assert_eq!(row.amounts[0], None);
    }
    // Plain ones work beside them.
    fleet.connect("plain@example.org", 1002, "token-b").await;
    fleet.start("plain@example.org", None).await;
    fleet.until_live("plain@example.org", 1002).await;
    worker.drain().await;

    let keyless = fleet.worker().await;
    failed(&fleet, USER, 1001, "has no key").await;
    fleet.until_live("plain@example.org", 1002).await;
    keyless.drain().await;
}

#[tokio::test]
async fn a_refused_token_is_offered_once_and_a_new_one_works_at_once() {
    let mut fleet = Fleet::new(Simulator::builder().account(account(1001, "token-a"))).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "nobodys-token").await;
    fleet.start(USER, None).await;
    let row = failed(&fleet, USER, 1001, "connect cTrader again").await;
    let reason = row.last_error.expect("a reason");
    assert!(
        !reason.contains("CH_") && !reason.contains("token"),
        "{reason}"
    );
    // Long enough for a first pause and a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let offered = fleet.sim.with(|broker| broker.requests_of(ACCOUNT_AUTH));
    assert_eq!(offered, 1);

    let renewed_at = fleet.clock().await;
    fleet.connect(USER, 1001, "token-a").await;
    let live = fleet.until_live(USER, 1001).await;
    assert!(live.updated - renewed_at < AT_ONCE_SECS, "{live:?}");
    worker.drain().await;
}

#[tokio::test]
async fn a_token_that_is_replaced_while_it_streams_does_not_end_the_stream() {
    let spec = account(1001, "token-a").token("token-b");
    let mut fleet = Fleet::new(Simulator::builder().account(spec)).await;
    let worker = fleet.worker().await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    let before = fleet.until_live(USER, 1001).await;
    fleet.connect(USER, 1001, "token-b").await;
    fleet
        .until_row("later rounds", DEADLINE, USER, 1001, |row| {
            row.connected && row.updated > before.updated + 3.0
        })
        .await;
    // The new token is stored before the old one becomes invalid.
    fleet.sim.with(|broker| broker.drop_account(1001));
    fleet.until_live(USER, 1001).await;
    fleet.until_true(USER, 1001).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_wrong_client_secret_fails_every_session_and_is_not_tried_again_and_again() {
    let world = Simulator::builder()
        .account(account(1001, "token-a"))
        .account(account(1002, "token-b"));
    let mut fleet = Fleet::new(world).await;
    let worker = fleet
        .worker_with(&[("CTRADER_CLIENT_SECRET", "not-the-secret")])
        .await;
    for (user, id, token) in [(USER, 1001, "token-a"), (OTHER, 1002, "token-b")] {
        fleet.connect(user, id, token).await;
        fleet.start(user, None).await;
    }
    for (user, id) in [(USER, 1001), (OTHER, 1002)] {
        failed(&fleet, user, id, "refuses this application").await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (connections, tried) = fleet.sim.with(|broker| {
        (
            broker.stats().connections,
            broker.requests_of(APPLICATION_AUTH),
        )
    });
    assert!(connections <= 2 && tried <= 2, "{connections} {tried}");
    let (status, body) = worker.get("/health").await;
    let health: Value = serde_json::from_str(&body).expect("json");
    assert_eq!((status, health["status"].as_str()), (200, Some("degraded")));
    assert_eq!(worker.get("/readyz").await.0, 200);
    worker.drain().await;
}

#[tokio::test]
async fn nobody_sees_an_account_by_somebody_elses_right() {
    let spec = account(1001, "token-a").token("token-b");
    let mut fleet = Fleet::new(Simulator::builder().account(spec)).await;
    let worker = fleet.worker().await;
    // Without the right they come first, and the one who has it streams all the same.
    fleet.connect(OTHER, 1001, "token-x").await;
    fleet.start(OTHER, None).await;
    failed(&fleet, OTHER, 1001, "connect cTrader again").await;
    fleet.connect(USER, 1001, "token-a").await;
    fleet.start(USER, None).await;
    fleet.until_live(USER, 1001).await;
    // Asked again while the other streams, they are refused again.
    fleet.start(OTHER, Some(1001)).await;
    fleet.connect(OTHER, 1001, "token-y").await;
    eventually("their token to be asked about", DEADLINE, async || {
        fleet.sim.with(|broker| broker.requests_of(2149)) >= 1
    })
    .await;
    let row = failed(&fleet, OTHER, 1001, "connect cTrader again").await;
    let nothing: [Option<String>; 8] = Default::default();
    assert_eq!(row.amounts, nothing);
    assert!(row.positions.as_array().is_none_or(Vec::is_empty));

    // With one of their own both rows are live, and each outlives the other.
    fleet.connect(OTHER, 1001, "token-b").await;
    fleet.until_live(OTHER, 1001).await;
    for user in [USER, OTHER] {
        fleet.until_true(user, 1001).await;
    }
    let on = fleet.sim.with(|broker| broker.authorised_on(1001));
    assert_eq!(on.len(), 1, "one stream for both");
    fleet.stop(USER, None).await;
    fleet
        .until_row("the first to be stopped", DEADLINE, USER, 1001, |row| {
            row.status == "stopped"
        })
        .await;
    fleet.sim.with(|broker| broker.deposit(1001, 4_200));
    fleet
        .until_row("the second to go on", DEADLINE, OTHER, 1001, |row| {
            row.connected && row.amounts[0].as_deref() == Some("10042.00")
        })
        .await;
    let stopped = fleet.row(USER, 1001).await.expect("it is there");
    assert_eq!(stopped.amounts[0].as_deref(), Some("10000.00"));
    worker.drain().await;
}
