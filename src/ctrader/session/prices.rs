//! What a session needs to value its account: symbols, conversion chains, subscriptions, first quotes.
//!
//! All of it is worked out anew after each change, so a new position in a new symbol takes the same path
//! as the first.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::state::{Phase, Session};
use super::timer::Timer;
use crate::ctrader::ask::Ask;
use crate::ctrader::catalog::{Catalog, Lookup};
use crate::ctrader::convert;
use crate::ctrader::request::{Request, of_account};
use crate::ctrader::wire::ProtoOaSpotEvent;
use crate::domain::ids::SymbolId;
use crate::domain::market::Quote;

/// How long a session with a snapshot waits for the first quotes before it is live without them. Alone
/// it has them after two round trips; in a crowd, subscriptions leave after everybody's snapshots.
const FIRST_QUOTES_MAX: Duration = Duration::from_secs(1);

impl Session {
    pub(in crate::ctrader) fn handle_spot(&mut self, wire: &ProtoOaSpotEvent, now: Instant) {
        let symbol = SymbolId(wire.symbol_id);
        // A symbol that is subscribed has an entry. After an unsubscription some quotes may still come.
        let Some(quote) = self.market.quotes.get_mut(&symbol) else {
            return;
        };
        let moved = quote.merge(convert::spot(wire.bid), convert::spot(wire.ask));
        if moved && self.priced.contains_key(&symbol) {
            self.changed = true;
            self.event_at = now;
        }
    }

    pub(in crate::ctrader) fn handle_subscribed(&mut self, symbols: &BTreeSet<SymbolId>) {
        self.subscribing
            .retain(|symbol, ()| !symbols.contains(symbol));
        self.subscribed.extend(each(symbols));
    }

    pub(in crate::ctrader) fn handle_unsubscribed(&mut self, symbols: &BTreeSet<SymbolId>) {
        self.unsubscribing
            .retain(|symbol, ()| !symbols.contains(symbol));
    }

    /// A session that is already subscribed gets no first quote, and in a quiet market none for days: it
    /// subscribes anew, once.
    pub(in crate::ctrader) fn handle_already_subscribed(
        &mut self,
        symbols: &BTreeSet<SymbolId>,
    ) -> Option<Request> {
        if symbols.iter().all(|id| self.resubscribed.contains_key(id)) {
            self.handle_subscribed(symbols);
            return None;
        }
        self.resubscribed.extend(each(symbols));
        self.subscribing
            .retain(|symbol, ()| !symbols.contains(symbol));
        self.unsubscribing.extend(each(symbols));
        Some(self.ask(Ask::Unsubscribe(symbols.clone())))
    }

    /// The server knows no such symbol: it is held as subscribed, so that nobody asks for ever.
    pub(in crate::ctrader) fn handle_unsubscribable(&mut self, symbols: &BTreeSet<SymbolId>) {
        self.handle_subscribed(symbols);
    }

    /// Takes over what the catalog has and asks for what is missing. Returns whether the session
    /// has just become live.
    pub(in crate::ctrader) fn advance(
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
        let wanted: BTreeSet<SymbolId> = held.iter().chain(&self.order_symbols).copied().collect();
        let named = self.deals.iter().map(|(deal, _)| deal.symbol_id);
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
            Lookup::Pending => {
                complete = false;
                None
            }
            Lookup::Absent => None,
            Lookup::Found(name) => Some(name),
        };
        if self.currency.as_ref() != currency {
            self.currency = currency.cloned();
            self.changed = true;
        }
        let mut quoted = BTreeSet::new();
        for id in &wanted {
            match catalog.symbol(*id) {
                Lookup::Pending => complete = false,
                Lookup::Absent => {}
                Lookup::Found(symbol) => {
                    quoted.insert(*id);
                    if self.market.symbols.get(id) != Some(symbol) {
                        self.market.symbols.insert(*id, symbol.clone());
                        self.changed = true;
                    }
                    if symbol.quote != deposit {
                        match catalog.chain(symbol.quote, deposit) {
                            Lookup::Pending => complete = false,
                            Lookup::Absent => {}
                            Lookup::Found(chain) => {
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
            .map(|id| (id, ()))
            .collect();
        self.subscribe(&quoted, complete, out);
        if complete {
            return self.await_quotes(now);
        }
        // What it needs now is on its way: the wait for first quotes begins anew after that.
        if self.phase == Phase::AwaitingQuotes {
            self.timers.stop(Timer::FirstQuotes);
            self.phase = Phase::Loading;
        }
        false
    }

    fn subscribe(&mut self, quoted: &BTreeSet<SymbolId>, complete: bool, out: &mut Vec<Request>) {
        let missing: BTreeSet<SymbolId> = quoted
            .iter()
            .filter(|id| {
                !self.subscribed.contains_key(id)
                    && !self.subscribing.contains_key(id)
                    && !self.unsubscribing.contains_key(id)
            })
            .copied()
            .collect();
        // One request for all of them, once the chains are known too.
        if complete && !missing.is_empty() {
            self.subscribing.extend(each(&missing));
            for id in &missing {
                self.market.quotes.entry(*id).or_default();
            }
            out.push(self.ask(Ask::Subscribe(missing)));
        }
        let subscribed = self.subscribed.keys().copied();
        let idle: BTreeSet<SymbolId> = subscribed.filter(|id| !quoted.contains(id)).collect();
        if complete && !idle.is_empty() {
            for id in &idle {
                self.subscribed.remove(id);
                self.market.quotes.remove(id);
            }
            self.unsubscribing.extend(each(&idle));
            out.push(self.ask(Ask::Unsubscribe(idle)));
        }
    }

    /// Live as soon as every needed quote is there, or after a while without. Returns whether the session
    /// has just become live.
    fn await_quotes(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Loading => {
                self.timers.set(Timer::FirstQuotes, now + FIRST_QUOTES_MAX);
                self.phase = Phase::AwaitingQuotes;
            }
            Phase::AwaitingQuotes => {}
            Phase::Authorising | Phase::Live | Phase::Closing => return false,
        }
        let quoted = self
            .priced
            .keys()
            .all(|id| self.market.quotes.get(id).is_some_and(Quote::is_complete));
        let live = quoted || self.timers.is_expired(Timer::FirstQuotes, now);
        if live {
            self.timers.stop(Timer::FirstQuotes);
            self.phase = Phase::Live;
            self.changed = true;
            self.schedule_checks(now);
        }
        live
    }

    /// Makes the subscriptions anew after a new authorisation: whether they outlive the old one is not
    /// documented. Those that do are renewed once.
    pub(super) fn forget_subscriptions(&mut self) {
        self.subscribed.clear();
        self.resubscribed.clear();
    }
}

fn each(symbols: &BTreeSet<SymbolId>) -> impl Iterator<Item = (SymbolId, ())> {
    symbols.iter().map(|id| (*id, ()))
}
