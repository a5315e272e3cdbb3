//! Sessions of accounts on a connection: opened, carried on, logged out, ended.

use std::sync::Arc;
use std::time::Instant;

use super::event::{Down, Event};
use super::state::Connection;
use crate::ctrader::request::{Ask, Purpose, Request};
use crate::ctrader::session::{Phase, Session};
use crate::domain::deal::{Deal, Source};
use crate::domain::ids::AccountId;
use crate::domain::ledger::Known;
use crate::domain::secret::Secret;

impl Connection {
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

    /// connection never had a snapshot of it.
    #[must_use]
    pub fn known(&self, account: AccountId) -> Option<Known> {
        match self.sessions.get(account) {
            Some(session) => session.known(),
            None => self.left.get(&account).cloned(),
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
        for ask in asks.into_iter().chain(std::mem::take(&mut self.unasked)) {
            self.push(ask);
        }
    }

    pub(super) fn handle_account_authorised(&mut self, account: AccountId) {
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

    /// Ends a session, whatever it was doing; what it had asked for others is asked by them.
    pub(super) fn end(&mut self, account: AccountId, down: Down, now: Instant) {
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
    pub(super) fn leave_questions(&mut self, broker: Option<Arc<str>>, now: Instant) {
        if let Some(broker) = broker {
            if let Some(catalog) = self.catalogs.get_mut(&broker) {
                catalog.forget_all();
            }
            self.advance_all_of(&broker, now);
        }
    }

    pub(super) fn drop_waiting(&mut self, account: AccountId) {
        let wanted = |request: &Request| {
            !matches!(&request.purpose, Purpose::Account { account: of, ask, .. }
                if *of == account && *ask != Ask::Logout)
        };
        self.throttle.retain(wanted);
        self.delayed.retain(|(_, request)| wanted(request));
    }
}
