//! `dead`: what it lists, requeues and drops, and that no end of it in the middle loses a command.

use std::net::SocketAddr;

use lapin::BasicProperties;
use mahspeccy_bridge::sim::{AccountSpec, Builder, Simulator};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::support::cable::Cable;
use super::support::fleet::{DEADLINE, Fleet};
use super::support::wait::eventually;

const DEAD: &str = "bridge.commands.dead";
const COMMANDS: &str = "bridge.commands";

fn world() -> Builder {
    Simulator::builder()
        .market_paused()
        .account(AccountSpec::new(1001).token("token-a-8c1f"))
}

async fn dead(fleet: &Fleet, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut call = vec!["dead"];
    call.extend(arguments);
    let output = fleet.call(&call).output().await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

async fn listed(fleet: &Fleet) -> Vec<Value> {
    let (code, text, errors) = dead(fleet, &["list", "--json"]).await;
    assert_eq!(code, Some(0), "{errors}");
    serde_json::from_str(&text).expect("an array")
}

/// The queues, without a worker that would empty them.
async fn declared() -> Fleet {
    let fleet = Fleet::new(world()).await;
    let declared = fleet.call(&["stop", "nobody@example.org"]).output().await;
    assert!(declared.expect("it runs").status.success());
    fleet.vhost.get_all(COMMANDS).await;
    fleet
}

async fn depth(fleet: &Fleet, queue: &str, messages: u32) {
    eventually(
        &format!("{messages} messages in {queue}"),
        DEADLINE,
        async || {
            let depth = fleet.vhost.queue_depth(queue).await;
            (depth == Some(messages)).then_some(()).ok_or(depth)
        },
    )
    .await;
}

fn start(id: Uuid, user: &str) -> Vec<u8> {
    json!({ "id": id, "command": "start", "userId": user, "issuedAt": "2026-11-23T05:42:00.000123Z" })
        .to_string()
        .into_bytes()
}

async fn publish_dead(fleet: &Fleet, key: &str, id: Option<&str>, body: &[u8]) {
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    if let Some(id) = id {
        properties = properties.with_message_id(id.into());
    }
    fleet
        .vhost
        .publish("bridge.dead", key, body, properties)
        .await;
}

#[tokio::test]
async fn what_the_worker_buried_is_listed_with_its_reason_and_stays() {
    let mut fleet = Fleet::new(world()).await;
    let (code, text, _) = dead(&fleet, &[]).await;
    assert_eq!((code, text.as_str()), (Some(0), "no dead letters\n"));
    let worker = fleet.worker().await;
    let id = Uuid::new_v4();
    let properties = BasicProperties::default().with_message_id(id.to_string().into());
    let body = br#"{"command":"start","userId":""}"#;
    fleet
        .vhost
        .publish(COMMANDS, "start", body, properties)
        .await;
    fleet
        .vhost
        .publish(
            COMMANDS,
            "stop",
            b"\x1b[2J no JSON",
            BasicProperties::default(),
        )
        .await;
    depth(&fleet, DEAD, 2).await;

    for _ in 0..2 {
        let (code, text, _) = dead(&fleet, &[]).await;
        assert_eq!(code, Some(0));
        assert!(
            text.contains(&id.to_string()) && text.contains("body-"),
            "{text}"
        );
        assert!(!text.contains('\x1b'), "{text:?}");
        depth(&fleet, DEAD, 2).await;
    }
    for message in listed(&fleet).await {
        assert!(
            message["reason"].as_str().is_some_and(|why| why.len() > 5),
            "{message}"
        );
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_requeued_command_is_applied_and_has_no_history() {
    let mut fleet = declared().await;
    let id = Uuid::new_v4();
    let (key, body) = (id.to_string(), start(id, "again@example.org"));
    publish_dead(&fleet, "start", Some(&key), &body).await;
    publish_dead(&fleet, "start", None, b"not a command").await;
    let (code, text, errors) = dead(&fleet, &["requeue", &key]).await;
    assert_eq!((code, text.as_str()), (Some(0), "1 requeued\n"), "{errors}");
    depth(&fleet, COMMANDS, 1).await;
    depth(&fleet, DEAD, 1).await;

    fleet
        .connect("again@example.org", 1001, "token-a-8c1f")
        .await;
    let worker = fleet.worker().await;
    fleet.until_live("again@example.org", 1001).await;
    assert_eq!(worker.outcome(id).await, "applied");

    // Once is enough, and a missing id is an error.
    let (code, _, errors) = dead(&fleet, &["requeue", &key]).await;
    assert_eq!(code, Some(64), "{errors}");
    assert!(errors.contains("there is no dead letter"), "{errors}");
    worker.drain().await;
}

#[tokio::test]
async fn all_are_requeued_but_those_that_say_neither_start_nor_stop() {
    let fleet = declared().await;
    for user in ["a@example.org", "b@example.org", "c@example.org"] {
        let id = Uuid::new_v4();
        publish_dead(&fleet, "start", Some(&id.to_string()), &start(id, user)).await;
    }
    publish_dead(&fleet, "elsewhere", Some("odd"), b"?").await;
    let (code, text, errors) = dead(&fleet, &["requeue", "--all"]).await;
    assert_eq!(
        (code, text.as_str()),
        (Some(64), "3 requeued\n"),
        "{errors}"
    );
    assert!(errors.starts_with("odd stays:"), "{errors}");
    depth(&fleet, COMMANDS, 3).await;
    depth(&fleet, DEAD, 1).await;
    for message in fleet.vhost.get_all(COMMANDS).await {
        assert_eq!(message.routing_key, "start");
        let headers = message.properties.headers().clone().unwrap_or_default();
        // The broker's own count starts again.
        let mut names = headers
            .inner()
            .keys()
            .map(lapin::types::ShortString::as_str);
        assert!(names.all(|name| name == "x-delivery-count"), "{headers:?}");
    }
}

#[tokio::test]
async fn one_is_dropped_and_the_others_stay() {
    let fleet = declared().await;
    for id in ["first", "second", "third"] {
        publish_dead(&fleet, "start", Some(id), b"x").await;
    }
    let (code, text, _) = dead(&fleet, &["drop", "second"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "1 dropped\n"));
    depth(&fleet, DEAD, 2).await;
    let left: Vec<Value> = listed(&fleet)
        .await
        .into_iter()
        .map(|message| message["id"].clone())
        .collect();
    assert_eq!(left, ["first", "third"]);
}

/// Later releases of RabbitMQ drop what is returned twenty times.
#[tokio::test]
async fn looking_often_uses_no_letter_up() {
    let fleet = declared().await;
    publish_dead(&fleet, "start", Some("listed"), b"x").await;
    for _ in 0..25 {
        depth(&fleet, DEAD, 1).await;
        assert_eq!(listed(&fleet).await.len(), 1);
    }
    depth(&fleet, DEAD, 1).await;
    let messages = fleet.vhost.get_all(DEAD).await;
    let headers = messages[0].properties.headers().clone().unwrap_or_default();
    let returned = headers
        .inner()
        .get("x-delivery-count")
        .and_then(lapin::types::AMQPValue::as_long_long_int);
    assert!(returned.unwrap_or(0) < 15, "{headers:?}");
}

/// The connection ends after so many bytes from the broker, wherever that is.
#[tokio::test]
async fn an_end_in_the_middle_loses_no_command() {
    let fleet = declared().await;
    let url = Url::parse(fleet.vhost.url()).expect("a url");
    let server: SocketAddr = format!("127.0.0.1:{}", url.port().expect("a port"))
        .parse()
        .expect("an address");
    let (mut both, mut cut) = (0, 0);
    for seed in 0..24 {
        let id = format!("letter-{seed}");
        publish_dead(
            &fleet,
            "start",
            Some(&id),
            &start(Uuid::new_v4(), "cut@example.org"),
        )
        .await;
        let cable = Cable::to(server, seed).await;
        // A whole requeue is some 900 bytes from the broker.
        cable.limit_bytes(1_000);
        let mut unreliable_url = url.clone();
        let port = Url::parse(&cable.ws_url()).expect("a url").port();
        unreliable_url.set_port(port).expect("a port");
        let mut call = fleet.call(&["dead", "requeue", &id]);
        call.env("AMQP_URL", unreliable_url.as_str());
        let output = call.output().await.expect("it runs");
        cut += u32::from(!output.status.success());
        let found = eventually("the command to be somewhere", DEADLINE, async || {
            let (commands, dead) = (
                fleet.vhost.queue_depth(COMMANDS).await?,
                fleet.vhost.queue_depth(DEAD).await?,
            );
            (commands + dead > 0).then_some((commands, dead))
        })
        .await;
        both += u32::from(found == (1, 1));
        if output.status.success() {
            assert_eq!(found.0, 1, "it reported so");
        }
        fleet.vhost.get_all(COMMANDS).await;
        eventually("both queues to be empty", DEADLINE, async || {
            fleet.vhost.get_all(DEAD).await;
            fleet.vhost.get_all(COMMANDS).await;
            fleet.vhost.queue_depth(DEAD).await == Some(0)
        })
        .await;
    }
    println!("{cut} of 24 were cut, {both} left two copies");
    assert!(cut >= 5, "too few cuts to prove anything: {cut}");
}
