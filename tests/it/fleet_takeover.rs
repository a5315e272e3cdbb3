//! A worker dies, hangs or is cut off, and the others take over what it ran.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::support::crowd::{
    LONG, RowWatch, accounts, slots, spread, until_all_at, until_all_live,
    until_on_one_connection_each, until_shared, until_without, user, want_all, world,
};
use super::support::fleet::{DEADLINE, Fleet};
use super::support::gate::Gate;
use super::support::namespace::Namespace;
use super::support::own_postgres::OwnPostgres;
use super::support::postgres::TestDatabase;
use super::support::wait::eventually;

/// No row of a session that nothing happens to becomes older.
const UNTOUCHED: f64 = 2.5;

/// Three requests for each account at cTrader's fifty a second, and a third of that more.
fn streams_within(accounts: usize) -> f64 {
    f64::from(u32::try_from(accounts).expect("some")) * 3.0 / 50.0 * 1.3
}

#[tokio::test]
async fn what_a_killed_worker_had_is_claimed_within_a_second_and_streams_as_soon_as_it_may() {
    const COUNT: i64 = 240;
    let mut fleet = Fleet::new(world(COUNT)).await;
    let mut first = fleet.worker().await;
    let (second, third) = (fleet.worker().await, fleet.worker().await);
    want_all(&fleet, 1..=COUNT).await;
    until_all_live(&fleet, COUNT).await;
    until_shared(&fleet, &[&first, &second, &third], 20).await;
    until_all_live(&fleet, COUNT).await;
    let (before, accounts) = (slots(&fleet).await, accounts(&fleet).await);
    let (orphaned, untouched): (Vec<_>, Vec<_>) = before
        .iter()
        .partition(|(_, (_, owner))| *owner == first.id);
    let orphans: Vec<i64> = orphaned
        .iter()
        .flat_map(|(slot, _)| &accounts[slot])
        .copied()
        .collect();
    let others: Vec<i64> = untouched
        .iter()
        .flat_map(|(slot, _)| &accounts[slot])
        .copied()
        .collect();
    assert!(orphans.len() >= 60, "{}", orphans.len());

    let watch = RowWatch::start(fleet.db.pool(), others);
    let killed_at = fleet.clock().await;
    first.signal("KILL").await;
    first.ended(DEADLINE).await;
    until_without(&fleet, &first).await;
    until_all_live(&fleet, COUNT).await;
    let claimed: f64 = sqlx::query_scalar(
        "select extract(epoch from max(claimed_at))::float8 - $2 from bridge.slots where slot = any ($1)",
    )
    .bind(orphaned.iter().map(|(slot, _)| **slot).collect::<Vec<i32>>())
    .bind(killed_at)
    .fetch_one(fleet.db.pool())
    .await
    .expect("slots");
    // The first write of each session under its new epoch with the status live is in `bridge.sessions`.
    let streams: f64 = sqlx::query_scalar(
        "select extract(epoch from max(updated_at))::float8 - $2 from bridge.sessions
         where account_id = any ($1) and status = 'live'",
    )
    .bind(&orphans)
    .bind(killed_at)
    .fetch_one(fleet.db.pool())
    .await
    .expect("sessions");
    let seen = watch.seen();
    eprintln!(
        "{} orphans claimed after {claimed:.2} s, streaming after {streams:.2} s; others' rows at most {:.2} s old",
        orphans.len(),
        seen.oldest
    );
    assert!(claimed < 1.0, "{claimed} s");
    assert!(
        streams < streams_within(orphans.len()),
        "{streams} s for {}",
        orphans.len()
    );
    assert!(
        seen.oldest < UNTOUCHED && seen.disconnected.is_empty(),
        "{seen:?}"
    );
    until_on_one_connection_each(&fleet, COUNT).await;
    let after = slots(&fleet).await;
    for (slot, (epoch, owner)) in &before {
        let moved = i64::from(*owner == first.id);
        assert_eq!(after[slot].0, epoch + moved, "slot {slot}");
        assert_ne!(after[slot].1, first.id);
    }
    second.drain().await;
    third.drain().await;
}

#[tokio::test]
async fn a_hung_worker_is_taken_over_and_does_no_harm_when_it_wakes_up() {
    const COUNT: i64 = 60;
    let mut fleet = Fleet::new(world(COUNT)).await;
    let (first, second) = (fleet.worker().await, fleet.worker().await);
    want_all(&fleet, 1..=COUNT).await;
    until_all_live(&fleet, COUNT).await;
    until_shared(&fleet, &[&first, &second], 10).await;
    until_all_live(&fleet, COUNT).await;
    let stopped_at = fleet.clock().await;
    first.signal("STOP").await;
    until_all_at(&fleet, &second, COUNT).await;
    let claimed: f64 =
        sqlx::query_scalar("select extract(epoch from max(claimed_at))::float8 from bridge.slots")
            .fetch_one(fleet.db.pool())
            .await
            .expect("slots");
    assert!(claimed - stopped_at < 13.0, "{} s", claimed - stopped_at);
    eprintln!("taken over after {:.2} s", claimed - stopped_at);
    until_all_live(&fleet, COUNT).await;
    // The rest of its half minute.
    eventually("half a minute to be over", LONG, async || {
        fleet.clock().await >= stopped_at + 30.0
    })
    .await;
    let before = slots(&fleet).await;
    let watch = RowWatch::start(fleet.db.pool(), (1..=COUNT).collect());
    let on_two = |fleet: &Fleet| {
        fleet.sim.with(|broker| {
            (1..=COUNT)
                .filter(|id| broker.authorised_on(*id).len() > 1)
                .count()
        })
    };
    let woken_at = fleet.clock().await;
    first.signal("CONT").await;
    eventually("it to let go of its streams", DEADLINE, async || {
        on_two(&fleet) == 0
    })
    .await;
    let took = fleet.clock().await - woken_at;
    assert!(took < 3.0, "{took} s");
    eventually("several rounds to be over", LONG, async || {
        fleet.clock().await >= woken_at + 6.0
    })
    .await;
    // It is a member again, and may be given its share back, by a hand-over; nothing else moved.
    let seen = watch.seen();
    assert!(
        seen.oldest < 3.0 && seen.disconnected.is_empty(),
        "{seen:?}"
    );
    for (slot, (epoch, _)) in slots(&fleet).await {
        assert!(epoch - before[&slot].0 <= 1, "slot {slot}");
    }
    first.drain().await;
    second.drain().await;
}

/// Ports of the namespace's own loopback, led to where the tests listen.
fn lead(namespace: &Namespace, ports: &[(u16, String)]) -> Child {
    const FORWARD: &str = "\
import asyncio, sys
async def forward(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def main():
    for pair in sys.argv[1:]:
        port, host, there = pair.split('/')
        async def serve(reader, writer, host=host, there=int(there)):
            r, w = await asyncio.open_connection(host, there)
            await asyncio.gather(forward(reader, w), forward(r, writer))
        await asyncio.start_server(serve, '127.0.0.1', int(port))
    await asyncio.Event().wait()
asyncio.run(main())
";
    Command::new("ip")
        .args(["netns", "exec", &namespace.name, "python3", "-c", FORWARD])
        .args(ports.iter().map(|(port, to)| format!("{port}/{to}")))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("python3 is there")
}

#[tokio::test]
async fn a_worker_cut_off_from_postgres_stops_before_anybody_takes_over() {
    const COUNT: i64 = 30;
    let mut namespace = Namespace::create();
    let (database_wire, wire) = (namespace.wire(), namespace.wire());
    let server = OwnPostgres::start(&[Ipv4Addr::LOCALHOST, database_wire.address]);
    let mut fleet = Fleet::on(TestDatabase::create_on(server.url()).await, world(COUNT)).await;
    let outer = wire.address.to_string();
    let amqp = url::Url::parse(fleet.vhost.url()).expect("a URL");
    let broker = format!("127.0.0.1:{}", amqp.port().expect("a port"))
        .parse()
        .expect("an address");
    let amqp_gate = Gate::at(&outer, broker).await;
    let sim_gate = Gate::at(&outer, fleet.sim.demo_addr()).await;
    // Its own loopback: nobody else's ports are taken there.
    let (amqp_port, sim_port) = (amqp.port().expect("a port"), fleet.sim.demo_addr().port());
    let at = |gate: &Gate| format!("{outer}/{}", gate.addr().port());
    let _lead = lead(
        &namespace,
        &[(amqp_port, at(&amqp_gate)), (sim_port, at(&sim_gate))],
    );
    let mut cut_off_url = server.url();
    cut_off_url
        .set_host(Some(&database_wire.address.to_string()))
        .expect("a host");
    cut_off_url.set_path(fleet.db.name());
    let cut_off = fleet.spawn_in(
        Some(&namespace.name),
        &[("DATABASE_URL", cut_off_url.as_str())],
    );
    want_all(&fleet, 1..=COUNT).await;
    until_all_live(&fleet, COUNT).await;
    let other = fleet.worker().await;
    until_shared(&fleet, &[&cut_off, &other], 6).await;
    until_all_live(&fleet, COUNT).await;
    let slots_before = slots(&fleet).await;
    let by_slot = accounts(&fleet).await;
    let its: Vec<i64> = slots_before
        .iter()
        .filter(|(_, (_, owner))| *owner == cut_off.id)
        .flat_map(|(slot, _)| &by_slot[slot])
        .copied()
        .collect();
    assert!(its.len() >= 9, "{its:?}");

    let cut_at = fleet.clock().await;
    database_wire.cut();
    // Whatever is still authorised when a slot changes hands was not stopped in time.
    let owner = other.id.clone();
    let mut stopped_at = None;
    eventually("the other one to have all", LONG, async || {
        let authorised = fleet.sim.with(|broker| {
            its.iter()
                .filter(|id| !broker.authorised_on(**id).is_empty())
                .count()
        });
        let spread = spread(&fleet).await;
        let taken = spread.get(&owner).copied().unwrap_or(0) == COUNT;
        if authorised == 0 && stopped_at.is_none() {
            stopped_at = Some(fleet.clock().await - cut_at);
        }
        if taken {
            Ok(())
        } else {
            Err((spread, authorised))
        }
    })
    .await;
    let claimed: f64 = sqlx::query_scalar(
        "select extract(epoch from min(claimed_at))::float8 - $1 from bridge.slots
         where claimed_at > to_timestamp($1)",
    )
    .bind(cut_at)
    .fetch_one(fleet.db.pool())
    .await
    .expect("slots");
    let stopped = stopped_at.expect("it had stopped by itself");
    eprintln!("cut off: stopped after {stopped:.2} s, taken over after {claimed:.2} s");
    assert!(
        stopped < claimed,
        "stopped after {stopped} s, taken over after {claimed} s"
    );
    assert!(claimed < 13.0, "{claimed} s");
    until_all_live(&fleet, COUNT).await;
    until_on_one_connection_each(&fleet, COUNT).await;
    for id in [1, COUNT] {
        fleet.until_live(&user(id), id).await;
    }
    other.drain().await;
    cut_off.signal("KILL").await;
    // The wires go before what is on them: nothing waits for an end that cannot be heard.
    tokio::time::timeout(Duration::from_secs(1), async { drop(namespace) })
        .await
        .expect("at once");
}
