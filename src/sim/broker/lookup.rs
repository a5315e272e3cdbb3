//! Finds accounts, venues, symbols and prices, and gives ids.

use crate::sim::state::broker::Broker;
use crate::sim::state::money;
use crate::sim::state::refusal::Refusal;
use crate::sim::state::venue::Venue;
use crate::sim::world::spec::Side;

impl Broker {
    pub(super) fn venue_of(&self, account: i64) -> Result<usize, Refusal> {
        let found = self.accounts.get(&account).map(|account| account.venue);
        found.ok_or_else(|| Refusal::new("CH_CTID_TRADER_ACCOUNT_NOT_FOUND").account(account))
    }

    pub(super) fn require_symbols(
        &self,
        venue: usize,
        symbols: &[i64],
        code: &str,
        account: i64,
    ) -> Result<(), Refusal> {
        let known = |id: &i64| {
            self.venues
                .get(venue)
                .is_some_and(|venue| venue.symbols.contains_key(id))
        };
        match symbols.iter().find(|id| !known(id)) {
            None => Ok(()),
            Some(id) => Err(Refusal::new(code)
                .description(&format!("Symbol {id} is not found"))
                .account(account)),
        }
    }

    pub(crate) fn accounts_at(&self, venue: usize) -> Vec<i64> {
        self.accounts
            .values()
            .filter(|account| account.venue == venue)
            .map(|account| account.id)
            .collect()
    }

    /// The price a new trade of this side would get, raw.
    pub(super) fn opening_price(&self, account: i64, symbol: i64, side: Side) -> Option<i64> {
        let venue = self.venues.get(self.accounts.get(&account)?.venue)?;
        money::closing_price(venue.symbols.get(&symbol)?, side.opposite())
    }

    pub(super) fn next_id(&mut self, account: i64) -> i64 {
        let venue = self.accounts.get(&account).map(|account| account.venue);
        venue
            .and_then(|venue| self.venues.get_mut(venue))
            .map_or(0, Venue::next_id)
    }
}
