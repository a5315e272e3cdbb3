//! Prices: one feed per broker, a seeded walk per symbol, and quotes set by hand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::broker::Broker;
use super::ledger::What;
use super::spec::{AssetSpec, BrokerSpec, LeverageSpec, SymbolSpec};

/// Ticks of one symbol made in one turn at most, so that a stalled process does not burst.
const TICKS_PER_TURN: u32 = 20_000;

/// A symbol with its price.
#[derive(Debug)]
pub(super) struct Symbol {
    pub(super) spec: SymbolSpec,
    pub(super) bid: Option<i64>,
    pub(super) ask: Option<i64>,
    /// Where the walk is pulled back to.
    anchor: i64,
    spread: i64,
    interval: Option<Duration>,
    next: Instant,
    crossed: bool,
}

impl Symbol {
    fn new(spec: SymbolSpec, now: Instant) -> Self {
        let known = |price: i64| (price > 0).then_some(price);
        Self {
            bid: known(spec.bid),
            ask: known(spec.ask),
            anchor: spec.bid,
            spread: spec.ask - spec.bid,
            interval: interval(spec.ticks_per_second),
            next: now,
            crossed: false,
            spec,
        }
    }

    /// Raw units of the smallest price step.
    fn tick_size(&self) -> i64 {
        10_i64.pow(u32::try_from((5 - self.spec.digits).clamp(0, 5)).unwrap_or_default())
    }

    /// One step of the walk: the sides that change.
    fn step(&mut self, rng: &mut impl RngExt) -> (Option<i64>, Option<i64>) {
        let tick = self.tick_size();
        let (Some(bid), Some(ask)) = (self.bid, self.ask) else {
            return (None, None);
        };
        let reach = (self.anchor / 40_000 / tick).max(1);
        let pull = (self.anchor - bid) / tick / 200;
        let moved = (rng.random_range(-reach..=reach) + pull) * tick;
        let (new_bid, new_ask) = (bid + moved, bid + moved + self.spread.max(tick));
        let die = rng.random_range(0..100);
        if self.crossed || new_bid <= 0 {
            self.crossed = false;
            return (Some(new_bid.max(tick)), Some(new_ask.max(2 * tick)));
        }
        let wide = 4 * self.spread.max(tick);
        match die {
            0 => {
                self.crossed = true;
                (None, Some(bid - tick))
            }
            1..40 if new_bid < ask && ask - new_bid <= wide => (Some(new_bid), None),
            40..80 if new_ask > bid && new_ask - bid <= wide => (None, Some(new_ask)),
            _ => (Some(new_bid), Some(new_ask)),
        }
    }
}

fn interval(rate: f64) -> Option<Duration> {
    (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate))
}

/// A broker's server: its static data and its feed.
#[derive(Debug)]
pub(super) struct Venue {
    pub(super) title: String,
    pub(super) assets: Vec<AssetSpec>,
    pub(super) leverages: Vec<LeverageSpec>,
    pub(super) symbols: BTreeMap<i64, Symbol>,
    /// The latest id given to a position, order, deal or balance operation here.
    last_id: i64,
}

impl Venue {
    pub(super) fn new(spec: BrokerSpec, now: Instant) -> Self {
        let symbols = spec
            .symbols
            .into_iter()
            .map(|symbol| (symbol.id, Symbol::new(symbol, now)))
            .collect();
        Self {
            title: spec.title,
            assets: spec.assets,
            leverages: spec.leverages,
            symbols,
            last_id: 10_000,
        }
    }

    /// A fresh id, unique in this venue only.
    pub(super) fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn asset(&self, name: &str) -> Option<i64> {
        self.assets
            .iter()
            .find(|asset| asset.name == name)
            .map(|asset| asset.id)
    }

    pub(super) fn symbol_id(&self, name: &str) -> Option<i64> {
        self.symbols
            .values()
            .find(|symbol| symbol.spec.name == name)
            .map(|symbol| symbol.spec.id)
    }
}

/// The market.
impl Broker {
    /// Prices stand still from now on.
    pub fn market_pause(&mut self) {
        self.market_running = false;
    }

    /// Prices walk again.
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

    /// Ticks a second of a symbol, at every broker that has it; zero silences it.
    pub fn tick_rate(&mut self, symbol: &str, ticks_per_second: f64) {
        for symbol in self.named(symbol) {
            symbol.interval = interval(ticks_per_second);
        }
    }

    /// Ticks a second of every symbol.
    pub fn tick_rate_all(&mut self, ticks_per_second: f64) {
        for symbol in self
            .venues
            .iter_mut()
            .flat_map(|venue| venue.symbols.values_mut())
        {
            symbol.interval = interval(ticks_per_second);
        }
    }

    fn named(&mut self, name: &str) -> impl Iterator<Item = &mut Symbol> {
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

    /// The latest bid and ask of a symbol at a broker, raw.
    pub fn quote(&self, broker: &str, symbol: &str) -> Option<(Option<i64>, Option<i64>)> {
        let venue = self.venues.iter().find(|venue| venue.title == broker)?;
        let symbol = venue.symbols.get(&venue.symbol_id(symbol)?)?;
        Some((symbol.bid, symbol.ask))
    }

    /// The symbol's settings changed: 2120 with only the id, to every account of its broker.
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
            let body = crate::ctrader::wire::ProtoOaSymbolChangedEvent {
                payload_type: None,
                ctid_trader_account_id: account,
                symbol_id: vec![id],
            };
            self.publish(account, 2120, None, &body);
        }
    }

    pub(super) fn accounts_at(&self, venue: usize) -> Vec<i64> {
        self.accounts
            .values()
            .filter(|account| account.venue == venue)
            .map(|account| account.id)
            .collect()
    }

    pub(super) fn apply_quote(
        &mut self,
        venue: usize,
        id: i64,
        bid: Option<i64>,
        ask: Option<i64>,
    ) {
        let at_ms = self.wall_ms();
        let Some(symbol) = self
            .venues
            .get_mut(venue)
            .and_then(|venue| venue.symbols.get_mut(&id))
        else {
            return;
        };
        symbol.bid = bid.or(symbol.bid);
        symbol.ask = ask.or(symbol.ask);
        let kept = self.ledger.as_ref().and(self.venues.get(venue));
        if let Some(broker) = kept.map(|venue| venue.title.clone()) {
            let symbol = id;
            self.write(0, || What::Quote {
                broker,
                symbol,
                bid,
                ask,
            });
        }
        self.broadcast_spot(venue, id, bid, ask, at_ms);
        self.run_triggers(venue, id);
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        let symbols = self.venues.iter().flat_map(|venue| venue.symbols.values());
        symbols
            .filter(|symbol| symbol.interval.is_some())
            .map(|symbol| symbol.next)
            .min()
    }

    /// Makes the ticks that are due.
    pub(super) fn run_market(&mut self) {
        let mut due = Vec::new();
        for (index, venue) in self.venues.iter_mut().enumerate() {
            for symbol in venue.symbols.values_mut() {
                let Some(interval) = symbol.interval else {
                    continue;
                };
                let mut count = 0;
                while symbol.next <= self.now && count < TICKS_PER_TURN {
                    symbol.next += interval;
                    count += 1;
                }
                if symbol.next <= self.now {
                    symbol.next = self.now + interval;
                }
                if count > 0 {
                    due.push((index, symbol.spec.id, count));
                }
            }
        }
        for (venue, id, count) in due {
            for _ in 0..count {
                let Some(symbol) = self
                    .venues
                    .get_mut(venue)
                    .and_then(|venue| venue.symbols.get_mut(&id))
                else {
                    break;
                };
                let (bid, ask) = symbol.step(&mut self.rng);
                if bid.is_some() || ask.is_some() {
                    self.apply_quote(venue, id, bid, ask);
                }
            }
        }
    }
}
