//! Orders of an account: they are placed, rejected, and end, with the events of each.
//!
//! Every operation exists once; requests and tests both use it. Fills are in `fills`, pending orders
//! in `pending_orders`.

use std::time::Duration;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use crate::sim::state::order::{ExecutionDetails, PendingFill, PlacedOrder};
use crate::sim::state::refusal::Refusal;
use crate::sim::state::timer::TimerAction;
use crate::sim::world::order_spec::{OrderKind, OrderSpec};
use crate::sim::world::spec::AccountKind;
use wire::ProtoOaExecutionType as Execution;

/// A number that no enum of the schema has.
const UNKNOWN_ENUM: i32 = 99;

impl Broker {
    /// Sends an execution event on every connection of the account.
    pub(crate) fn publish_execution(
        &mut self,
        account: i64,
        kind: Execution,
        id: Option<&str>,
        by_server: bool,
        details: ExecutionDetails,
    ) {
        let mut event = wire::ProtoOaExecutionEvent {
            ctid_trader_account_id: account,
            execution_type: kind.into(),
            position: details.position,
            order: details.order,
            deal: details.deal,
            is_server_event: Some(by_server),
            ..Default::default()
        };
        if self.faults.unknown_enums > 0 {
            self.faults.unknown_enums -= 1;
            event.execution_type = UNKNOWN_ENUM;
            if let Some(order) = &mut event.order {
                order.order_type = UNKNOWN_ENUM;
                order.order_status = UNKNOWN_ENUM;
            }
        }
        self.publish(account, PayloadType::ProtoOaExecutionEvent, id, &event);
    }

    /// Accepts an order. A market order is filled after `delay`; at once if it is zero.
    pub(crate) fn place(
        &mut self,
        account: i64,
        spec: &OrderSpec,
        id: Option<&str>,
        delay: Duration,
    ) -> Result<PlacedOrder, Refusal> {
        let symbol = self
            .check_order(account, spec)
            .map_err(|refusal| refusal.account(account))?;
        let target = self.target_position(account, symbol, spec);
        let order_id = self.next_id(account);
        let position_id = match target {
            Some(position) => position,
            None => self.next_id(account),
        };
        let order = spec.order(order_id, symbol, position_id, self.wall_ms());
        let Some(book) = self.accounts.get_mut(&account) else {
            return Err(Refusal::new("CH_CTID_TRADER_ACCOUNT_NOT_FOUND"));
        };
        let position = match book.positions.get(&position_id) {
            Some(position) => book.wire_position(position),
            None => book.wire_created_position(&order, false),
        };
        book.orders.insert(order_id, order.clone());
        self.record(account, || JournalEvent::Order(Box::new(order.clone())));
        let details = ExecutionDetails {
            position: Some(position),
            order: Some(order),
            deal: None,
        };
        self.publish_execution(account, Execution::OrderAccepted, id, false, details);
        if spec.kind == OrderKind::Market {
            self.fill_after(
                delay,
                PendingFill {
                    account,
                    order: order_id,
                    msg_id: id.map(str::to_owned),
                    by_server: false,
                },
            );
        } else {
            self.set_resting(account, symbol, order_id, true);
        }
        Ok(PlacedOrder {
            order: order_id,
            position: position_id,
        })
    }

    /// Returns the open position that an order acts on: the one it names, or the symbol's on a netted
    /// account.
    fn target_position(&self, account: i64, symbol: i64, spec: &OrderSpec) -> Option<i64> {
        let book = self.accounts.get(&account)?;
        if let Some(named) = spec.position {
            return book.positions.contains_key(&named).then_some(named);
        }
        if book.kind == AccountKind::Hedged || spec.kind != OrderKind::Market {
            return None;
        }
        book.positions
            .values()
            .find(|position| position.symbol == symbol)
            .map(|position| position.id)
    }

    pub(super) fn fill_after(&mut self, delay: Duration, fill: PendingFill) {
        if delay.is_zero() {
            self.fill_pending(&fill);
        } else {
            self.schedule(delay, TimerAction::Fill(fill));
        }
    }

    /// Ends an order and sends REJECTED.
    pub(super) fn reject(
        &mut self,
        account: i64,
        mut order: wire::ProtoOaOrder,
        code: &str,
        id: Option<&str>,
    ) {
        order.order_status = wire::ProtoOaOrderStatus::OrderStatusRejected.into();
        let event = wire::ProtoOaExecutionEvent {
            ctid_trader_account_id: account,
            execution_type: Execution::OrderRejected.into(),
            order: Some(order.clone()),
            error_code: Some(code.to_owned()),
            is_server_event: Some(false),
            ..Default::default()
        };
        self.end_order(account, order);
        self.publish(account, PayloadType::ProtoOaExecutionEvent, id, &event);
    }

    /// Removes an order that has ended from the book.
    pub(super) fn end_order(&mut self, account: i64, order: wire::ProtoOaOrder) {
        self.set_resting(account, order.trade_data.symbol_id, order.order_id, false);
        if let Some(book) = self.accounts.get_mut(&account) {
            book.orders.remove(&order.order_id);
        }
        self.record(account, || JournalEvent::Order(Box::new(order)));
    }
}
