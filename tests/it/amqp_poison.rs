//! What cannot be a command ends in the dead-letter queue once, as it was, with the reason.

use std::collections::HashMap;
use std::fmt::Write as _;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use mahspeccy_bridge::amqp::topology::{COMMANDS_EXCHANGE, DEAD_QUEUE};

use crate::amqp_support::{Mode, TestConsumer, commands, depth, nothing_left, send};
use crate::support::rabbitmq::TestVhost;
use crate::support::services;

/// A body, and a part of the reason.
fn poison() -> Vec<(Vec<u8>, &'static str)> {
    let good = |field: &str, json: &str| {
        let mut body = String::from("{");
        for (name, value) in [
            ("id", "\"8b0f2c52-6d0e-4f0a-9a53-0c1f3f8f2a11\""),
            ("command", "\"start\""),
            ("userId", "\"lance@lwk.space\""),
            ("accountId", "5150705"),
            ("issuedAt", "\"2026-11-23T05:42:00.000123Z\""),
        ] {
            let value = if name == field { json } else { value };
            write!(body, "\"{name}\":{value},").expect("text");
        }
        body.pop();
        body.push('}');
        body.into_bytes()
    };
    let mut cut = good("", "");
    cut.truncate(50);
    let mut too_long = good("", "");
    too_long.resize(70_000, b' ');
    vec![
        (vec![0xff, 0xfe], "the body is not UTF-8"),
        (Vec::new(), "the body is not JSON"),
        (cut, "the body is not JSON"),
        (b"[]".to_vec(), "the body is not a JSON object"),
        (b"{}".to_vec(), "id is missing"),
        (too_long, "the body is longer than 65536 bytes"),
        (
            good("command", "\"restart\""),
            "command is neither start nor stop",
        ),
        (good("command", "1"), "command is not a string"),
        (good("userId", "\"\""), "userId is empty"),
        (
            good("userId", "\"a\\u0000b\""),
            "userId contains a NUL character",
        ),
        (
            good("userId", &format!("\"{}\"", "x".repeat(321))),
            "userId has more than 320 characters",
        ),
        (good("accountId", "-1"), "accountId is not positive"),
        (good("accountId", "1.5"), "accountId is not a whole number"),
        (
            good("accountId", "9223372036854775808"),
            "accountId does not fit 64 bits",
        ),
        (
            good("accountId", "\"five\""),
            "accountId is neither a number nor a string of digits",
        ),
        (
            good("issuedAt", "\"now\""),
            "issuedAt is not an RFC 3339 time",
        ),
        (
            good("issuedAt", "\"2026-11-23T05:42:00\""),
            "issuedAt has no offset from UTC",
        ),
        (good("id", "\"8b0f2c52\""), "id is not a UUID"),
    ]
}

#[tokio::test]
async fn every_poison_is_dead_lettered_once_as_it_was_and_good_commands_pass_by_it() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;

    let commands = commands(20);
    let mut expected: HashMap<String, (Vec<u8>, &str)> = HashMap::new();
    for (at, (body, reason)) in poison().into_iter().enumerate() {
        send(&vhost, &commands[at..=at]).await;
        let id = format!("poison-{at}");
        let mut headers = FieldTable::default();
        headers.insert("x-trace".into(), AMQPValue::LongString(id.as_str().into()));
        let properties = BasicProperties::default()
            .with_message_id(id.as_str().into())
            .with_content_type("text/plain".into())
            .with_correlation_id("c".into())
            .with_headers(headers);
        vhost
            .publish(COMMANDS_EXCHANGE, "stop", &body, properties)
            .await;
        expected.insert(id, (body, reason));
    }
    send(&vhost, &commands[expected.len()..]).await;

    consumer.all_applied(&commands).await;
    let count = u32::try_from(expected.len()).expect("few");
    depth(&vhost, DEAD_QUEUE, count).await;
    assert_eq!(
        consumer.applied.lock().expect("applied").len(),
        commands.len()
    );
    consumer.stop().await;

    for message in vhost.get_all(DEAD_QUEUE).await {
        let properties = &message.properties;
        let id = properties.message_id().as_ref().expect("kept").to_string();
        let (body, reason) = expected.remove(&id).expect("each once");
        assert_eq!(message.body, body, "{id}");
        assert_eq!(
            message.header("x-bridge-reason").as_deref(),
            Some(reason),
            "{id}"
        );
        assert_eq!(
            message.header("x-bridge-original-routing-key").as_deref(),
            Some("stop")
        );
        assert_eq!(
            message.header("x-bridge-original-exchange").as_deref(),
            Some("bridge.commands")
        );
        assert_eq!(message.header("x-trace"), Some(id));
        assert_eq!(message.header("x-death"), None, "ours, not the broker's");
        assert_eq!(message.exchange, "bridge.dead");
        assert_eq!(*properties.delivery_mode(), Some(2), "persistent now");
        let text =
            |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        assert_eq!(
            text(properties.content_type()).as_deref(),
            Some("text/plain")
        );
        assert_eq!(text(properties.correlation_id()).as_deref(), Some("c"));
    }
    assert!(expected.is_empty(), "missing: {:?}", expected.keys());
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn properties_that_would_refuse_or_lose_a_dead_letter_do_not() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;
    // The broker checks this against the publisher, which the consumer is not.
    let user = services::amqp_url().username().to_owned();
    let properties = BasicProperties::default()
        .with_user_id(user.as_str().into())
        .with_expiration("60000".into())
        .with_delivery_mode(1);
    vhost
        .publish(COMMANDS_EXCHANGE, "start", b"x", properties)
        .await;
    depth(&vhost, DEAD_QUEUE, 1).await;
    let [message] = &vhost.get_all(DEAD_QUEUE).await[..] else {
        panic!("one message");
    };
    assert_eq!(message.header("x-bridge-original-user-id"), Some(user));
    assert_eq!(*message.properties.expiration(), None);
    assert_eq!(*message.properties.delivery_mode(), Some(2));
    consumer.stop().await;
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn a_command_that_can_never_be_applied_is_dead_lettered_with_the_handlers_reason() {
    for (mode, reason) in [
        (Mode::FailNever, "not in this w?rld"),
        (Mode::Panic, "the handler panicked"),
    ] {
        let vhost = TestVhost::create().await;
        let consumer = TestConsumer::start(vhost.url());
        consumer.connected().await;
        consumer.mode.send_replace(mode);
        let commands = commands(3);
        send(&vhost, &commands).await;
        depth(&vhost, DEAD_QUEUE, 3).await;
        consumer.mode.send_replace(Mode::Apply);
        let more = crate::amqp_support::commands(3);
        send(&vhost, &more).await;
        consumer.all_applied(&more).await;
        assert_eq!(*consumer.calls.borrow(), 6, "each is tried once");
        consumer.stop().await;
        for message in vhost.get_all(DEAD_QUEUE).await {
            assert_eq!(message.header("x-bridge-reason").as_deref(), Some(reason));
        }
        nothing_left(&vhost).await;
    }
}
