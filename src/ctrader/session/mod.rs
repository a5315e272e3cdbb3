//! One account on a connection: authorise → snapshot → prices → live.
//!
//! Events flow from the moment of authorisation, before the snapshot is complete: they are kept
//! and replayed over it, and their versions tell which of them it already has. A version that was
//! jumped over is an event that was lost: the account is read anew then. `prices` has what it takes
//! to value the account, `history` the deals that no event told of, `verify` the looks at whether
//! what is shown is so.

mod history;
mod prices;
mod row;
mod verify;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litemap::LiteMap;

use crate::ctrader::catalog::{Catalog, Known};
use crate::ctrader::convert::{self, Malformed};
use crate::ctrader::request::{Ask, Request, of_account};
use crate::ctrader::wire::{
    ProtoOaExecutionEvent, ProtoOaMarginChangedEvent, ProtoOaReconcileRes, ProtoOaTrader,
    ProtoOaTrailingSlChangedEvent,
};
use crate::domain::account::{Account, Event, Trader};
use crate::domain::deal::{Deal, Source};
use crate::domain::decimal::Decimal;
use crate::domain::ids::{AccountId, DealId, PositionId, SymbolId};
use crate::domain::ledger::{self, Ledger, Positions};
use crate::domain::market::Market;
use crate::domain::position::VOLUME_SCALE;
use crate::domain::secret::Secret;
pub use history::HistoryReport;
pub(super) use history::{History, pause as history_pause};
pub use verify::Audit;
pub(super) use verify::Checks;

/// How long a version that was jumped over may still come: events of one account may overtake each
/// other by that.
const OVERTAKING_MAX: Duration = Duration::from_millis(500);

/// A snapshot may lag behind the events by that, and more than was ever seen: what came since is
/// replayed over it. No more, since what an event opened, a lost one may have closed.
const LAG_MAX: Duration = Duration::from_secs(1);

/// Deals of events remembered, so that one that comes twice is told once.
const DEALS_SEEN_MAX: usize = 256;

/// Events kept while the snapshot is on its way; an account with more in flight starts again.
const BUFFERED_MAX: usize = 10_000;

/// Symbols of orders that are being executed, subscribed before their position is there.
const HINTS_MAX: usize = 8;

/// An event as it came, kept until the account's digits are known, and a while for a snapshot that
/// may lag.
#[derive(Debug, Clone)]
pub(super) enum WireEvent {
    Execution(Box<ProtoOaExecutionEvent>),
    Trader(Box<ProtoOaTrader>),
    Margin(ProtoOaMarginChangedEvent),
    TrailingStop(ProtoOaTrailingSlChangedEvent),
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Authorisation is asked for.
    Authorising,
    /// Authorised; balance, positions and prices are on their way.
    Loading,
    /// Everything subscribed; the first quotes are awaited until then.
    Warming(Instant),
    /// The account follows the stream.
    Live,
    /// Log-out is asked for.
    Closing,
}

/// A few symbols, in one piece of memory.
type Symbols = LiteMap<SymbolId, ()>;

/// One account's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: AccountId,
    pub(super) generation: u64,
    pub(super) token: Secret,
    pub(super) phase: Phase,
    // Boxed is what a session has only for a while.
    trader: Option<Box<Trader>>,
    reconciled: Option<Box<ProtoOaReconcileRes>>,
    pub(super) account: Option<Account>,
    /// The account before the snapshot that is on its way.
    before: Option<Box<Account>>,
    /// What was open when it was last followed, before this session.
    known: Option<Positions>,
    /// Events without an account to apply them to.
    buffered: Vec<WireEvent>,
    /// Events that a snapshot asked for now might not have.
    recent: VecDeque<(Instant, WireEvent)>,
    /// Which changes of the balance were seen.
    ledger: Ledger,
    /// Since when a change is missing.
    behind_since: Option<Instant>,
    /// The history has what an event should have told: only a new snapshot makes up for that.
    lost: bool,
    pub(super) checks: Checks,
    pub(super) history: Option<Box<History>>,
    pub(super) market: Market,
    pub(super) currency: Option<Arc<str>>,
    subscribed: Symbols,
    asked: Symbols,
    /// Unsubscription asked for and not yet answered: not to be subscribed before that.
    leaving: Symbols,
    /// Subscribed anew once already, since the server said they were subscribed.
    renewed: Symbols,
    hints: VecDeque<SymbolId>,
    /// Deals that wait for their symbol's name, or for one before them.
    deals: VecDeque<(Deal, Source)>,
    deals_seen: VecDeque<DealId>,
    /// Symbols whose quotes change what the row says.
    priced: Symbols,
    /// Whether the row says something else than when it was last taken.
    pub(super) changed: bool,
    /// The last event that changed it.
    pub(super) event_at: Instant,
}

impl Session {
    pub(super) fn new(
        id: AccountId,
        generation: u64,
        token: Secret,
        known: ledger::Known,
        now: Instant,
    ) -> Self {
        Self {
            id,
            generation,
            token,
            phase: Phase::Authorising,
            trader: None,
            reconciled: None,
            account: None,
            before: None,
            buffered: Vec::new(),
            recent: VecDeque::new(),
            ledger: Ledger::new(&known),
            known: known.positions,
            behind_since: None,
            lost: false,
            checks: Checks::default(),
            history: None,
            market: Market::default(),
            currency: None,
            subscribed: Symbols::new(),
            asked: Symbols::new(),
            leaving: Symbols::new(),
            renewed: Symbols::new(),
            hints: VecDeque::new(),
            deals: VecDeque::new(),
            deals_seen: VecDeque::new(),
            priced: Symbols::new(),
            changed: false,
            event_at: now,
        }
    }

    pub(super) fn ask(&self, ask: Ask) -> Request {
        of_account(self.id, self.generation, ask, &self.token)
    }

    /// The broker whose catalog this account uses; one without a name shares with nobody.
    pub(super) fn broker(&self) -> Option<Arc<str>> {
        let trader = self
            .account
            .as_ref()
            .or(self.before.as_deref())
            .map(Account::trader)
            .or(self.trader.as_deref())?;
        Some(
            trader
                .broker
                .clone()
                .unwrap_or_else(|| format!("\0{}", self.id).into()),
        )
    }

    pub(super) fn handle_authorised(&mut self) -> [Request; 2] {
        self.phase = Phase::Loading;
        [self.ask(Ask::Trader), self.ask(Ask::Reconcile)]
    }

    pub(super) fn handle_trader(
        &mut self,
        wire: ProtoOaTrader,
        now: Instant,
    ) -> Result<(), Malformed> {
        self.trader = Some(Box::new(convert::trader(wire)?));
        self.begin(now)
    }

    pub(super) fn handle_reconcile(
        &mut self,
        wire: ProtoOaReconcileRes,
        now: Instant,
    ) -> Result<(), Malformed> {
        self.reconciled = Some(Box::new(wire));
        self.begin(now)
    }

    /// Once both halves of the snapshot are there: the account, and the events since.
    fn begin(&mut self, now: Instant) -> Result<(), Malformed> {
        let (trader, snapshot) = match (self.trader.take(), self.reconciled.take()) {
            (Some(trader), Some(snapshot)) => (trader, snapshot),
            // The first half stays until the other is there, whichever it is.
            (trader, snapshot) => {
                (self.trader, self.reconciled) = (trader, snapshot);
                return Ok(());
            }
        };
        let account = read_snapshot(self.before.as_deref(), *trader, *snapshot)?;
        let before = self.before.take();
        let before = before.as_deref().map(open_positions).or(self.known.take());
        self.take_over(account, before.as_ref(), now);
        let buffered = std::mem::take(&mut self.buffered);
        for event in buffered {
            self.handle_event(event, now)?;
        }
        self.watch_ledger(now);
        Ok(())
    }

    /// A snapshot is the account from now on.
    fn take_over(&mut self, account: Account, before: Option<&Positions>, now: Instant) {
        let open = open_positions(&account);
        let version = account.trader().balance_version;
        self.ledger.handle_snapshot(version, before, &open);
        self.behind_since = None;
        self.lost = false;
        self.account = Some(account);
        self.changed = true;
        self.event_at = now;
    }

    /// The account is read anew, since something of it was lost. It follows nothing until then.
    pub(super) fn read_anew(&mut self, now: Instant) -> [Request; 2] {
        if let Some(account) = self.account.take() {
            self.before = Some(Box::new(account));
        }
        self.behind_since = None;
        self.checks.stop();
        // What came before the loss was noticed is in the snapshot, or was undone by what was lost.
        let recent = self.recent.drain(..);
        self.buffered = recent
            .filter(|(at, _)| *at + OVERTAKING_MAX >= now)
            .map(|(_, event)| event)
            .collect();
        (self.trader, self.reconciled) = (None, None);
        self.phase = Phase::Loading;
        [self.ask(Ask::Trader), self.ask(Ask::Reconcile)]
    }

    /// What whoever follows the account next should know of it; `None` before there was a snapshot.
    pub(super) fn known(&self) -> Option<ledger::Known> {
        let account = self.account.as_ref().or(self.before.as_deref())?;
        Some(ledger::Known {
            version: self.ledger.through(),
            positions: Some(open_positions(account)),
        })
    }

    /// Whether an event is missing for longer than it may be late.
    pub(super) fn has_lost_an_event(&self, now: Instant) -> bool {
        self.phase == Phase::Live
            && self
                .behind_since
                .is_some_and(|since| since + OVERTAKING_MAX <= now)
    }

    /// When something is due that no message brings.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Warming(until) => Some(until),
            Phase::Live => {
                let behind = self.behind_since.map(|since| since + OVERTAKING_MAX);
                let history = self.history.as_deref().and_then(History::deadline);
                [behind, self.checks.deadline(), history]
                    .into_iter()
                    .flatten()
                    .min()
            }
            Phase::Authorising | Phase::Loading | Phase::Closing => None,
        }
    }

    /// Applies an event, or keeps it until the snapshot is there.
    pub(super) fn handle_event(&mut self, event: WireEvent, now: Instant) -> Result<(), Malformed> {
        if self.account.is_none() {
            if self.buffered.len() == BUFFERED_MAX {
                return Err(Malformed::OutOfRange(
                    "the number of events before the snapshot",
                ));
            }
            self.buffered.push(event);
            return Ok(());
        }
        self.remember(event.clone(), now);
        if self.apply(event)? {
            self.changed = true;
            self.event_at = now;
        }
        self.watch_ledger(now);
        Ok(())
    }

    /// Notes since when a change is missing.
    fn watch_ledger(&mut self, now: Instant) {
        if !self.ledger.is_behind() && !self.lost {
            self.behind_since = None;
        } else if self.behind_since.is_none() {
            self.behind_since = Some(now);
        }
    }

    /// Drops the events that no snapshot could lack any more.
    pub(super) fn forget_recent(&mut self, now: Instant) {
        // While one is on its way, nothing that it might not have is forgotten.
        if self.checks.snapshot_sent_at.is_none() && !self.checks.is_verifying() {
            while self
                .recent
                .front()
                .is_some_and(|(at, _)| *at + LAG_MAX < now)
            {
                self.recent.pop_front();
            }
        }
    }

    fn remember(&mut self, event: WireEvent, now: Instant) {
        self.forget_recent(now);
        if self.recent.len() == BUFFERED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((now, event));
    }

    /// Applies an event to the account; whether it is different now.
    fn apply(&mut self, event: WireEvent) -> Result<bool, Malformed> {
        let Some(account) = &mut self.account else {
            return Ok(false);
        };
        let digits = account.trader().money_digits;
        let event = match event {
            WireEvent::Execution(wire) => {
                if let Some(wire) = &wire.deal {
                    let deal = convert::deal(wire, digits)?;
                    self.ledger
                        .see_deal(deal.position_id, deal.closing.is_some());
                    if first_time(&mut self.deals_seen, deal.deal_id) {
                        self.deals.push_back((deal, Source::Event));
                    }
                }
                let execution = convert::execution(*wire, digits)?;
                if let Some(balance) = execution.balance {
                    self.ledger.see(balance.version);
                }
                if let Some(order) = &execution.order {
                    hint(&mut self.hints, order.symbol);
                }
                if let Some((_, position)) = &execution.position {
                    let held = account.positions().find(|held| held.id == position.id);
                    if held.is_some_and(|held| held.volume != position.volume) {
                        self.checks.drop_stand_in(position.id);
                    }
                }
                Event::Execution(Box::new(execution))
            }
            WireEvent::Trader(wire) => Event::Trader(Box::new(convert::trader(*wire)?)),
            WireEvent::Margin(wire) => {
                let id = PositionId(wire.position_id.cast_signed());
                Event::Margin(
                    id,
                    convert::margin(wire.used_margin, wire.money_digits, digits)?,
                )
            }
            WireEvent::TrailingStop(wire) => {
                let stop = convert::stop_price(wire.stop_price)
                    .ok_or(Malformed::OutOfRange("stopPrice"))?;
                Event::TrailingStop(
                    PositionId(wire.position_id),
                    stop,
                    wire.utc_last_update_timestamp,
                )
            }
        };
        let changed = account.apply(event);
        self.ledger.handle_version(account.trader().balance_version);
        Ok(changed)
    }

    /// Deals in their order, as far as the broker has said what their symbols are.
    pub(super) fn take_deals(&mut self, catalog: &Catalog) -> Vec<(Deal, Source)> {
        let settled = self
            .deals
            .iter()
            .take_while(|(deal, _)| catalog.symbol(deal.symbol_id) != Known::NotYet)
            .count();
        let ready: Vec<_> = if settled == self.deals.len() {
            // The room that a history's deals took is not kept for the few that events bring.
            std::mem::take(&mut self.deals).into()
        } else {
            self.deals.drain(..settled).collect()
        };
        let named = |(deal, source)| (named(deal, catalog), source);
        ready.into_iter().map(named).collect()
    }

    /// All deals that are left, named or not: the session ends.
    pub(super) fn into_deals(self, catalog: Option<&Catalog>) -> Vec<(Deal, Source)> {
        let named = |(deal, source)| match catalog {
            Some(catalog) => (named(deal, catalog), source),
            None => (deal, source),
        };
        self.deals.into_iter().map(named).collect()
    }
}

fn open_positions(account: &Account) -> Positions {
    let volume = |hundredths| Decimal::new(i128::from(hundredths), VOLUME_SCALE).trim(0);
    account
        .positions()
        .map(|position| (position.id, Some(volume(position.volume))))
        .collect()
}

/// The account that a snapshot says, after `before` if there was one.
fn read_snapshot(
    before: Option<&Account>,
    trader: Trader,
    snapshot: ProtoOaReconcileRes,
) -> Result<Account, Malformed> {
    let digits = trader.money_digits;
    let positions: Result<Vec<_>, _> = snapshot
        .position
        .into_iter()
        .map(|wire| convert::position(wire, digits))
        .collect();
    let orders: Result<Vec<_>, _> = snapshot
        .order
        .into_iter()
        .filter_map(|wire| convert::known_order(wire).transpose())
        .collect();
    Ok(match before {
        Some(before) => before.renewed(trader, positions?, orders?),
        None => Account::new(trader, positions?, orders?),
    })
}

/// Whether a deal was not seen yet; from now on it was.
fn first_time(seen: &mut VecDeque<DealId>, deal: DealId) -> bool {
    if seen.contains(&deal) {
        return false;
    }
    if seen.len() == DEALS_SEEN_MAX {
        seen.pop_front();
    }
    seen.push_back(deal);
    true
}

fn named(deal: Deal, catalog: &Catalog) -> Deal {
    match catalog.symbol(deal.symbol_id) {
        Known::Here(symbol) => convert::name_deal(deal, symbol),
        Known::NotYet | Known::Absent => deal,
    }
}

fn hint(hints: &mut VecDeque<SymbolId>, symbol: SymbolId) {
    if !hints.contains(&symbol) {
        if hints.len() == HINTS_MAX {
            hints.pop_front();
        }
        hints.push_back(symbol);
    }
}
