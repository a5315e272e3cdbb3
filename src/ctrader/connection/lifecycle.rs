//! Sessions of accounts on a connection: opened, carried on, logged out, ended.

use std::sync::Arc;
use std::time::Instant;

use super::event::{Down, Event};
use super::state::Connection;
use crate::ctrader::ask::Ask;
use crate::ctrader::request::Request;
use crate::ctrader::session::{Phase, Session};
use crate::domain::deal::{Deal, Source};
use crate::domain::ids::AccountId;
use crate::domain::ledger::LastSeen;
use crate::domain::secret::Secret;

impl Connection {
    /// Begins a session of an account. `last_seen` is what [`Connection::last_seen`] had of it, on this
    /// connection or another. A session that is already there is left alone.
    pub fn open(&mut self, account: AccountId, token: Secret, last_seen: LastSeen, now: Instant) {
        if self.sessions.contains(account) {
            return;
        }
        self.generation += 1;
        self.ended.remove(&account);
        let session = Session::new(account, self.generation, token, last_seen, now);
        if self.ready {
            self.push(session.ask(Ask::Authorise));
        }
        self.sessions.insert(account, session);
        self.send_ready(now);
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
            self.drop_queued(account);
            self.push(logout);
            self.reassign_needs(broker, now);
        }
        self.send_ready(now);
    }

    /// Ends the connection, since its socket is over: reports the deals that still waited for their symbol's
    /// name, and what became of refresh tokens.
    pub fn finish(&mut self) {
        self.lose_refreshes();
        for (account, session) in self.sessions.take() {
            let catalog = session.broker().and_then(|name| self.catalogs.get(&name));
            let deals = session.into_deals(catalog);
            self.emit_deals(account, deals);
        }
    }

    /// What the next session of an account should know, for [`Connection::open`]; `None` if this
    /// connection never had a snapshot of it.
    #[must_use]
    pub fn last_seen(&self, account: AccountId) -> Option<LastSeen> {
        match self.sessions.get(account) {
            Some(session) => session.last_seen(),
            None => self.ended.get(&account).cloned(),
        }
    }

    // ── small steps ──

    pub(super) fn handle_application_authorised(&mut self) {
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
        self.push_all(asks);
        let waiting = std::mem::take(&mut self.before_ready);
        self.push_all(waiting);
    }

    pub(super) fn handle_account_authorised(&mut self, account: AccountId) {
        let Some(session) = self.sessions.get_mut(account) else {
            return;
        };
        if session.phase == Phase::Authorising {
            let asks = session.handle_authorised();
            self.push_all(asks);
        }
    }

    /// Advances a session after something changed: asks for what it lacks, and reports what is ready.
    pub(super) fn advance(&mut self, account: AccountId, now: Instant) {
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
        session.schedule_pnl_fallback(now);
        let deals = session.take_deals(catalog);
        let report = session.take_history_report();
        self.emit_deals(account, deals);
        self.push_all(asks);
        if live {
            self.events.push_back(Event::Live(account));
        }
        if let Some((report, next)) = report {
            self.events.push_back(Event::History(account, report));
            self.push_all(next);
        }
    }

    pub(super) fn advance_all_of(&mut self, broker: &str, now: Instant) {
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

    pub(super) fn emit_deals(
        &mut self,
        account: AccountId,
        deals: impl IntoIterator<Item = (Deal, Source)>,
    ) {
        let deals = deals.into_iter();
        self.events
            .extend(deals.map(|(deal, source)| Event::Deal(account, source, Box::new(deal))));
    }

    /// Ends a session, whatever it was doing. Other sessions ask for what it had asked its broker.
    pub(super) fn end(&mut self, account: AccountId, down: Down, now: Instant) {
        let Some(session) = self.sessions.remove(account) else {
            return;
        };
        self.drop_queued(account);
        self.pending
            .retain(|_, pending| !pending.request.needs_session_of(account));
        if let Some(last_seen) = session.last_seen() {
            self.ended.insert(account, last_seen);
        }
        let closing = session.phase == Phase::Closing;
        let broker = session.broker();
        let catalog = broker.as_ref().and_then(|name| self.catalogs.get(name));
        let deals = session.into_deals(catalog);
        self.emit_deals(account, deals);
        // A session that was logging out is logged out, however that came about.
        let down = if closing { Down::LoggedOut } else { down };
        self.events.push_back(Event::Down(account, down));
        self.reassign_needs(broker, now);
    }

    /// Other accounts of a broker ask for what one that leaves had asked for.
    fn reassign_needs(&mut self, broker: Option<Arc<str>>, now: Instant) {
        if let Some(broker) = broker {
            if let Some(catalog) = self.catalogs.get_mut(&broker) {
                catalog.forget_all();
            }
            self.advance_all_of(&broker, now);
        }
    }

    /// Drops requests of an account that have not left, but for its log-out.
    fn drop_queued(&mut self, account: AccountId) {
        self.throttle
            .retain(|request| !request.needs_session_of(account));
        self.delayed
            .retain(|(_, request)| !request.needs_session_of(account));
    }
}
