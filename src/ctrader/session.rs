//! One account on a connection: authorise → snapshot → prices → live.
//!
//! Events flow from the moment of authorisation, before the snapshot is complete: they are kept
//! and replayed over it, and their versions tell which of them it already has. What a live account
//! needs beside (symbols, chains, subscriptions) is worked out anew after each change, so a new
//! position in a new symbol takes the same path as the first.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::catalog::{Catalog, Known};
use super::convert::{self, Malformed};
use super::request::{Ask, Request, of_account};
use super::wire::{
    ProtoOaExecutionEvent, ProtoOaMarginChangedEvent, ProtoOaReconcileRes, ProtoOaSpotEvent,
    ProtoOaTrader, ProtoOaTrailingSlChangedEvent,
};
use crate::domain::account::{Account, Event, Trader};
use crate::domain::deal::Deal;
use crate::domain::ids::{AccountId, PositionId, SymbolId};
use crate::domain::market::{Market, Quote};
use crate::domain::secret::Secret;

/// How long a session waits for the first quotes of its symbols before it is live without them.
/// The server sends one right after the subscription, even when the market is closed.
const WARM_UP: Duration = Duration::from_secs(2);

/// Events kept while the snapshot is on its way; an account with more in flight starts again.
const BUFFERED_MAX: usize = 10_000;

/// Symbols of orders that are being executed, subscribed before their position is there.
const HINTS_MAX: usize = 8;

/// An event as it came, kept until the account's digits are known.
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

/// One account's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: AccountId,
    pub(super) generation: u64,
    pub(super) token: Secret,
    pub(super) phase: Phase,
    trader: Option<Trader>,
    reconciled: Option<ProtoOaReconcileRes>,
    pub(super) account: Option<Account>,
    buffered: Vec<WireEvent>,
    pub(super) market: Market,
    pub(super) currency: Option<String>,
    subscribed: BTreeSet<SymbolId>,
    asked: BTreeSet<SymbolId>,
    /// Unsubscription asked for and not yet answered: not to be subscribed before that.
    leaving: BTreeSet<SymbolId>,
    /// Subscribed anew once already, since the server said they were subscribed.
    renewed: BTreeSet<SymbolId>,
    hints: VecDeque<SymbolId>,
    /// Deals that wait for their symbol's name, or for one before them.
    deals: VecDeque<Deal>,
    /// Symbols whose quotes change what the row says.
    priced: BTreeSet<SymbolId>,
    /// Whether the row says something else than when it was last taken.
    pub(super) changed: bool,
    /// The last event that changed it.
    pub(super) event_at: Instant,
}

impl Session {
    pub(super) fn new(id: AccountId, generation: u64, token: Secret, now: Instant) -> Self {
        Self {
            id,
            generation,
            token,
            phase: Phase::Authorising,
            trader: None,
            reconciled: None,
            account: None,
            buffered: Vec::new(),
            market: Market::default(),
            currency: None,
            subscribed: BTreeSet::new(),
            asked: BTreeSet::new(),
            leaving: BTreeSet::new(),
            renewed: BTreeSet::new(),
            hints: VecDeque::new(),
            deals: VecDeque::new(),
            priced: BTreeSet::new(),
            changed: false,
            event_at: now,
        }
    }

    pub(super) fn ask(&self, ask: Ask) -> Request {
        of_account(self.id, self.generation, ask, &self.token)
    }

    /// The broker whose catalog this account uses; one without a name shares with nobody.
    pub(super) fn broker(&self) -> Option<String> {
        let trader = self
            .account
            .as_ref()
            .map(Account::trader)
            .or(self.trader.as_ref())?;
        Some(
            trader
                .broker
                .clone()
                .unwrap_or_else(|| format!("\0{}", self.id)),
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
        self.trader = Some(convert::trader(wire)?);
        self.begin(now)
    }

    pub(super) fn handle_reconcile(
        &mut self,
        wire: ProtoOaReconcileRes,
        now: Instant,
    ) -> Result<(), Malformed> {
        self.reconciled = Some(wire);
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
        let digits = trader.money_digits;
        let positions: Result<Vec<_>, _> = snapshot
            .position
            .into_iter()
            .map(|wire| convert::position(wire, digits))
            .collect();
        let orders: Result<Vec<_>, _> = snapshot.order.into_iter().map(convert::order).collect();
        self.account = Some(Account::new(trader, positions?, orders?));
        self.changed = true;
        self.event_at = now;
        for event in std::mem::take(&mut self.buffered) {
            self.handle_event(event, now)?;
        }
        Ok(())
    }

    /// Applies an event, or keeps it until the snapshot is there.
    pub(super) fn handle_event(&mut self, event: WireEvent, now: Instant) -> Result<(), Malformed> {
        let Some(account) = &mut self.account else {
            if self.buffered.len() == BUFFERED_MAX {
                return Err(Malformed::OutOfRange(
                    "the number of events before the snapshot",
                ));
            }
            self.buffered.push(event);
            return Ok(());
        };
        let digits = account.trader().money_digits;
        let event = match event {
            WireEvent::Execution(wire) => {
                if let Some(wire) = &wire.deal {
                    self.deals.push_back(convert::deal(wire, digits)?);
                }
                let execution = convert::execution(*wire, digits)?;
                if let Some(order) = &execution.order {
                    hint(&mut self.hints, order.symbol);
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
                Event::TrailingStop(PositionId(wire.position_id), stop)
            }
        };
        if account.apply(event) {
            self.changed = true;
            self.event_at = now;
        }
        Ok(())
    }

    /// Deals in their order, as far as the broker has said what their symbols are.
    pub(super) fn take_deals(&mut self, catalog: &Catalog) -> Vec<Deal> {
        let settled = self
            .deals
            .iter()
            .take_while(|deal| catalog.symbol(deal.symbol_id) != Known::NotYet)
            .count();
        let ready = self.deals.drain(..settled);
        ready.map(|deal| named(deal, catalog)).collect()
    }

    /// All deals that are left, named or not: the session ends.
    pub(super) fn into_deals(self, catalog: Option<&Catalog>) -> Vec<Deal> {
        let named = |deal| match catalog {
            Some(catalog) => named(deal, catalog),
            None => deal,
        };
        self.deals.into_iter().map(named).collect()
    }

    pub(super) fn handle_spot(&mut self, wire: &ProtoOaSpotEvent, now: Instant) {
        let symbol = SymbolId(wire.symbol_id);
        // After an unsubscription some may still come.
        if !self.subscribed.contains(&symbol) && !self.asked.contains(&symbol) {
            return;
        }
        let quote = self.market.quotes.entry(symbol).or_default();
        let moved = quote.merge(convert::spot(wire.bid), convert::spot(wire.ask));
        if moved && self.priced.contains(&symbol) {
            self.changed = true;
            self.event_at = now;
        }
    }

    pub(super) fn handle_subscribed(&mut self, symbols: &BTreeSet<SymbolId>) {
        self.asked.retain(|symbol| !symbols.contains(symbol));
        self.subscribed.extend(symbols);
    }

    pub(super) fn handle_unsubscribed(&mut self, symbols: &BTreeSet<SymbolId>) {
        self.leaving.retain(|symbol| !symbols.contains(symbol));
    }

    /// Who is already subscribed gets no first quote, and in a quiet market none for days: it
    /// subscribes anew, once.
    pub(super) fn handle_already_subscribed(
        &mut self,
        symbols: &BTreeSet<SymbolId>,
    ) -> Option<Request> {
        if symbols.is_subset(&self.renewed) {
            self.handle_subscribed(symbols);
            return None;
        }
        self.renewed.extend(symbols);
        self.asked.retain(|symbol| !symbols.contains(symbol));
        self.leaving.extend(symbols);
        Some(self.ask(Ask::Unsubscribe(symbols.clone())))
    }

    /// The server knows no such symbol: it is held as subscribed, so that nobody asks for ever.
    pub(super) fn handle_unsubscribable(&mut self, symbols: &BTreeSet<SymbolId>) {
        self.handle_subscribed(symbols);
    }

    /// Takes over what the catalog has and asks for what is missing. Returns whether the session
    /// has just become live.
    pub(super) fn advance(
        &mut self,
        catalog: &mut Catalog,
        out: &mut Vec<Request>,
        now: Instant,
    ) -> bool {
        let Some(account) = &self.account else {
            return false;
        };
        if matches!(self.phase, Phase::Authorising | Phase::Closing) {
            return false;
        }
        let deposit = account.trader().deposit_asset;
        let held: BTreeSet<SymbolId> = account.symbols().collect();
        let wanted: BTreeSet<SymbolId> = held.iter().chain(&self.hints).copied().collect();
        let named = self.deals.iter().map(|deal| deal.symbol_id);
        let asked_for: BTreeSet<SymbolId> = wanted.iter().copied().chain(named).collect();
        let needs = catalog.ask_for(&asked_for, deposit);
        out.extend(
            needs
                .into_iter()
                .map(|need| of_account(self.id, self.generation, Ask::Broker(need), &self.token)),
        );

        let mut complete = true;
        // The name is for people: an account is no less live where the broker keeps it back.
        let currency = match catalog.asset(deposit) {
            Known::NotYet => {
                complete = false;
                None
            }
            Known::Absent => None,
            Known::Here(name) => Some(name),
        };
        if self.currency.as_deref() != currency {
            self.currency = currency.map(ToOwned::to_owned);
            self.changed = true;
        }
        let mut quoted = BTreeSet::new();
        for id in &wanted {
            match catalog.symbol(*id) {
                Known::NotYet => complete = false,
                Known::Absent => {}
                Known::Here(symbol) => {
                    quoted.insert(*id);
                    if self.market.symbols.get(id) != Some(symbol) {
                        self.market.symbols.insert(*id, symbol.clone());
                        self.changed = true;
                    }
                    if symbol.quote != deposit {
                        match catalog.chain(symbol.quote, deposit) {
                            Known::NotYet => complete = false,
                            Known::Absent => {}
                            Known::Here(chain) => {
                                quoted.extend(chain.symbols());
                                if self.market.chains.get(&symbol.quote) != Some(chain) {
                                    self.market.chains.insert(symbol.quote, chain.clone());
                                    self.changed = true;
                                }
                            }
                        }
                    }
                }
            }
        }
        let in_positions: BTreeSet<SymbolId> = account
            .positions()
            .map(|position| position.symbol)
            .collect();
        self.priced = in_positions
            .iter()
            .filter_map(|id| self.market.quoted_by(*id, deposit))
            .flatten()
            .collect();
        self.subscribe(&quoted, complete, out);
        if complete && quoted.is_subset(&self.subscribed) {
            return self.warm(now);
        }
        // What it needs now is on its way: the wait for first quotes begins anew after that, and
        // its deadline must not stay behind, or it would be due for ever.
        if matches!(self.phase, Phase::Warming(_)) {
            self.phase = Phase::Loading;
        }
        false
    }

    fn subscribe(&mut self, quoted: &BTreeSet<SymbolId>, complete: bool, out: &mut Vec<Request>) {
        let missing: BTreeSet<SymbolId> = quoted
            .iter()
            .filter(|id| {
                !self.subscribed.contains(id)
                    && !self.asked.contains(id)
                    && !self.leaving.contains(id)
            })
            .copied()
            .collect();
        // One request for all of them, once the chains are known too.
        if complete && !missing.is_empty() {
            self.asked.extend(&missing);
            out.push(self.ask(Ask::Subscribe(missing)));
        }
        let idle: BTreeSet<SymbolId> = self.subscribed.difference(quoted).copied().collect();
        if complete && !idle.is_empty() {
            for id in &idle {
                self.subscribed.remove(id);
                self.market.quotes.remove(id);
            }
            self.leaving.extend(&idle);
            out.push(self.ask(Ask::Unsubscribe(idle)));
        }
    }

    /// Live as soon as every needed quote is there, or after a while without.
    fn warm(&mut self, now: Instant) -> bool {
        let until = match self.phase {
            Phase::Loading => now + WARM_UP,
            Phase::Warming(until) => until,
            Phase::Authorising | Phase::Live | Phase::Closing => return false,
        };
        let quoted = self
            .priced
            .iter()
            .all(|id| self.market.quotes.get(id).is_some_and(Quote::is_complete));
        self.phase = if quoted || now >= until {
            Phase::Live
        } else {
            Phase::Warming(until)
        };
        self.changed |= self.phase == Phase::Live;
        self.phase == Phase::Live
    }
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
