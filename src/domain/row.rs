//! The content of a row of `public.ctrader_cache`, and the three kinds of writes of a row.

use std::sync::Arc;

use time::OffsetDateTime;

use super::decimal::Decimal;
use super::fence::Fence;
use super::ids::{OrderId, PositionId, SymbolId};
use super::status::Status;

/// The figures of an account at one moment: all columns but the key, the state and the fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// The account's number, as cTrader shows it to the user.
    pub trader_login: Option<i64>,
    /// Name of the deposit asset.
    pub currency: Option<Arc<str>>,
    /// The balance: the account's cash.
    pub balance: Decimal,
    /// Balance + net unrealised P&L + active bonus; unknown while a quote is missing.
    pub equity: Option<Decimal>,
    /// Σ gross unrealised P&L.
    pub unrealized_gross: Option<Decimal>,
    /// Σ gross + swap + commission booked so far.
    pub unrealized_net: Option<Decimal>,
    /// The margin in use, by the account's own rule (MAX, SUM or NET).
    pub used_margin: Decimal,
    /// Equity − used margin.
    pub free_margin: Option<Decimal>,
    /// The active bonus: the part of the total that counts into equity now.
    pub bonus: Option<Decimal>,
    /// Percent with four digits; `None` without used margin.
    pub margin_level: Option<Decimal>,
    /// Open positions.
    pub positions: Vec<PositionRow>,
    /// Pending orders.
    pub orders: Vec<OrderRow>,
    /// Version of the balance, +1 with every change of it.
    pub balance_version: Option<i64>,
    /// The time of the last event that changed the row's content.
    pub event_at: OffsetDateTime,
}

/// An element of the column `positions`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the contract's names; units in `domain::position`"
)]
pub struct PositionRow {
    pub position_id: PositionId,
    pub symbol: Option<Arc<str>>,
    pub symbol_id: SymbolId,
    pub side: &'static str,
    pub volume: Decimal,
    pub lots: Option<Decimal>,
    pub entry_price: Option<Decimal>,
    pub current_price: Option<Decimal>,
    pub stop_loss: Option<Decimal>,
    pub take_profit: Option<Decimal>,
    pub swap: Decimal,
    pub commission: Decimal,
    pub gross_profit: Option<Decimal>,
    pub net_profit: Option<Decimal>,
    pub used_margin: Decimal,
    pub opened_at: Option<OffsetDateTime>,
    pub label: Option<Arc<str>>,
    pub comment: Option<Arc<str>>,
}

/// An element of the column `orders`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the contract's names; units in `domain::order`"
)]
pub struct OrderRow {
    pub order_id: OrderId,
    pub position_id: Option<PositionId>,
    pub symbol: Option<Arc<str>>,
    pub symbol_id: SymbolId,
    pub side: &'static str,
    pub order_type: &'static str,
    pub volume: Decimal,
    pub lots: Option<Decimal>,
    pub limit_price: Option<Decimal>,
    pub stop_price: Option<Decimal>,
    pub stop_loss: Option<Decimal>,
    pub take_profit: Option<Decimal>,
    pub expires_at: Option<OffsetDateTime>,
    pub created_at: Option<OffsetDateTime>,
    pub label: Option<Arc<str>>,
    pub comment: Option<Arc<str>>,
}

/// The state of a session, as `bridge.sessions` and the row of the cache both have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// The status.
    pub status: Status,
    /// Why, fit to show a user.
    pub last_error: Option<String>,
    /// Consecutive failures so far.
    pub attempts: i32,
    /// Whether it is an account of the demo environment; `None` while that is not known.
    pub is_demo: Option<bool>,
}

impl SessionState {
    /// A state with this status and no failures.
    #[must_use]
    pub const fn of(status: Status) -> Self {
        Self {
            status,
            last_error: None,
            attempts: 0,
            is_demo: None,
        }
    }

    /// The state with this environment.
    #[must_use]
    pub fn on(self, is_demo: bool) -> Self {
        Self {
            is_demo: Some(is_demo),
            ..self
        }
    }

    /// The state with the environment of an earlier state, unless it has one itself.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        Self {
            is_demo: self.is_demo.or(before.is_demo),
            ..self
        }
    }

    /// The state with a reason, fit to show a user.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self {
            last_error: Some(reason.into()),
            ..self
        }
    }
}

/// What one write changes of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowContent {
    /// State and figures. `connected` is whether the row follows the live stream now.
    Full {
        /// The state.
        state: SessionState,
        /// Whether the figures follow the stream.
        connected: bool,
        /// The figures.
        account: Box<AccountRow>,
    },
    /// The state alone, not connected. The figures stay as they are.
    State(SessionState),
    /// The row is unchanged and still current: only `updated_at` is written. Only for a connected row.
    Heartbeat,
}

/// A write of one row, fenced by the slot's epoch and ordered by `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowWrite {
    /// Which row, and under which claim.
    pub fence: Fence,
    /// Rises with every write of this worker.
    pub seq: i64,
    /// What to write.
    pub content: RowContent,
}
