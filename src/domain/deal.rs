//! Deals: executions, appended once to `public.ctrader_deals`.

use time::OffsetDateTime;

use super::decimal::Decimal;
use super::ids::{DealId, OrderId, PositionId, SymbolId};

/// Which side of the market.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Profits when the price rises.
    Buy,
    /// Profits when it falls.
    Sell,
}

impl Side {
    /// Its text in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "BUY",
            Self::Sell => "SELL",
        }
    }
}

/// How the bridge learned of a deal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The stream reported it.
    Event,
    /// It was found in the history.
    Gap,
}

impl Source {
    /// Its text in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Gap => "gap",
        }
    }
}

/// One execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deal {
    /// Its id, the last part of the primary key.
    pub deal_id: DealId,
    /// The order it executed.
    pub order_id: OrderId,
    /// The position it changed.
    pub position_id: PositionId,
    /// The symbol's name, when known.
    pub symbol: Option<String>,
    /// The symbol.
    pub symbol_id: SymbolId,
    /// Side of the order.
    pub side: Side,
    /// `ProtoOADealStatus` by name.
    pub status: &'static str,
    /// Asked for, in units.
    pub volume: Decimal,
    /// Executed, in units.
    pub filled_volume: Decimal,
    /// Execution price.
    pub price: Option<Decimal>,
    /// `executionTimestamp`.
    pub executed_at: OffsetDateTime,
    /// In the deposit currency; a cost is negative.
    pub commission: Option<Decimal>,
    /// Present when the deal closed volume.
    pub closing: Option<Closing>,
}

/// What a closing deal realised, in the deposit currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// Profit before costs.
    pub gross_profit: Decimal,
    /// Swap realised.
    pub swap: Decimal,
    /// Closed volume, in units.
    pub closed_volume: Option<Decimal>,
    /// Entry price of the closed volume.
    pub entry_price: Option<Decimal>,
    /// Balance after the deal.
    pub balance_after: Decimal,
}
