//! An order as a request or a test asks for it, and how a pending order is amended.
//!
//! Prices are raw (1/100000), volumes 1/100 unit.

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
    pub(crate) symbol: String,
    /// Used when the name is empty.
    pub(crate) symbol_id: i64,
    pub(crate) kind: OrderKind,
    pub(crate) side: Side,
    pub(crate) volume: i64,
    pub(crate) limit: Option<i64>,
    pub(crate) stop: Option<i64>,
    pub(crate) stop_loss: Option<i64>,
    pub(crate) take_profit: Option<i64>,
    pub(crate) relative_stop_loss: Option<i64>,
    pub(crate) relative_take_profit: Option<i64>,
    pub(crate) label: Option<String>,
    pub(crate) comment: Option<String>,
    pub(crate) client_order_id: Option<String>,
    pub(crate) position: Option<i64>,
    pub(crate) expiration_ms: Option<i64>,
    pub(crate) trailing: bool,
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
}

/// What an amendment of a pending order changes; `None` leaves it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrderAmendment {
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
