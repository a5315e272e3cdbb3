//! What the broker has after a declaration, and what a conflict is called.

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ExchangeKind};
use mahspeccy_bridge::amqp::{AmqpError, ConnectionState, publisher, topology};
use serde_json::json;

use crate::amqp_support::{DEADLINE, TestConsumer, commands, management, settings};
use crate::support::rabbitmq::TestVhost;
use crate::support::wait::eventually;

#[tokio::test]
async fn declaring_makes_exactly_the_topology_of_the_contract_and_may_be_repeated() {
    let vhost = TestVhost::create().await;
    topology::declare(vhost.channel()).await.expect("declared");
    topology::declare(vhost.channel()).await.expect("again");

    let commands = management(&vhost, "queues", "bridge.commands").await;
    assert_eq!(commands["durable"], true);
    assert_eq!(commands["type"], "quorum");
    assert_eq!(
        commands["arguments"],
        json!({
            "x-queue-type": "quorum",
            "x-delivery-limit": 5,
            "x-dead-letter-exchange": "bridge.dead",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        })
    );
    let dead = management(&vhost, "queues", "bridge.commands.dead").await;
    assert_eq!(dead["durable"], true);
    assert_eq!(dead["arguments"], json!({ "x-queue-type": "quorum" }));
    for (name, kind) in [("bridge.commands", "direct"), ("bridge.dead", "fanout")] {
        let exchange = management(&vhost, "exchanges", name).await;
        assert_eq!(exchange["type"], kind);
        assert_eq!(exchange["durable"], true);
    }

    for key in ["start", "stop"] {
        let properties = BasicProperties::default();
        vhost
            .publish("bridge.commands", key, b"x", properties)
            .await;
    }
    vhost
        .publish("bridge.dead", "", b"x", BasicProperties::default())
        .await;
    assert_eq!(vhost.get_all("bridge.commands").await.len(), 2);
    assert_eq!(vhost.get_all("bridge.commands.dead").await.len(), 1);
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_an_error_that_names_it() {
    let vhost = TestVhost::create().await;
    let options = QueueDeclareOptions::durable();
    vhost
        .channel()
        .queue_declare("bridge.commands".into(), options, FieldTable::default())
        .await
        .expect("declared");
    let [command] = &commands(1)[..] else {
        unreachable!("one")
    };
    let err = publisher::publish(&settings(vhost.url()), command)
        .await
        .expect_err("a conflict");
    assert!(matches!(err, AmqpError::Topology { .. }), "{err:?}");
    let text = err.to_string();
    assert!(
        text.starts_with("the broker already has the queue bridge.commands with other arguments: PRECONDITION_FAILED"),
        "{text}"
    );

    let consumer = TestConsumer::start(vhost.url());
    let state = consumer.handle.state();
    eventually(
        "the consumer to report why",
        DEADLINE,
        async || match &*state.borrow() {
            ConnectionState::Disconnected { reason, .. } if *reason == text => Ok(()),
            ConnectionState::Connected | ConnectionState::Disconnected { .. } => {
                Err(format!("{:?}", *state.borrow()))
            }
        },
    )
    .await;
    consumer.stop().await;
}

#[tokio::test]
async fn an_exchange_of_another_kind_is_an_error_that_names_it() {
    let vhost = TestVhost::create().await;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    vhost
        .channel()
        .exchange_declare(
            "bridge.dead".into(),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        )
        .await
        .expect("declared");
    let err = publisher::publish(&settings(vhost.url()), &commands(1)[0])
        .await
        .expect_err("a conflict");
    let text = err.to_string();
    assert!(text.contains("the exchange bridge.dead"), "{text}");
}
