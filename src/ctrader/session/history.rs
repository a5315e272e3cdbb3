//! The deals that no event told of, and the cash operations that explain a balance with them.
//!
//! A time is asked for in windows of a week, one after the other, with the least urgent priority. An
//! answer that says there is more is no page of an order that nobody documents: its window is cut in
//! two and both halves are asked for. What comes twice is stored once.
//!
//! If the balance or the positions are not explained by then, the history lags: it is asked again.

use std::time::{Duration, Instant};

use super::deals::first_time;
use super::state::Session;
use super::windows::{History, halves, weeks};
use crate::ctrader::convert::{self, Malformed};
use crate::ctrader::request::{Ask, Request, Window};
use crate::ctrader::wire::{ProtoOaCashFlowHistoryListRes, ProtoOaDealListRes};
use crate::domain::deal::Source;
use crate::domain::ledger::Unexplained;

/// How often it is asked again what does not explain the account.
const EXPLANATIONS_MAX: u32 = 5;

/// The pause before the first of these; it doubles.
const EXPLAIN_AFTER: Duration = Duration::from_secs(1);

/// What a look into the history came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryReport {
    /// It began there, milliseconds since the epoch.
    pub from_ms: i64,
    /// All deals executed up to then are told.
    pub through_ms: i64,
    /// Some window could not be read whole.
    pub is_partial: bool,
    /// What no deal and no cash operation explains.
    pub unexplained: Option<Unexplained>,
}

impl Session {
    /// Looks for deals from a time on, up to now (`wall_ms`).
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
        self.history = Some(Box::new(History::new(from_ms, wall_ms)));
        self.next_window()
    }

    /// Deals of a window; gives back what to ask next.
    pub(in crate::ctrader) fn handle_deals(
        &mut self,
        window: Window,
        answer: &ProtoOaDealListRes,
        now: Instant,
    ) -> Option<Request> {
        self.history.as_ref()?;
        let account = self.account.as_ref().or(self.before.as_deref())?;
        let digits = account.trader().money_digits;
        let current = account.trader().balance_version;
        let mut unreadable = false;
        // What the history explains now, the account still lacks.
        self.lost |= self.behind_since.is_some();
        for wire in &answer.deal {
            // One that makes no sense takes no other with it.
            let read = convert::deal(wire, digits)
                .and_then(|deal| Ok((deal, convert::deal_balance(wire, digits)?)));
            let Ok((deal, balance)) = read else {
                unreadable = true;
                continue;
            };
            self.ledger
                .see_deal(deal.position_id, deal.closing.is_some());
            self.see_version(balance.and_then(|balance| balance.version), current);
            if first_time(&mut self.deals_seen, deal.deal_id) {
                self.deals.push_back((deal, Source::Gap));
            }
        }
        let history = self.history.as_mut()?;
        history.is_partial |= unreadable;
        if answer.has_more {
            match halves(window).filter(|_| !answer.deal.is_empty()) {
                Some([first, second]) => {
                    history.deals.push_front(second);
                    history.deals.push_front(first);
                }
                // More executions in one millisecond than fit an answer, or an answer that says nothing.
                None => history.is_partial = true,
            }
        }
        self.watch_ledger(now);
        self.next_window_or_end(now)
    }

    /// Cash operations of a window; gives back what to ask next.
    pub(in crate::ctrader) fn handle_cash(
        &mut self,
        answer: &ProtoOaCashFlowHistoryListRes,
        now: Instant,
    ) -> Result<Option<Request>, Malformed> {
        let Some(account) = self.account.as_ref().or(self.before.as_deref()) else {
            return Ok(None);
        };
        let digits = account.trader().money_digits;
        let current = account.trader().balance_version;
        self.lost |= self.behind_since.is_some();
        for wire in &answer.deposit_withdraw {
            let balance = convert::cash_balance(wire, digits)?;
            self.see_version(balance.version, current);
        }
        self.watch_ledger(now);
        Ok(self.next_window_or_end(now))
    }

    /// A change that history has and the account does not is an event that was lost; it is no longer
    /// missing once the account is read anew.
    fn see_version(&mut self, version: Option<i64>, current: Option<i64>) {
        if version > current && current.is_some() {
            self.ledger.handle_version(version);
        } else {
            self.ledger.see(version);
        }
    }

    /// A window cannot be read: smaller ones may be, and the others all the same.
    pub(in crate::ctrader) fn handle_window_refused(
        &mut self,
        ask: &Ask,
        now: Instant,
    ) -> Option<Request> {
        const SMALL_MS: i64 = 60_000;
        let history = self.history.as_mut()?;
        let (windows, window) = if let Ask::Deals(window) = ask {
            (&mut history.deals, *window)
        } else if let Ask::Cash(window) = ask {
            (&mut history.cash, *window)
        } else {
            return None;
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

    /// A window was tried often enough: the others, and then a report that says so.
    pub(in crate::ctrader) fn handle_window_failed(&mut self, now: Instant) -> Option<Request> {
        self.history.as_mut()?.is_partial = true;
        self.next_window_or_end(now)
    }

    /// Asks again for what did not explain the account, when it is due.
    pub(in crate::ctrader) fn handle_history_timeout(&mut self, now: Instant) -> Option<Request> {
        let history = self.history.as_mut()?;
        history.again_at.take_if(|at| *at <= now)?;
        history.deals = weeks(history.whole);
        history.cash_asked = false;
        self.next_window()
    }

    fn next_window(&mut self) -> Option<Request> {
        let history = self.history.as_mut()?;
        let ask = match history.deals.pop_front() {
            Some(window) => Ask::Deals(window),
            None => Ask::Cash(history.cash.pop_front()?),
        };
        Some(self.ask(ask))
    }

    fn next_window_or_end(&mut self, now: Instant) -> Option<Request> {
        if let Some(next) = self.next_window() {
            return Some(next);
        }
        let (unexplained, lacks_changes) = (self.ledger.unexplained(), self.ledger.lacks_changes());
        let history = self.history.as_mut()?;
        if lacks_changes && !history.cash_asked {
            history.cash_asked = true;
            history.cash = weeks(history.whole);
            return self.next_window();
        }
        if unexplained.is_some() && history.explanations < EXPLANATIONS_MAX {
            history.again_at = Some(now + EXPLAIN_AFTER * 2u32.pow(history.explanations));
            history.explanations += 1;
        } else {
            history.is_over = true;
        }
        None
    }

    /// The report of a look that is over, once all its deals are told; and what to ask next, if another
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
            // It was asked for often enough, and is reported: a later gap is told from this one.
            self.lost |= self.behind_since.is_some();
            self.ledger.give_up();
        }
        let next = history
            .next
            .and_then(|(from_ms, wall_ms)| self.start_history(from_ms, wall_ms));
        Some((report, next))
    }
}
