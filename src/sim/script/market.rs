//! Sets prices by hand, and how fast they move by themselves.

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::venue::{Symbol, interval};

impl Broker {
    /// Stops the random walk of all prices.
    pub fn market_pause(&mut self) {
        self.market_running = false;
    }

    /// Starts the random walk of all prices again.
    pub fn market_resume(&mut self) {
        self.market_running = true;
        for symbol in self
            .venues
            .iter_mut()
            .flat_map(|venue| venue.symbols.values_mut())
        {
            symbol.next = self.now;
        }
    }

    /// Sets the ticks per second of a symbol, at every broker that has it. Zero stops them.
    pub fn tick_rate(&mut self, symbol: &str, ticks_per_second: f64) {
        for symbol in self.named(symbol) {
            symbol.interval = interval(ticks_per_second);
        }
    }

    /// Sets the ticks per second of every symbol.
    pub fn tick_rate_all(&mut self, ticks_per_second: f64) {
        for symbol in self
            .venues
            .iter_mut()
            .flat_map(|venue| venue.symbols.values_mut())
        {
            symbol.interval = interval(ticks_per_second);
        }
    }

    pub(crate) fn named(&mut self, name: &str) -> impl Iterator<Item = &mut Symbol> {
        self.venues
            .iter_mut()
            .flat_map(|venue| venue.symbols.values_mut())
            .filter(move |symbol| symbol.spec.name == name)
    }

    /// Sets one or both sides of a symbol's price, raw, at every broker that has it, and sends exactly
    /// those sides to its subscribers.
    pub fn set_quote(
        &mut self,
        symbol: &str,
        bid: impl Into<Option<i64>>,
        ask: impl Into<Option<i64>>,
    ) {
        let (bid, ask) = (bid.into(), ask.into());
        for venue in 0..self.venues.len() {
            if let Some(id) = self
                .venues
                .get(venue)
                .and_then(|venue| venue.symbol_id(symbol))
            {
                self.apply_quote(venue, id, bid, ask);
            }
        }
    }

    /// The same at one broker only.
    pub fn set_quote_at(
        &mut self,
        broker: &str,
        symbol: &str,
        bid: impl Into<Option<i64>>,
        ask: impl Into<Option<i64>>,
    ) {
        if let Some(venue) = self.venues.iter().position(|venue| venue.title == broker)
            && let Some(id) = self
                .venues
                .get(venue)
                .and_then(|venue| venue.symbol_id(symbol))
        {
            self.apply_quote(venue, id, bid.into(), ask.into());
        }
    }

    /// Returns the latest bid and ask of a symbol at a broker, raw.
    pub fn quote(&self, broker: &str, symbol: &str) -> Option<(Option<i64>, Option<i64>)> {
        let venue = self.venues.iter().find(|venue| venue.title == broker)?;
        let symbol = venue.symbols.get(&venue.symbol_id(symbol)?)?;
        Some((symbol.bid, symbol.ask))
    }

    /// Sends `ProtoOASymbolChangedEvent` to every account of a broker. It has only the symbol's id.
    pub fn symbol_changed(&mut self, broker: &str, symbol: &str) {
        let Some(venue) = self.venues.iter().position(|venue| venue.title == broker) else {
            return;
        };
        let Some(id) = self
            .venues
            .get(venue)
            .and_then(|venue| venue.symbol_id(symbol))
        else {
            return;
        };
        let accounts: Vec<i64> = self.accounts_at(venue);
        for account in accounts {
            let body = wire::ProtoOaSymbolChangedEvent {
                payload_type: None,
                ctid_trader_account_id: account,
                symbol_id: vec![id],
            };
            self.publish(account, PayloadType::ProtoOaSymbolChangedEvent, None, &body);
        }
    }
}
