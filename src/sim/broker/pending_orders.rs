//! Pending orders: they are amended, cancelled, expire, or are executed once the price reaches them.

use std::collections::BTreeSet;

use crate::ctrader::wire;
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use crate::sim::state::order::{ExecutionDetails, Fill, finish};
use crate::sim::state::ratio::{f64_raw, raw_f64};
use crate::sim::state::refusal::Refusal;
use crate::sim::world::order_spec::OrderAmendment;
use crate::sim::world::spec::Side;
use wire::ProtoOaExecutionType as Execution;

impl Broker {
    /// Changes a pending order: REPLACED.
    pub(crate) fn change_order(
        &mut self,
        account: i64,
        order_id: i64,
        change: OrderAmendment,
        id: Option<&str>,
    ) -> Result<(), Refusal> {
        let now_ms = self.wall_ms();
        let refuse = |code: &str| Refusal::order_error(code, Some(order_id), None).account(account);
        let Some(book) = self.accounts.get_mut(&account) else {
            return Err(refuse("ORDER_NOT_FOUND"));
        };
        let Some(order) = book.orders.get_mut(&order_id) else {
            return Err(refuse("ORDER_NOT_FOUND"));
        };
        if order.order_type == wire::ProtoOaOrderType::Market as i32 {
            return Err(refuse("PENDING_EXECUTION"));
        }
        order.trade_data.volume = change.volume.unwrap_or(order.trade_data.volume);
        order.limit_price = change.limit.map(raw_f64).or(order.limit_price);
        order.stop_price = change.stop.map(raw_f64).or(order.stop_price);
        order.stop_loss = change.stop_loss.map(raw_f64);
        order.take_profit = change.take_profit.map(raw_f64);
        order.expiration_timestamp = change.expiration_ms.or(order.expiration_timestamp);
        order.utc_last_update_timestamp = Some(now_ms);
        let order = order.clone();
        let held = order.position_id.and_then(|id| book.positions.get(&id));
        let position = match held {
            Some(position) => book.wire_position(position),
            None => book.wire_created_position(&order, false),
        };
        self.record(account, || JournalEvent::Order(Box::new(order.clone())));
        let details = ExecutionDetails {
            position: Some(position),
            order: Some(order),
            deal: None,
        };
        self.publish_execution(account, Execution::OrderReplaced, id, false, details);
        Ok(())
    }

    /// Ends a pending order: CANCELLED or EXPIRED, its position CLOSED.
    pub(crate) fn drop_order(
        &mut self,
        account: i64,
        order_id: i64,
        expired: bool,
        id: Option<&str>,
    ) -> Result<(), Refusal> {
        let refuse = |code: &str| Refusal::order_error(code, Some(order_id), None).account(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return Err(refuse("ORDER_NOT_FOUND"));
        };
        let Some(order) = book.orders.get(&order_id) else {
            return Err(refuse("ORDER_NOT_FOUND"));
        };
        if order.order_type == wire::ProtoOaOrderType::Market as i32 {
            return Err(refuse("PENDING_EXECUTION"));
        }
        if order.order_type == wire::ProtoOaOrderType::StopLossTakeProfit as i32 {
            let position = order.position_id.unwrap_or_default();
            return self.set_levels(account, position, (None, None), false, id);
        }
        let mut order = order.clone();
        let (status, kind) = if expired {
            (
                wire::ProtoOaOrderStatus::OrderStatusExpired,
                Execution::OrderExpired,
            )
        } else {
            (
                wire::ProtoOaOrderStatus::OrderStatusCancelled,
                Execution::OrderCancelled,
            )
        };
        finish(&mut order, status, now_ms);
        let held = order.position_id.and_then(|id| book.positions.get(&id));
        let position = match held {
            Some(position) => book.wire_position(position),
            None => book.wire_created_position(&order, true),
        };
        self.end_order(account, order.clone());
        let details = ExecutionDetails {
            position: Some(position),
            order: Some(order),
            deal: None,
        };
        self.publish_execution(account, kind, id, expired, details);
        Ok(())
    }

    /// Watches a working order for its price.
    pub(super) fn set_resting(&mut self, account: i64, symbol: i64, order: i64, on: bool) {
        let Some(venue) = self.accounts.get(&account).map(|account| account.venue) else {
            return;
        };
        let list: &mut BTreeSet<(i64, i64)> = self.resting.entry((venue, symbol)).or_default();
        if on {
            list.insert((account, order));
        } else {
            list.remove(&(account, order));
        }
    }

    /// Sets off the orders of a symbol whose price is reached.
    pub(super) fn run_triggers(&mut self, venue: usize, symbol: i64) {
        let Some(list) = self.resting.get(&(venue, symbol)) else {
            return;
        };
        if list.is_empty() {
            return;
        }
        let Some(quote) = self
            .venues
            .get(venue)
            .and_then(|venue| venue.symbols.get(&symbol))
        else {
            return;
        };
        let (Some(bid), Some(ask)) = (quote.bid, quote.ask) else {
            return;
        };
        let hits: Vec<(i64, i64)> = list
            .iter()
            .copied()
            .filter(|(account, order)| {
                let order = self
                    .accounts
                    .get(account)
                    .and_then(|book| book.orders.get(order));
                order.is_some_and(|order| reached(order, bid, ask))
            })
            .collect();
        for (account, order) in hits {
            self.trigger(account, order, bid, ask);
        }
    }

    pub(crate) fn trigger(&mut self, account: i64, order_id: i64, bid: i64, ask: i64) {
        let Some(order) = self
            .accounts
            .get_mut(&account)
            .and_then(|book| book.orders.remove(&order_id))
        else {
            return;
        };
        self.set_resting(account, order.trade_data.symbol_id, order_id, false);
        let price = match Side::from_wire(order.trade_data.trade_side) {
            Some(Side::Sell) => bid,
            Some(Side::Buy) | None => ask,
        };
        self.execute(
            account,
            order,
            Fill {
                price,
                msg_id: None,
                by_server: true,
                is_last: true,
            },
        );
    }
}

/// Whether the market is at an order's price.
fn reached(order: &wire::ProtoOaOrder, bid: i64, ask: i64) -> bool {
    let (limit, stop) = (
        order.limit_price.map(f64_raw),
        order.stop_price.map(f64_raw),
    );
    let buys = order.trade_data.trade_side == Side::Buy.wire();
    if order.order_type == wire::ProtoOaOrderType::StopLimit as i32 {
        // The stop is reached, and the price no worse than the limit.
        return if buys {
            stop.is_some_and(|stop| ask >= stop) && limit.is_none_or(|limit| ask <= limit)
        } else {
            stop.is_some_and(|stop| bid <= stop) && limit.is_none_or(|limit| bid >= limit)
        };
    }
    if buys {
        limit.is_some_and(|limit| ask <= limit) || stop.is_some_and(|stop| ask >= stop)
    } else {
        limit.is_some_and(|limit| bid >= limit) || stop.is_some_and(|stop| bid <= stop)
    }
}
