//! The figures of a row, as integers: so that a row and the reference compare digit by digit.

use mahspeccy_bridge::domain::decimal::Decimal;
use mahspeccy_bridge::domain::row::{AccountRow, OrderRow, PositionRow};

use super::exact::ten;

/// The figures of an account; money in its smallest unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) balance: i128,
    pub(super) version: Option<i64>,
    pub(super) bonus: Option<i128>,
    pub(super) gross: Option<i128>,
    pub(super) net: Option<i128>,
    pub(super) equity: Option<i128>,
    pub(super) margin: i128,
    pub(super) free_margin: Option<i128>,
    /// 1/10000 percent.
    pub(super) level: Option<i128>,
    pub(super) positions: Vec<Held>,
    pub(super) orders: Vec<Pending>,
}

/// An open position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: i64,
    pub(super) symbol: String,
    pub(super) symbol_id: i64,
    pub(super) side: &'static str,
    /// 1/100 unit.
    pub(super) volume: i128,
    /// 10^-10, rounded to the symbol's digits.
    pub(super) entry: i128,
    /// 10^-5, as the other prices.
    pub(super) price: Option<i128>,
    pub(super) stop_loss: Option<i128>,
    pub(super) take_profit: Option<i128>,
    pub(super) swap: i128,
    pub(super) commission: i128,
    pub(super) gross: Option<i128>,
    pub(super) net: Option<i128>,
    pub(super) margin: i128,
}

/// A pending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) id: i64,
    pub(super) position: Option<i64>,
    pub(super) kind: &'static str,
    pub(super) symbol_id: i64,
    pub(super) side: &'static str,
    pub(super) volume: i128,
    pub(super) limit: Option<i128>,
    pub(super) stop: Option<i128>,
    pub(super) stop_loss: Option<i128>,
    pub(super) take_profit: Option<i128>,
}

/// A decimal as a count of 10^-`digits`.
fn count(number: Decimal, digits: u8) -> i128 {
    assert!(number.scale <= digits, "{number} has too many digits");
    number.units * ten(digits - number.scale)
}

/// Money has exactly the account's digits.
fn money(amount: Decimal, digits: u8) -> i128 {
    assert_eq!(amount.scale, digits, "the digits of {amount}");
    amount.units
}

/// The figures of a row of an account with that many digits.
pub(super) fn of_row(row: &AccountRow, digits: u8) -> Figures {
    let known = |amount: Option<Decimal>| amount.map(|amount| money(amount, digits));
    Figures {
        balance: money(row.balance, digits),
        version: row.balance_version,
        bonus: known(row.bonus),
        gross: known(row.unrealized_gross),
        net: known(row.unrealized_net),
        equity: known(row.equity),
        margin: money(row.used_margin, digits),
        free_margin: known(row.free_margin),
        level: row.margin_level.map(|level| money(level, 4)),
        positions: row
            .positions
            .iter()
            .map(|position| of_position(position, digits))
            .collect(),
        orders: row.orders.iter().map(of_order).collect(),
    }
}

fn of_position(row: &PositionRow, digits: u8) -> Held {
    let price = |price: Option<Decimal>| price.map(|price| count(price, 5));
    Held {
        id: row.position_id.0,
        symbol: row.symbol.as_deref().expect("its name is known").to_owned(),
        symbol_id: row.symbol_id.0,
        side: row.side,
        volume: count(row.volume, 2),
        entry: count(row.entry_price.expect("an open position has one"), 10),
        price: price(row.current_price),
        stop_loss: price(row.stop_loss),
        take_profit: price(row.take_profit),
        swap: money(row.swap, digits),
        commission: money(row.commission, digits),
        gross: row.gross_profit.map(|amount| money(amount, digits)),
        net: row.net_profit.map(|amount| money(amount, digits)),
        margin: money(row.used_margin, digits),
    }
}

fn of_order(row: &OrderRow) -> Pending {
    let price = |price: Option<Decimal>| price.map(|price| count(price, 5));
    Pending {
        id: row.order_id.0,
        position: row.position_id.map(|id| id.0),
        kind: row.order_type,
        symbol_id: row.symbol_id.0,
        side: row.side,
        volume: count(row.volume, 2),
        limit: price(row.limit_price),
        stop: price(row.stop_price),
        stop_loss: price(row.stop_loss),
        take_profit: price(row.take_profit),
    }
}
