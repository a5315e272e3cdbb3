//! What a refusal, or a missing response, does to the request that it concerns.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::event::{ConnectionError, Down, Event, Refreshed};
use super::state::{Connection, Pending};
use super::stats::RequestOutcome;
use crate::ctrader::ask::{AccountCheck, Ask, Need};
use crate::ctrader::error::{Disposition, Refusal, RequestError};
use crate::ctrader::request::{Purpose, Request};
use crate::ctrader::session::{Phase, Session, retry_pause};
use crate::domain::backoff::Backoff;
use crate::domain::ids::{AccountId, SymbolId};

/// How long a payload type is held back when the server refuses it as too frequent and does not tell for how long.
const FREQUENCY_PAUSE: Duration = Duration::from_secs(2);

/// How such pauses grow by themselves.
const FREQUENCY_BACKOFF: Backoff = Backoff::new(FREQUENCY_PAUSE, Duration::from_mins(2));

/// The pause before a request that was refused because something was busy for a moment.
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
        // Without an id it concerns the whole connection, or another client: no request of ours
        // fails by it, and those without a response have their deadlines.
        let Some(Pending { request, .. }) = answered else {
            self.skipped += 1;
            return;
        };
        self.stats.count_request(RequestOutcome::Refused);
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
                .push_back(Event::TokenVerified(ticket, Err(refusal.into()))),
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
                    return;
                }
                if let Ask::Check(check) = ask
                    && !concerns_session(disposition)
                {
                    self.handle_check_error(account, check, request, &refusal.into(), now);
                } else {
                    self.handle_account_refusal(account, ask, refusal, now);
                }
            }
        }
    }

    /// Holds a payload type back that was asked for too often. The server's own figure may be too small, so
    /// the pause grows while refusals go on.
    fn handle_too_frequent(&mut self, request: Request, refusal: &Refusal, now: Instant) {
        let payload_type = request.class.payload_type;
        let blocks = self.blocks.entry(payload_type).or_default();
        *blocks += 1;
        let own = FREQUENCY_BACKOFF.ceiling(*blocks);
        let asked_for = refusal.retry_after.unwrap_or(FREQUENCY_PAUSE);
        let pause = asked_for.max(own).min(PAUSE_MAX);
        self.throttle.block(payload_type, now + pause);
        if self.is_wanted(&request) {
            self.push(request);
        }
    }

    fn delay(&mut self, request: Request, pause: Duration, now: Instant) {
        let tries = request.tries + 1;
        self.delayed
            .push((now + pause, Request { tries, ..request }));
    }

    /// A part of the history that failed is asked for again, ever more seldom; a window that cannot be read
    /// is cut in two. Any other check is given up.
    fn handle_check_error(
        &mut self,
        account: AccountId,
        check: AccountCheck,
        request: Request,
        error: &RequestError,
        now: Instant,
    ) {
        let is_bounds = error.has_code(&["INCORRECT_BOUNDARIES", "FRAME_TOO_LONG"]);
        // What is wrong with the request itself stays wrong.
        let is_final = error.disposition() == Disposition::CallerError && !is_bounds;
        let is_retried = check.window().is_some() && !is_final;
        match retry_pause(request.tries + 1).filter(|_| is_retried) {
            Some(_) if is_bounds => {
                let next = self
                    .sessions
                    .get_mut(account)
                    .and_then(|session| session.split_window(check, now));
                self.push_all(next);
                self.advance(account, now);
            }
            Some(pause) => self.delay(request, pause, now),
            None => self.handle_check_failed(account, check, now),
        }
    }

    /// Whether a request still has a purpose: a session that logs out needs nothing else.
    fn is_wanted(&self, request: &Request) -> bool {
        match &request.purpose {
            Purpose::Account { account, .. } if request.needs_session_of(*account) => self
                .sessions
                .get(*account)
                .is_some_and(|session| session.phase != Phase::Closing),
            Purpose::Account { .. }
            | Purpose::Application
            | Purpose::Token { .. }
            | Purpose::Refresh { .. } => true,
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
            // there. So another user's token did, which proves nothing for this one.
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
                self.mark_unavailable(account, &need, now);
            }
            // The newer token's account is authorised here, by the older one: that is all it takes.
            Ask::Reauthorise if disposition == Disposition::Success => {
                if let Some(session) = self.sessions.get_mut(account) {
                    session.handle_reauthorised(now);
                }
                self.advance(account, now);
            }
            Ask::Authorise | Ask::Reauthorise => self.end(account, refusal.into(), now),
            Ask::Trader | Ask::Snapshot | Ask::Subscribe(_) | Ask::Broker(_) | Ask::Check(_) => {
                // It was authorised here and is not any more: that proves nothing about its token.
                let down = if disposition == Disposition::ReauthoriseAccount {
                    Down::Dropped
                } else {
                    refusal.into()
                };
                self.end(account, down, now);
            }
        }
    }

    /// Renews what was subscribed before. Otherwise one id of several may have been the reason: they are
    /// subscribed one by one then.
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
            self.push_all(singles);
            return;
        }
        session.handle_unsubscribable(symbols);
        self.advance(account, now);
    }

    /// Notes that the broker does not tell it: what depends on it stays unknown, and the session goes on.
    fn mark_unavailable(&mut self, account: AccountId, need: &Need, now: Instant) {
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
        self.stats.count_request(RequestOutcome::Unanswered);
        match request.purpose.clone() {
            Purpose::Application => self.fail(ConnectionError::Unanswered),
            Purpose::Token { ticket } => {
                let answer = Err(RequestError::NoAnswer);
                self.events.push_back(Event::TokenVerified(ticket, answer));
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
                if !self.is_current(account, generation) {
                    return;
                }
                match ask {
                    Ask::Check(check) => {
                        let error = RequestError::NoAnswer;
                        self.handle_check_error(account, check, request, &error, now);
                    }
                    Ask::Logout => self.end(account, Down::LoggedOut, now),
                    Ask::Authorise
                    | Ask::Reauthorise
                    | Ask::Trader
                    | Ask::Snapshot
                    | Ask::Subscribe(_)
                    | Ask::Unsubscribe(_)
                    | Ask::Broker(_) => self.end(account, Down::TimedOut, now),
                }
            }
        }
    }
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
