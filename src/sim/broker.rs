//! The simulated cTrader, sans-IO: bytes and time in, bytes and deadlines out.
//!
//! Drive it with [`Broker::connect`], [`Broker::handle_message`], [`Broker::disconnected`] and
//! [`Broker::handle_timeout`]; after each, drain [`Broker::poll_output`] and re-arm
//! [`Broker::poll_timeout`]. Operations made by hand happen at the latest time it was told. One
//! message is one bare `ProtoMessage`: framing belongs to the shell.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use prost::Message;
use chacha20::ChaCha8Rng;

use crate::ctrader::wire;

use super::accounts::Account;
use super::envelope::{self, Dress, Refusal};
use super::faults::{Faults, millis};
use super::limits::{Breach, Budget};
use super::market::Venue;
use super::spec::Environment;
use super::spots::Subscriber;
use super::tokens::Grants;

pub use super::conn::{Close, ConnId, Output, Seen, Settings, Stats};
pub(super) use super::conn::{Conn, Request, Timer};

/// Frames longer than this are refused with `FRAME_TOO_LONG`.
pub const MAX_FRAME: usize = 1024 * 1024;
/// Requests remembered for inspection; older ones are forgotten.
const SEEN_MAX: usize = 200_000;
/// How often idle sockets, margin calls and stop-outs are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(250);

/// The simulated cTrader.
#[derive(Debug)]
pub struct Broker {
    pub(super) now: Instant,
    base: Instant,
    wall_base_ms: i64,
    pub(super) seed: u64,
    pub(super) rng: ChaCha8Rng,
    pub(super) apps: BTreeMap<String, String>,
    pub(super) venues: Vec<Venue>,
    pub(super) accounts: BTreeMap<i64, Account>,
    pub(super) grants: Grants,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    pub(super) subscribers: BTreeMap<(usize, i64), Vec<Subscriber>>,
    pub(super) resting: BTreeMap<(usize, i64), BTreeSet<(i64, i64)>>,
    pub(super) faults: Faults,
    pub(super) market_running: bool,
    pub(super) scratch: BytesMut,
    pub(super) stats: Stats,
    pub(super) seen: VecDeque<Seen>,
    pub(super) ledger: Option<Vec<super::ledger::Entry>>,
    settings: Settings,
    last_conn: u64,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer_seq: u64,
    housekeeping_at: Instant,
    out: VecDeque<Output>,
}

/// What a broker starts with.
pub(super) struct Start {
    pub(super) now: Instant,
    pub(super) wall_ms: i64,
    pub(super) seed: u64,
    pub(super) rng: ChaCha8Rng,
    pub(super) apps: BTreeMap<String, String>,
    pub(super) venues: Vec<Venue>,
    pub(super) settings: Settings,
    pub(super) market_running: bool,
}

impl Broker {
    pub(super) fn new(start: Start) -> Self {
        Self {
            now: start.now,
            base: start.now,
            wall_base_ms: start.wall_ms,
            seed: start.seed,
            rng: start.rng,
            apps: start.apps,
            venues: start.venues,
            accounts: BTreeMap::new(),
            grants: Grants::default(),
            conns: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            resting: BTreeMap::new(),
            faults: Faults::default(),
            market_running: start.market_running,
            scratch: BytesMut::new(),
            stats: Stats::default(),
            seen: VecDeque::new(),
            ledger: None,
            settings: start.settings,
            last_conn: 0,
            timers: BTreeMap::new(),
            timer_seq: 0,
            housekeeping_at: start.now + HOUSEKEEPING,
            out: VecDeque::new(),
        }
    }

    /// The server's wall clock, ms since the epoch.
    pub fn wall_ms(&self) -> i64 {
        self.wall_base_ms + millis(self.now.saturating_duration_since(self.base))
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The settings, to be changed while it runs.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// A socket was accepted.
    pub fn connect(&mut self, environment: Environment, now: Instant) -> ConnId {
        self.advance(now);
        self.last_conn += 1;
        self.stats.connections += 1;
        let conn = Conn {
            environment,
            app: None,
            accounts: BTreeMap::new(),
            spots: BTreeMap::new(),
            bars: BTreeSet::new(),
            depth: BTreeSet::new(),
            last_in: now,
            last_out: now,
            budget: Budget::new(&self.settings.limits, now),
            frozen: false,
            requests: 0,
        };
        self.conns.insert(ConnId(self.last_conn), conn);
        ConnId(self.last_conn)
    }

    /// A socket is gone; nothing survives it.
    pub fn disconnected(&mut self, conn: ConnId) {
        self.forget(conn);
    }

    fn forget(&mut self, conn: ConnId) {
        if let Some(gone) = self.conns.remove(&conn) {
            for (account, symbol) in gone.spots.keys() {
                self.remove_subscriber(conn, *account, *symbol);
            }
        }
    }

    /// A message came in: one bare `ProtoMessage`.
    pub fn handle_message(&mut self, conn: ConnId, bytes: Bytes, now: Instant) {
        self.advance(now);
        let Some(socket) = self.conns.get_mut(&conn) else {
            return;
        };
        if socket.frozen {
            return;
        }
        socket.last_in = now;
        if bytes.len() > MAX_FRAME {
            let frame = Refusal::new("FRAME_TOO_LONG").frame(None, None, self.dress());
            return self.send(conn, frame);
        }
        let Ok(message) = wire::ProtoMessage::decode(bytes) else {
            let frame = Refusal::new("INVALID_REQUEST").route(envelope::Route::CommonError);
            let frame = frame
                .description("Malformed ProtoMessage")
                .frame(None, None, self.dress());
            return self.send(conn, frame);
        };
        if message.payload_type == 51 {
            self.stats.heartbeats += 1;
            return;
        }
        let request = Request {
            conn,
            kind: message.payload_type,
            id: message.client_msg_id,
            body: message.payload.unwrap_or_default(),
        };
        self.handle_request(&request);
    }

    fn handle_request(&mut self, request: &Request) {
        let account = super::dispatch::named_account(request);
        self.note(request, account.unwrap_or_default());
        let outcome = match self.gate(request, account) {
            Ok(()) => self.dispatch(request),
            Err(refusal) => Err(refusal),
        };
        if let Err(mut refusal) = outcome {
            let details = refusal.details();
            if self.faults.zero_ids && details.route == envelope::Route::OrderError {
                details.order = Some(0);
                details.position = Some(0);
            }
            let frame = refusal.frame(request.id.as_deref(), account, self.dress());
            self.reply_frame(request, frame);
        }
    }

    fn note(&mut self, request: &Request, account: i64) {
        self.stats.requests += 1;
        if let Some(socket) = self.conns.get_mut(&request.conn) {
            socket.requests += 1;
        }
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen {
            conn: request.conn,
            kind: request.kind,
            account,
            at: self.now,
        });
    }

    /// Maintenance, scripted refusals and budgets, before anything else looks at the request.
    fn gate(&mut self, request: &Request, account: Option<i64>) -> Result<(), Refusal> {
        if let Some(end) = self.faults.maintenance_end_ms {
            let refusal = Refusal::new("SERVER_IS_UNDER_MAINTENANCE");
            let mut refusal = refusal.route(self.faults.maintenance_route);
            refusal.details().maintenance_end_ms = Some(end);
            return Err(refusal);
        }
        let limits = self.settings.limits;
        let now = self.now;
        let charged = match self.conns.get_mut(&request.conn) {
            Some(socket) => socket.budget.charge(request.kind, &limits, now),
            None => Ok(()),
        };
        if let Some(refusal) = self.faults.refuse(request.kind, account) {
            return Err(refusal);
        }
        charged.map_err(|breach| {
            self.stats.rate_refusals += 1;
            match breach {
                Breach::Blocked(seconds) => {
                    Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(seconds)
                }
                Breach::Frequency => Refusal::new("REQUEST_FREQUENCY_EXCEEDED")
                    .description("You have reached the rate limit of requests"),
            }
        })
    }

    /// Time passed: does everything that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if now >= self.housekeeping_at {
            self.housekeeping_at = now + HOUSEKEEPING;
            self.watch_silence();
            self.watch_margin();
        }
        if self.market_running {
            self.run_market();
            self.run_activity();
        }
    }

    /// Moves the clock and runs the timers that are due by then.
    fn advance(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            self.now = self.now.max(entry.key().0);
            match entry.remove() {
                Timer::Send(conn, frame) => self.send(conn, frame),
                Timer::Fill(fill) => self.fill(&fill),
            }
        }
        self.now = self.now.max(now);
    }

    /// When [`Self::handle_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let market = if self.market_running {
            self.next_tick()
        } else {
            None
        };
        [timer, market, Some(self.housekeeping_at)]
            .into_iter()
            .flatten()
            .min()
    }

    /// How many fills and late messages are still to come.
    pub fn scheduled(&self) -> usize {
        self.timers.len()
    }

    /// The next thing for the shell to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn watch_silence(&mut self) {
        let mut beats = Vec::new();
        let mut silent = Vec::new();
        for (id, conn) in &self.conns {
            if self.now.saturating_duration_since(conn.last_in) >= self.settings.idle_cutoff {
                silent.push(*id);
            } else if self.now.saturating_duration_since(conn.last_out)
                >= self.settings.heartbeat_after
            {
                beats.push(*id);
            }
        }
        for conn in silent {
            if self.conns.get(&conn).is_some_and(|socket| !socket.frozen) {
                self.stats.idle_cutoffs += 1;
                self.close(conn, Close::Normal);
            }
        }
        for conn in beats {
            self.push_to(conn, 51, &wire::ProtoHeartbeatEvent::default());
        }
    }

    pub(super) fn later(&mut self, delay: Duration, timer: Timer) {
        self.timer_seq += 1;
        self.timers
            .insert((self.now + delay, self.timer_seq), timer);
    }

    pub(super) fn dress(&self) -> Dress {
        Dress {
            omit_inner: self.faults.omit_inner,
            unknown_fields: self.faults.unknown_fields,
        }
    }

    /// Sends a frame as it is.
    pub(super) fn send(&mut self, conn: ConnId, frame: Bytes) {
        let now = self.now;
        let Some(socket) = self.conns.get_mut(&conn) else {
            return;
        };
        if socket.frozen {
            return;
        }
        socket.last_out = now;
        self.stats.sent += 1;
        if self
            .faults
            .unknown_types_every
            .is_some_and(|every| self.stats.sent.is_multiple_of(every.max(1)))
        {
            let stranger = envelope::frame(
                2_999,
                None,
                &wire::ProtoOaVersionRes::default(),
                Dress::default(),
            );
            self.out.push_back(Output::Send(conn, stranger));
        }
        self.out.push_back(Output::Send(conn, frame));
    }

    /// Pushes a message with no clientMsgId to one socket.
    pub(super) fn push_to(&mut self, conn: ConnId, kind: u32, body: &impl Message) {
        let frame = envelope::frame(kind, None, body, self.dress());
        self.send(conn, frame);
    }

    /// Answers a request.
    pub(super) fn reply(&mut self, request: &Request, kind: u32, body: &impl Message) {
        let frame = envelope::frame(kind, request.id.as_deref(), body, self.dress());
        self.reply_frame(request, frame);
    }

    fn reply_frame(&mut self, request: &Request, frame: Bytes) {
        if self.faults.swallows(request.kind) {
            return;
        }
        let delay = self.faults.lateness(request.kind);
        if self.faults.hold > 0 {
            self.faults.hold -= 1;
            self.faults.held.push((request.conn, frame));
            if self.faults.hold == 0 {
                for (conn, frame) in std::mem::take(&mut self.faults.held).into_iter().rev() {
                    self.send(conn, frame);
                }
            }
        } else if delay > Duration::ZERO {
            self.later(delay, Timer::Send(request.conn, frame));
        } else {
            self.send(request.conn, frame);
        }
    }

    /// Sends an account's event to every socket that authorised it.
    pub(super) fn publish(
        &mut self,
        account: i64,
        kind: u32,
        id: Option<&str>,
        body: &impl Message,
    ) {
        self.keep_past(account);
        if self.faults.drop_events > 0 {
            self.faults.drop_events -= 1;
            return;
        }
        let twice = self.faults.duplicate_events > 0;
        if twice {
            self.faults.duplicate_events -= 1;
        }
        let frame = envelope::frame(kind, id, body, self.dress());
        for conn in self.sockets_of(account) {
            if kind == 2126 {
                self.stats.executions += 1;
            }
            self.send(conn, frame.clone());
            if twice {
                self.send(conn, frame.clone());
            }
        }
    }

    /// Sockets that authorised an account, in order.
    pub(super) fn sockets_of(&self, account: i64) -> Vec<ConnId> {
        self.conns
            .iter()
            .filter(|(_, conn)| conn.accounts.contains_key(&account))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Every open connection.
    pub fn open_connections(&self) -> Vec<ConnId> {
        self.conns.keys().copied().collect()
    }

    pub(super) fn close(&mut self, conn: ConnId, how: Close) {
        if self.conns.contains_key(&conn) {
            self.forget(conn);
            self.out.push_back(Output::Close(conn, how));
        }
    }

    pub(super) fn freeze(&mut self, conn: ConnId) {
        if let Some(socket) = self.conns.get_mut(&conn) {
            socket.frozen = true;
            self.out.push_back(Output::Freeze(conn));
        }
    }

    /// The shell gave a connection up because it did not read.
    pub fn slow_reader(&mut self, conn: ConnId) {
        self.stats.slow_readers += 1;
        self.forget(conn);
    }
}
