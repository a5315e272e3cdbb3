//! Any bytes as the story of a socket: what the driver asks for, what the server sends, and how time
//! passes. After each step everything is taken out and everything due is done, as a driver does it.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mahspeccy_bridge::ctrader::connection::{Connection, ConnectionConfig, Event, Transmit};
use mahspeccy_bridge::ctrader::frame::{HEARTBEAT_EVENT, encode, number};
use mahspeccy_bridge::ctrader::wire::{
    ProtoMessage, ProtoOaPayloadType as Type, ProtoOaSubscribeSpotsReq,
};
use mahspeccy_bridge::domain::clock::WallClock;
use mahspeccy_bridge::domain::decimal::Decimal;
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::domain::row::AccountRow;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::pg::row_json::ToJson as _;
use prost::Message;
use time::OffsetDateTime;

use super::broker::{ACCOUNTS, answer, refusal};
use super::events::{event, spot};
use super::script::Script;

/// The wall clock at the start.
const WALL_START: i64 = 1_750_000_000;

/// So many timeouts without time moving are a loop that spins.
const TIMEOUTS_AT_ONE_TIME_MAX: u32 = 64;

/// Requests are paced: more than this cannot leave at once.
const SENT_AT_ONE_TIME_MAX: usize = 64;

/// How many replies an undisturbed while has at most.
const ANSWERS_MAX: u32 = 64;

/// Plays a story to its end.
pub(crate) fn session(data: &[u8]) {
    let mut world = World::new(Script::new(data));
    world.turn();
    while !world.script.is_over() {
        world.step();
        world.turn();
        world.check_rows();
    }
    world.connection.finish();
    world.drain();
}

// Every call of the bridge, each once: its signatures may change.

fn connect(seed: u64, now: Instant, wall_ms: i64) -> Connection {
    let config = ConnectionConfig {
        client_id: "app".to_owned(),
        client_secret: Secret::new("secret"),
        request_rate: 45,
        history_rate: 4,
    };
    Connection::new(&config, seed, WallClock::from_unix_ms(now, wall_ms))
}

fn open(connection: &mut Connection, account: i64, now: Instant) {
    let last_seen = connection.last_seen(AccountId(account)).unwrap_or_default();
    connection.open(AccountId(account), Secret::new("token"), last_seen, now);
}

struct World<'a> {
    script: Script<'a>,
    connection: Connection,
    sockets: u64,
    start: Instant,
    now: Instant,
    /// Sent and not yet answered, the oldest first.
    asked: VecDeque<ProtoMessage>,
    /// The ids of this socket's requests.
    ids: BTreeSet<String>,
    /// What came in last, to come in again.
    last: Bytes,
    live: BTreeSet<i64>,
    failed: bool,
}

impl<'a> World<'a> {
    fn new(script: Script<'a>) -> Self {
        let start = Instant::now();
        Self {
            script,
            connection: connect(1, start, WALL_START * 1_000),
            sockets: 1,
            start,
            now: start,
            asked: VecDeque::new(),
            ids: BTreeSet::new(),
            last: Bytes::new(),
            live: BTreeSet::new(),
            failed: false,
        }
    }

    /// One thing that happens.
    fn step(&mut self) {
        match self.script.below(26) {
            0..=1 => {
                let account = self.account();
                open(&mut self.connection, account, self.now);
            }
            2 => {
                let account = AccountId(self.account());
                self.connection.close(account, self.now);
            }
            3 => {
                let ticket = u64::from(self.script.byte());
                let token = Secret::new("token");
                self.connection.verify_token(ticket, &token, self.now);
            }
            4..=7 => self.answer_one(),
            8 => {
                let (payload_type, body) = refusal(&mut self.script);
                let id = self.some_id();
                self.receive(payload_type, body, id);
            }
            9..=13 => {
                let (payload_type, body) = event(&mut self.script);
                // Events may have ids, ours and those of others.
                let id = (self.script.byte() >= 0xe0)
                    .then(|| self.some_id())
                    .flatten();
                self.receive(payload_type, body, id);
            }
            14..=15 => self.answer_all(),
            16 => {
                let garbage = self.script.bytes();
                self.deliver(garbage.into());
            }
            17 => {
                let payload_type = self.some_type();
                let garbage = self.script.bytes();
                let id = self.some_id();
                self.receive(payload_type, garbage, id);
            }
            18 => {
                let again = self.last.clone();
                self.deliver(again);
            }
            19..=20 => self.pass_time(),
            21 => self.connection.handle_pong(self.now),
            22 => self.connection.handle_other(self.now),
            24..=25 => self.ask(),
            _ => {
                let account = AccountId(self.account());
                let (start, always) = (self.start, self.script.byte() >= 0x80);
                let row = self.connection.take_row(account, always, wall(start));
                if let Some(row) = row {
                    write_out(&row);
                }
            }
        }
    }

    fn wall_ms(&self) -> i64 {
        let since = self.now.saturating_duration_since(self.start).as_millis();
        WALL_START * 1_000 + i64::try_from(since).expect("not for ever")
    }

    /// A request for something that the stream does not have.
    fn ask(&mut self) {
        let account = AccountId(self.account());
        match self.script.below(4) {
            0 => {
                let usual = self.wall_ms() - 604_800_000;
                let from_ms = self.script.number(usual);
                // A time that is long past is read a week at a time, for longer than a story lasts.
                let from_ms = from_ms.max(self.wall_ms() - 40 * 604_800_000);
                self.connection.fetch_history(account, from_ms, self.now);
            }
            1 => {
                let token = Secret::new(self.script.text("newer"));
                self.connection.renew_token(account, token, self.now);
            }
            2 => {
                let ticket = u64::from(self.script.byte());
                let token = Secret::new("refresh");
                self.connection.refresh_token(ticket, &token, self.now);
            }
            _ => self.now += Duration::from_mins(6),
        }
    }

    fn account(&mut self) -> i64 {
        let usual = i64::from(1 + self.script.below(ACCOUNTS));
        self.script.number(usual)
    }

    /// The answer to a request that waits, usually the oldest; sometimes in vain, or twice.
    fn answer_one(&mut self) {
        let at = usize::from(self.script.below(8));
        let at = at.checked_rem(self.asked.len()).unwrap_or_default();
        let Some(request) = self.asked.get(at).cloned() else {
            return;
        };
        if self.script.byte() < 0xe0 {
            self.asked.remove(at);
        }
        let (payload_type, body) = answer(&mut self.script, &request);
        self.receive(payload_type, body, request.client_msg_id);
    }

    /// The id of a request that waits, or another one, or none.
    fn some_id(&mut self) -> Option<String> {
        let at = usize::from(self.script.below(8));
        let waiting = self.asked.get(at.checked_rem(self.asked.len())?)?;
        match self.script.byte() {
            0..=0xcf => waiting.client_msg_id.clone(),
            0xd0..=0xdf => self.ids.first().cloned(),
            0xe0..=0xef => Some(self.script.text("1")),
            0xf0..=0xff => None,
        }
    }

    /// A payload type that the bridge may expect just now, or one of the protocol's, or any.
    fn some_type(&mut self) -> u32 {
        let at = usize::from(self.script.below(8));
        let waiting = self.asked.get(at).map_or(2102, |asked| asked.payload_type);
        match self.script.byte() {
            0..=0x7f => waiting + 1,
            0x80..=0xef => 2100 + u32::from(self.script.below(90)),
            0xf0..=0xf7 => HEARTBEAT_EVENT,
            0xf8..=0xff => self.script.short(0).cast_unsigned(),
        }
    }

    /// A while in which everything is answered, and every symbol quoted that was asked for, or none.
    fn answer_all(&mut self) {
        let quotes = self.script.byte() < 0x60;
        for _ in 0..ANSWERS_MAX {
            if let Some(request) = self.asked.pop_front() {
                let (payload_type, body) = answer(&mut self.script, &request);
                self.receive(payload_type, body, request.client_msg_id.clone());
                self.turn();
                if quotes {
                    self.quote_first(&request);
                }
            } else if let (1.., Some(at)) =
                (self.connection.queued(), self.connection.poll_timeout())
            {
                self.now = self.now.max(at);
                self.turn();
            } else {
                return;
            }
        }
    }

    fn quote_first(&mut self, request: &ProtoMessage) {
        if request.payload_type != number(Type::ProtoOaSubscribeSpotsReq) {
            return;
        }
        let body = request.payload.clone().unwrap_or_default();
        let asked = ProtoOaSubscribeSpotsReq::decode(body).expect("ours is well-formed");
        for symbol in asked.symbol_id {
            let (payload_type, body) = spot(&mut self.script, asked.ctid_trader_account_id, symbol);
            self.receive(payload_type, body, None);
            self.turn();
        }
    }

    fn pass_time(&mut self) {
        let due = self.connection.poll_timeout();
        match self.script.byte() {
            0..=0x4f => self.now = self.now.max(due.unwrap_or(self.now)),
            0x50..=0x7f => self.now += Duration::from_secs(3),
            0x80..=0xbf => self.now += Duration::from_millis(u64::from(self.script.byte())),
            0xc0..=0xef => self.now += Duration::from_millis(100 * u64::from(self.script.byte())),
            0xf0..=0xff => self.now += Duration::from_secs(u64::from(self.script.byte())),
        }
    }

    fn receive(&mut self, payload_type: u32, body: Vec<u8>, id: Option<String>) {
        self.deliver(encode(payload_type, body.into(), id));
    }

    fn deliver(&mut self, bytes: Bytes) {
        self.last = bytes.clone();
        self.connection.handle_message(bytes, self.now);
        self.drain();
    }

    /// Takes everything out and does what is due, until nothing is.
    fn turn(&mut self) {
        self.drain();
        let mut timeouts = 0;
        while self
            .connection
            .poll_timeout()
            .is_some_and(|at| at <= self.now)
        {
            timeouts += 1;
            assert!(
                timeouts < TIMEOUTS_AT_ONE_TIME_MAX,
                "time stands still at {:?}",
                self.now - self.start
            );
            self.connection.handle_timeout(self.now);
            self.drain();
        }
        if self.failed {
            self.reconnect();
        }
    }

    fn drain(&mut self) {
        let mut sent = 0;
        while let Some(transmit) = self.connection.poll_transmit() {
            sent += 1;
            assert!(sent < SENT_AT_ONE_TIME_MAX, "it sends without end");
            let Transmit::Message(bytes) = transmit else {
                continue;
            };
            assert!(!self.failed, "nothing leaves after the end");
            let message = ProtoMessage::decode(bytes).expect("ours is well-formed");
            if message.payload_type != HEARTBEAT_EVENT {
                let id = message.client_msg_id.clone().expect("requests have ids");
                assert!(self.ids.insert(id), "an id is used once");
                self.asked.push_back(message);
            }
        }
        while let Some(event) = self.connection.poll_event() {
            if let Event::Live(account) = &event {
                assert!(self.live.insert(account.0), "live twice");
            }
            if let Event::GapDetected(account) = &event {
                assert!(self.live.remove(&account.0), "behind and not live");
            }
            if let Event::Down(account, reason) = &event {
                self.live.remove(&account.0);
                assert!(!reason.to_string().is_empty());
            }
            self.failed |= matches!(event, Event::Failed(_));
        }
    }

    /// A socket that failed reports nothing more, whatever comes; the next one knows nothing of it.
    fn reconnect(&mut self) {
        assert_eq!(self.connection.poll_timeout(), None);
        assert!(!self.connection.is_following());
        let again = self.last.clone();
        self.connection.handle_message(again, self.now);
        self.connection.handle_timeout(self.now);
        assert_eq!(self.connection.poll_event(), None);
        assert_eq!(self.connection.poll_transmit(), None);
        self.connection.finish();
        self.drain();
        self.sockets += 1;
        self.connection = connect(self.sockets, self.now, self.wall_ms());
        self.failed = false;
        self.asked.clear();
        self.ids.clear();
        self.live.clear();
        self.turn();
    }

    /// Reads what a driver reads of every account, and checks it.
    fn check_rows(&mut self) {
        let start = self.start;
        for id in 1..=i64::from(ACCOUNTS) {
            let account = AccountId(id);
            let live = self.connection.is_live(account);
            assert!(!live || self.live.contains(&id), "live and never reported");
            let row = self.connection.peek_row(account, wall(start));
            assert_eq!(row.is_some(), live);
            if let Some(row) = row {
                write_out(&row);
            }
        }
    }
}

fn wall(start: Instant) -> impl Fn(Instant) -> OffsetDateTime {
    let begun = OffsetDateTime::from_unix_timestamp(WALL_START).expect("a time");
    move |at| begun + (at - start)
}

/// Writes a row's figures and lists as the database gets them.
fn write_out(row: &AccountRow) {
    let unknown = [
        row.equity,
        row.unrealized_gross,
        row.unrealized_net,
        row.free_margin,
        row.bonus,
        row.margin_level,
    ];
    let known = [row.balance, row.used_margin];
    for figure in unknown.into_iter().flatten().chain(known) {
        assert!(figure.scale <= Decimal::SCALE_MAX);
        assert!(!figure.to_string().is_empty());
    }
    for list in [row.positions.to_json_string(), row.orders.to_json_string()] {
        serde_json::from_str::<serde_json::Value>(&list).expect("a row is JSON");
    }
}
