//! Commands reach the handler and are acknowledged after it, whatever happens to the broker, the
//! connection or the database meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mahspeccy_bridge::amqp::ConnectionState;
use mahspeccy_bridge::amqp::consumer::PREFETCH;
use mahspeccy_bridge::amqp::handler::CommandOutcome;
use mahspeccy_bridge::amqp::topology::{COMMANDS_QUEUE, DEAD_QUEUE};
use mahspeccy_bridge::domain::command::CommandKind;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::amqp_support::{DEADLINE, Mode, TestConsumer, commands, depth, nothing_left, send};
use crate::support::rabbitmq::TestVhost;
use crate::support::wait::eventually;

#[tokio::test]
async fn commands_are_applied_once_and_acknowledged() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;
    let commands = commands(200);
    send(&vhost, &commands).await;
    consumer.all_applied(&commands).await;
    assert_eq!(consumer.applied.lock().expect("applied").len(), 200);
    let counts = consumer.handle.counts();
    for kind in [CommandKind::Start, CommandKind::Stop] {
        assert_eq!(
            counts.get(&(Some(kind), CommandOutcome::Applied)),
            Some(&100)
        );
    }
    consumer.stop().await;
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn a_command_is_not_acknowledged_before_its_handler_ends() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;
    consumer.mode.send_replace(Mode::Hang);
    let commands = commands(100);
    send(&vhost, &commands).await;
    consumer.called(usize::from(PREFETCH)).await;
    // All it may hold is in the handler, the rest waits.
    depth(&vhost, COMMANDS_QUEUE, 100 - u32::from(PREFETCH)).await;
    assert!(consumer.applied().is_empty());
    // The connection goes while they are handled: they come again, to this consumer.
    vhost.close_all_connections().await;
    consumer.disconnected().await;
    consumer.mode.send_replace(Mode::Apply);
    consumer.all_applied(&commands).await;
    // A lost connection may leave a command twice: the second is taken too before the stop.
    nothing_left(&vhost).await;
    consumer.stop().await;
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn consumption_goes_on_after_the_broker_closed_the_connection_again_and_again() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    let mut all = Vec::new();
    for _ in 0..4 {
        consumer.connected().await;
        let more = commands(20);
        send(&vhost, &more).await;
        vhost.close_all_connections().await;
        consumer.disconnected().await;
        all.extend(more);
    }
    consumer.all_applied(&all).await;
    // A lost connection may leave a command twice: the second is taken too before the stop.
    nothing_left(&vhost).await;
    consumer.stop().await;
    nothing_left(&vhost).await;
}

/// Held through more lost connections than the broker allows returns.
#[tokio::test]
async fn commands_survive_an_outage_of_the_database_whatever_happens_to_the_connection() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;
    consumer.mode.send_replace(Mode::FailLater);
    let commands = commands(50);
    send(&vhost, &commands).await;
    for _ in 0..8 {
        consumer.connected().await;
        let calls = *consumer.calls.borrow();
        consumer.called(calls + 40).await;
        vhost.close_all_connections().await;
        consumer.disconnected().await;
    }
    assert!(consumer.applied().is_empty());
    assert_eq!(vhost.queue_depth(DEAD_QUEUE).await, Some(0));
    consumer.mode.send_replace(Mode::Apply);
    consumer.all_applied(&commands).await;
    // A lost connection may leave a command twice: the second is taken too before the stop.
    nothing_left(&vhost).await;
    consumer.stop().await;
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn held_commands_are_tried_with_growing_pauses_and_no_more_are_taken() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;
    consumer.mode.send_replace(Mode::FailLater);
    let commands = commands(200);
    send(&vhost, &commands).await;
    consumer.called(200).await;
    // Twice the prefetch is the most that is held.
    let held_max = 2 * u32::from(PREFETCH);
    let waiting = vhost.queue_depth(COMMANDS_QUEUE).await.expect("declared");
    assert!(waiting >= 200 - held_max, "{waiting} of 200 wait");
    consumer.mode.send_replace(Mode::Apply);
    consumer.all_applied(&commands).await;
    let applied = consumer.applied.lock().expect("applied").len();
    assert_eq!(applied, 200, "none came back");
    consumer.stop().await;
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn a_paused_consumer_leaves_commands_to_others_and_keeps_none() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;
    // Paused in the middle of a stream of deliveries.
    let before = commands(300);
    let sending = send(&vhost, &before);
    let pausing = async {
        consumer.called(50).await;
        consumer.handle.pause();
    };
    tokio::join!(sending, pausing);
    eventually("all to be applied or waiting", DEADLINE, async || {
        let applied = consumer.applied().len();
        let waiting = vhost.queue_depth(COMMANDS_QUEUE).await.expect("declared");
        let sum = applied + usize::try_from(waiting).expect("few");
        if sum == 300 {
            Ok(())
        } else {
            Err((applied, waiting))
        }
    })
    .await;
    assert_eq!(
        *consumer.handle.state().borrow(),
        ConnectionState::Connected
    );

    let more = commands(10);
    send(&vhost, &more).await;
    let other = TestConsumer::start(vhost.url());
    other.all_applied(&more).await;
    other.stop().await;

    let last = commands(10);
    send(&vhost, &last).await;
    depth(&vhost, COMMANDS_QUEUE, 10).await;
    // It stays paused over a reconnection.
    vhost.close_all_connections().await;
    consumer.disconnected().await;
    consumer.connected().await;
    depth(&vhost, COMMANDS_QUEUE, 10).await;
    consumer.handle.resume();
    consumer.all_applied(&last).await;
    consumer.stop().await;
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn stopping_brings_what_is_in_flight_to_its_end() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;
    consumer.mode.send_replace(Mode::Hang);
    let commands = commands(100);
    send(&vhost, &commands).await;
    consumer.called(usize::from(PREFETCH)).await;
    consumer.begin_stop();
    consumer.mode.send_replace(Mode::Apply);
    let applied = Arc::clone(&consumer.applied);
    consumer.stop().await;
    let applied = applied.lock().expect("applied").len();
    assert_eq!(applied, usize::from(PREFETCH));
    let left = vhost.get_all(COMMANDS_QUEUE).await;
    assert_eq!(left.len(), 100 - applied, "the rest waits");
    for message in left {
        assert!(!message.redelivered, "what was not taken did not come back");
    }
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn stopping_in_an_outage_gives_the_commands_back_as_new() {
    let vhost = TestVhost::create().await;
    let sent = commands(20);
    for round in 0..8 {
        let consumer = TestConsumer::start(vhost.url());
        consumer.mode.send_replace(Mode::FailLater);
        consumer.connected().await;
        if round == 0 {
            send(&vhost, &sent).await;
        }
        consumer.called(20).await;
        consumer.stop().await;
        depth(&vhost, COMMANDS_QUEUE, 20).await;
    }
    for message in vhost.get_all(COMMANDS_QUEUE).await {
        let count = message.header("x-delivery-count");
        assert_eq!(count.as_deref(), Some("LongLongInt(0)"));
        let content_type = message.properties.content_type().as_ref();
        assert_eq!(
            content_type.map(ToString::to_string).as_deref(),
            Some("application/json")
        );
    }
    nothing_left(&vhost).await;
}

#[tokio::test]
async fn a_deleted_queue_is_declared_anew() {
    let vhost = TestVhost::create().await;
    let consumer = TestConsumer::start(vhost.url());
    consumer.connected().await;
    vhost
        .channel()
        .queue_delete(
            COMMANDS_QUEUE.into(),
            lapin::options::QueueDeleteOptions::default(),
        )
        .await
        .expect("deleted");
    let reason = consumer.disconnected().await;
    assert_eq!(reason, "the broker cancelled the consumer");
    consumer.connected().await;
    let commands = commands(5);
    send(&vhost, &commands).await;
    consumer.all_applied(&commands).await;
    consumer.stop().await;
}

/// A relay in front of the broker that can go silent, as a broken network does.
struct Relay {
    port: u16,
    open: Arc<AtomicBool>,
    frozen: CancellationToken,
}

impl Relay {
    async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let open = Arc::new(AtomicBool::new(true));
        let frozen = CancellationToken::new();
        let (accepts, freeze) = (Arc::clone(&open), frozen.clone());
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.expect("a connection");
                if !accepts.load(Ordering::SeqCst) {
                    continue;
                }
                let (to, freeze) = (to.clone(), freeze.clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(to).await.expect("the broker");
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = freeze.cancelled() => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, open, frozen }
    }
}

#[tokio::test]
async fn a_network_that_goes_silent_is_noticed_and_left() {
    let vhost = TestVhost::create().await;
    let url = url::Url::parse(vhost.url()).expect("a URL");
    let host = url.host_str().expect("a host");
    let relay = Relay::start(format!("{host}:{}", url.port().unwrap_or(5672))).await;
    let mut through = url.clone();
    through.set_host(Some("127.0.0.1")).expect("a host");
    through.set_port(Some(relay.port)).expect("a port");
    through.set_query(Some("heartbeat=1"));

    let consumer = TestConsumer::start(through.as_str());
    consumer.connected().await;
    relay.open.store(false, Ordering::SeqCst);
    relay.frozen.cancel();
    tokio::time::timeout(Duration::from_secs(20), consumer.disconnected())
        .await
        .expect("noticed by the missing heartbeat");
    consumer.stop().await;
}
