//! A command's life by its id: from the publisher over the worker to the rows.

use mahspeccy_bridge::sim::{AccountSpec, Simulator};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::process::Command;
use uuid::Uuid;

use super::support::fleet::Fleet;

#[tokio::test]
async fn a_commands_life_can_be_followed_by_its_id() {
    let world = Simulator::builder()
        .market_paused()
        .account(AccountSpec::new(1001).token("token-a-8c1f"))
        .account(AccountSpec::new(1002).token("token-b-8c1f"));
    let mut fleet = Fleet::new(world).await;
    let worker = fleet.worker().await;
    let id = Uuid::new_v4();
    for (user, account, token, id) in [
        ("followed@example.org", 1001, "token-a-8c1f", id),
        ("other@example.org", 1002, "token-b-8c1f", Uuid::new_v4()),
    ] {
        fleet.connect(user, account, token).await;
        fleet
            .command_at("start", user, Value::Null, OffsetDateTime::now_utc(), id)
            .await;
        fleet.until_live(user, account).await;
    }
    let log = worker.log.clone();
    worker.drain().await;

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/trace");
    let output = Command::new("python3")
        .args([script, &id.to_string()])
        .arg(&log)
        .env("DATABASE_URL", fleet.db.url())
        .output()
        .await
        .expect("Python runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let mut at = 0;
    for step in [
        "command ",
        "session begins ",
        "session live ",
        "session 1001: running",
    ] {
        let found = text[at..]
            .find(step)
            .unwrap_or_else(|| panic!("{step} in {text}"));
        at += found;
    }
    assert!(text.contains("outcome=applied"), "{text}");
    assert!(
        !text.contains("1002") && !text.contains("example.org"),
        "{text}"
    );

    let nothing = Command::new("python3")
        .args([script, &Uuid::new_v4().to_string()])
        .arg(&log)
        .env_remove("DATABASE_URL")
        .output()
        .await
        .expect("Python runs");
    assert_eq!(nothing.status.code(), Some(1));
}
