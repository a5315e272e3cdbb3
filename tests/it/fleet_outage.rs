//! What all workers stand on goes away, each alone and in pairs.

use std::net::Ipv4Addr;
use std::time::Duration;

use mahspeccy_bridge::sim::Side;

use super::support::crowd::{
    LONG, RowWatch, slots, until_all_live, until_on_one_connection_each, until_shared, user,
    want_all, world,
};
use super::support::fleet::{DEADLINE, Fleet, Worker};
use super::support::gate::{Gate, Passage};
use super::support::own_postgres::OwnPostgres;
use super::support::postgres::TestDatabase;
use super::support::wait::eventually;

const COUNT: i64 = 60;

async fn on_its_own_postgres() -> (OwnPostgres, Fleet) {
    let server = OwnPostgres::start(&[Ipv4Addr::LOCALHOST]);
    let database = TestDatabase::create_on(server.url()).await;
    (server, Fleet::on(database, world(COUNT)).await)
}

async fn until_ready(worker: &Worker) {
    eventually("the worker to be ready", DEADLINE, async || {
        let (status, body) = worker.get("/readyz").await;
        if status == 200 { Ok(()) } else { Err(body) }
    })
    .await;
}

async fn until_not_ready(worker: &Worker, why: &str) {
    eventually(
        "the worker to report why it is not ready",
        DEADLINE,
        async || {
            let (status, body) = worker.get("/readyz").await;
            if status == 503 && body.contains(why) {
                Ok(())
            } else {
                Err(body)
            }
        },
    )
    .await;
}

/// Waits until every row was written since, and returns how long that took by the rows' clock.
async fn until_all_written_since(fleet: &Fleet, since: f64) -> f64 {
    eventually("all rows to be written again", LONG, async || {
        let old: i64 = sqlx::query_scalar(
            "select count(*) from public.ctrader_cache
             where updated_at < to_timestamp($1) or not is_connected",
        )
        .bind(since)
        .fetch_one(fleet.db.pool())
        .await
        .map_err(|err| err.to_string())?;
        if old == 0 {
            Ok(())
        } else {
            Err(old.to_string())
        }
    })
    .await;
    fleet.clock().await - since
}

async fn until_every_deal_is_stored(fleet: &Fleet) {
    eventually("every deal to be stored", LONG, async || {
        let made: usize = fleet
            .sim
            .with(|broker| (1..=COUNT).map(|id| broker.deals(id).len()).sum());
        let stored: i64 = sqlx::query_scalar("select count(*) from public.ctrader_deals")
            .fetch_one(fleet.db.pool())
            .await
            .map_err(|err| err.to_string())?;
        if usize::try_from(stored) == Ok(made) {
            Ok(())
        } else {
            Err(format!("{stored} of {made}"))
        }
    })
    .await;
}

fn trade(fleet: &Fleet) {
    fleet.sim.with(|broker| {
        for id in 1..=COUNT {
            broker
                .open_market(id, "EURUSD", Side::Sell, 200_000)
                .expect("the market is open");
        }
    });
}

#[tokio::test]
async fn postgres_crashes_and_comes_back_and_the_streams_never_stop() {
    let (mut server, mut fleet) = on_its_own_postgres().await;
    let (first, second) = (fleet.worker().await, fleet.worker().await);
    want_all(&fleet, 1..=COUNT).await;
    until_all_live(&fleet, COUNT).await;
    until_shared(&fleet, &[&first, &second], 10).await;
    until_every_deal_is_stored(&fleet).await;
    let (before, streams) = (slots(&fleet).await, authorisations(&fleet));
    server.stop_immediately();
    for worker in [&first, &second] {
        until_not_ready(worker, "postgres").await;
        assert_eq!(worker.get("/livez").await.0, 200);
    }
    trade(&fleet);
    server.launch();
    let back_at = eventually("the server to answer", DEADLINE, async || {
        sqlx::query_scalar::<_, f64>(
            "select extract(epoch from pg_postmaster_start_time())::float8",
        )
        .fetch_one(fleet.db.pool())
        .await
    })
    .await;
    let took = until_all_written_since(&fleet, back_at).await;
    eprintln!("Postgres is back: all rows fresh after {took:.2} s");
    assert!(took < 5.0, "{took} s");
    until_every_deal_is_stored(&fleet).await;
    assert_eq!(authorisations(&fleet), streams, "nobody logged in anew");
    for (slot, (epoch, owner)) in slots(&fleet).await {
        assert_eq!(
            (epoch, &owner),
            (before[&slot].0 + 1, &before[&slot].1),
            "slot {slot}"
        );
    }
    for worker in [first, second] {
        until_ready(&worker).await;
        worker.drain().await;
    }
}

/// How often an account was authorised, of all.
fn authorisations(fleet: &Fleet) -> usize {
    fleet.sim.with(|broker| broker.requests_of(2102))
}

#[tokio::test]
async fn an_administrator_ends_the_lock_connection() {
    let mut fleet = Fleet::new(world(COUNT)).await;
    let first = fleet.worker().await;
    want_all(&fleet, 1..=COUNT).await;
    until_all_live(&fleet, COUNT).await;
    let end_locks = async |fleet: &Fleet| {
        sqlx::query(
            "select pg_terminate_backend(l.pid) from (
                select pid from pg_locks where locktype = 'advisory' and classid = 1835100275
                    and database = (select oid from pg_database where datname = current_database())
                group by pid order by count(*) desc limit 1
             ) as l",
        )
        .execute(fleet.db.pool())
        .await
        .expect("it ends");
    };
    // Alone: it goes on by itself, under new epochs, on the same streams.
    let (before, streams) = (slots(&fleet).await, authorisations(&fleet));
    let watch = RowWatch::start(fleet.db.pool(), (1..=COUNT).collect());
    end_locks(&fleet).await;
    eventually("new epochs", DEADLINE, async || {
        slots(&fleet)
            .await
            .iter()
            .all(|(slot, (epoch, _))| *epoch == before[slot].0 + 1)
    })
    .await;
    until_all_live(&fleet, COUNT).await;
    let seen = watch.seen();
    assert!(
        seen.oldest < 5.0 && seen.disconnected.is_empty(),
        "{seen:?}"
    );
    assert_eq!(authorisations(&fleet), streams);
    drop(watch);
    // With another one, whoever is faster has them; nobody has them twice.
    let second = fleet.worker().await;
    until_shared(&fleet, &[&first, &second], 10).await;
    until_all_live(&fleet, COUNT).await;
    end_locks(&fleet).await;
    let since = fleet.clock().await;
    until_all_written_since(&fleet, since).await;
    until_all_live(&fleet, COUNT).await;
    until_on_one_connection_each(&fleet, COUNT).await;
    for id in [1, COUNT] {
        fleet.until_live(&user(id), id).await;
    }
    first.drain().await;
    second.drain().await;
}

#[tokio::test]
async fn a_minute_without_rabbitmq_touches_no_stream() {
    let mut fleet = Fleet::new(world(COUNT)).await;
    let url = url::Url::parse(fleet.vhost.url()).expect("a URL");
    let broker = format!("127.0.0.1:{}", url.port().expect("a port"));
    let gate = Gate::at("127.0.0.1", broker.parse().expect("an address")).await;
    let mut through = url.clone();
    through.set_port(Some(gate.addr().port())).expect("a port");
    let worker = fleet.worker_with(&[("AMQP_URL", through.as_str())]).await;
    want_all(&fleet, 1..=COUNT - 1).await;
    fleet
        .connect(&user(COUNT), COUNT, &format!("token-{COUNT}"))
        .await;
    until_all_live(&fleet, COUNT - 1).await;
    let streams = authorisations(&fleet);
    let watch = RowWatch::start(fleet.db.pool(), (1..COUNT).collect());
    let since = fleet.clock().await;
    let until = async |seconds: f64| {
        eventually("time to pass", LONG, async || {
            fleet.clock().await > since + seconds
        })
        .await;
    };
    // Half open: nothing ends, and nothing is heard; new connections are taken in and hear nothing either.
    gate.set(Passage::Still);
    until_not_ready(&worker, "rabbitmq").await;
    until(30.0).await;
    gate.set(Passage::Slammed);
    until(60.0).await;
    let seen = watch.seen();
    eprintln!("without RabbitMQ: rows at most {:.2} s old", seen.oldest);
    assert!(
        seen.oldest < 2.5 && seen.disconnected.is_empty(),
        "{seen:?}"
    );
    assert_eq!(authorisations(&fleet), streams);
    fleet.start(&user(COUNT), None).await;
    gate.set(Passage::Open);
    fleet.until_live(&user(COUNT), COUNT).await;
    until_ready(&worker).await;
    worker.drain().await;
}

#[tokio::test]
async fn two_things_go_wrong_at_once() {
    let (mut server, mut fleet) = on_its_own_postgres().await;
    let url = url::Url::parse(fleet.vhost.url()).expect("a URL");
    let broker = format!("127.0.0.1:{}", url.port().expect("a port"));
    let gate = Gate::at("127.0.0.1", broker.parse().expect("an address")).await;
    let mut through = url.clone();
    through.set_port(Some(gate.addr().port())).expect("a port");
    let amqp = [("AMQP_URL", through.as_str())];
    let mut first = fleet.worker_with(&amqp).await;
    let second = fleet.worker_with(&amqp).await;
    want_all(&fleet, 1..=COUNT).await;
    until_all_live(&fleet, COUNT).await;
    until_shared(&fleet, &[&first, &second], 10).await;
    // Postgres and RabbitMQ.
    server.stop_immediately();
    gate.set(Passage::Slammed);
    until_not_ready(&second, "postgres").await;
    trade(&fleet);
    server.launch();
    let since = eventually("the server to answer", DEADLINE, async || {
        sqlx::query_scalar::<_, f64>("select extract(epoch from clock_timestamp())::float8")
            .fetch_one(fleet.db.pool())
            .await
    })
    .await;
    until_all_written_since(&fleet, since).await;
    gate.set(Passage::Open);
    until_ready(&first).await;
    until_ready(&second).await;
    // Postgres, and a worker that dies with it.
    server.stop_immediately();
    first.signal("KILL").await;
    first.ended(DEADLINE).await;
    server.launch();
    eventually("all to be the second one's", LONG, async || {
        let owners: Vec<String> = sqlx::query_scalar(
            "select distinct coalesce(worker_id, '') from bridge.slots
             where slot in (select slot from bridge.sessions)",
        )
        .fetch_all(fleet.db.pool())
        .await
        .map_err(|err| err.to_string())?;
        if owners == [second.id.clone()] {
            Ok(())
        } else {
            Err(format!("{owners:?}"))
        }
    })
    .await;
    until_all_live(&fleet, COUNT).await;
    until_on_one_connection_each(&fleet, COUNT).await;
    until_every_deal_is_stored(&fleet).await;
    // cTrader and Postgres.
    server.stop_immediately();
    fleet.sim.kill_sockets();
    trade(&fleet);
    eventually("it to stream again", LONG, async || {
        fleet
            .sim
            .with(|broker| (1..=COUNT).all(|id| broker.authorised_on(id).len() == 1))
    })
    .await;
    server.launch();
    until_all_live(&fleet, COUNT).await;
    until_every_deal_is_stored(&fleet).await;
    tokio::time::timeout(Duration::from_mins(1), second.drain())
        .await
        .expect("it ends");
}
