//! The tests' own support works: isolation, clean-up, and a failure that tells its cause.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use url::Url;

use crate::support::postgres::TestDatabase;
use crate::support::rabbitmq::TestVhost;
use crate::support::services;
use crate::support::wait::eventually;

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn databases_of_two_tests_are_separate() {
    let (one, other) = tokio::join!(TestDatabase::create(), TestDatabase::create());

    one.pool()
        .execute("create table t (n int)")
        .await
        .expect("the database is our own");

    let found = |database: &TestDatabase| {
        let pool = database.pool().clone();
        async move {
            sqlx::query_scalar::<_, bool>("select to_regclass('t') is not null")
                .fetch_one(&pool)
                .await
                .expect("the database answers")
        }
    };
    assert!(found(&one).await);
    assert!(!found(&other).await);
}

#[tokio::test]
async fn database_is_dropped_although_clients_are_connected() {
    let database = TestDatabase::create().await;
    let name = database.name().to_owned();
    let _client = PgConnection::connect(database.url())
        .await
        .expect("the URL leads to it");

    drop(database);

    let mut server = PgConnection::connect(services::database_url().as_str())
        .await
        .expect("the server is up");
    let left: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = $1")
        .bind(&name)
        .fetch_one(&mut server)
        .await
        .expect("the server answers");
    assert_eq!(left, 0, "{name} is still there");
}

#[tokio::test]
async fn database_is_dropped_when_its_test_panics() {
    let database = TestDatabase::create().await;
    let name = database.name().to_owned();

    let test = tokio::spawn(async move {
        assert_eq!(database.url(), "", "as a failing test would");
    });
    assert!(test.await.expect_err("it panicked").is_panic());

    let mut server = PgConnection::connect(services::database_url().as_str())
        .await
        .expect("the server is up");
    let left: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = $1")
        .bind(&name)
        .fetch_one(&mut server)
        .await
        .expect("the server answers");
    assert_eq!(left, 0, "{name} is still there");
}

#[tokio::test]
async fn published_message_comes_back_as_it_was() {
    let vhost = TestVhost::create().await;
    declare_quorum_queue(&vhost, "q").await;
    let mut headers = FieldTable::default();
    headers.insert(
        "x-bridge-reason".into(),
        AMQPValue::LongString("not JSON".into()),
    );
    headers.insert("x-number".into(), AMQPValue::LongInt(5));
    let properties = BasicProperties::default()
        .with_message_id("id-1".into())
        .with_headers(headers);

    vhost
        .publish("", "q", b"\xff\x00 not JSON", properties.clone())
        .await;
    vhost
        .publish("", "q", b"second", BasicProperties::default())
        .await;

    let messages = vhost.get_all("q").await;
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0].body, b"\xff\x00 not JSON");
    assert_eq!(messages[0].properties.message_id(), properties.message_id());
    assert_eq!(
        messages[0].header("x-bridge-reason").as_deref(),
        Some("not JSON")
    );
    assert_eq!(
        messages[0].header("x-number").as_deref(),
        Some("LongInt(5)")
    );
    assert_eq!(messages[0].header("x-missing"), None);
    assert_eq!(
        (
            messages[0].exchange.as_str(),
            messages[0].routing_key.as_str()
        ),
        ("", "q")
    );
    assert!(!messages[0].redelivered);
    assert_eq!(messages[1].body, b"second");
    assert!(vhost.get_all("q").await.is_empty());
}

#[tokio::test]
#[should_panic(expected = "reaches a queue")]
async fn message_that_reaches_no_queue_fails_the_test() {
    let vhost = TestVhost::create().await;
    vhost
        .publish("", "nowhere", b"", BasicProperties::default())
        .await;
}

#[tokio::test]
async fn queue_depth_counts_what_waits_for_a_consumer() {
    let vhost = TestVhost::create().await;
    assert_eq!(vhost.queue_depth("q").await, None);

    declare_quorum_queue(&vhost, "q").await;
    assert_eq!(vhost.queue_depth("q").await, Some(0));

    vhost
        .publish("", "q", b"1", BasicProperties::default())
        .await;
    vhost
        .publish("", "q", b"2", BasicProperties::default())
        .await;
    depth_becomes(&vhost, "q", 2).await;

    let taken = vhost
        .channel()
        .basic_get("q".into(), BasicGetOptions::default())
        .await
        .expect("the queue can be read")
        .expect("a message waits");
    depth_becomes(&vhost, "q", 1).await;
    taken
        .delivery
        .acker
        .ack(BasicAckOptions::default())
        .await
        .expect("the channel is open");
    depth_becomes(&vhost, "q", 1).await;
}

#[tokio::test]
async fn closing_all_connections_hits_the_vhosts_user_alone() {
    let (hit, spared) = tokio::join!(TestVhost::create(), TestVhost::create());
    let victim = connect(hit.url())
        .await
        .expect("the URL leads to the vhost");
    let bystander = connect(spared.url())
        .await
        .expect("the URL leads to the vhost");

    hit.close_all_connections().await;

    eventually("the broker to cut the connection", DEADLINE, async || {
        if victim.status().connected() {
            Err(victim.status())
        } else {
            Ok(())
        }
    })
    .await;
    assert!(bystander.status().connected());
    assert!(
        hit.channel().status().connected(),
        "the helpers' own connection stays"
    );
    let again = connect(hit.url()).await.expect("the user may come back");
    assert!(again.status().connected());
}

#[tokio::test]
async fn vhost_and_user_are_deleted_although_a_client_is_connected() {
    let vhost = TestVhost::create().await;
    let name = vhost.name().to_owned();
    let url = vhost.url().to_owned();
    let _client = connect(&url).await.expect("the URL leads to the vhost");

    drop(vhost);

    assert!(
        connect(&url).await.is_err(),
        "the user of {name} is still there"
    );
    let mut as_administrator = services::amqp_url();
    as_administrator.set_path(&name);
    assert!(
        connect(as_administrator.as_str()).await.is_err(),
        "vhost {name} is still there"
    );
}

#[tokio::test]
async fn waiting_returns_what_was_found() {
    let mut polls = 0;
    let found = eventually("the third poll", DEADLINE, async || {
        polls += 1;
        (polls == 3).then_some("here")
    })
    .await;
    assert_eq!((found, polls), ("here", 3));

    eventually("what is so", DEADLINE, async || true).await;
}

#[tokio::test]
#[should_panic(expected = "waited 50ms for rain; last seen: \"sunshine\"")]
async fn waiting_in_vain_reports_what_was_seen_last() {
    eventually("rain", Duration::from_millis(50), async || {
        Err::<(), _>("sunshine")
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "the first poll has not returned")]
async fn poll_that_never_returns_meets_the_deadline() {
    eventually("an answer", Duration::from_millis(50), async || {
        std::future::pending::<bool>().await
    })
    .await;
}

#[test]
#[should_panic(
    expected = "DATABASE_URL is not set: run scripts/test, or set DATABASE_URL and AMQP_URL"
)]
fn missing_server_fails_the_test_with_the_command_to_run() {
    services::required("DATABASE_URL", None);
}

#[test]
fn management_api_is_looked_for_beside_the_broker() {
    let amqp = Url::parse("amqp://u%40x:p%2Fw@rabbit.internal:5672/%2f").expect("it is a URL");
    let management = services::management_beside(&amqp);
    assert_eq!(
        management.as_str(),
        "http://u%40x:p%2Fw@rabbit.internal:15672/"
    );
}

async fn connect(url: &str) -> Result<Connection, lapin::Error> {
    Connection::connect(url, ConnectionProperties::default()).await
}

async fn declare_quorum_queue(vhost: &TestVhost, name: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    vhost
        .channel()
        .queue_declare(name.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .expect("the broker has quorum queues");
}

async fn depth_becomes(vhost: &TestVhost, queue: &str, depth: u32) {
    eventually("the queue's depth", DEADLINE, async || {
        match vhost.queue_depth(queue).await {
            Some(found) if found == depth => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
