//! The figures of an account and its positions by the simulator's own arithmetic.
//!
//! A test holds the bridge's figures against them.

use crate::sim::world::spec::Side;

/// The truth about one position.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionTruth {
    /// Its id.
    pub id: i64,
    /// Symbol id.
    pub symbol_id: i64,
    /// Symbol name.
    pub symbol: String,
    /// Direction.
    pub side: Side,
    /// 1/100 unit.
    pub volume: i64,
    /// Entry price.
    pub price: f64,
    /// Gross unrealised profit; 0 while a price is missing.
    pub gross: i64,
    /// Whether no price is missing.
    pub priced: bool,
    /// Gross + swap + commission.
    pub net: i64,
    /// Swap so far.
    pub swap: i64,
    /// Commission so far.
    pub commission: i64,
    /// Margin it ties up.
    pub used_margin: i64,
    /// Stop loss, raw.
    pub stop_loss: Option<i64>,
    /// Take profit, raw.
    pub take_profit: Option<i64>,
}

/// The truth about one account, by the simulator's own arithmetic, in the account's smallest unit.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountTruth {
    /// Cash.
    pub balance: i64,
    /// Its version.
    pub balance_version: i64,
    /// Decimals of every amount here.
    pub money_digits: u32,
    /// Bonus that counts towards equity.
    pub active_bonus: i64,
    /// Σ gross.
    pub gross: i64,
    /// Σ net.
    pub net: i64,
    /// Balance + Σ net + active bonus.
    pub equity: i64,
    /// Margin tied up.
    pub used_margin: i64,
    /// Equity − used margin.
    pub free_margin: i64,
    /// Equity / used margin, per cent; `None` without margin.
    pub margin_level: Option<f64>,
    /// Open positions by id.
    pub positions: Vec<PositionTruth>,
    /// Ids of pending orders (without protective ones).
    pub pending: Vec<i64>,
}
