//! Protective orders, pending orders and what sets them off.

use crate::ctrader::wire;
use wire::ProtoOaExecutionType as Execution;

use super::broker::Broker;
use super::envelope::Refusal;
use super::ledger::What;
use super::num::{f64_raw, raw_f64};
use super::orders::{Parts, Terms, finish};
use super::spec::Side;

/// What an amendment of a pending order changes; `None` leaves it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrderChange {
    /// 1/100 unit.
    pub volume: Option<i64>,
    /// Raw.
    pub limit: Option<i64>,
    /// Raw.
    pub stop: Option<i64>,
    /// Raw.
    pub stop_loss: Option<i64>,
    /// Raw.
    pub take_profit: Option<i64>,
    /// ms since the epoch.
    pub expiration_ms: Option<i64>,
}

impl Broker {
    /// Gives a position levels and its protective order; says nothing, returns what to say.
    pub(super) fn protect(
        &mut self,
        account: i64,
        position_id: i64,
        stop: Option<i64>,
        take: Option<i64>,
    ) -> Parts {
        let order_id = self.fresh_id(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return Parts::default();
        };
        let Some(position) = book.positions.get_mut(&position_id) else {
            return Parts::default();
        };
        position.stop_loss = stop;
        position.take_profit = take;
        position.protection = Some(order_id);
        position.updated_ms = now_ms;
        let position = position.clone();
        let order = wire::ProtoOaOrder {
            order_id,
            trade_data: wire::ProtoOaTradeData {
                symbol_id: position.symbol,
                volume: position.volume,
                trade_side: position.side.opposite().wire(),
                open_timestamp: Some(now_ms),
                ..Default::default()
            },
            order_type: wire::ProtoOaOrderType::StopLossTakeProfit.into(),
            order_status: wire::ProtoOaOrderStatus::OrderStatusAccepted.into(),
            executed_volume: Some(0),
            utc_last_update_timestamp: Some(now_ms),
            closing_order: Some(true),
            limit_price: take.map(raw_f64),
            stop_price: stop.map(raw_f64),
            time_in_force: Some(wire::ProtoOaTimeInForce::GoodTillCancel.into()),
            position_id: Some(position_id),
            is_stop_out: Some(false),
            trailing_stop_loss: position.trailing.then_some(true),
            ..Default::default()
        };
        let wire_position = book.wire_position(&position);
        book.orders.insert(order_id, order.clone());
        self.write(account, || What::Levels(position_id, stop, take));
        self.rest(account, position.symbol, order_id, true);
        Parts {
            position: Some(wire_position),
            order: Some(order),
            deal: None,
        }
    }

    /// The protective order follows the position's volume: REPLACED, by the server.
    pub(super) fn resize_protection(&mut self, account: i64, position_id: i64) {
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let Some(position) = book.positions.get(&position_id).cloned() else {
            return;
        };
        let Some(order) = position.protection.and_then(|id| book.orders.get_mut(&id)) else {
            return;
        };
        order.trade_data.volume = position.volume;
        order.utc_last_update_timestamp = Some(now_ms);
        let order = order.clone();
        let parts = Parts {
            position: Some(book.wire_position(&position)),
            order: Some(order),
            deal: None,
        };
        self.execution(account, Execution::OrderReplaced, None, true, parts);
    }

    /// The protective order of a closed position is cancelled by the server.
    pub(super) fn cancel_protection(
        &mut self,
        account: i64,
        order: i64,
        symbol: i64,
        position: wire::ProtoOaPosition,
    ) {
        let now_ms = self.wall_ms();
        self.rest(account, symbol, order, false);
        let Some(mut order) = self
            .accounts
            .get_mut(&account)
            .and_then(|book| book.orders.remove(&order))
        else {
            return;
        };
        finish(
            &mut order,
            wire::ProtoOaOrderStatus::OrderStatusCancelled,
            now_ms,
        );
        self.end_order(account, order.clone());
        let parts = Parts {
            position: Some(position),
            order: Some(order),
            deal: None,
        };
        self.execution(account, Execution::OrderCancelled, None, true, parts);
    }

    /// Replaces the levels of a position; a level left out is removed.
    pub(super) fn set_levels(
        &mut self,
        account: i64,
        position_id: i64,
        levels: (Option<i64>, Option<i64>),
        trailing: bool,
        id: Option<&str>,
    ) -> Result<(), Refusal> {
        let refuse =
            |code: &str| Refusal::order_error(code, None, Some(position_id)).account(account);
        let (stop, take) = levels;
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return Err(refuse("POSITION_NOT_FOUND"));
        };
        let Some(position) = book.positions.get_mut(&position_id) else {
            return Err(refuse("POSITION_NOT_FOUND"));
        };
        if (position.stop_loss, position.take_profit, position.trailing) == (stop, take, trailing) {
            return Err(Refusal::new("INVALID_REQUEST")
                .description("Nothing to amend")
                .account(account));
        }
        position.stop_loss = stop;
        position.take_profit = take;
        position.trailing = trailing;
        position.updated_ms = now_ms;
        let Some(order_id) = position.protection else {
            let parts = self.protect(account, position_id, stop, take);
            self.execution(account, Execution::OrderAccepted, id, false, parts);
            return Ok(());
        };
        let gone = stop.is_none() && take.is_none();
        if gone {
            position.protection = None;
        }
        let position = position.clone();
        let wire_position = book.wire_position(&position);
        let Some(order) = book.orders.get_mut(&order_id) else {
            return Ok(());
        };
        order.limit_price = take.map(raw_f64);
        order.stop_price = stop.map(raw_f64);
        order.trailing_stop_loss = trailing.then_some(true);
        order.utc_last_update_timestamp = Some(now_ms);
        let mut order = order.clone();
        self.write(account, || What::Levels(position_id, stop, take));
        let kind = if gone {
            finish(
                &mut order,
                wire::ProtoOaOrderStatus::OrderStatusCancelled,
                now_ms,
            );
            self.end_order(account, order.clone());
            Execution::OrderCancelled
        } else {
            Execution::OrderReplaced
        };
        let parts = Parts {
            position: Some(wire_position),
            order: Some(order),
            deal: None,
        };
        self.execution(account, kind, id, false, parts);
        Ok(())
    }

    /// Changes a pending order: REPLACED.
    pub(super) fn change_order(
        &mut self,
        account: i64,
        order_id: i64,
        change: OrderChange,
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
            None => book.wire_unborn(&order, false),
        };
        self.write(account, || What::Order(Box::new(order.clone())));
        let parts = Parts {
            position: Some(position),
            order: Some(order),
            deal: None,
        };
        self.execution(account, Execution::OrderReplaced, id, false, parts);
        Ok(())
    }

    /// Ends a pending order: CANCELLED or EXPIRED, its position CLOSED.
    pub(super) fn drop_order(
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
            None => book.wire_unborn(&order, true),
        };
        self.end_order(account, order.clone());
        let parts = Parts {
            position: Some(position),
            order: Some(order),
            deal: None,
        };
        self.execution(account, kind, id, expired, parts);
        Ok(())
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

    pub(super) fn trigger(&mut self, account: i64, order_id: i64, bid: i64, ask: i64) {
        let Some(order) = self
            .accounts
            .get_mut(&account)
            .and_then(|book| book.orders.remove(&order_id))
        else {
            return;
        };
        self.rest(account, order.trade_data.symbol_id, order_id, false);
        let price = match Side::from_wire(order.trade_data.trade_side) {
            Some(Side::Sell) => bid,
            Some(Side::Buy) | None => ask,
        };
        self.execute(
            account,
            order,
            Terms {
                price,
                id: None,
                server: true,
                last: true,
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
