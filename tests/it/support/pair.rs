//! Our `Connection` and the simulated cTrader, joined by a link of bytes and nothing else.
//!
//! Time is virtual: an `Instant` that moves by addition, from one thing that is due to the next, so
//! that ten minutes of silence take milliseconds. Chance comes from one seed; a test that fails
//! prints it, and `SIM_SEED=n` runs it again with that one.

mod events;
mod figures;
mod link;
mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mahspeccy_bridge::ctrader::connection::{
    Connection, ConnectionConfig, Event, HistoryReport, Transmit,
};
use mahspeccy_bridge::ctrader::wire;
use mahspeccy_bridge::domain::clock::WallClock;
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::domain::ledger::LastSeen;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::sim::{
    Broker, Builder, CLIENT_ID, CLIENT_SECRET, ConnId, Environment, Output,
};
use prost::Message;
use time::OffsetDateTime;

pub(crate) use link::{Chance, Tamper, Weather};
use link::{Link, Packet, Way};

/// The server's wall clock at the start, milliseconds since the epoch.
const WALL_START_MS: i64 = 1_750_000_000_000;

/// So many steps without time moving are a loop that spins.
const STEPS_AT_ONE_TIME_MAX: u32 = 10_000;

/// The seed of this run: `SIM_SEED`, or the test's own.
pub(crate) fn seed_or(own: u64) -> u64 {
    chosen("SIM_SEED").unwrap_or(own)
}

/// The seeds of a test that plays many: the one of `SIM_SEED`, or so many, or as many as
/// `SIM_SEEDS` says.
pub(crate) fn seeds(usually: u64) -> std::ops::Range<u64> {
    match chosen("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..chosen("SIM_SEEDS").unwrap_or(usually),
    }
}

fn chosen(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("it is a number"))
}

/// Both ends and the link between them.
pub(crate) struct Pair {
    /// The simulator; operations by hand go through [`Pair::hand`].
    pub(crate) broker: Broker,
    /// Ours.
    pub(crate) client: Connection,
    /// What happened at our end, and when, deals included.
    pub(crate) events: Vec<(Duration, Event)>,
    /// Payload types that we sent, and when.
    pub(crate) sent: Vec<(Duration, u32)>,
    /// When we pinged.
    pub(crate) pings: Vec<Duration>,
    /// What happens to the bytes.
    pub(crate) link: Link,
    /// Whether the server replies to pings.
    pub(crate) answers_pings: bool,
    /// Whether the socket is still there.
    pub(crate) connected: bool,
    /// The socket at the simulator.
    pub(crate) conn: ConnId,
    live: BTreeSet<i64>,
    last_seen: BTreeMap<i64, LastSeen>,
    now: Instant,
    start: Instant,
    seed: u64,
    sockets: u64,
    config: ConnectionConfig,
    steps_now: u32,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SIM_SEED={}", self.seed);
        }
    }
}

impl Pair {
    /// A world whose socket has just opened, on a good link.
    pub(crate) fn new(world: Builder) -> Self {
        Self::seeded(seed_or(1), world)
    }

    /// The same with a seed of its own.
    pub(crate) fn seeded(seed: u64, world: Builder) -> Self {
        Self::configured(
            seed,
            world,
            ConnectionConfig {
                client_id: CLIENT_ID.to_owned(),
                client_secret: Secret::new(CLIENT_SECRET),
                request_rate: 45,
                history_rate: 4,
            },
        )
    }

    /// The same with another application or other rates.
    pub(crate) fn configured(seed: u64, world: Builder, config: ConnectionConfig) -> Self {
        let start = Instant::now();
        let mut broker = world.seed(seed).build(start, WALL_START_MS);
        let conn = broker.connect(Environment::Demo, start);
        let mut pair = Self {
            broker,
            client: Connection::new(&config, seed, WallClock::new(start, wall_start())),
            events: Vec::new(),
            sent: Vec::new(),
            pings: Vec::new(),
            link: Link::new(seed, start),
            answers_pings: true,
            connected: true,
            conn,
            live: BTreeSet::new(),
            last_seen: BTreeMap::new(),
            now: start,
            start,
            seed,
            sockets: 1,
            config,
            steps_now: 0,
        };
        pair.drain();
        pair
    }

    /// The wall clock's time, milliseconds since the epoch.
    pub(crate) fn wall_ms(&self) -> i64 {
        WALL_START_MS + i64::try_from(self.elapsed().as_millis()).expect("not for ever")
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// The time that both ends are given.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    // ── what a test does ─────────────────────────────────────────────────────────────────────

    /// Opens a session.
    pub(crate) fn open(&mut self, account: i64, token: &str) {
        let last_seen = self.last_seen.remove(&account).unwrap_or_default();
        self.client
            .open(AccountId(account), Secret::new(token), last_seen, self.now);
        self.drain();
    }

    /// Closes a session.
    pub(crate) fn close(&mut self, account: i64) {
        self.client.close(AccountId(account), self.now);
        self.drain();
    }

    /// Opens a session and waits until it is live and everything has come in.
    pub(crate) fn go_live(&mut self, account: i64, token: &str) {
        self.open(account, token);
        self.wait_live(account);
    }

    /// Waits until a session is live and everything has come in.
    pub(crate) fn wait_live(&mut self, account: i64) {
        self.drive_until("the session to be live", Duration::from_secs(30), |pair| {
            pair.is_live(account)
        });
        self.run_briefly();
    }

    /// Waits until a session is live by its own quotes and everything has come in.
    pub(crate) fn wait_valued(&mut self, account: i64) {
        self.drive_until("the session to be valued", Duration::from_mins(1), |pair| {
            pair.client.is_valued(AccountId(account))
        });
        self.run_briefly();
    }

    /// Fetches the history since a time, and waits for the report.
    pub(crate) fn fetch_history(&mut self, account: i64, from_ms: i64) -> HistoryReport {
        let before = self.reports(account).len();
        self.client
            .fetch_history(AccountId(account), from_ms, self.now);
        self.drain();
        self.drive_until("the history", Duration::from_mins(30), |pair| {
            pair.reports(account).len() > before
        });
        self.reports(account)[before]
    }

    /// Does something at the simulator, now.
    pub(crate) fn hand<T>(&mut self, operation: impl FnOnce(&mut Broker) -> T) -> T {
        self.broker.handle_timeout(self.now);
        let done = operation(&mut self.broker);
        self.drain();
        done
    }

    /// Does something by hand, waits until it has come in, and holds the row against the truth.
    pub(crate) fn step_by_hand<T>(
        &mut self,
        account: i64,
        operation: impl FnOnce(&mut Broker) -> T,
    ) -> T {
        let done = self.hand(operation);
        self.run_briefly();
        self.assert_truth(account);
        self.assert_deals(account);
        done
    }

    /// Puts bytes on the link as if the server had sent them.
    pub(crate) fn inject(&mut self, bytes: Bytes) {
        self.link.transmit(Way::In, Packet::Frame(bytes), self.now);
    }

    /// The same with a message of this payload type.
    pub(crate) fn inject_message(&mut self, kind: u32, id: Option<&str>, body: &impl Message) {
        let envelope = wire::ProtoMessage {
            payload_type: kind,
            payload: Some(body.encode_to_vec().into()),
            client_msg_id: id.map(str::to_owned),
        };
        self.inject(envelope.encode_to_vec().into());
    }

    /// The socket is gone; a new one opens, with a connection that knows nothing.
    pub(crate) fn reconnect(&mut self) {
        self.broker.handle_timeout(self.now);
        self.broker.disconnected(self.conn);
        self.drain();
        self.link.cut();
        self.events.clear();
        self.live.clear();
        for account in self.broker.account_ids() {
            if let Some(last_seen) = self.client.last_seen(AccountId(account)) {
                self.last_seen.insert(account, last_seen);
            }
        }
        self.sockets += 1;
        self.conn = self.broker.connect(Environment::Demo, self.now);
        self.client = Connection::new(
            &self.config,
            self.seed ^ (self.sockets << 32),
            WallClock::from_unix_ms(self.now, self.wall_ms()),
        );
        self.connected = true;
        self.drain();
    }

    // ── time ─────────────────────────────────────────────────────────────────────────────────

    /// Goes to the next thing that is due, and does it.
    pub(crate) fn step(&mut self) {
        let next = self.next_at();
        if next > self.now {
            self.now = next;
            self.steps_now = 0;
        }
        self.steps_now += 1;
        assert!(
            self.steps_now < STEPS_AT_ONE_TIME_MAX,
            "time stands still at {:?}: ours is due {:?}, the simulator {:?}",
            self.elapsed(),
            self.client
                .poll_timeout()
                .map(|at| at.checked_duration_since(self.start)),
            self.broker
                .poll_timeout()
                .map(|at| at.checked_duration_since(self.start)),
        );
        while let Some((way, packet)) = self.link.take(self.now) {
            self.deliver(way, packet);
            self.drain();
        }
        if self.connected && self.client.poll_timeout().is_some_and(|at| at <= self.now) {
            self.client.handle_timeout(self.now);
            self.drain();
        }
        if self.broker.poll_timeout().is_some_and(|at| at <= self.now) {
            self.broker.handle_timeout(self.now);
            self.drain();
        }
    }

    /// Steps until a condition holds.
    pub(crate) fn drive_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) {
        let deadline = self.now + limit;
        while !holds(self) {
            assert!(
                self.next_at() <= deadline,
                "waited {limit:?} for {what}; events: {:?}",
                self.events
            );
            self.step();
        }
    }

    /// Lets that much time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_at() <= end {
            self.step();
        }
        self.now = end;
    }

    /// Runs for half a second: everything that is on its way arrives, and the replies to it.
    pub(crate) fn run_briefly(&mut self) {
        self.run(Duration::from_millis(500));
    }

    /// The same in short turns, and no longer than it takes: what waits for its turn to be asked
    /// is sent within one, and nothing is left to come that is scheduled already.
    pub(crate) fn arrive(&mut self) {
        loop {
            self.run(Duration::from_millis(60));
            if self.link.is_quiet() && self.broker.scheduled() == 0 {
                return;
            }
        }
    }

    fn next_at(&mut self) -> Instant {
        let ours = self.client.poll_timeout().filter(|_| self.connected);
        [self.link.next_at(), ours, self.broker.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
            .expect("the simulator always has something due")
    }

    fn deliver(&mut self, way: Way, packet: Packet) {
        match (way, packet) {
            (Way::Out, Packet::Frame(bytes)) => {
                self.broker.handle_message(self.conn, bytes, self.now);
            }
            (Way::Out, Packet::Ping) if self.answers_pings => {
                self.link.transmit(Way::In, Packet::Pong, self.now);
            }
            (Way::In, _) if !self.connected => {}
            (Way::In, Packet::Frame(bytes)) => self.client.handle_message(bytes, self.now),
            (Way::In, Packet::Pong) => self.client.handle_pong(self.now),
            (Way::In, Packet::Closed) => self.connected = false,
            (Way::Out, Packet::Ping | Packet::Pong | Packet::Closed) | (Way::In, Packet::Ping) => {}
        }
    }

    /// Takes everything out of both ends.
    pub(crate) fn drain(&mut self) {
        let at = self.elapsed();
        while let Some(transmit) = self.client.poll_transmit() {
            let packet = match transmit {
                Transmit::Message(bytes) => {
                    let envelope =
                        wire::ProtoMessage::decode(bytes.clone()).expect("ours is well-formed");
                    self.sent.push((at, envelope.payload_type));
                    Packet::Frame(bytes)
                }
                Transmit::Ping => {
                    self.pings.push(at);
                    Packet::Ping
                }
            };
            self.link.transmit(Way::Out, packet, self.now);
        }
        while let Some(event) = self.client.poll_event() {
            match &event {
                Event::Failed(_) => {
                    self.connected = false;
                    self.live.clear();
                }
                Event::Live(account) => assert!(self.live.insert(account.0), "live twice"),
                Event::Down(account, _) | Event::GapDetected(account) => {
                    self.live.remove(&account.0);
                }
                Event::Ready
                | Event::Deal(..)
                | Event::SnapshotDiverged(_)
                | Event::History(..)
                | Event::Audited(..)
                | Event::TokenVerified(..)
                | Event::TokenRefreshed(..)
                | Event::Following(_) => {}
            }
            self.events.push((at, event));
        }
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send(conn, bytes) if conn == self.conn => {
                    self.link.transmit(Way::In, Packet::Frame(bytes), self.now);
                }
                Output::Close(conn, _) if conn == self.conn => {
                    self.link.transmit(Way::In, Packet::Closed, self.now);
                }
                Output::Freeze(conn) if conn == self.conn => self.link.freeze(),
                Output::Send(..) | Output::Close(..) | Output::Freeze(_) => {}
            }
        }
    }
}

fn wall_start() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(WALL_START_MS / 1_000).expect("a time")
}
