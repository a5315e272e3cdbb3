//! Deals that no event reported, and the cash operations that explain a balance with them.
//!
//! A time is asked for in windows of a week, one after the other, with the least urgent priority. If a
//! response has more to come, its window is cut in two and both halves are asked for, since the order
//! of pages is not documented. A deal that comes twice is stored once.
//!
//! If deals and cash operations do not explain the balance and the positions, the history lags: all of it
//! is asked for again, after a pause.

use std::time::{Duration, Instant};

use super::deals::first_time;
use super::state::Session;
use super::timer::Timer;
use super::windows::{HistoryFetch, halves, weeks};
use crate::ctrader::ask::{AccountCheck, Ask, Window};
use crate::ctrader::convert::{self, Malformed};
use crate::ctrader::request::Request;
use crate::ctrader::wire::{ProtoOaCashFlowHistoryListRes, ProtoOaDealListRes};
use crate::domain::backoff::Backoff;
use crate::domain::deal::Source;
use crate::domain::ledger::Unexplained;

/// How often a history that does not explain the account is asked for again.
const EXPLANATIONS_MAX: u32 = 5;

/// The pauses before that.
const EXPLAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

/// The result of a fetch of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryReport {
    /// It began there, milliseconds since the epoch.
    pub from_ms: i64,
    /// All deals executed up to then are reported, milliseconds since the epoch.
    pub through_ms: i64,
    /// Whether some window could not be read whole.
    pub is_partial: bool,
    /// What neither a deal nor a cash operation explains.
    pub unexplained: Option<Unexplained>,
}

impl Session {
    /// Fetches deals from a time on up to now (`wall_ms`), in milliseconds since the epoch.
    pub(in crate::ctrader) fn start_history(
        &mut self,
        from_ms: i64,
        wall_ms: i64,
    ) -> Option<Request> {
        if let Some(history) = &mut self.history {
            let from_ms = history.next.map_or(from_ms, |(next, _)| next.min(from_ms));
            history.next = Some((from_ms, wall_ms));
            return None;
        }
        self.history = Some(Box::new(HistoryFetch::new(from_ms, wall_ms)));
        self.next_window()
    }

    /// Records the deals of a window; returns what to ask next.
    pub(in crate::ctrader) fn handle_deals(
        &mut self,
        window: Window,
        response: &ProtoOaDealListRes,
        now: Instant,
    ) -> Option<Request> {
        self.history.as_ref()?;
        let account = self.account.as_ref().or(self.previous.as_deref())?;
        let digits = account.trader().money_digits;
        let current = account.trader().balance_version;
        let mut unreadable = false;
        // The account still lacks what the history explains now.
        self.needs_snapshot |= self.timers.is_set(Timer::Gap);
        for wire in &response.deal {
            // A deal that makes no sense does not affect the others.
            let read = convert::deal(wire, digits)
                .and_then(|deal| Ok((deal, convert::deal_balance(wire, digits)?)));
            let Ok((deal, balance)) = read else {
                unreadable = true;
                continue;
            };
            self.ledger
                .record_deal(deal.position_id, deal.closing.is_some());
            self.record_version(balance.and_then(|balance| balance.version), current);
            if first_time(&mut self.deals_seen, deal.deal_id) {
                self.deals.push_back((deal, Source::Gap));
            }
        }
        let history = self.history.as_mut()?;
        history.is_partial |= unreadable;
        if response.has_more {
            match halves(window).filter(|_| !response.deal.is_empty()) {
                Some([first, second]) => {
                    history.deals.push_front(second);
                    history.deals.push_front(first);
                }
                // More executions in one millisecond than a response holds, or a response without deals.
                None => history.is_partial = true,
            }
        }
        self.watch_gap(now);
        self.next_window_or_end(now)
    }

    /// Records the cash operations of a window; returns what to ask next.
    pub(in crate::ctrader) fn handle_cash_flow(
        &mut self,
        response: &ProtoOaCashFlowHistoryListRes,
        now: Instant,
    ) -> Result<Option<Request>, Malformed> {
        let Some(account) = self.account.as_ref().or(self.previous.as_deref()) else {
            return Ok(None);
        };
        let digits = account.trader().money_digits;
        let current = account.trader().balance_version;
        self.needs_snapshot |= self.timers.is_set(Timer::Gap);
        for wire in &response.deposit_withdraw {
            let balance = convert::cash_balance(wire, digits)?;
            self.record_version(balance.version, current);
        }
        self.watch_gap(now);
        Ok(self.next_window_or_end(now))
    }

    /// Records a change of the balance. One that the history has and the account does not is an event that
    /// was lost: it is missing until there is a new snapshot.
    fn record_version(&mut self, version: Option<i64>, current: Option<i64>) {
        if version > current && current.is_some() {
            self.ledger.handle_version(version);
        } else {
            self.ledger.record_version(version);
        }
    }

    /// Cuts a window that cannot be read: smaller ones may be, and the others all the same. Returns what to
    /// ask next.
    pub(in crate::ctrader) fn split_window(
        &mut self,
        check: AccountCheck,
        now: Instant,
    ) -> Option<Request> {
        const SMALL_MS: i64 = 60_000;
        let history = self.history.as_mut()?;
        let (windows, window) = match check {
            AccountCheck::Deals(window) => (&mut history.deals, window),
            AccountCheck::CashFlow(window) => (&mut history.cash_flow, window),
            AccountCheck::Snapshot | AccountCheck::Pnl | AccountCheck::BalanceVersion => {
                return None;
            }
        };
        match halves(window).filter(|_| window.to_ms - window.from_ms > SMALL_MS) {
            Some([first, second]) => {
                windows.push_front(second);
                windows.push_front(first);
            }
            None => history.is_partial = true,
        }
        self.next_window_or_end(now)
    }

    /// Leaves out a window that was tried often enough, and notes that in the report. Returns what to ask next.
    pub(in crate::ctrader) fn skip_window(&mut self, now: Instant) -> Option<Request> {
        self.history.as_mut()?.is_partial = true;
        self.next_window_or_end(now)
    }

    /// Asks again for a history that did not explain the account, when it is due.
    pub(in crate::ctrader) fn handle_history_timeout(&mut self, now: Instant) -> Option<Request> {
        let history = self.history.as_mut()?;
        if !self.timers.take_expired(Timer::History, now) {
            return None;
        }
        history.deals = weeks(history.whole);
        history.cash_flow_asked = false;
        self.next_window()
    }

    fn next_window(&mut self) -> Option<Request> {
        let history = self.history.as_mut()?;
        let check = match history.deals.pop_front() {
            Some(window) => AccountCheck::Deals(window),
            None => AccountCheck::CashFlow(history.cash_flow.pop_front()?),
        };
        Some(self.ask(Ask::Check(check)))
    }

    fn next_window_or_end(&mut self, now: Instant) -> Option<Request> {
        if let Some(next) = self.next_window() {
            return Some(next);
        }
        let (unexplained, lacks_changes) = (self.ledger.unexplained(), self.ledger.lacks_changes());
        let history = self.history.as_mut()?;
        if lacks_changes && !history.cash_flow_asked {
            history.cash_flow_asked = true;
            history.cash_flow = weeks(history.whole);
            return self.next_window();
        }
        if unexplained.is_some() && history.explanations < EXPLANATIONS_MAX {
            history.explanations += 1;
            let pause = EXPLAIN.ceiling(history.explanations);
            self.timers.set(Timer::History, now + pause);
        } else {
            history.is_over = true;
        }
        None
    }

    /// The report of a fetch that is over, once all its deals are reported; and what to ask next, if another
    /// one was asked for.
    pub(in crate::ctrader) fn take_history_report(
        &mut self,
    ) -> Option<(HistoryReport, Option<Request>)> {
        let told = self
            .deals
            .iter()
            .all(|(_, source)| *source == Source::Event);
        let history = self.history.take_if(|history| history.is_over && told)?;
        let report = HistoryReport {
            from_ms: history.whole.from_ms,
            through_ms: history.through_ms,
            is_partial: history.is_partial,
            unexplained: self.ledger.unexplained(),
        };
        if report.unexplained.is_some() {
            // It was asked for often enough, and is reported: a later gap must be distinct from this one.
            self.needs_snapshot |= self.timers.is_set(Timer::Gap);
            self.ledger.accept_unexplained();
        }
        let next = history
            .next
            .and_then(|(from_ms, wall_ms)| self.start_history(from_ms, wall_ms));
        Some((report, next))
    }
}
