//! One socket's worth of the protocol: application authorisation, correlation, heartbeats, the
//! inbound watchdog, request deadlines, and the sessions of many accounts. No I/O, no clock.
//!
//! Drive it like this, one mutation at a time and a full drain after each:
//! - in: [`Connection::handle_message`], [`Connection::handle_pong`], [`Connection::handle_timeout`],
//!   [`Connection::open`], [`Connection::close`], [`Connection::verify_token`];
//! - out: [`Connection::poll_transmit`], [`Connection::poll_event`], then wait until
//!   [`Connection::poll_timeout`].
//!
//! Time must not go backwards. After [`Event::Failed`] nothing more comes out: the socket is to be
//! dropped, since nothing of it (authorisations, subscriptions, quotes) survives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::catalog::Catalog;
use super::error::{Disposition, Refusal};
use super::frame::{self, ERROR_RES, Frame, HEARTBEAT_EVENT, RequestIds};
use super::liveness::Liveness;
use super::request::{Ask, Need, Purpose, Request, accounts_of_token, application_auth};
use super::session::{Phase, Session, WireEvent};
use super::throttle::Throttle;
use super::wire::{
    ProtoErrorRes, ProtoOaAccountDisconnectEvent, ProtoOaAccountsTokenInvalidatedEvent,
    ProtoOaAssetListRes, ProtoOaClientDisconnectEvent, ProtoOaErrorRes, ProtoOaExecutionEvent,
    ProtoOaGetAccountListByAccessTokenRes, ProtoOaMarginChangedEvent, ProtoOaPayloadType as Type,
    ProtoOaReconcileRes, ProtoOaSpotEvent, ProtoOaSymbolByIdRes, ProtoOaSymbolChangedEvent,
    ProtoOaSymbolsForConversionRes, ProtoOaSymbolsListRes, ProtoOaTraderRes,
    ProtoOaTraderUpdatedEvent, ProtoOaTrailingSlChangedEvent,
};
use crate::domain::deal::Deal;
use crate::domain::ids::{AccountId, SymbolId};
use crate::domain::secret::Secret;

/// How long an answer may take, from the moment its request is sent.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

/// How long a payload type rests when the server says "too often" and not for how long.
const FREQUENCY_PAUSE: Duration = Duration::from_secs(2);

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

/// What to put on the socket.
#[derive(Debug, Clone, PartialEq)]
pub enum Transmit {
    /// A binary message.
    Message(Bytes),
    /// A WebSocket ping.
    Ping,
}

/// Why a session is over. The connection has forgotten it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// As asked for.
    #[error("logged out")]
    LoggedOut,
    /// cTrader refused something it cannot do without.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// cTrader dropped this account.
    #[error("cTrader dropped the account's session")]
    Dropped,
    /// The token that authorised it is no longer good.
    #[error("the access token was invalidated")]
    TokenInvalidated,
    /// An answer did not come.
    #[error("cTrader did not answer in time")]
    TimedOut,
    /// A message about it made no sense.
    #[error("a message made no sense: {0}")]
    Malformed(#[from] super::convert::Malformed),
    /// The account was authorised on this socket by another token.
    #[error("the account was authorised by another token")]
    ForeignAuthorisation,
}

/// Why a connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The application was refused.
    #[error("the application was refused: {0}")]
    ApplicationRefused(#[source] Refusal),
    /// cTrader ended the application's session.
    #[error("cTrader ended the session")]
    Disconnected {
        /// The server's own words.
        reason: Option<String>,
    },
    /// The application's authorisation was not answered.
    #[error("cTrader did not answer the application's authorisation")]
    Unanswered,
    /// Nothing came in for too long.
    #[error("nothing came in for too long")]
    Silent,
    /// A frame was no `ProtoMessage`.
    #[error("a frame was no message")]
    Malformed,
}

/// What a connection tells its driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The application is authorised.
    Ready,
    /// The account follows the stream from now on.
    Live(AccountId),
    /// The account's session is over.
    Down(AccountId, Down),
    /// A deal was executed.
    Deal(AccountId, Box<Deal>),
    /// Whether a token covers an account (see [`Connection::verify_token`]).
    TokenVerified(u64, Result<BTreeSet<AccountId>, Refusal>),
    /// The socket is silent where it should not be (`false`), or speaks again (`true`).
    Following(bool),
    /// The connection is of no more use.
    Failed(ConnectionError),
}

/// A request that was sent and not yet answered.
#[derive(Debug)]
struct Pending {
    request: Request,
    deadline: Instant,
}

/// The protocol on one socket.
#[derive(Debug)]
pub struct Connection {
    ids: RequestIds,
    ready: bool,
    failed: bool,
    liveness: Liveness,
    throttle: Throttle<Request>,
    pending: BTreeMap<u64, Pending>,
    sessions: BTreeMap<AccountId, Session>,
    catalogs: BTreeMap<String, Catalog>,
    generation: u64,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    /// Frames and parts of frames that were skipped because nobody knows them.
    pub skipped: u64,
}

impl Connection {
    /// A connection whose socket has just opened. `seed` makes its request ids its own.
    #[must_use]
    pub fn new(config: &ConnectionConfig, seed: u64, now: Instant) -> Self {
        let mut connection = Self {
            ids: RequestIds::new(seed),
            ready: false,
            failed: false,
            liveness: Liveness::new(now),
            throttle: Throttle::new(config.request_rate, config.history_rate, now),
            pending: BTreeMap::new(),
            sessions: BTreeMap::new(),
            catalogs: BTreeMap::new(),
            generation: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            skipped: 0,
        };
        connection.push(application_auth(&config.client_id, &config.client_secret));
        connection.pump(now);
        connection
    }

    // ── what the driver asks for ─────────────────────────────────────────────────────────────

    /// Begins a session of an account. One that is already there is left alone.
    pub fn open(&mut self, account: AccountId, token: Secret, now: Instant) {
        if self.sessions.contains_key(&account) {
            return;
        }
        self.generation += 1;
        let session = Session::new(account, self.generation, token, now);
        if self.ready {
            self.push(session.ask(Ask::Authorise));
        }
        self.sessions.insert(account, session);
        self.pump(now);
    }

    /// Logs an account out; [`Event::Down`] follows when that is done.
    pub fn close(&mut self, account: AccountId, now: Instant) {
        let Some(session) = self.sessions.get_mut(&account) else {
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
        if let Some(session) = self.sessions.get_mut(&account) {
            session.phase = Phase::Closing;
            let logout = session.ask(Ask::Logout);
            self.drop_waiting(account);
            self.push(logout);
        }
        self.pump(now);
    }

    /// Asks which accounts a token covers; [`Event::TokenVerified`] answers with the ticket.
    pub fn verify_token(&mut self, ticket: u64, token: &Secret, now: Instant) {
        self.push(accounts_of_token(ticket, token));
        self.pump(now);
    }

    // ── what comes in ────────────────────────────────────────────────────────────────────────

    /// Takes in one message of the socket.
    pub fn handle_message(&mut self, bytes: Bytes, now: Instant) {
        if self.failed {
            return;
        }
        self.heard(now);
        match frame::decode(bytes) {
            Ok(frame) => self.handle_frame(&frame, now),
            Err(_) => self.fail(ConnectionError::Malformed),
        }
        self.pump(now);
    }

    /// Takes in a pong, or any other sign of life below the protocol.
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
            .filter(|(_, p)| p.deadline <= now)
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
        let warming: Vec<AccountId> = self
            .sessions
            .values()
            .filter(|session| matches!(session.phase, Phase::Warming(until) if until <= now))
            .map(|session| session.id)
            .collect();
        for account in warming {
            self.advance(account, now);
        }
        self.pump(now);
    }

    // ── what goes out ────────────────────────────────────────────────────────────────────────

    /// The next thing to put on the socket.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Connection::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        let deadlines = self.pending.values().map(|pending| pending.deadline);
        let warming = self
            .sessions
            .values()
            .filter_map(|session| match session.phase {
                Phase::Warming(until) => Some(until),
                Phase::Authorising | Phase::Loading | Phase::Live | Phase::Closing => None,
            });
        let own = [Some(self.liveness.poll_timeout()), self.throttle.next_at()];
        deadlines
            .chain(warming)
            .chain(own.into_iter().flatten())
            .min()
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

    /// The session of an account that follows the stream.
    pub(super) fn live_session(&mut self, account: AccountId) -> Option<&mut Session> {
        self.sessions
            .get_mut(&account)
            .filter(|session| session.phase == Phase::Live)
    }

    // ── frames ───────────────────────────────────────────────────────────────────────────────

    fn handle_frame(&mut self, frame: &Frame, now: Instant) {
        let own = frame
            .client_msg_id
            .as_deref()
            .and_then(|tag| self.ids.number(tag));
        let answered = own.and_then(|id| self.pending.remove(&id));
        match (answered, frame.payload_type) {
            (answered, ERROR_RES) => match ProtoErrorRes::decode(frame.payload.clone()) {
                Ok(error) => self.handle_error(
                    answered,
                    Refusal {
                        code: error.error_code,
                        description: error.description,
                        retry_after: None,
                        maintenance_end_ms: error.maintenance_end_timestamp.and_then(milliseconds),
                    },
                    now,
                ),
                Err(_) => self.skipped += 1,
            },
            (answered, t) if t == frame::number(Type::ProtoOaErrorRes) => {
                match ProtoOaErrorRes::decode(frame.payload.clone()) {
                    Ok(error) => self.handle_error(
                        answered,
                        Refusal {
                            code: error.error_code,
                            description: error.description,
                            retry_after: error.retry_after.map(Duration::from_secs),
                            maintenance_end_ms: error
                                .maintenance_end_timestamp
                                .and_then(|at| milliseconds(at.unsigned_abs())),
                        },
                        now,
                    ),
                    Err(_) => self.skipped += 1,
                }
            }
            (Some(pending), _) => self.handle_answer(pending.request, frame, now),
            (None, HEARTBEAT_EVENT) => {}
            (None, _) => self.handle_push(frame, now),
        }
    }

    /// An answer to a request of ours.
    fn handle_answer(&mut self, request: Request, frame: &Frame, now: Instant) {
        match request.purpose {
            Purpose::Application => self.handle_application_authorised(),
            Purpose::Token { ticket } => {
                let Some(answer) = self.read::<ProtoOaGetAccountListByAccessTokenRes>(frame) else {
                    return;
                };
                let covered = answer.ctid_trader_account.iter();
                let covered =
                    covered.map(|known| AccountId(known.ctid_trader_account_id.cast_signed()));
                self.events
                    .push_back(Event::TokenVerified(ticket, Ok(covered.collect())));
            }
            Purpose::Account {
                account,
                generation,
                ask,
            } => {
                if let Ask::Broker(need) = ask {
                    // Good for all accounts of the broker, even when the one that asked has left.
                    self.handle_catalog(account, &need, frame, now);
                } else if self.is_current(account, generation) {
                    self.handle_account_answer(account, ask, frame, now);
                }
            }
        }
    }

    fn handle_account_answer(&mut self, account: AccountId, ask: Ask, frame: &Frame, now: Instant) {
        let deals = match ask {
            Ask::Authorise => {
                self.handle_account_authorised(account);
                return;
            }
            // Accepted; the session ends with its own event, or right here should that not come.
            Ask::Logout => {
                self.end(account, Down::LoggedOut, now);
                return;
            }
            Ask::Subscribe(symbols) => {
                if let Some(session) = self.sessions.get_mut(&account) {
                    session.handle_subscribed(&symbols);
                }
                self.advance(account, now);
                return;
            }
            Ask::Unsubscribe(_) | Ask::Broker(_) => return,
            Ask::Trader => {
                let Some(answer) = self.read::<ProtoOaTraderRes>(frame) else {
                    return;
                };
                self.sessions
                    .get_mut(&account)
                    .map(|session| session.handle_trader(answer.trader, now))
            }
            Ask::Reconcile => {
                let Some(answer) = self.read::<ProtoOaReconcileRes>(frame) else {
                    return;
                };
                self.sessions
                    .get_mut(&account)
                    .map(|session| session.handle_reconcile(answer, now))
            }
        };
        match deals {
            Some(Ok(deals)) => {
                self.emit_deals(account, deals);
                self.advance(account, now);
            }
            Some(Err(malformed)) => self.end(account, malformed.into(), now),
            None => {}
        }
    }

    fn handle_catalog(&mut self, account: AccountId, need: &Need, frame: &Frame, now: Instant) {
        // The answer is the asking account's broker's, and an account has one broker for ever.
        let Some(broker) = self.sessions.get(&account).and_then(Session::broker) else {
            return;
        };
        match need {
            Need::Assets => {
                let Some(answer) = self.read::<ProtoOaAssetListRes>(frame) else {
                    return;
                };
                self.catalogs
                    .entry(broker.clone())
                    .or_default()
                    .set_assets(answer.asset);
            }
            Need::SymbolList => {
                let Some(answer) = self.read::<ProtoOaSymbolsListRes>(frame) else {
                    return;
                };
                self.catalogs
                    .entry(broker.clone())
                    .or_default()
                    .set_list(answer.symbol);
            }
            Need::Symbols(asked) => {
                let Some(answer) = self.read::<ProtoOaSymbolByIdRes>(frame) else {
                    return;
                };
                self.catalogs
                    .entry(broker.clone())
                    .or_default()
                    .set_symbols(asked, &answer.symbol);
            }
            Need::Chain(from, to) => {
                let Some(answer) = self.read::<ProtoOaSymbolsForConversionRes>(frame) else {
                    return;
                };
                self.catalogs.entry(broker.clone()).or_default().set_chain(
                    *from,
                    *to,
                    &answer.symbol,
                );
            }
        }
        self.advance_all_of(&broker, now);
    }

    /// An event, or an answer that nobody waits for any more.
    fn handle_push(&mut self, frame: &Frame, now: Instant) {
        let payload_type = i32::try_from(frame.payload_type).unwrap_or_default();
        match Type::try_from(payload_type) {
            Ok(Type::ProtoOaSpotEvent) => {
                if let Some(spot) = self.read::<ProtoOaSpotEvent>(frame) {
                    self.handle_spot(&spot, now);
                }
            }
            Ok(Type::ProtoOaExecutionEvent) => {
                if let Some(event) = self.read::<ProtoOaExecutionEvent>(frame) {
                    let account = AccountId(event.ctid_trader_account_id);
                    self.handle_event(account, WireEvent::Execution(Box::new(event)), now);
                }
            }
            Ok(Type::ProtoOaTraderUpdateEvent) => {
                if let Some(event) = self.read::<ProtoOaTraderUpdatedEvent>(frame) {
                    let account = AccountId(event.ctid_trader_account_id);
                    self.handle_event(account, WireEvent::Trader(Box::new(event.trader)), now);
                }
            }
            Ok(Type::ProtoOaMarginChangedEvent) => {
                if let Some(event) = self.read::<ProtoOaMarginChangedEvent>(frame) {
                    self.handle_event(
                        AccountId(event.ctid_trader_account_id),
                        WireEvent::Margin(event),
                        now,
                    );
                }
            }
            Ok(Type::ProtoOaTrailingSlChangedEvent) => {
                if let Some(event) = self.read::<ProtoOaTrailingSlChangedEvent>(frame) {
                    self.handle_event(
                        AccountId(event.ctid_trader_account_id),
                        WireEvent::TrailingStop(event),
                        now,
                    );
                }
            }
            Ok(Type::ProtoOaSymbolChangedEvent) => {
                if let Some(event) = self.read::<ProtoOaSymbolChangedEvent>(frame) {
                    self.handle_symbol_changed(&event, now);
                }
            }
            Ok(Type::ProtoOaAccountDisconnectEvent) => {
                if let Some(event) = self.read::<ProtoOaAccountDisconnectEvent>(frame) {
                    self.handle_dropped(AccountId(event.ctid_trader_account_id), now);
                }
            }
            Ok(Type::ProtoOaAccountsTokenInvalidatedEvent) => {
                if let Some(event) = self.read::<ProtoOaAccountsTokenInvalidatedEvent>(frame) {
                    for account in event.ctid_trader_account_ids {
                        self.end(AccountId(account), Down::TokenInvalidated, now);
                    }
                }
            }
            Ok(Type::ProtoOaClientDisconnectEvent) => {
                let reason = self
                    .read::<ProtoOaClientDisconnectEvent>(frame)
                    .and_then(|event| event.reason);
                self.fail(ConnectionError::Disconnected { reason });
            }
            // Margin calls, depth, order errors of other clients, late answers: nothing of the
            // account's state. Unknown types must be ignored.
            _ => self.skipped += 1,
        }
    }

    fn handle_spot(&mut self, spot: &ProtoOaSpotEvent, now: Instant) {
        let account = AccountId(spot.ctid_trader_account_id);
        let Some(session) = self.sessions.get_mut(&account) else {
            return;
        };
        session.handle_spot(spot, now);
        if matches!(session.phase, Phase::Warming(_)) {
            self.advance(account, now);
        }
    }

    fn handle_event(&mut self, account: AccountId, event: WireEvent, now: Instant) {
        let Some(session) = self.sessions.get_mut(&account) else {
            return;
        };
        match session.handle_event(event, now) {
            Ok(deal) => {
                self.emit_deals(account, deal);
                self.advance(account, now);
            }
            Err(malformed) => self.end(account, malformed.into(), now),
        }
    }

    fn handle_symbol_changed(&mut self, event: &ProtoOaSymbolChangedEvent, now: Instant) {
        let account = AccountId(event.ctid_trader_account_id);
        let Some(broker) = self.sessions.get(&account).and_then(Session::broker) else {
            return;
        };
        for symbol in &event.symbol_id {
            self.catalogs
                .entry(broker.clone())
                .or_default()
                .symbol_changed(SymbolId(*symbol));
        }
        self.advance_all_of(&broker, now);
    }

    fn handle_dropped(&mut self, account: AccountId, now: Instant) {
        let closing = self
            .sessions
            .get(&account)
            .is_some_and(|session| session.phase == Phase::Closing);
        self.end(
            account,
            if closing {
                Down::LoggedOut
            } else {
                Down::Dropped
            },
            now,
        );
    }

    // ── refusals ─────────────────────────────────────────────────────────────────────────────

    fn handle_error(&mut self, answered: Option<Pending>, refusal: Refusal, now: Instant) {
        // Without an id it concerns the whole connection, or another client: nothing of ours
        // fails by it, and what is unanswered has its deadline.
        let Some(Pending { request, .. }) = answered else {
            self.skipped += 1;
            return;
        };
        if matches!(
            refusal.code.as_str(),
            "BLOCKED_PAYLOAD_TYPE" | "REQUEST_FREQUENCY_EXCEEDED"
        ) {
            let pause = refusal
                .retry_after
                .unwrap_or(FREQUENCY_PAUSE)
                .max(FREQUENCY_PAUSE);
            self.throttle.block(request.payload_type, now + pause);
            self.push(request);
            return;
        }
        let disposition = refusal.disposition();
        match request.purpose {
            Purpose::Application => {
                if disposition == Disposition::Success {
                    self.handle_application_authorised();
                } else {
                    self.fail(ConnectionError::ApplicationRefused(refusal));
                }
            }
            Purpose::Token { ticket } => self
                .events
                .push_back(Event::TokenVerified(ticket, Err(refusal))),
            Purpose::Account {
                account,
                generation,
                ask,
            } => {
                if self.is_current(account, generation) {
                    self.handle_account_refusal(account, ask, refusal, now);
                } else if let Ask::Broker(need) = ask {
                    self.forget_need(&need);
                }
            }
        }
    }

    fn handle_account_refusal(
        &mut self,
        account: AccountId,
        ask: Ask,
        refusal: Refusal,
        now: Instant,
    ) {
        let disposition = refusal.disposition();
        match ask {
            // Logged out is what was wanted.
            Ask::Logout => self.end(account, Down::LoggedOut, now),
            Ask::Unsubscribe(_) => {}
            // This socket never authorised the account with this token, or its session would be
            // there: so somebody else's token did, and proves nothing for this one.
            Ask::Authorise if disposition == Disposition::Success => {
                if let Some(session) = self.sessions.get(&account) {
                    let logout = session.ask(Ask::Logout);
                    self.push(logout);
                }
                self.end(account, Down::ForeignAuthorisation, now);
            }
            Ask::Subscribe(symbols)
                if matches!(disposition, Disposition::Success | Disposition::CallerError) =>
            {
                self.handle_subscribe_refusal(account, &symbols, disposition, now);
            }
            Ask::Broker(need) if disposition == Disposition::CallerError => {
                self.settle_unavailable(account, &need, now);
            }
            Ask::Authorise | Ask::Trader | Ask::Reconcile | Ask::Subscribe(_) | Ask::Broker(_) => {
                self.end(account, refusal.into(), now);
            }
        }
    }

    /// One id of several may have been the reason: they are asked one by one then.
    fn handle_subscribe_refusal(
        &mut self,
        account: AccountId,
        symbols: &BTreeSet<SymbolId>,
        disposition: Disposition,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(&account) else {
            return;
        };
        if symbols.len() > 1 {
            let singles: Vec<Request> = symbols
                .iter()
                .map(|id| session.ask(Ask::Subscribe(BTreeSet::from([*id]))))
                .collect();
            for single in singles {
                self.push(single);
            }
            return;
        }
        if disposition == Disposition::Success {
            session.handle_subscribed(symbols);
        } else {
            session.handle_unsubscribable(symbols);
        }
        self.advance(account, now);
    }

    /// The broker will not say: what depends on it stays unknown, and the session goes on.
    fn settle_unavailable(&mut self, account: AccountId, need: &Need, now: Instant) {
        let Some(broker) = self.sessions.get(&account).and_then(Session::broker) else {
            return;
        };
        let catalog = self.catalogs.entry(broker.clone()).or_default();
        match need {
            Need::Assets => catalog.set_assets(Vec::new()),
            Need::SymbolList => catalog.set_list(Vec::new()),
            Need::Symbols(asked) => catalog.set_symbols(asked, &[]),
            Need::Chain(from, to) => catalog.set_chain(*from, *to, &[]),
        }
        self.advance_all_of(&broker, now);
    }

    fn handle_unanswered(&mut self, request: Request, now: Instant) {
        match request.purpose {
            Purpose::Application => self.fail(ConnectionError::Unanswered),
            Purpose::Token { ticket } => {
                let timeout = Err(Refusal::with_code("TIMEOUT_ERROR"));
                self.events.push_back(Event::TokenVerified(ticket, timeout));
            }
            Purpose::Account {
                account,
                generation,
                ask,
            } => {
                if let Ask::Broker(need) = &ask {
                    self.forget_need(need);
                }
                if self.is_current(account, generation) {
                    let down = if ask == Ask::Logout {
                        Down::LoggedOut
                    } else {
                        Down::TimedOut
                    };
                    self.end(account, down, now);
                }
            }
        }
    }

    // ── small steps ──────────────────────────────────────────────────────────────────────────

    fn handle_application_authorised(&mut self) {
        if self.ready {
            return;
        }
        self.ready = true;
        self.events.push_back(Event::Ready);
        let asks: Vec<Request> = self
            .sessions
            .values()
            .map(|session| session.ask(Ask::Authorise))
            .collect();
        for ask in asks {
            self.push(ask);
        }
    }

    fn handle_account_authorised(&mut self, account: AccountId) {
        let Some(session) = self.sessions.get_mut(&account) else {
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
        let Some(session) = self.sessions.get_mut(&account) else {
            return;
        };
        if session.account.is_none() {
            return;
        }
        let Some(broker) = session.broker() else {
            return;
        };
        let mut asks = Vec::new();
        let live = session.advance(self.catalogs.entry(broker).or_default(), &mut asks, now);
        for ask in asks {
            self.push(ask);
        }
        if live {
            self.events.push_back(Event::Live(account));
        }
    }

    fn advance_all_of(&mut self, broker: &str, now: Instant) {
        let accounts: Vec<AccountId> = self
            .sessions
            .values()
            .filter(|session| session.broker().as_deref() == Some(broker))
            .map(|session| session.id)
            .collect();
        for account in accounts {
            self.advance(account, now);
        }
    }

    fn emit_deals(&mut self, account: AccountId, deals: impl IntoIterator<Item = Deal>) {
        self.events.extend(
            deals
                .into_iter()
                .map(|deal| Event::Deal(account, Box::new(deal))),
        );
    }

    /// Ends a session, whatever it was doing; what it had asked for others is asked by them.
    fn end(&mut self, account: AccountId, down: Down, now: Instant) {
        let Some(session) = self.sessions.remove(&account) else {
            return;
        };
        self.drop_waiting(account);
        self.pending.retain(|_, pending| {
            !matches!(&pending.request.purpose, Purpose::Account { account: of, ask, .. }
                if *of == account && *ask != Ask::Logout)
        });
        self.events.push_back(Event::Down(account, down));
        if let Some(broker) = session.broker() {
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
            .get(&account)
            .is_some_and(|session| session.generation == generation)
    }

    fn is_pending(&self, account: AccountId) -> bool {
        self.pending.values().any(
            |pending| matches!(&pending.request.purpose, Purpose::Account { account: of, .. } if *of == account),
        )
    }

    fn drop_waiting(&mut self, account: AccountId) {
        self.throttle.retain(|request| {
            !matches!(&request.purpose, Purpose::Account { account: of, ask, .. }
                if *of == account && *ask != Ask::Logout)
        });
    }

    fn read<M: Message + Default>(&mut self, frame: &Frame) -> Option<M> {
        let message = M::decode(frame.payload.clone()).ok();
        self.skipped += u64::from(message.is_none());
        message
    }

    fn heard(&mut self, now: Instant) {
        let was_following = self.liveness.is_following();
        self.liveness.handle_inbound(now);
        if !was_following {
            self.events.push_back(Event::Following(true));
        }
    }

    fn push(&mut self, request: Request) {
        self.throttle
            .push(request.priority, request.payload_type, request);
    }

    /// Sends what the budget allows, and signs of life where they are due.
    fn pump(&mut self, now: Instant) {
        if self.failed {
            return;
        }
        while let Some(request) = self.throttle.pop(now) {
            let id = self.ids.allocate();
            let tag = self.ids.tag(id);
            let bytes = frame::encode(request.payload_type, request.payload.clone(), Some(tag));
            self.transmits.push_back(Transmit::Message(bytes));
            self.liveness.handle_outbound(now);
            self.pending.insert(
                id,
                Pending {
                    request,
                    deadline: now + REQUEST_DEADLINE,
                },
            );
        }
        if self.liveness.heartbeat_due(now) {
            let heartbeat = frame::encode(HEARTBEAT_EVENT, Bytes::new(), None);
            self.transmits.push_back(Transmit::Message(heartbeat));
            self.liveness.handle_outbound(now);
        }
        if self.liveness.ping_due(now) {
            self.transmits.push_back(Transmit::Ping);
        }
    }
}

/// A time in seconds or milliseconds, as milliseconds: the two error messages differ.
fn milliseconds(at: u64) -> Option<i64> {
    const ABOVE_IS_MILLISECONDS: u64 = 100_000_000_000;
    let ms = if at > ABOVE_IS_MILLISECONDS {
        at
    } else {
        at.checked_mul(1_000)?
    };
    i64::try_from(ms).ok()
}
