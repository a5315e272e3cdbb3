//! One socket's worth of the protocol: application authorisation, correlation, heartbeats, the
//! inbound watchdog, request deadlines, and the sessions of many accounts. No I/O, no clock.
//!
//! Drive it like this, one mutation at a time and a full drain after each:
//! - in: [`Connection::handle_message`], [`Connection::handle_pong`], [`Connection::handle_timeout`],
//!   [`Connection::open`], [`Connection::close`], [`Connection::fetch_history`],
//!   [`Connection::renew_token`], [`Connection::verify_token`], [`Connection::refresh_token`];
//! - out: [`Connection::poll_transmit`], [`Connection::poll_event`], then wait until
//!   [`Connection::poll_timeout`].
//!
//! Time must not go backwards. After [`Event::Failed`] nothing more comes out: the socket is to be
//! dropped, since nothing of it (authorisations, subscriptions, quotes) survives.

mod checks;
mod errors;
mod event;
mod receive;
mod rows;
mod schedule;
mod sessions;
mod stats;
mod tokens;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use event::{ConnectionError, Covered, Down, Event, Refreshed, TokenPair, Transmit};
use sessions::Sessions;
use stats::RequestEnd;
pub use stats::Tally;

use super::catalog::Catalog;
use super::frame::{self, RequestIds, SPOT_EVENT};
use super::liveness::Liveness;
use super::request::{Ask, Need, Purpose, Request, application_auth};
pub use super::session::{Audit, HistoryReport};
use super::session::{Phase, Session};
use super::throttle::Throttle;
use crate::domain::deal::{Deal, Source};
use crate::domain::ids::AccountId;
use crate::domain::ledger::Known;
use crate::domain::secret::Secret;

/// How long an answer may take, from the moment its request is sent.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

/// How a connection introduces itself, and how fast it may ask.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    /// The Open API application.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// Requests a second.
    pub request_rate: u32,
    /// Historical requests a second.
    pub history_rate: u32,
}

/// A request that was sent and not yet answered.
#[derive(Debug)]
struct Pending {
    request: Request,
    /// `None`: an answer counts whenever it comes.
    deadline: Option<Instant>,
}

/// The protocol on one socket.
#[derive(Debug)]
pub struct Connection {
    ids: RequestIds,
    ready: bool,
    failed: bool,
    liveness: Liveness,
    throttle: Throttle<Request>,
    /// Refused for the moment, to be queued again then.
    delayed: Vec<(Instant, Request)>,
    /// How often in a row a payload type was refused as too frequent.
    blocks: BTreeMap<u32, u32>,
    pending: BTreeMap<u64, Pending>,
    /// A moment, and the wall clock's time then, in milliseconds since the epoch.
    wall: (Instant, i64),
    sessions: Sessions,
    /// What was known of accounts whose sessions ended.
    left: BTreeMap<AccountId, Known>,
    catalogs: BTreeMap<Arc<str>, Catalog>,
    /// What may not be asked before the application is authorised.
    unasked: Vec<Request>,
    generation: u64,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    /// Frames and parts of frames that were skipped because nobody knows them.
    pub skipped: u64,
    tally: Tally,
}

impl Connection {
    /// A connection whose socket has just opened, at `wall_ms` by the wall clock, in milliseconds since
    /// the epoch. `seed` makes its request ids its own.
    #[must_use]
    pub fn new(config: &ConnectionConfig, seed: u64, now: Instant, wall_ms: i64) -> Self {
        let mut connection = Self {
            ids: RequestIds::new(seed),
            ready: false,
            failed: false,
            liveness: Liveness::new(now),
            throttle: Throttle::new(config.request_rate, config.history_rate, now),
            delayed: Vec::new(),
            blocks: BTreeMap::new(),
            wall: (now, wall_ms),
            pending: BTreeMap::new(),
            sessions: Sessions::default(),
            left: BTreeMap::new(),
            catalogs: BTreeMap::new(),
            unasked: Vec::new(),
            generation: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            skipped: 0,
            tally: Tally::default(),
        };
        connection.push(application_auth(&config.client_id, &config.client_secret));
        connection.pump(now);
        connection
    }

    // ── what the driver asks for ─────────────────────────────────────────────────────────────

    /// Begins a session of an account, of which this was known when it was last followed. One that is
    /// already there is left alone.
    pub fn open(&mut self, account: AccountId, token: Secret, known: Known, now: Instant) {
        if self.sessions.contains(account) {
            return;
        }
        self.generation += 1;
        self.left.remove(&account);
        let session = Session::new(account, self.generation, token, known, now);
        if self.ready {
            self.push(session.ask(Ask::Authorise));
        }
        self.sessions.insert(account, session);
        self.pump(now);
    }

    /// Logs an account out; [`Event::Down`] follows when that is done.
    pub fn close(&mut self, account: AccountId, now: Instant) {
        let Some(session) = self.sessions.get_mut(account) else {
            self.events.push_back(Event::Down(account, Down::LoggedOut));
            return;
        };
        if session.phase == Phase::Closing {
            return;
        }
        let authorise_waits = session.phase == Phase::Authorising && !self.is_pending(account);
        if !self.ready || authorise_waits {
            self.end(account, Down::LoggedOut, now);
            return;
        }
        if let Some(session) = self.sessions.get_mut(account) {
            session.phase = Phase::Closing;
            let logout = session.ask(Ask::Logout);
            let broker = session.broker();
            self.drop_waiting(account);
            self.push(logout);
            self.leave_questions(broker, now);
        }
        self.pump(now);
    }

    /// The socket is over: gives up the deals that still waited for their symbol's name, and tells what
    /// became of refresh tokens.
    pub fn finish(&mut self) {
        self.lose_refreshes();
        for (account, session) in self.sessions.take() {
            let catalog = session.broker().and_then(|name| self.catalogs.get(&name));
            let deals = session.into_deals(catalog);
            self.emit_deals(account, deals);
        }
    }

    // ── what comes in ────────────────────────────────────────────────────────────────────────

    /// Takes in one message of the socket.
    pub fn handle_message(&mut self, bytes: Bytes, now: Instant) {
        if self.failed {
            return;
        }
        self.heard(now);
        match frame::decode(bytes) {
            Ok(frame) => {
                self.handle_frame(&frame, now);
                // A quote asks for nothing, and comes too often to look each time at what else is due:
                // that has its time out.
                if frame.payload_type == SPOT_EVENT && self.throttle.is_empty() {
                    return;
                }
            }
            Err(_) => self.fail(ConnectionError::Malformed),
        }
        self.pump(now);
    }

    /// Takes in a sign of life below the protocol that is no pong.
    pub fn handle_other(&mut self, now: Instant) {
        self.heard(now);
    }

    /// Takes in a pong.
    pub fn handle_pong(&mut self, now: Instant) {
        self.liveness.handle_pong();
        self.heard(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.failed {
            return;
        }
        let overdue: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, p)| p.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            if let Some(pending) = self.pending.remove(&id) {
                self.handle_unanswered(pending.request, now);
            }
        }
        let was_following = self.liveness.is_following();
        if self.liveness.handle_timeout(now).is_err() {
            self.fail(ConnectionError::Silent);
            return;
        }
        if was_following && !self.liveness.is_following() {
            self.events.push_back(Event::Following(false));
        }
        for account in self.sessions.due(now) {
            self.handle_session_timeout(account, now);
        }
        self.pump(now);
    }

    // ── what goes out ────────────────────────────────────────────────────────────────────────

    /// The next thing to put on the socket.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Whether something happened that was not told yet.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the application is authorised and the socket is not suspiciously silent.
    #[must_use]
    pub fn is_following(&self) -> bool {
        self.ready && !self.failed && self.liveness.is_following()
    }

    /// How many requests wait for their turn.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.throttle.len()
    }

    /// What the next session of an account should know, for [`Connection::open`]; `None` if this
    /// connection never had a snapshot of it.
    #[must_use]
    pub fn known(&self, account: AccountId) -> Option<Known> {
        match self.sessions.get(account) {
            Some(session) => session.known(),
            None => self.left.get(&account).cloned(),
        }
    }

    /// The session of an account that follows the stream, to look at.
    pub(super) fn live(&self, account: AccountId) -> Option<&Session> {
        self.sessions
            .get(account)
            .filter(|session| session.phase == Phase::Live)
    }

    /// The session of an account that follows the stream.
    pub(super) fn live_session(&mut self, account: AccountId) -> Option<&mut Session> {
        self.sessions
            .get_mut(account)
            .filter(|session| session.phase == Phase::Live)
    }

    // ── small steps ──

    fn handle_application_authorised(&mut self) {
        if self.ready {
            return;
        }
        self.ready = true;
        self.events.push_back(Event::Ready);
        let asks: Vec<Request> = self
            .sessions
            .iter()
            .map(|session| session.ask(Ask::Authorise))
            .collect();
        for ask in asks.into_iter().chain(std::mem::take(&mut self.unasked)) {
            self.push(ask);
        }
    }

    fn handle_account_authorised(&mut self, account: AccountId) {
        let Some(session) = self.sessions.get_mut(account) else {
            return;
        };
        if session.phase == Phase::Authorising {
            let asks = session.handle_authorised();
            for ask in asks {
                self.push(ask);
            }
        }
    }

    fn advance(&mut self, account: AccountId, now: Instant) {
        let Some(session) = self.sessions.get_mut(account) else {
            return;
        };
        if session.account.is_none() {
            return;
        }
        let Some(broker) = session.broker() else {
            return;
        };
        let mut asks = Vec::new();
        let catalog = self.catalogs.entry(broker).or_default();
        let live = session.advance(catalog, &mut asks, now);
        session.watch_quotes(now);
        let deals = session.take_deals(catalog);
        let report = session.take_history_report();
        self.emit_deals(account, deals);
        for ask in asks {
            self.push(ask);
        }
        if live {
            self.events.push_back(Event::Live(account));
        }
        if let Some((report, next)) = report {
            self.events.push_back(Event::History(account, report));
            self.push_some(next);
        }
    }

    fn advance_all_of(&mut self, broker: &str, now: Instant) {
        let accounts: Vec<AccountId> = self
            .sessions
            .iter()
            .filter(|session| session.broker().as_deref() == Some(broker))
            .map(|session| session.id)
            .collect();
        for account in accounts {
            self.advance(account, now);
        }
    }

    fn emit_deals(&mut self, account: AccountId, deals: impl IntoIterator<Item = (Deal, Source)>) {
        let deals = deals.into_iter();
        self.events
            .extend(deals.map(|(deal, source)| Event::Deal(account, source, Box::new(deal))));
    }

    /// Ends a session, whatever it was doing; what it had asked for others is asked by them.
    fn end(&mut self, account: AccountId, down: Down, now: Instant) {
        let Some(session) = self.sessions.remove(account) else {
            return;
        };
        self.drop_waiting(account);
        self.pending.retain(|_, pending| {
            !matches!(&pending.request.purpose, Purpose::Account { account: of, ask, .. }
                if *of == account && *ask != Ask::Logout)
        });
        if let Some(known) = session.known() {
            self.left.insert(account, known);
        }
        let closing = session.phase == Phase::Closing;
        let broker = session.broker();
        let catalog = broker.as_ref().and_then(|name| self.catalogs.get(name));
        let deals = session.into_deals(catalog);
        self.emit_deals(account, deals);
        // One that was logging out is out, however that came about.
        let down = if closing { Down::LoggedOut } else { down };
        self.events.push_back(Event::Down(account, down));
        self.leave_questions(broker, now);
    }

    /// What an account that leaves had asked its broker, others ask.
    fn leave_questions(&mut self, broker: Option<Arc<str>>, now: Instant) {
        if let Some(broker) = broker {
            if let Some(catalog) = self.catalogs.get_mut(&broker) {
                catalog.forget_all();
            }
            self.advance_all_of(&broker, now);
        }
    }

    fn fail(&mut self, error: ConnectionError) {
        if !self.failed {
            self.failed = true;
            self.transmits.clear();
            self.events.push_back(Event::Failed(error));
        }
    }

    fn forget_need(&mut self, need: &Need) {
        self.catalogs
            .values_mut()
            .for_each(|catalog| catalog.forget(need));
    }

    fn is_current(&self, account: AccountId, generation: u64) -> bool {
        self.sessions
            .get(account)
            .is_some_and(|session| session.generation == generation)
    }

    fn is_pending(&self, account: AccountId) -> bool {
        self.pending.values().any(
            |pending| matches!(&pending.request.purpose, Purpose::Account { account: of, .. } if *of == account),
        )
    }

    fn drop_waiting(&mut self, account: AccountId) {
        let wanted = |request: &Request| {
            !matches!(&request.purpose, Purpose::Account { account: of, ask, .. }
                if *of == account && *ask != Ask::Logout)
        };
        self.throttle.retain(wanted);
        self.delayed.retain(|(_, request)| wanted(request));
    }

    fn heard(&mut self, now: Instant) {
        let was_following = self.liveness.is_following();
        self.liveness.handle_inbound(now);
        if !was_following {
            self.events.push_back(Event::Following(true));
        }
    }

    fn push_some(&mut self, request: Option<Request>) {
        if let Some(request) = request {
            self.push(request);
        }
    }

    fn push(&mut self, request: Request) {
        self.throttle
            .push(request.priority, request.payload_type, request);
    }
}

/// A refresh token's answer counts however late it comes: it is the only word of the new pair.
const fn has_deadline(request: &Request) -> bool {
    !matches!(request.purpose, Purpose::Refresh { .. })
}
