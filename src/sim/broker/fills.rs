//! What an order does once it is executed: which position it acts on, and in how many parts.

use crate::ctrader::wire;

use crate::sim::state::broker::Broker;
use crate::sim::state::journal::What;
use crate::sim::state::order::{Fill, Terms, finish};
use crate::sim::state::ratio::raw_f64;
use crate::sim::world::spec::{AccountKind, Side};

impl Broker {
    /// Fills a market or closing order at the price of now.
    pub(super) fn fill(&mut self, fill: &Fill) {
        let Some(book) = self.accounts.get_mut(&fill.account) else {
            return;
        };
        let Some(order) = book.orders.remove(&fill.order) else {
            return;
        };
        let side = Side::from_wire(order.trade_data.trade_side).unwrap_or(Side::Buy);
        let Some(price) = self.opening_price(fill.account, order.trade_data.symbol_id, side) else {
            return self.reject(fill.account, order, "NO_QUOTES", fill.id.as_deref());
        };
        self.execute(
            fill.account,
            order,
            Terms {
                price,
                id: fill.id.as_deref(),
                server: fill.server,
                last: true,
            },
        );
    }

    /// Executes an order that is no longer in the book, or a part of it: closes, merges or opens.
    pub(super) fn execute(
        &mut self,
        account: i64,
        mut order: wire::ProtoOaOrder,
        terms: Terms<'_>,
    ) {
        self.retarget(account, &mut order);
        let left = order.trade_data.volume - order.executed_volume.unwrap_or_default();
        let part = self.part_of(account, &order, left);
        let last = part == left;
        let terms = Terms { last, ..terms };
        let target = order.position_id.unwrap_or_default();
        let held = self
            .accounts
            .get(&account)
            .and_then(|book| book.positions.get(&target));
        let number = order.order_id;
        match held {
            Some(position) if position.side.wire() != order.trade_data.trade_side => {
                let closing = part.min(position.volume);
                let rest = part - closing;
                if rest > 0 && order.closing_order != Some(true) {
                    self.flip(account, order, (closing, rest), terms);
                } else {
                    self.close_fill(account, order, closing, terms);
                }
            }
            None if order.closing_order == Some(true) => {
                return self.reject(account, order, "POSITION_NOT_FOUND", terms.id);
            }
            Some(_) | None => self.open_fill(account, order, part, terms),
        }
        if !last {
            let next = Fill {
                account,
                order: number,
                id: terms.id.map(str::to_owned),
                server: terms.server,
            };
            self.fill_after(self.settings().part_gap, next);
        }
    }

    /// On a netted account an order acts on its symbol's position, which another may have opened
    /// since it was placed. A position that has ended does not come back: an order that named it
    /// opens another.
    fn retarget(&mut self, account: i64, order: &mut wire::ProtoOaOrder) {
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        let target = order.position_id.unwrap_or_default();
        if order.closing_order == Some(true) || book.positions.contains_key(&target) {
            return;
        }
        let symbol = order.trade_data.symbol_id;
        let mut held = book.positions.values();
        let of_symbol = held.find(|position| position.symbol == symbol);
        let merges = of_symbol.filter(|_| book.kind == AccountKind::Netted);
        if let Some(position) = merges {
            order.position_id = Some(position.id);
        } else if book.closed.contains(&target) {
            order.position_id = Some(self.fresh_id(account));
        }
    }

    /// How much of what is left of an order is filled at once.
    fn part_of(&self, account: i64, order: &wire::ProtoOaOrder, left: i64) -> i64 {
        let parts = i64::from(self.settings().fill_parts);
        let protective = order.order_type == wire::ProtoOaOrderType::StopLossTakeProfit as i32;
        if parts < 2 || protective || order.is_stop_out == Some(true) {
            return left;
        }
        let venue = self.accounts.get(&account).map(|book| book.venue);
        let symbol = venue
            .and_then(|venue| self.venues.get(venue))
            .and_then(|venue| venue.symbols.get(&order.trade_data.symbol_id));
        let step = symbol.map_or(1, |symbol| symbol.spec.step_volume.max(1));
        let part = (order.trade_data.volume / parts / step * step).max(step);
        // What would be left over after the last part belongs to it.
        if left < 2 * part { left } else { part }
    }

    /// A netted order larger than the position: closes it, then opens the rest the other way.
    fn flip(
        &mut self,
        account: i64,
        mut order: wire::ProtoOaOrder,
        (closing, rest): (i64, i64),
        terms: Terms<'_>,
    ) {
        let first = Terms {
            last: false,
            ..terms
        };
        self.close_fill(account, order.clone(), closing, first);
        order.executed_volume = Some(order.executed_volume.unwrap_or_default() + closing);
        order.position_id = Some(self.fresh_id(account));
        self.open_fill(account, order, rest, terms);
    }

    /// An order after a part of it was executed: it stays in the book, or ends.
    pub(crate) fn executed(
        &mut self,
        account: i64,
        order: &mut wire::ProtoOaOrder,
        volume: i64,
        terms: Terms<'_>,
    ) {
        let now_ms = self.wall_ms();
        order.execution_price = Some(raw_f64(terms.price));
        order.executed_volume = Some(order.executed_volume.unwrap_or_default() + volume);
        order.utc_last_update_timestamp = Some(now_ms);
        if terms.last {
            let filled = wire::ProtoOaOrderStatus::OrderStatusFilled;
            finish(order, filled, now_ms);
            self.end_order(account, order.clone());
        } else if let Some(book) = self.accounts.get_mut(&account) {
            book.orders.insert(order.order_id, order.clone());
            self.write(account, || What::Order(Box::new(order.clone())));
        }
    }
}
