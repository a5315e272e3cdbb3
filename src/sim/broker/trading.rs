//! Trading requests: new order, cancel order, close position.

use crate::ctrader::wire::{self, ProtoOaOrderType as OrderType};
use crate::sim::state::broker::Broker;
use crate::sim::state::ratio::f64_raw;
use crate::sim::state::refusal::Refusal;
use crate::sim::state::request::Request;
use crate::sim::world::order_spec::{OrderKind, OrderSpec};
use crate::sim::world::spec::Side;

impl Broker {
    pub(super) fn on_new_order(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaNewOrderReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.require_trading(request, account)?;
        let invalid = |text: &str| {
            Refusal::new("INVALID_REQUEST")
                .description(text)
                .account(account)
        };
        let kind = match OrderType::try_from(body.order_type).ok() {
            Some(OrderType::Market | OrderType::MarketRange) => OrderKind::Market,
            Some(OrderType::Limit) => OrderKind::Limit,
            Some(OrderType::Stop) => OrderKind::Stop,
            Some(OrderType::StopLimit) => OrderKind::StopLimit,
            Some(OrderType::StopLossTakeProfit) | None => {
                return Err(invalid("Unknown order type"));
            }
        };
        let side = Side::from_wire(body.trade_side).ok_or_else(|| invalid("Unknown trade side"))?;
        let spec = OrderSpec {
            symbol: String::new(),
            symbol_id: body.symbol_id,
            kind,
            side,
            volume: body.volume,
            limit: body.limit_price.map(f64_raw),
            stop: body.stop_price.map(f64_raw),
            stop_loss: body.stop_loss.map(f64_raw),
            take_profit: body.take_profit.map(f64_raw),
            relative_stop_loss: body.relative_stop_loss,
            relative_take_profit: body.relative_take_profit,
            label: body.label,
            comment: body.comment,
            client_order_id: body.client_order_id,
            position: body.position_id,
            expiration_ms: body.expiration_timestamp,
            trailing: body.trailing_stop_loss.unwrap_or(false),
        };
        let delay = self.settings().fill_delay;
        self.place(account, &spec, request.id.as_deref(), delay)
            .map(|_| ())
    }

    pub(super) fn on_cancel_order(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaCancelOrderReq = request.parse()?;
        self.require_trading(request, body.ctid_trader_account_id)?;
        self.drop_order(
            body.ctid_trader_account_id,
            body.order_id,
            false,
            request.id.as_deref(),
        )
    }

    pub(super) fn on_close_position(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaClosePositionReq = request.parse()?;
        self.require_trading(request, body.ctid_trader_account_id)?;
        let delay = self.settings().fill_delay;
        let id = request.id.as_deref();
        self.submit_close(
            body.ctid_trader_account_id,
            body.position_id,
            Some(body.volume),
            id,
            delay,
        )
        .map(|_| ())
    }
}
