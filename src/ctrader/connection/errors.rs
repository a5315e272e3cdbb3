//! What a refusal, or silence, does to the request it concerns.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::event::{ConnectionError, Down, Event, Refreshed};
use super::state::{Connection, Pending};
use super::stats::RequestEnd;
use crate::ctrader::error::{Disposition, Refusal};
use crate::ctrader::request::{Ask, Need, Purpose, Request};
use crate::ctrader::session::{Phase, Session, history_pause};
use crate::domain::ids::{AccountId, SymbolId};

/// How long a payload type rests when the server says "too often" and not for how long.
const FREQUENCY_PAUSE: Duration = Duration::from_secs(2);

/// The longest that such pauses grow to by themselves.
const GROWN_PAUSE_MAX: Duration = Duration::from_mins(2);

/// Before something is asked again that was in somebody's way for a moment.
const RETRY_SOON: Duration = Duration::from_millis(200);

/// A longer pause than that is no pause but a mistake.
const PAUSE_MAX: Duration = Duration::from_hours(1);

impl Connection {
    pub(super) fn handle_error(
        &mut self,
        answered: Option<Pending>,
        refusal: Refusal,
        now: Instant,
    ) {
        // Without an id it concerns the whole connection, or another client: nothing of ours
        // fails by it, and what is unanswered has its deadline.
        let Some(Pending { request, .. }) = answered else {
            self.skipped += 1;
            return;
        };
        self.tally.ended(RequestEnd::Refused);
        if matches!(
            refusal.code.as_str(),
            "BLOCKED_PAYLOAD_TYPE" | "REQUEST_FREQUENCY_EXCEEDED"
        ) {
            self.handle_too_frequent(request, &refusal, now);
            return;
        }
        let disposition = refusal.disposition();
        if disposition == Disposition::RetrySoon && request.tries == 0 && self.is_wanted(&request) {
            self.delay(request, RETRY_SOON, now);
            return;
        }
        match request.purpose.clone() {
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
            Purpose::Refresh { ticket } => self
                .events
                .push_back(Event::TokenRefreshed(ticket, Refreshed::Refused(refusal))),
            Purpose::Account {
                account,
                generation,
                ask,
            } => {
                if !self.is_current(account, generation) {
                    if let Ask::Broker(need) = ask {
                        self.forget_need(&need);
                    }
                } else if is_look(&ask) && !concerns_session(disposition) {
                    self.handle_look_refused(account, request, &refusal, now);
                } else {
                    self.handle_account_refusal(account, ask, refusal, now);
                }
            }
        }
    }

    /// Asked too often: this payload type rests. The server's own figure may be too small, so pauses grow
    /// while they are of no use.
    fn handle_too_frequent(&mut self, request: Request, refusal: &Refusal, now: Instant) {
        let blocks = self.blocks.entry(request.payload_type).or_default();
        let grown = FREQUENCY_PAUSE * 2u32.pow((*blocks).min(6));
        *blocks += 1;
        let asked_for = refusal.retry_after.unwrap_or(FREQUENCY_PAUSE);
        let pause = asked_for.max(grown.min(GROWN_PAUSE_MAX)).min(PAUSE_MAX);
        self.throttle.block(request.payload_type, now + pause);
        if self.is_wanted(&request) {
            self.push(request);
        }
    }

    fn delay(&mut self, request: Request, pause: Duration, now: Instant) {
        let tries = request.tries + 1;
        self.delayed
            .push((now + pause, Request { tries, ..request }));
    }

    /// A look that was refused is made again, ever more seldom; a window that cannot be read is cut.
    fn handle_look_refused(
        &mut self,
        account: AccountId,
        request: Request,
        refusal: &Refusal,
        now: Instant,
    ) {
        let Purpose::Account { ask, .. } = request.purpose.clone() else {
            return;
        };
        let is_bounds = matches!(
            refusal.code.as_str(),
            "INCORRECT_BOUNDARIES" | "FRAME_TOO_LONG"
        );
        // What is wrong with the question itself stays wrong.
        let is_final = refusal.disposition() == Disposition::CallerError && !is_bounds;
        let is_window = matches!(ask, Ask::Deals(_) | Ask::Cash(_)) && !is_final;
        match history_pause(request.tries + 1).filter(|_| is_window) {
            Some(_) if is_bounds => {
                let next = self
                    .sessions
                    .get_mut(account)
                    .and_then(|session| session.handle_window_refused(&ask, now));
                self.push_some(next);
                self.advance(account, now);
            }
            Some(pause) => self.delay(request, pause, now),
            None => self.handle_look_failed(account, &ask, now),
        }
    }

    /// Whether a request still has a purpose: a session that logs out wants nothing else any more.
    fn is_wanted(&self, request: &Request) -> bool {
        match &request.purpose {
            Purpose::Application
            | Purpose::Token { .. }
            | Purpose::Refresh { .. }
            | Purpose::Account {
                ask: Ask::Logout, ..
            } => true,
            Purpose::Account { account, .. } => self
                .sessions
                .get(*account)
                .is_some_and(|session| session.phase != Phase::Closing),
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
        if matches!(
            disposition,
            Disposition::ReauthoriseApplication | Disposition::StopApplication
        ) {
            // Nothing of this connection is authorised any more.
            self.fail(ConnectionError::ApplicationRefused(refusal));
            return;
        }
        match ask {
            // Logged out is what was wanted.
            Ask::Logout => self.end(account, Down::LoggedOut, now),
            Ask::Unsubscribe(symbols) => self.handle_unsubscribed(account, &symbols, now),
            // This socket never authorised the account with this token, or its session would be
            // there: so somebody else's token did, and proves nothing for this one.
            Ask::Authorise if disposition == Disposition::Success => {
                if let Some(session) = self.sessions.get(account) {
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
            // The newer token's account is authorised here, by the older one: that is all it takes.
            Ask::Reauthorise if disposition == Disposition::Success => {
                if let Some(session) = self.sessions.get_mut(account) {
                    session.handle_reauthorised(now);
                }
                self.advance(account, now);
            }
            Ask::Authorise | Ask::Reauthorise => self.end(account, refusal.into(), now),
            Ask::Trader
            | Ask::Reconcile
            | Ask::Subscribe(_)
            | Ask::Broker(_)
            | Ask::Verify
            | Ask::Audit
            | Ask::Recheck
            | Ask::Deals(_)
            | Ask::Cash(_) => {
                // It was authorised here and is not any more: that says nothing of its token.
                let down = if disposition == Disposition::ReauthoriseAccount {
                    Down::Dropped
                } else {
                    refusal.into()
                };
                self.end(account, down, now);
            }
        }
    }

    /// What was subscribed before is renewed. Else one id of several may have been the reason: they
    /// are asked one by one then.
    fn handle_subscribe_refusal(
        &mut self,
        account: AccountId,
        symbols: &BTreeSet<SymbolId>,
        disposition: Disposition,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(account) else {
            return;
        };
        if disposition == Disposition::Success {
            match session.handle_already_subscribed(symbols) {
                Some(renewal) => self.push(renewal),
                None => self.advance(account, now),
            }
            return;
        }
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
        session.handle_unsubscribable(symbols);
        self.advance(account, now);
    }

    /// The broker will not say: what depends on it stays unknown, and the session goes on.
    fn settle_unavailable(&mut self, account: AccountId, need: &Need, now: Instant) {
        let Some(broker) = self.sessions.get(account).and_then(Session::broker) else {
            return;
        };
        let catalog = self.catalogs.entry(broker.clone()).or_default();
        match need {
            Need::Symbols(asked) if asked.len() > 1 => {
                let singles = catalog.split(asked);
                for single in singles {
                    self.ask_broker(account, single);
                }
                return;
            }
            Need::Assets => catalog.set_assets(Vec::new()),
            Need::SymbolList => catalog.set_list(Vec::new()),
            Need::Symbols(asked) => catalog.set_symbols(asked, &[]),
            Need::Chain(from, to) => catalog.set_chain(*from, *to, &[]),
        }
        self.advance_all_of(&broker, now);
    }

    fn ask_broker(&mut self, account: AccountId, need: Need) {
        if let Some(session) = self.sessions.get(account) {
            let ask = session.ask(Ask::Broker(need));
            self.push(ask);
        }
    }

    pub(super) fn handle_unanswered(&mut self, request: Request, now: Instant) {
        self.tally.ended(RequestEnd::Unanswered);
        match request.purpose.clone() {
            Purpose::Application => self.fail(ConnectionError::Unanswered),
            Purpose::Token { ticket } => {
                let timeout = Err(Refusal::with_code("TIMEOUT_ERROR"));
                self.events.push_back(Event::TokenVerified(ticket, timeout));
            }
            // It has no deadline.
            Purpose::Refresh { .. } => {}
            Purpose::Account {
                account,
                generation,
                ask,
            } => {
                if let Ask::Broker(need) = &ask {
                    self.forget_need(need);
                }
                if is_look(&ask) {
                    if self.is_current(account, generation) {
                        let silence = Refusal::with_code("NO_ANSWER");
                        self.handle_look_refused(account, request, &silence, now);
                    }
                } else if self.is_current(account, generation) {
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
}

/// Whether a session is what it is without an answer to this.
const fn is_look(ask: &Ask) -> bool {
    matches!(ask, Ask::Verify | Ask::Audit | Ask::Deals(_) | Ask::Cash(_))
}

/// Whether a refusal is about the session, whatever was asked.
const fn concerns_session(disposition: Disposition) -> bool {
    matches!(
        disposition,
        Disposition::ReauthoriseApplication
            | Disposition::ReauthoriseAccount
            | Disposition::RefreshToken
            | Disposition::GiveUp
            | Disposition::StopApplication
    )
}
