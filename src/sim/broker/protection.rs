//! Stop loss and take profit of a position: the protective order that has both.

use crate::ctrader::wire;
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use crate::sim::state::order::{ExecutionDetails, finish};
use crate::sim::state::ratio::raw_f64;
use crate::sim::state::refusal::Refusal;
use wire::ProtoOaExecutionType as Execution;

impl Broker {
    /// Sets the levels of a position and creates its protective order. Sends nothing: returns what the
    /// execution event must have.
    pub(super) fn protect(
        &mut self,
        account: i64,
        position_id: i64,
        stop: Option<i64>,
        take: Option<i64>,
    ) -> ExecutionDetails {
        let order_id = self.next_id(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return ExecutionDetails::default();
        };
        let Some(position) = book.positions.get_mut(&position_id) else {
            return ExecutionDetails::default();
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
        self.record(account, || JournalEvent::Levels(position_id, stop, take));
        self.set_resting(account, position.symbol, order_id, true);
        ExecutionDetails {
            position: Some(wire_position),
            order: Some(order),
            deal: None,
        }
    }

    /// Sets the protective order to the position's volume, and sends REPLACED as an event of the server.
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
        let details = ExecutionDetails {
            position: Some(book.wire_position(&position)),
            order: Some(order),
            deal: None,
        };
        self.publish_execution(account, Execution::OrderReplaced, None, true, details);
    }

    /// Cancels the protective order of a closed position, as the server does.
    pub(super) fn cancel_protection(
        &mut self,
        account: i64,
        order: i64,
        symbol: i64,
        position: wire::ProtoOaPosition,
    ) {
        let now_ms = self.wall_ms();
        self.set_resting(account, symbol, order, false);
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
        let details = ExecutionDetails {
            position: Some(position),
            order: Some(order),
            deal: None,
        };
        self.publish_execution(account, Execution::OrderCancelled, None, true, details);
    }

    /// Replaces the levels of a position. A level that is `None` is removed.
    pub(crate) fn set_levels(
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
            let details = self.protect(account, position_id, stop, take);
            self.publish_execution(account, Execution::OrderAccepted, id, false, details);
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
        self.record(account, || JournalEvent::Levels(position_id, stop, take));
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
        let details = ExecutionDetails {
            position: Some(wire_position),
            order: Some(order),
            deal: None,
        };
        self.publish_execution(account, kind, id, false, details);
        Ok(())
    }
}
