//! Deals that wait for the names of their symbols. Each is reported once.

use std::collections::VecDeque;

use super::state::Session;
use crate::ctrader::catalog::{Catalog, Lookup};
use crate::ctrader::convert;
use crate::domain::deal::{Deal, Source};
use crate::domain::ids::DealId;

/// Deals remembered, so that one that comes twice is reported once.
const DEALS_SEEN_MAX: usize = 256;

impl Session {
    /// Deals in their order, up to the first whose symbol the broker has not described yet.
    pub(in crate::ctrader) fn take_deals(&mut self, catalog: &Catalog) -> Vec<(Deal, Source)> {
        let ready = self
            .deals
            .iter()
            .take_while(|(deal, _)| catalog.symbol(deal.symbol_id) != Lookup::Pending)
            .count();
        let ready: Vec<_> = if ready == self.deals.len() {
            // The room that a history's deals took is not kept for the few that events bring.
            std::mem::take(&mut self.deals).into()
        } else {
            self.deals.drain(..ready).collect()
        };
        let named = |(deal, source)| (named(deal, catalog), source);
        ready.into_iter().map(named).collect()
    }

    /// All deals that are left, named or not: the session ends.
    pub(in crate::ctrader) fn into_deals(self, catalog: Option<&Catalog>) -> Vec<(Deal, Source)> {
        let named = |(deal, source)| match catalog {
            Some(catalog) => (named(deal, catalog), source),
            None => (deal, source),
        };
        self.deals.into_iter().map(named).collect()
    }
}

/// Whether a deal was not seen yet; from now on it was.
pub(super) fn first_time(seen: &mut VecDeque<DealId>, deal: DealId) -> bool {
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
        Lookup::Found(symbol) => convert::name_deal(deal, symbol),
        Lookup::Pending | Lookup::Absent => deal,
    }
}
