//! Orders, their fills and deals as data, and the wire objects made of them.

use crate::ctrader::wire;
use crate::sim::world::order_spec::{OrderKind, OrderSpec};
use wire::ProtoOaExecutionType as Execution;

use super::account::Position;
use super::ratio::raw_f64;

/// A market or closing order waiting for its fill.
#[derive(Clone, Debug)]
pub(crate) struct PendingFill {
    pub(crate) account: i64,
    pub(crate) order: i64,
    pub(crate) msg_id: Option<String>,
    /// Whether the server does it, unasked.
    pub(crate) by_server: bool,
}

/// How a fill is told and at what price it happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill<'a> {
    pub(crate) price: i64,
    pub(crate) msg_id: Option<&'a str>,
    pub(crate) by_server: bool,
    /// Nothing of the order is left after it.
    pub(crate) is_last: bool,
}

impl Fill<'_> {
    /// How the fill is told.
    pub(crate) fn kind(self) -> Execution {
        if self.is_last {
            Execution::OrderFilled
        } else {
            Execution::OrderPartialFill
        }
    }
}

/// The objects of an execution event.
#[derive(Default)]
pub(crate) struct ExecutionDetails {
    pub(crate) position: Option<wire::ProtoOaPosition>,
    pub(crate) order: Option<wire::ProtoOaOrder>,
    pub(crate) deal: Option<wire::ProtoOaDeal>,
}

/// What placing an order gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedOrder {
    /// The order's id.
    pub order: i64,
    /// The position's id, allocated at once.
    pub position: i64,
}

impl OrderSpec {
    /// Its wire form at the moment it is accepted.
    pub(crate) fn order(
        &self,
        id: i64,
        symbol: i64,
        position: i64,
        now_ms: i64,
    ) -> wire::ProtoOaOrder {
        let kind = match self.kind {
            OrderKind::Market => wire::ProtoOaOrderType::Market,
            OrderKind::Limit => wire::ProtoOaOrderType::Limit,
            OrderKind::Stop => wire::ProtoOaOrderType::Stop,
            OrderKind::StopLimit => wire::ProtoOaOrderType::StopLimit,
        };
        let in_force = match (self.kind, self.expiration_ms) {
            (OrderKind::Market, _) => wire::ProtoOaTimeInForce::ImmediateOrCancel,
            (_, Some(_)) => wire::ProtoOaTimeInForce::GoodTillDate,
            (_, None) => wire::ProtoOaTimeInForce::GoodTillCancel,
        };
        wire::ProtoOaOrder {
            order_id: id,
            trade_data: wire::ProtoOaTradeData {
                symbol_id: symbol,
                volume: self.volume,
                trade_side: self.side.wire(),
                open_timestamp: Some(now_ms),
                label: self.label.clone(),
                comment: self.comment.clone(),
                ..Default::default()
            },
            order_type: kind.into(),
            order_status: wire::ProtoOaOrderStatus::OrderStatusAccepted.into(),
            expiration_timestamp: self.expiration_ms,
            executed_volume: Some(0),
            utc_last_update_timestamp: Some(now_ms),
            closing_order: Some(false),
            limit_price: self.limit.map(raw_f64),
            stop_price: self.stop.map(raw_f64),
            stop_loss: self.stop_loss.map(raw_f64),
            take_profit: self.take_profit.map(raw_f64),
            client_order_id: self.client_order_id.clone(),
            time_in_force: Some(in_force.into()),
            position_id: Some(position),
            relative_stop_loss: self.relative_stop_loss,
            relative_take_profit: self.relative_take_profit,
            is_stop_out: Some(false),
            trailing_stop_loss: self.trailing.then_some(true),
            ..Default::default()
        }
    }
}

/// The market order that closes (part of) a position.
pub(crate) fn closing_order(
    position: &Position,
    order_id: i64,
    volume: i64,
    now_ms: i64,
) -> wire::ProtoOaOrder {
    wire::ProtoOaOrder {
        order_id,
        trade_data: wire::ProtoOaTradeData {
            symbol_id: position.symbol,
            volume,
            trade_side: position.side.opposite().wire(),
            open_timestamp: Some(now_ms),
            label: position.label.clone(),
            comment: position.comment.clone(),
            ..Default::default()
        },
        order_type: wire::ProtoOaOrderType::Market.into(),
        order_status: wire::ProtoOaOrderStatus::OrderStatusAccepted.into(),
        executed_volume: Some(0),
        utc_last_update_timestamp: Some(now_ms),
        closing_order: Some(true),
        time_in_force: Some(wire::ProtoOaTimeInForce::ImmediateOrCancel.into()),
        position_id: Some(position.id),
        is_stop_out: Some(false),
        ..Default::default()
    }
}

/// Marks an order as ended.
pub(crate) fn finish(
    order: &mut wire::ProtoOaOrder,
    status: wire::ProtoOaOrderStatus,
    now_ms: i64,
) {
    order.order_status = status.into();
    order.utc_last_update_timestamp = Some(now_ms);
}

pub(crate) fn new_deal(
    id: i64,
    order: &wire::ProtoOaOrder,
    volume: i64,
    fill: Fill<'_>,
    now_ms: i64,
) -> wire::ProtoOaDeal {
    let filled = if fill.is_last {
        wire::ProtoOaDealStatus::Filled
    } else {
        wire::ProtoOaDealStatus::PartiallyFilled
    };
    wire::ProtoOaDeal {
        deal_id: id,
        order_id: order.order_id,
        position_id: order.position_id.unwrap_or_default(),
        volume,
        filled_volume: volume,
        symbol_id: order.trade_data.symbol_id,
        create_timestamp: order.trade_data.open_timestamp.unwrap_or(now_ms),
        execution_timestamp: now_ms,
        utc_last_update_timestamp: Some(now_ms),
        execution_price: Some(raw_f64(fill.price)),
        trade_side: order.trade_data.trade_side,
        deal_status: filled.into(),
        ..Default::default()
    }
}
