//! A broker's server: its static data, and the price of each symbol with its seeded random walk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt;

use crate::sim::world::spec::{AssetSpec, BrokerSpec, LeverageSpec, SymbolSpec};

/// A symbol with its price.
#[derive(Debug)]
pub(crate) struct Symbol {
    pub(crate) spec: SymbolSpec,
    pub(crate) bid: Option<i64>,
    pub(crate) ask: Option<i64>,
    /// Where the walk is pulled back to.
    anchor: i64,
    spread: i64,
    pub(crate) interval: Option<Duration>,
    pub(crate) next: Instant,
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
    pub(crate) fn step(&mut self, rng: &mut impl RngExt) -> (Option<i64>, Option<i64>) {
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

pub(crate) fn interval(rate: f64) -> Option<Duration> {
    (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate))
}

/// A broker's server: its static data and its feed.
#[derive(Debug)]
pub(crate) struct Venue {
    pub(crate) title: String,
    pub(crate) assets: Vec<AssetSpec>,
    pub(crate) leverages: Vec<LeverageSpec>,
    pub(crate) symbols: BTreeMap<i64, Symbol>,
    /// The latest id given to a position, order, deal or balance operation here.
    last_id: i64,
}

impl Venue {
    pub(crate) fn new(spec: BrokerSpec, now: Instant) -> Self {
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
    pub(crate) fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    pub(crate) fn asset(&self, name: &str) -> Option<i64> {
        self.assets
            .iter()
            .find(|asset| asset.name == name)
            .map(|asset| asset.id)
    }

    pub(crate) fn symbol_id(&self, name: &str) -> Option<i64> {
        self.symbols
            .values()
            .find(|symbol| symbol.spec.name == name)
            .map(|symbol| symbol.spec.id)
    }
}
