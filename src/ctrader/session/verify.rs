//! Whether a live account is what we take it for: a second snapshot after the first, which may have lagged,
//! the version of the balance, and when each check is due. `audit` compares the P&L.

use std::time::{Duration, Instant};

use super::audit::{AUDIT_FIRST, AUDIT_INTERVAL, audit_interval};
use super::events::LAG_MAX;
use super::snapshot::{open_positions, read_snapshot};
use super::state::{Phase, Session};
use super::timer::Timer;
use crate::ctrader::ask::{AccountCheck, Ask};
use crate::ctrader::convert::Malformed;
use crate::ctrader::request::Request;
use crate::ctrader::wire::ProtoOaReconcileRes;
use crate::domain::equity::PnlFallbacks;
use crate::domain::secret::Secret;

/// A second snapshot is asked for that long after the first, and again while events keep crossing it.
const SNAPSHOT_CHECK_AFTER: Duration = Duration::from_secs(2);

/// Snapshots after the first, at most.
const SNAPSHOT_CHECKS_MAX: u32 = 4;

/// A newer token is offered for a live account that long after it came, if cTrader has not ended the
/// session of the old one by then.
const REAUTHORISE_AFTER: Duration = Duration::from_secs(10);

impl Session {
    /// Schedules the checks of an account that has just become live.
    pub(super) fn schedule_checks(&mut self, now: Instant) {
        self.recheck_snapshot_at(now + SNAPSHOT_CHECK_AFTER);
        // Not all accounts at once: a second apart, by their ids.
        let apart = Duration::from_secs(self.id.0.unsigned_abs() % AUDIT_INTERVAL.as_secs());
        self.timers.set(Timer::Audit, now + AUDIT_FIRST + apart);
        self.schedule_pnl_fallback(now);
    }

    /// Takes over a newer token. It is offered after a while, should the session of the old one go on.
    pub(in crate::ctrader) fn renew_token(&mut self, token: Secret, now: Instant) {
        if self.token != token {
            self.token = token;
            self.timers.set(Timer::Reauthorise, now + REAUTHORISE_AFTER);
        }
    }

    /// Returns the requests of the checks that are due. `sessions` is how many sessions share the
    /// connection's budget.
    pub(in crate::ctrader) fn handle_check_timers(
        &mut self,
        sessions: usize,
        now: Instant,
    ) -> Vec<Request> {
        let mut asks = Vec::new();
        if self.timers.take_expired(Timer::Reauthorise, now) {
            asks.push(self.ask(Ask::Reauthorise));
        }
        if self.timers.take_expired(Timer::SnapshotCheck, now) && !self.checks.snapshot_pending {
            self.checks.snapshot_pending = true;
            asks.push(self.ask(Ask::Check(AccountCheck::Snapshot)));
        }
        if self.timers.is_expired(Timer::PnlFallbackExpiry, now) {
            self.set_pnl_fallbacks(PnlFallbacks::new(), now);
        }
        let mut audit = self.timers.take_expired(Timer::PnlFallback, now) && !self.is_valued();
        if self.timers.is_expired(Timer::Audit, now) {
            self.timers
                .set(Timer::Audit, now + audit_interval(sessions));
            // Also of an account that seems flat: an opening that no event reported changes no version.
            audit = true;
            asks.push(self.ask(Ask::Check(AccountCheck::BalanceVersion)));
        }
        if audit && !self.checks.audit_pending {
            self.checks.audit_pending = true;
            asks.push(self.ask(Ask::Check(AccountCheck::Pnl)));
        }
        asks
    }

    /// Notes what an answer will be compared with: its request has left.
    pub(in crate::ctrader) fn handle_sent(&mut self, ask: &Ask, now: Instant) {
        match ask {
            Ask::Snapshot | Ask::Check(AccountCheck::Snapshot) => {
                self.checks.snapshot_sent_at = Some(now);
            }
            Ask::Check(AccountCheck::Pnl) => self.note_audited_state(),
            Ask::Authorise
            | Ask::Reauthorise
            | Ask::Logout
            | Ask::Trader
            | Ask::Subscribe(_)
            | Ask::Unsubscribe(_)
            | Ask::Broker(_)
            | Ask::Check(
                AccountCheck::BalanceVersion | AccountCheck::Deals(_) | AccountCheck::CashFlow(_),
            ) => {}
        }
    }

    /// Compares a later snapshot with the account, and takes over what differs. Returns whether positions
    /// came or went by it, which a deal must explain.
    pub(in crate::ctrader) fn handle_snapshot_check(
        &mut self,
        wire: ProtoOaReconcileRes,
        now: Instant,
    ) -> Result<bool, Malformed> {
        // A snapshot that was asked for before a gap proves nothing of the present.
        if !std::mem::take(&mut self.checks.snapshot_pending) {
            return Ok(false);
        }
        let sent_at = self.checks.snapshot_sent_at.take().unwrap_or(now);
        // Without an account, or not live, another snapshot is on its way or about to be.
        let Some(account) = self.account.clone().filter(|_| self.phase == Phase::Live) else {
            return Ok(false);
        };
        let renewed = read_snapshot(Some(&account), account.trader().clone(), wire)?;
        self.account = Some(renewed);
        // It may lag behind the events that came around the time that it was asked for.
        let recent: Vec<_> = self
            .recent
            .iter()
            .filter(|(at, _)| *at + LAG_MAX >= sent_at)
            .map(|(_, event)| event.clone())
            .collect();
        let crossed = !recent.is_empty();
        for event in recent {
            self.apply(event)?;
        }
        let Some(renewed) = &self.account else {
            return Ok(false);
        };
        let differs = !renewed.positions().eq(account.positions())
            || !renewed.orders().eq(account.orders())
            || renewed.trader() != account.trader();
        let (before, open) = (open_positions(&account), open_positions(renewed));
        let version = renewed.trader().balance_version;
        if *renewed == account {
            // As almost always. The old copy stays where it is, rather than leave holes in the heap.
            self.account = Some(account);
        }
        if differs {
            self.changed = true;
            self.event_at = now;
        }
        if before != open {
            self.ledger.handle_snapshot(version, Some(&before), &open);
        }
        self.checks.snapshots += 1;
        if (crossed || differs) && self.checks.snapshots < SNAPSHOT_CHECKS_MAX {
            self.timers
                .set(Timer::SnapshotCheck, now + SNAPSHOT_CHECK_AFTER);
        }
        Ok(before != open)
    }

    /// Records that the second snapshot did not come: the first counts, until the next audit at least.
    pub(in crate::ctrader) fn handle_snapshot_check_failed(&mut self) {
        self.checks.snapshot_pending = false;
        self.checks.snapshot_sent_at = None;
    }

    /// Records the balance's version as the server has it: a higher one is a change that no event reported.
    pub(in crate::ctrader) fn handle_balance_version(
        &mut self,
        version: Option<i64>,
        now: Instant,
    ) {
        if self.phase == Phase::Live {
            self.ledger.handle_version(version);
            self.watch_gap(now);
        }
    }

    /// The newer token authorised the account: subscriptions and snapshot are asked for anew.
    pub(in crate::ctrader) fn handle_reauthorised(&mut self, now: Instant) {
        self.forget_subscriptions();
        self.recheck_snapshot_at(now);
    }

    /// An audit found a position that only one end knows of: it is in flight, or an event was lost.
    pub(super) fn recheck_snapshot_soon(&mut self, now: Instant) {
        if !self.checks.snapshot_pending && !self.timers.is_set(Timer::SnapshotCheck) {
            self.recheck_snapshot_at(now + SNAPSHOT_CHECK_AFTER);
        }
    }

    fn recheck_snapshot_at(&mut self, at: Instant) {
        self.checks.snapshots = 0;
        self.timers.set(Timer::SnapshotCheck, at);
    }
}
