//! Random faults of a seeded script, while users come and go; in the end all is as it should be.
//!
//! `SOAK_SECS` sets how long, and `SOAK_SEED` replays a run.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mahspeccy_bridge::sim::{Broker, Side};

use super::support::crowd::{LONG, user, world};
use super::support::fleet::{DEADLINE, Fleet, Worker};
use super::support::gate::{Gate, Passage};
use super::support::own_postgres::OwnPostgres;
use super::support::pair::Chance;
use super::support::postgres::TestDatabase;
use super::support::wait::eventually;

const COUNT: i64 = 40;
const WORKERS: usize = 3;

/// How long the short form takes, and what it plays.
const SECS: u64 = 40;
const SEED: u64 = 4;

/// A worker with a gate to Postgres of its own.
struct Member {
    worker: Worker,
    database: Gate,
    /// Stopped or cut off until then.
    troubled_until: Option<Instant>,
}

struct Soak {
    chance: Chance,
    fleet: Fleet,
    /// After the fleet, whose database it has.
    server: OwnPostgres,
    amqp: Gate,
    amqp_until: Option<Instant>,
    members: Vec<Member>,
    leaving: Vec<Member>,
    /// What each account was last commanded to do.
    told: BTreeMap<i64, &'static str>,
}

impl Soak {
    async fn member(&mut self) -> Member {
        let at = |url: &url::Url| {
            let port = url.port().expect("a port");
            format!("127.0.0.1:{port}").parse().expect("an address")
        };
        let database = Gate::at("127.0.0.1", at(&self.server.url())).await;
        let mut database_url = url::Url::parse(&self.fleet.db.worker_url()).expect("a URL");
        database_url
            .set_port(Some(database.addr().port()))
            .expect("a port");
        let mut amqp_url = url::Url::parse(self.fleet.vhost.url()).expect("a URL");
        amqp_url
            .set_port(Some(self.amqp.addr().port()))
            .expect("a port");
        let worker = self.fleet.spawn(&[
            ("DATABASE_URL", database_url.as_str()),
            ("AMQP_URL", amqp_url.as_str()),
            ("RECONNECT_MAX_ATTEMPTS", "1000"),
        ]);
        Member {
            worker,
            database,
            troubled_until: None,
        }
    }

    fn below(&mut self, most: u64) -> u64 {
        self.chance.below(most)
    }

    fn member_index(&mut self) -> usize {
        usize::try_from(self.below(self.members.len() as u64)).expect("a few")
    }

    fn account(&mut self) -> i64 {
        1 + i64::try_from(self.below(COUNT.unsigned_abs())).expect("a few")
    }

    fn some_secs(&mut self, most: u64) -> Instant {
        Instant::now() + Duration::from_millis(200 + self.below(most * 1_000))
    }

    async fn tell(&mut self, id: i64, command: &'static str) {
        self.fleet
            .command(command, &user(id), serde_json::json!(id))
            .await;
        self.told.insert(id, command);
    }

    /// One thing goes wrong, or a few users come, go and trade.
    async fn step(&mut self) {
        let what = self.below(14);
        match what {
            0 => {
                let index = self.member_index();
                let mut killed = self.members.swap_remove(index);
                eprintln!("kill {}", killed.worker.id);
                killed.worker.signal("KILL").await;
                killed.worker.ended(DEADLINE).await;
                let next = self.member().await;
                self.members.push(next);
            }
            1 => {
                let index = self.member_index();
                let member = self.members.swap_remove(index);
                eprintln!("drain {}", member.worker.id);
                resume(&member).await;
                member.worker.signal("TERM").await;
                self.leaving.push(member);
                let next = self.member().await;
                self.members.push(next);
            }
            2 => {
                let (index, until) = (self.member_index(), self.some_secs(14));
                let member = &mut self.members[index];
                if member.troubled_until.is_none() {
                    eprintln!("stop {}", member.worker.id);
                    member.worker.signal("STOP").await;
                    member.troubled_until = Some(until);
                }
            }
            3 | 4 => {
                let (index, until) = (self.member_index(), self.some_secs(14));
                let how = if what == 3 {
                    Passage::Still
                } else {
                    Passage::Slammed
                };
                let member = &mut self.members[index];
                if member.troubled_until.is_none() {
                    eprintln!("cut {} off: {how:?}", member.worker.id);
                    member.database.set(how);
                    member.troubled_until = Some(until);
                }
            }
            5 => {
                eprintln!("restart Postgres");
                self.server.stop_immediately();
                self.server.launch();
            }
            6 => {
                let how = if self.below(2) == 0 {
                    Passage::Still
                } else {
                    Passage::Slammed
                };
                eprintln!("RabbitMQ: {how:?}");
                self.amqp.set(how);
                self.amqp_until = Some(self.some_secs(12));
            }
            7 => {
                eprintln!("reset every socket to cTrader");
                self.fleet.sim.kill_sockets();
            }
            8 => {
                eprintln!("cTrader falls silent");
                self.fleet.sim.with(Broker::half_open_all);
            }
            9 => {
                let id = self.account();
                self.fleet.sim.with(|broker| broker.drop_account(id));
            }
            10 | 11 => {
                for _ in 0..4 {
                    let (id, command) = (self.account(), self.below(3));
                    self.tell(id, if command == 0 { "stop" } else { "start" })
                        .await;
                }
            }
            _ => {
                for _ in 0..6 {
                    let (id, volume) = (self.account(), 1 + self.below(9));
                    self.fleet.sim.with(|broker| {
                        let volume = i64::try_from(volume).expect("a few") * 100_000;
                        broker
                            .open_market(id, "EURUSD", Side::Sell, volume)
                            .expect("it trades");
                    });
                }
            }
        }
    }

    /// Ends the troubles that are over.
    async fn mend(&mut self, all: bool) {
        let now = Instant::now();
        for member in &mut self.members {
            if member
                .troubled_until
                .is_some_and(|until| all || until <= now)
            {
                resume(member).await;
                member.troubled_until = None;
            }
        }
        if self.amqp_until.is_some_and(|until| all || until <= now) {
            self.amqp.set(Passage::Open);
            self.amqp_until = None;
        }
    }

    /// Desired state, streams, rows and deals agree.
    async fn until_all_agree(&mut self) {
        let running: Vec<i64> = self
            .told
            .iter()
            .filter(|(_, told)| **told == "start")
            .map(|(id, _)| *id)
            .collect();
        let fleet = &self.fleet;
        eventually(
            "every account to be streamed once or not at all",
            LONG * 2,
            async || {
                let odd: Vec<(i64, usize)> = fleet.sim.with(|broker| {
                    (1..=COUNT)
                        .map(|id| (id, broker.authorised_on(id).len()))
                        .filter(|(id, on)| *on != usize::from(running.contains(id)))
                        .collect()
                });
                if odd.is_empty() { Ok(()) } else { Err(odd) }
            },
        )
        .await;
        for (id, told) in &self.told {
            let desired = if *told == "start" {
                "running"
            } else {
                "stopped"
            };
            let session = fleet
                .session(&user(*id), *id)
                .await
                .map(|session| session.0);
            assert_eq!(session.as_deref(), Some(desired), "account {id}");
        }
        fleet.sim.with(Broker::market_pause);
        for id in &running {
            fleet.until_true(&user(*id), *id).await;
            eventually("every deal to be stored", LONG, async || {
                let made = fleet.sim.with(|broker| broker.deals(*id).len());
                let stored: i64 = sqlx::query_scalar(
                    "select count(*) from public.ctrader_deals where account_id = $1",
                )
                .bind(id)
                .fetch_one(fleet.db.pool())
                .await
                .map_err(|err| err.to_string())?;
                if usize::try_from(stored) == Ok(made) {
                    Ok(())
                } else {
                    Err(format!("account {id}: {stored} of {made}"))
                }
            })
            .await;
        }
        let dead = fleet.vhost.queue_depth("bridge.commands.dead").await;
        assert_eq!(dead, Some(0));
        assert_eq!(fleet.vhost.queue_depth("bridge.commands").await, Some(0));
    }
}

/// Lets a paused worker run on, and reconnects it to the database.
async fn resume(member: &Member) {
    member.worker.signal("CONT").await;
    member.database.set(Passage::Open);
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |value| value.parse().expect("a number"))
}

#[tokio::test]
async fn whatever_happens_all_agrees_in_the_end() {
    let (secs, seed) = (number("SOAK_SECS", SECS), number("SOAK_SEED", SEED));
    eprintln!("SOAK_SECS={secs} SOAK_SEED={seed}");
    let server = OwnPostgres::start(&[Ipv4Addr::LOCALHOST]);
    let database = TestDatabase::create_on(server.url()).await;
    let fleet = Fleet::on(database, world(COUNT)).await;
    let broker = url::Url::parse(fleet.vhost.url())
        .expect("a URL")
        .port()
        .expect("a port");
    let amqp = Gate::at("127.0.0.1", ([127, 0, 0, 1], broker).into()).await;
    let mut soak = Soak {
        chance: Chance::new(seed),
        server,
        fleet,
        amqp,
        amqp_until: None,
        members: Vec::new(),
        leaving: Vec::new(),
        told: BTreeMap::new(),
    };
    for _ in 0..WORKERS {
        let member = soak.member().await;
        soak.members.push(member);
    }
    eventually("the workers to be ready", DEADLINE, async || {
        for member in &soak.members {
            if !member.worker.is_ready().await {
                return Err(member.worker.log());
            }
        }
        Ok(())
    })
    .await;
    for id in 1..=COUNT {
        soak.fleet
            .connect(&user(id), id, &format!("token-{id}"))
            .await;
        soak.tell(id, "start").await;
    }
    let until = Instant::now() + Duration::from_secs(secs);
    while Instant::now() < until {
        soak.step().await;
        soak.mend(false).await;
        let pause = 200 + soak.below(1_500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    soak.mend(true).await;
    for Member { worker, .. } in &mut soak.leaving {
        let status = worker.ended(Duration::from_secs(110)).await;
        assert_eq!(status.code(), Some(0), "{}", worker.log());
    }
    // Only the simulator knows of sockets that fell silent: it forgets them here.
    soak.fleet.sim.kill_sockets();
    soak.until_all_agree().await;
    for member in std::mem::take(&mut soak.members) {
        member.worker.drain().await;
    }
}
