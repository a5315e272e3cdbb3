//! Checks of live accounts: history, second snapshots, audits, and what is asked after a gap.

use std::time::Instant;

use super::event::Event;
use super::state::Connection;
use crate::ctrader::ask::AccountCheck;
use crate::ctrader::convert::Malformed;
use crate::ctrader::frame::Frame;
use crate::ctrader::request::{Purpose, Request};
use crate::ctrader::session::Phase;
use crate::ctrader::wire::{
    ProtoOaCashFlowHistoryListRes, ProtoOaDealListRes, ProtoOaGetPositionUnrealizedPnLRes,
    ProtoOaReconcileRes, ProtoOaTraderRes,
};
use crate::domain::ids::AccountId;
use crate::domain::secret::Secret;

impl Connection {
    /// Fetches the deals of an account since a time, milliseconds since the epoch: they come as
    /// [`Event::Deal`], and [`Event::History`] after the last. One fetch at a time: another that is asked
    /// for meanwhile comes after it.
    pub fn fetch_history(&mut self, account: AccountId, from_ms: i64, now: Instant) {
        let wall_ms = self.clock.unix_ms(now);
        if let Some(session) = self.live_mut(account) {
            let ask = session.start_history(from_ms, wall_ms);
            self.push_all(ask);
        }
        self.send_ready(now);
    }

    /// Takes over a newer token of a session that is there.
    pub fn renew_token(&mut self, account: AccountId, token: Secret, now: Instant) {
        if let Some(session) = self.sessions.get_mut(account) {
            session.renew_token(token, now);
        }
    }

    // ── small steps ──

    pub(super) fn handle_session_timeout(&mut self, account: AccountId, now: Instant) {
        let sessions = self.sessions.len();
        let Some(session) = self.sessions.get_mut(account) else {
            return;
        };
        if session.has_lost_an_event(now) {
            let asks = session.resync(now);
            self.events.push_back(Event::GapDetected(account));
            self.push_all(asks);
            return;
        }
        session.forget_recent_events(now);
        if session.phase == Phase::Live {
            let asks = session.handle_check_timers(sessions, now);
            let window = session.handle_history_timeout(now);
            self.push_all(asks);
            self.push_all(window);
        }
        self.advance(account, now);
    }

    /// Tells the session that its request leaves.
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

    /// Handles the response to a check; `Err` ends the session.
    pub(super) fn handle_check(
        &mut self,
        account: AccountId,
        check: AccountCheck,
        frame: &Frame,
        now: Instant,
    ) -> Result<(), Malformed> {
        let mut next = None;
        match check {
            AccountCheck::Snapshot => {
                let response = self.read_response::<ProtoOaReconcileRes>(frame)?;
                let diverged = self.active_mut(account).map_or(Ok(false), |session| {
                    session.handle_snapshot_check(response, now)
                })?;
                if diverged {
                    self.events.push_back(Event::SnapshotDiverged(account));
                }
            }
            AccountCheck::Pnl => {
                let response = self.read_response::<ProtoOaGetPositionUnrealizedPnLRes>(frame)?;
                let audit = self
                    .active_mut(account)
                    .map_or(Ok(None), |session| session.handle_audit(&response, now))?;
                if let Some(audit) = audit {
                    self.events.push_back(Event::Audited(account, audit));
                }
            }
            AccountCheck::BalanceVersion => {
                let response = self.read_response::<ProtoOaTraderRes>(frame)?;
                if let Some(session) = self.active_mut(account) {
                    session.handle_balance_version(response.trader.balance_version, now);
                }
            }
            AccountCheck::Deals(window) => {
                let response = self.read_response::<ProtoOaDealListRes>(frame)?;
                next = self
                    .active_mut(account)
                    .and_then(|session| session.handle_deals(window, &response, now));
            }
            AccountCheck::CashFlow(_) => {
                let response = self.read_response::<ProtoOaCashFlowHistoryListRes>(frame)?;
                next = self
                    .active_mut(account)
                    .map_or(Ok(None), |session| session.handle_cash_flow(&response, now))?;
            }
        }
        self.push_all(next);
        self.advance(account, now);
        Ok(())
    }

    /// A check was not answered, or refused for good: the session goes on without.
    pub(super) fn handle_check_failed(
        &mut self,
        account: AccountId,
        check: AccountCheck,
        now: Instant,
    ) {
        let Some(session) = self.active_mut(account) else {
            return;
        };
        let mut next = None;
        match check {
            AccountCheck::Snapshot => session.handle_snapshot_check_failed(),
            AccountCheck::Pnl => session.handle_audit_failed(now),
            // It is asked for again with the next audit.
            AccountCheck::BalanceVersion => {}
            AccountCheck::Deals(_) | AccountCheck::CashFlow(_) => next = session.skip_window(now),
        }
        self.push_all(next);
        self.advance(account, now);
    }
}
