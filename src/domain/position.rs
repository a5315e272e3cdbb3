//! Open positions and pending orders as cTrader's entities have them.

use std::sync::Arc;

use super::deal::Side;
use super::decimal::Decimal;
use super::ids::{OrderId, PositionId, SymbolId};

/// Digits kept of a price that came as a double, until its symbol's digits are known.
pub const WIRE_PRICE_SCALE: u8 = 10;

/// Digits of a volume in units: the wire counts hundredths.
pub const VOLUME_SCALE: u8 = 2;

/// An open position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Its id at this broker.
    pub id: PositionId,
    /// What it is in.
    pub symbol: SymbolId,
    /// Its side.
    pub side: Side,
    /// 1/100 unit (ProtoOATradeData.volume).
    pub volume: i64,
    /// Volume-weighted entry price, [`WIRE_PRICE_SCALE`] digits.
    pub entry: Option<Decimal>,
    /// Stop loss.
    pub stop_loss: Option<Decimal>,
    /// Take profit.
    pub take_profit: Option<Decimal>,
    /// Swap so far, deposit currency, at the scale that the object brought.
    pub swap: Decimal,
    /// Commission booked so far, likewise; a cost is negative.
    pub commission: Decimal,
    /// Margin the server holds for it, likewise.
    pub used_margin: Decimal,
    /// Milliseconds since the epoch.
    pub opened_at_ms: Option<i64>,
    /// The trader's own label.
    pub label: Option<Arc<str>>,
    /// The trader's own comment.
    pub comment: Option<Arc<str>>,
    /// `utcLastUpdateTimestamp`: orders the versions of this position.
    pub updated_at_ms: Option<i64>,
    /// When its stop trailed last, which is not in `updated_at_ms`.
    pub trailed_at_ms: Option<i64>,
}

/// The state of a position, as a message has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionStatus {
    /// It counts.
    Open,
    /// It is gone.
    Closed,
    /// It was allocated for an order and holds no volume yet.
    Created,
    /// The server could not keep it.
    Error,
}

/// What kind of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderType {
    /// Executed at once.
    Market,
    /// Waits for a better price.
    Limit,
    /// Waits for a worse price.
    Stop,
    /// Protects a position; shown as the position's own levels.
    StopLossTakeProfit,
    /// Executed at once within a range.
    MarketRange,
    /// A stop that becomes a limit.
    StopLimit,
}

impl OrderType {
    /// Its text in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Market => "MARKET",
            Self::Limit => "LIMIT",
            Self::Stop => "STOP",
            Self::StopLossTakeProfit => "STOP_LOSS_TAKE_PROFIT",
            Self::MarketRange => "MARKET_RANGE",
            Self::StopLimit => "STOP_LIMIT",
        }
    }

    /// Whether such an order can wait in the book.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::Limit | Self::Stop | Self::StopLimit)
    }
}

/// The state of an order, as a message has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderStatus {
    /// It stands.
    Accepted,
    /// It was executed whole.
    Filled,
    /// It was refused.
    Rejected,
    /// Its time ran out.
    Expired,
    /// It was taken back.
    Cancelled,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id at this broker.
    pub id: OrderId,
    /// The position it opens or closes.
    pub position: Option<PositionId>,
    /// What it is in.
    pub symbol: SymbolId,
    /// Its side.
    pub side: Side,
    /// What kind.
    pub order_type: OrderType,
    /// Where it stands.
    pub status: OrderStatus,
    /// 1/100 unit.
    pub volume: i64,
    /// Limit price.
    pub limit_price: Option<Decimal>,
    /// Stop price.
    pub stop_price: Option<Decimal>,
    /// Stop loss of the position it will open.
    pub stop_loss: Option<Decimal>,
    /// Take profit of the position it will open.
    pub take_profit: Option<Decimal>,
    /// Milliseconds since the epoch.
    pub expires_at_ms: Option<i64>,
    /// Milliseconds since the epoch.
    pub created_at_ms: Option<i64>,
    /// The trader's own label.
    pub label: Option<Arc<str>>,
    /// The trader's own comment.
    pub comment: Option<Arc<str>>,
    /// Orders the versions of this order.
    pub updated_at_ms: Option<i64>,
}
