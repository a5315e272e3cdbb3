//! What an order does once it is executed: which position it acts on, and in how many parts.

use crate::ctrader::wire;
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use crate::sim::state::order::{Fill, PendingFill, finish};
use crate::sim::state::ratio::raw_f64;
use crate::sim::world::spec::{AccountKind, Side};

impl Broker {
    /// Fills a market or closing order at the price of now.
    pub(super) fn fill_pending(&mut self, pending: &PendingFill) {
        let Some(book) = self.accounts.get_mut(&pending.account) else {
            return;
        };
        let Some(order) = book.orders.remove(&pending.order) else {
            return;
        };
        let side = Side::from_wire(order.trade_data.trade_side).unwrap_or(Side::Buy);
        let Some(price) = self.opening_price(pending.account, order.trade_data.symbol_id, side)
        else {
            return self.reject(
                pending.account,
                order,
                "NO_QUOTES",
                pending.msg_id.as_deref(),
            );
        };
        self.execute(
            pending.account,
            order,
            Fill {
                price,
                msg_id: pending.msg_id.as_deref(),
                by_server: pending.by_server,
                is_last: true,
            },
        );
    }

    /// Executes an order that is no longer in the book, or a part of it: closes, merges or opens.
    pub(super) fn execute(&mut self, account: i64, mut order: wire::ProtoOaOrder, fill: Fill<'_>) {
        self.retarget(account, &mut order);
        let left = order.trade_data.volume - order.executed_volume.unwrap_or_default();
        let part = self.next_part(account, &order, left);
        let is_last = part == left;
        let fill = Fill { is_last, ..fill };
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
                    self.flip(account, order, (closing, rest), fill);
                } else {
                    self.close_fill(account, order, closing, fill);
                }
            }
            None if order.closing_order == Some(true) => {
                return self.reject(account, order, "POSITION_NOT_FOUND", fill.msg_id);
            }
            Some(_) | None => self.open_fill(account, order, part, fill),
        }
        if !is_last {
            let next = PendingFill {
                account,
                order: number,
                msg_id: fill.msg_id.map(str::to_owned),
                by_server: fill.by_server,
            };
            self.fill_after(self.settings().partial_fill_delay, next);
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
            order.position_id = Some(self.next_id(account));
        }
    }

    /// How much of what is left of an order is filled at once.
    fn next_part(&self, account: i64, order: &wire::ProtoOaOrder, left: i64) -> i64 {
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
        fill: Fill<'_>,
    ) {
        let first = Fill {
            is_last: false,
            ..fill
        };
        self.close_fill(account, order.clone(), closing, first);
        order.executed_volume = Some(order.executed_volume.unwrap_or_default() + closing);
        order.position_id = Some(self.next_id(account));
        self.open_fill(account, order, rest, fill);
    }

    /// An order after a part of it was executed: it stays in the book, or ends.
    pub(crate) fn book_execution(
        &mut self,
        account: i64,
        order: &mut wire::ProtoOaOrder,
        volume: i64,
        fill: Fill<'_>,
    ) {
        let now_ms = self.wall_ms();
        order.execution_price = Some(raw_f64(fill.price));
        order.executed_volume = Some(order.executed_volume.unwrap_or_default() + volume);
        order.utc_last_update_timestamp = Some(now_ms);
        if fill.is_last {
            let filled = wire::ProtoOaOrderStatus::OrderStatusFilled;
            finish(order, filled, now_ms);
            self.end_order(account, order.clone());
        } else if let Some(book) = self.accounts.get_mut(&account) {
            book.orders.insert(order.order_id, order.clone());
            self.record(account, || JournalEvent::Order(Box::new(order.clone())));
        }
    }
}
