//! Whether an order can be taken.

use crate::sim::state::broker::Broker;
use crate::sim::state::money;
use crate::sim::state::refusal::Refusal;
use crate::sim::world::order_spec::{OrderKind, OrderSpec};

impl Broker {
    /// Whether an order can be taken; the id of its symbol.
    pub(super) fn check_order(&self, account: i64, spec: &OrderSpec) -> Result<i64, Refusal> {
        let refuse = |code: &str| Refusal::order_error(code, None, spec.position);
        let book = self
            .accounts
            .get(&account)
            .ok_or_else(|| refuse("CH_CTID_TRADER_ACCOUNT_NOT_FOUND"))?;
        let venue = self
            .venues
            .get(book.venue)
            .ok_or_else(|| refuse("SYMBOL_NOT_FOUND"))?;
        let id = if spec.symbol.is_empty() {
            Some(spec.symbol_id)
        } else {
            venue.symbol_id(&spec.symbol)
        };
        let symbol = id
            .and_then(|id| venue.symbols.get(&id))
            .ok_or_else(|| refuse("SYMBOL_NOT_FOUND"))?;
        let limits = &symbol.spec;
        if spec.volume < limits.min_volume
            || spec.volume > limits.max_volume
            || spec.volume % limits.step_volume.max(1) != 0
        {
            return Err(
                refuse("TRADING_BAD_VOLUME").description("Volume is out of the symbol's bounds")
            );
        }
        let absolute = spec.stop_loss.is_some() || spec.take_profit.is_some();
        if spec.kind == OrderKind::Market && absolute {
            return Err(Refusal::new("INVALID_REQUEST")
                .description("SL/TP in absolute values are allowed only for pending orders"));
        }
        let priced = match spec.kind {
            OrderKind::Market => true,
            OrderKind::Limit => spec.limit.is_some_and(|price| price > 0),
            OrderKind::Stop | OrderKind::StopLimit => spec.stop.is_some_and(|price| price > 0),
        };
        if !priced {
            return Err(refuse("TRADING_BAD_PRICES"));
        }
        if spec
            .position
            .is_some_and(|named| !book.positions.contains_key(&named))
        {
            return Err(refuse("POSITION_NOT_FOUND"));
        }
        if spec.kind == OrderKind::Market {
            if money::closing_price(symbol, spec.side.opposite()).is_none() {
                return Err(refuse("NO_QUOTES"));
            }
            self.check_margin(account, spec, limits.id, &refuse)?;
        }
        Ok(limits.id)
    }

    fn check_margin(
        &self,
        account: i64,
        spec: &OrderSpec,
        symbol: i64,
        refuse: &impl Fn(&str) -> Refusal,
    ) -> Result<(), Refusal> {
        let (Some(book), Some(truth)) = (self.accounts.get(&account), self.truth(account)) else {
            return Ok(());
        };
        let Some(venue) = self.venues.get(book.venue) else {
            return Ok(());
        };
        let opening = money::opening(venue, book, symbol, spec.side, spec.volume);
        let margin = money::used_margin(
            spec.volume,
            opening.margin_rate_e8,
            opening.margin_factor,
            book.digits,
        );
        if margin > truth.free_margin {
            return Err(refuse("NOT_ENOUGH_MONEY").description("Not enough money"));
        }
        Ok(())
    }
}
