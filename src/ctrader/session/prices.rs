//! What a session needs to value its account: symbols, conversion chains, subscriptions, first quotes.
//!
//! Worked out anew after each change, so a new position in a new symbol takes the same path as the
//! first.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::state::{Phase, Session};
use crate::ctrader::catalog::{Catalog, Known};
use crate::ctrader::convert;
use crate::ctrader::request::{Ask, Request, of_account};
use crate::ctrader::wire::ProtoOaSpotEvent;
use crate::domain::ids::SymbolId;
use crate::domain::market::Quote;

/// How long a session with a snapshot waits for the first quotes before it is live without them. Alone
/// it has them after two round trips; in a crowd, subscriptions leave after everybody's snapshots.
const WARM_UP: Duration = Duration::from_secs(1);

impl Session {
    pub(in crate::ctrader) fn handle_spot(&mut self, wire: &ProtoOaSpotEvent, now: Instant) {
        let symbol = SymbolId(wire.symbol_id);
        // What is asked for has a place. After an unsubscription some may still come.
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
        self.asked.retain(|symbol, ()| !symbols.contains(symbol));
        self.subscribed.extend(each(symbols));
    }

    pub(in crate::ctrader) fn handle_unsubscribed(&mut self, symbols: &BTreeSet<SymbolId>) {
        self.leaving.retain(|symbol, ()| !symbols.contains(symbol));
    }

    /// Who is already subscribed gets no first quote, and in a quiet market none for days: it
    /// subscribes anew, once.
    pub(in crate::ctrader) fn handle_already_subscribed(
        &mut self,
        symbols: &BTreeSet<SymbolId>,
    ) -> Option<Request> {
        if symbols.iter().all(|id| self.renewed.contains_key(id)) {
            self.handle_subscribed(symbols);
            return None;
        }
        self.renewed.extend(each(symbols));
        self.asked.retain(|symbol, ()| !symbols.contains(symbol));
        self.leaving.extend(each(symbols));
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
        let wanted: BTreeSet<SymbolId> = held.iter().chain(&self.hints).copied().collect();
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
            Known::NotYet => {
                complete = false;
                None
            }
            Known::Absent => None,
            Known::Here(name) => Some(name),
        };
        if self.currency.as_ref() != currency {
            self.currency = currency.cloned();
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
            .map(|id| (id, ()))
            .collect();
        self.subscribe(&quoted, complete, out);
        if complete {
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
                !self.subscribed.contains_key(id)
                    && !self.asked.contains_key(id)
                    && !self.leaving.contains_key(id)
            })
            .copied()
            .collect();
        // One request for all of them, once the chains are known too.
        if complete && !missing.is_empty() {
            self.asked.extend(each(&missing));
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
            self.leaving.extend(each(&idle));
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
            .keys()
            .all(|id| self.market.quotes.get(id).is_some_and(Quote::is_complete));
        self.phase = if quoted || now >= until {
            Phase::Live
        } else {
            Phase::Warming(until)
        };
        let live = self.phase == Phase::Live;
        if live {
            self.changed = true;
            self.plan_checks(now);
        }
        live
    }

    /// After a new authorisation the subscriptions are made anew: whether they outlive the old one is
    /// nobody's to know. Those that do are renewed once.
    pub(in crate::ctrader) fn resubscribe(&mut self) {
        self.subscribed.clear();
        self.renewed.clear();
    }
}

fn each(symbols: &BTreeSet<SymbolId>) -> impl Iterator<Item = (SymbolId, ())> {
    symbols.iter().map(|id| (*id, ()))
}
