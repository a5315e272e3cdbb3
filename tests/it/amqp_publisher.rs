//! Sending a command from the command line.

use std::time::Duration;

use mahspeccy_bridge::amqp::{AmqpError, publisher, topology};
use mahspeccy_bridge::domain::command::Command;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::amqp_support::{DEADLINE, TestConsumer, commands, settings};
use crate::support::rabbitmq::TestVhost;

#[tokio::test]
async fn a_published_command_is_in_the_queue_with_the_properties_of_the_contract() {
    let vhost = TestVhost::create().await;
    for command in commands(2) {
        publisher::publish(&settings(vhost.url()), &command)
            .await
            .expect("confirmed");
        let [message] = &vhost.get_all(topology::COMMANDS_QUEUE).await[..] else {
            panic!("one message");
        };
        assert_eq!(Command::parse(&message.body), Ok(command.clone()));
        assert_eq!(message.exchange, "bridge.commands");
        assert_eq!(message.routing_key, command.kind.as_str());
        let properties = &message.properties;
        let text =
            |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        assert_eq!(
            text(properties.content_type()).as_deref(),
            Some("application/json")
        );
        assert_eq!(text(properties.message_id()), Some(command.id.to_string()));
        assert_eq!(*properties.delivery_mode(), Some(2));
    }
}

#[tokio::test]
async fn errors_say_what_is_wrong_and_never_the_password() {
    let vhost = TestVhost::create().await;
    let [command] = &commands(1)[..] else {
        unreachable!("one")
    };
    let host = vhost.url().split('@').nth(1).expect("a user").to_owned();
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed_port = free.local_addr().expect("bound").port();
    drop(free);
    for (url, part) in [
        (
            format!("amqp://{}:hunter2@{host}", vhost.name()),
            "ACCESS_REFUSED",
        ),
        (
            format!("amqp://u:hunter2@127.0.0.1:{closed_port}"),
            "refused",
        ),
        (
            format!("amqp://u:hunter2@127.0.0.1:{closed_port}?heartbeat=x"),
            "AMQP_URL is not",
        ),
        ("amqp://u:hunter2@no-such-host.invalid".to_owned(), "lookup"),
        // TLS with a server that speaks none.
        (format!("amqps://u:hunter2@{host}"), ""),
    ] {
        let err = publisher::publish(&settings(&url), command)
            .await
            .expect_err("it cannot work");
        let text = format!("{err} {err:?}");
        assert!(text.contains(part), "{part}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    let consumer = TestConsumer::start(&format!("amqp://{}:hunter2@{host}", vhost.name()));
    let mut state = consumer.handle.state();
    state.changed().await.expect("it tries");
    let reason = consumer.disconnected().await;
    assert!(
        reason.contains("ACCESS_REFUSED") && !reason.contains("hunter2"),
        "{reason}"
    );
    consumer.stop().await;
}

#[tokio::test]
async fn a_broker_that_says_nothing_is_given_up_on_and_nothing_is_left_of_the_attempt() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = silent.accept().await.expect("a connection");
        let mut greeting = Vec::new();
        // Ends when the client closes: the socket is not left open after the error.
        stream.read_to_end(&mut greeting).await.expect("the end");
        greeting
    });
    let url = format!("amqp://u:hunter2@127.0.0.1:{port}");
    let err = publisher::publish(&settings(&url), &commands(1)[0])
        .await
        .expect_err("no answer");
    assert!(matches!(err, AmqpError::Timeout { after, .. } if after == Duration::from_secs(10)));
    let greeting = tokio::time::timeout(DEADLINE, server)
        .await
        .expect("the connection ends")
        .expect("no panic");
    assert_eq!(greeting, b"AMQP\x00\x00\x09\x01");
}
