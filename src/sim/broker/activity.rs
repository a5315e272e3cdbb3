//! Seeded traders: they open and close positions while the market runs.

use rand::RngExt;

use crate::sim::state::broker::Broker;
use crate::sim::world::spec::Side;

impl Broker {
    /// The seeded traders: opens or closes something for the accounts whose turn it is.
    pub(super) fn run_activity(&mut self) {
        let due: Vec<i64> = self
            .accounts
            .values()
            .filter(|book| {
                book.activity.is_some() && book.next_activity.is_none_or(|at| at <= self.now)
            })
            .map(|book| book.id)
            .collect();
        for account in due {
            let jitter = self.rng.random_range(50..150);
            let Some(book) = self.accounts.get_mut(&account) else {
                continue;
            };
            let first = book.next_activity.is_none();
            book.next_activity = book.activity.map(|mean| self.now + mean * jitter / 100);
            if !first {
                self.trade_at_random(account);
            }
        }
    }

    fn trade_at_random(&mut self, account: i64) {
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        let open: Vec<(i64, i64)> = book.positions.values().map(|p| (p.id, p.symbol)).collect();
        let Some(venue) = self.venues.get(book.venue) else {
            return;
        };
        let symbols: Vec<(String, i64)> = venue
            .symbols
            .values()
            .map(|s| (s.spec.name.clone(), s.spec.min_volume))
            .collect();
        let grow = open.len() < 2 || (open.len() < 6 && self.rng.random_bool(0.5));
        // What the traders try may be refused (no money, no quotes): then nothing happens this time.
        if grow {
            let Some((symbol, step)) = symbols.get(self.rng.random_range(0..symbols.len().max(1)))
            else {
                return;
            };
            let side = if self.rng.random_bool(0.5) {
                Side::Buy
            } else {
                Side::Sell
            };
            let volume = step * self.rng.random_range(1..=5);
            let _ = self.open_market(account, symbol, side, volume);
        } else if let Some((position, _)) = open.get(self.rng.random_range(0..open.len().max(1))) {
            let _ = self.close_position(account, *position, None);
        }
    }
}
