//! Prices move: a quote is applied, told to subscribers, and sets off orders.

use std::time::Instant;

use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;

/// Ticks of one symbol made in one turn at most, so that a stalled process does not burst.
const TICKS_PER_TURN: u32 = 20_000;

impl Broker {
    pub(crate) fn apply_quote(
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
        let kept = self.journal.as_ref().and(self.venues.get(venue));
        if let Some(broker) = kept.map(|venue| venue.title.clone()) {
            let symbol = id;
            self.record(0, || JournalEvent::Quote {
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
