//! An order as it is asked for, by a request or by hand, and whether it can be taken.

use crate::ctrader::wire;

use super::broker::Broker;
use super::envelope::Refusal;
use super::money;
use super::num::raw_f64;
use super::spec::Side;

/// The kinds of order that can be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// At the market.
    Market,
    /// At a price or better.
    Limit,
    /// At the market once a price is reached.
    Stop,
    /// As a limit once a price is reached.
    StopLimit,
}

/// An order as it is asked for. Prices are raw, volumes 1/100 unit.
#[derive(Clone, Debug)]
pub struct OrderSpec {
    pub(super) symbol: String,
    /// Used when the name is empty.
    pub(super) symbol_id: i64,
    pub(super) kind: OrderKind,
    pub(super) side: Side,
    pub(super) volume: i64,
    pub(super) limit: Option<i64>,
    pub(super) stop: Option<i64>,
    pub(super) stop_loss: Option<i64>,
    pub(super) take_profit: Option<i64>,
    pub(super) relative_stop_loss: Option<i64>,
    pub(super) relative_take_profit: Option<i64>,
    pub(super) label: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) client_order_id: Option<String>,
    pub(super) position: Option<i64>,
    pub(super) expiration_ms: Option<i64>,
    pub(super) trailing: bool,
}

impl OrderSpec {
    /// A market order.
    pub fn market(symbol: &str, side: Side, volume: i64) -> Self {
        Self {
            symbol: symbol.to_owned(),
            symbol_id: 0,
            kind: OrderKind::Market,
            side,
            volume,
            limit: None,
            stop: None,
            stop_loss: None,
            take_profit: None,
            relative_stop_loss: None,
            relative_take_profit: None,
            label: None,
            comment: None,
            client_order_id: None,
            position: None,
            expiration_ms: None,
            trailing: false,
        }
    }

    /// A limit order.
    pub fn limit(symbol: &str, side: Side, volume: i64, price: i64) -> Self {
        Self {
            kind: OrderKind::Limit,
            limit: Some(price),
            ..Self::market(symbol, side, volume)
        }
    }

    /// A stop order.
    pub fn stop(symbol: &str, side: Side, volume: i64, price: i64) -> Self {
        Self {
            kind: OrderKind::Stop,
            stop: Some(price),
            ..Self::market(symbol, side, volume)
        }
    }

    /// A stop order that is filled no worse than at its limit.
    pub fn stop_limit(symbol: &str, side: Side, volume: i64, stop: i64, limit: i64) -> Self {
        Self {
            kind: OrderKind::StopLimit,
            stop: Some(stop),
            limit: Some(limit),
            ..Self::market(symbol, side, volume)
        }
    }

    /// The stop loss trails.
    #[must_use]
    pub fn trailing(mut self) -> Self {
        self.trailing = true;
        self
    }

    /// Protection as distances from the fill price, raw.
    #[must_use]
    pub fn relative(mut self, stop_loss: Option<i64>, take_profit: Option<i64>) -> Self {
        self.relative_stop_loss = stop_loss;
        self.relative_take_profit = take_profit;
        self
    }

    /// Protection as prices, raw; refused on market orders.
    #[must_use]
    pub fn levels(mut self, stop_loss: Option<i64>, take_profit: Option<i64>) -> Self {
        self.stop_loss = stop_loss;
        self.take_profit = take_profit;
        self
    }

    /// The position it acts on.
    #[must_use]
    pub fn on(mut self, position: i64) -> Self {
        self.position = Some(position);
        self
    }

    /// Label and comment.
    #[must_use]
    pub fn label(mut self, label: &str, comment: &str) -> Self {
        self.label = Some(label.to_owned());
        self.comment = Some(comment.to_owned());
        self
    }

    /// Its wire form at the moment it is accepted.
    pub(super) fn order(
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
