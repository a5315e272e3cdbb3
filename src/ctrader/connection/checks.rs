//! Looks beyond the stream: history, second snapshots, audits.

use std::time::Instant;

use super::event::Event;
use super::state::Connection;
use crate::ctrader::convert::Malformed;
use crate::ctrader::frame::Frame;
use crate::ctrader::request::{Ask, Purpose, Request};
use crate::ctrader::session::{Phase, Session};
use crate::ctrader::wire::{
    ProtoOaCashFlowHistoryListRes, ProtoOaDealListRes, ProtoOaGetPositionUnrealizedPnLRes,
    ProtoOaReconcileRes, ProtoOaTraderRes,
};
use crate::domain::ids::AccountId;
use crate::domain::secret::Secret;

impl Connection {
    /// Looks for the deals of an account since a time, milliseconds since the epoch: they come as
    /// [`Event::Deal`], and [`Event::History`] after the last. One look at a time; another that is asked
    /// for meanwhile comes after it.
    pub fn fetch_history(&mut self, account: AccountId, from_ms: i64, now: Instant) {
        let wall_ms = self.wall_ms(now);
        if let Some(session) = self.live_session(account) {
            let ask = session.start_history(from_ms, wall_ms);
            self.push_some(ask);
        }
        self.pump(now);
    }

    /// Takes over a newer token of a session that is there.
    pub fn renew_token(&mut self, account: AccountId, token: Secret, now: Instant) {
        if let Some(session) = self.sessions.get_mut(account) {
            session.renew_token(token, now);
        }
    }

    /// The wall clock's time at a moment, milliseconds since the epoch.
    fn wall_ms(&self, now: Instant) -> i64 {
        let (at, wall_ms) = self.wall;
        let since = now.saturating_duration_since(at).as_millis();
        wall_ms.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }

    // ── small steps ──

    pub(super) fn handle_session_timeout(&mut self, account: AccountId, now: Instant) {
        let sessions = self.sessions.len();
        let Some(session) = self.sessions.get_mut(account) else {
            return;
        };
        if session.has_lost_an_event(now) {
            self.read_anew(account, now);
            return;
        }
        session.forget_recent(now);
        let mut asks = Vec::new();
        if session.phase == Phase::Live {
            asks = session.handle_checks(sessions, now);
            asks.extend(session.handle_history_timeout(now));
        }
        for ask in asks {
            self.push(ask);
        }
        self.advance(account, now);
    }

    fn read_anew(&mut self, account: AccountId, now: Instant) {
        if let Some(session) = self.sessions.get_mut(account) {
            let asks = session.read_anew(now);
            self.events.push_back(Event::Behind(account));
            for ask in asks {
                self.push(ask);
            }
        }
    }

    /// A request leaves: what is compared with its answer is noted now.
    pub(super) fn note_sent(&mut self, request: &Request, now: Instant) {
        if let Purpose::Account {
            account,
            generation,
            ask,
        } = &request.purpose
            && self.is_current(*account, *generation)
            && let Some(session) = self.sessions.get_mut(*account)
        {
            session.handle_sent(ask, now);
        }
    }

    /// An answer to a look; `Err` ends the session.
    pub(super) fn handle_look(
        &mut self,
        account: AccountId,
        ask: &Ask,
        frame: &Frame,
        now: Instant,
    ) -> Result<(), Malformed> {
        const UNREADABLE: Malformed = Malformed::Unreadable("an answer");
        let mut asks = None;
        match ask {
            Ask::Verify => {
                let answer = self.read::<ProtoOaReconcileRes>(frame).ok_or(UNREADABLE)?;
                let amended = self
                    .looked_at(account)
                    .map_or(Ok(false), |session| session.handle_verified(answer, now))?;
                if amended {
                    self.events.push_back(Event::Amended(account));
                }
            }
            Ask::Audit => {
                let answer = self.read::<ProtoOaGetPositionUnrealizedPnLRes>(frame);
                let answer = answer.ok_or(UNREADABLE)?;
                let audit = self
                    .looked_at(account)
                    .map_or(Ok(None), |session| session.handle_audited(&answer, now))?;
                if let Some(audit) = audit {
                    self.events.push_back(Event::Audited(account, audit));
                }
            }
            Ask::Recheck => {
                let answer = self.read::<ProtoOaTraderRes>(frame).ok_or(UNREADABLE)?;
                if let Some(session) = self.looked_at(account) {
                    session.handle_rechecked(answer.trader.balance_version, now);
                }
            }
            Ask::Deals(window) => {
                let answer = self.read::<ProtoOaDealListRes>(frame).ok_or(UNREADABLE)?;
                asks = self
                    .looked_at(account)
                    .and_then(|session| session.handle_deals(*window, &answer, now));
            }
            Ask::Cash(_) => {
                let answer = self.read::<ProtoOaCashFlowHistoryListRes>(frame);
                let answer = answer.ok_or(UNREADABLE)?;
                asks = self
                    .looked_at(account)
                    .map_or(Ok(None), |session| session.handle_cash(&answer, now))?;
            }
            Ask::Reauthorise => {
                if let Some(session) = self.looked_at(account) {
                    session.handle_reauthorised(now);
                }
            }
            Ask::Authorise
            | Ask::Logout
            | Ask::Trader
            | Ask::Reconcile
            | Ask::Subscribe(_)
            | Ask::Unsubscribe(_)
            | Ask::Broker(_) => {}
        }
        self.push_some(asks);
        self.advance(account, now);
        Ok(())
    }

    /// A look was not answered, or refused for good: the session goes on without.
    pub(super) fn handle_look_failed(&mut self, account: AccountId, ask: &Ask, now: Instant) {
        let Some(session) = self.looked_at(account) else {
            return;
        };
        let next = match ask {
            Ask::Verify => {
                session.handle_unverified();
                None
            }
            Ask::Audit => {
                session.handle_unaudited(now);
                None
            }
            Ask::Deals(_) | Ask::Cash(_) => session.handle_window_failed(now),
            Ask::Authorise
            | Ask::Reauthorise
            | Ask::Recheck
            | Ask::Logout
            | Ask::Trader
            | Ask::Reconcile
            | Ask::Subscribe(_)
            | Ask::Unsubscribe(_)
            | Ask::Broker(_) => None,
        };
        self.push_some(next);
        self.advance(account, now);
    }

    /// A session that is not on its way out.
    fn looked_at(&mut self, account: AccountId) -> Option<&mut Session> {
        self.sessions
            .get_mut(account)
            .filter(|session| session.phase != Phase::Closing)
    }
}
