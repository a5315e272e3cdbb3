//! From the wire to the domain: the only module that converts units.
//!
//! Money is 10^-moneyDigits of the object that has it, and that may be absent: then the
//! account's digits count, and then two, as in the vendor's own clients. Prices in entities are
//! doubles; volumes count hundredths of a unit.

use std::sync::Arc;

use time::OffsetDateTime;

use super::wire::{
    ProtoOaBonusDepositWithdraw, ProtoOaClosePositionDetail, ProtoOaDeal, ProtoOaDealStatus,
    ProtoOaDepositWithdraw, ProtoOaExecutionEvent, ProtoOaLightSymbol, ProtoOaOrder,
    ProtoOaOrderStatus, ProtoOaOrderType, ProtoOaPosition, ProtoOaPositionStatus, ProtoOaSymbol,
    ProtoOaTotalMarginCalculationType, ProtoOaTradeSide, ProtoOaTrader,
};
use crate::domain::account::{Balance, Bonus, BonusChange, Execution, MarginRule, Trader};
use crate::domain::deal::{Closing, Deal, Side};
use crate::domain::decimal::Decimal;
use crate::domain::ids::{AssetId, DealId, OrderId, PositionId, SymbolId};
use crate::domain::market::{DIGITS_MAX, Symbol};
use crate::domain::position::{
    Order, OrderStatus, OrderType, Position, PositionStatus, VOLUME_SCALE, WIRE_PRICE_SCALE,
};

/// Digits of money when neither the object nor the account has them: cents.
pub const MONEY_DIGITS_FALLBACK: u8 = 2;

/// The most digits that money may claim; 8 is the most that was ever seen.
const MONEY_DIGITS_MAX: u32 = 15;

/// The status of a deal whose number no schema has.
const UNKNOWN_STATUS: &str = "UNKNOWN";

/// A message that decodes and still makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A required id is missing, or zero.
    #[error("{0} is missing")]
    MissingId(&'static str),
    /// An enum has a number that the schema does not.
    #[error("{0} is unknown")]
    UnknownEnum(&'static str),
    /// Its bytes are no such message.
    #[error("{0} cannot be read")]
    Unreadable(&'static str),
    /// A number is outside of what it can be.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

/// The scale of an object's money.
fn money_digits(own: Option<u32>, account: u8) -> Result<u8, Malformed> {
    match own {
        None => Ok(account),
        Some(digits) if digits <= MONEY_DIGITS_MAX => {
            u8::try_from(digits).map_err(|_| Malformed::OutOfRange("moneyDigits"))
        }
        Some(_) => Err(Malformed::OutOfRange("moneyDigits")),
    }
}

fn money(units: i64, digits: u8) -> Decimal {
    Decimal::new(i128::from(units), digits)
}

fn unsigned_money(units: u64, digits: u8) -> Decimal {
    Decimal::new(i128::from(units), digits)
}

/// A price that came as a double; absent, or no number, is none.
fn price(value: Option<f64>) -> Option<Decimal> {
    Decimal::from_wire_double(value?, WIRE_PRICE_SCALE)
}

fn id(value: i64, what: &'static str) -> Result<i64, Malformed> {
    if value == 0 {
        Err(Malformed::MissingId(what))
    } else {
        Ok(value)
    }
}

fn text(value: Option<String>) -> Option<Arc<str>> {
    // Postgres text and jsonb cannot hold U+0000; an empty text tells nothing.
    value
        .map(|text| text.replace('\0', ""))
        .filter(|text| !text.is_empty())
        .map(Arc::from)
}

fn side(value: i32) -> Result<Side, Malformed> {
    match ProtoOaTradeSide::try_from(value) {
        Ok(ProtoOaTradeSide::Buy) => Ok(Side::Buy),
        Ok(ProtoOaTradeSide::Sell) => Ok(Side::Sell),
        Err(_) => Err(Malformed::UnknownEnum("tradeSide")),
    }
}

fn volume(units: i64) -> Decimal {
    Decimal::new(i128::from(units), VOLUME_SCALE)
}

/// The end of the year 9999, in milliseconds: neither JSON nor people go on from there.
const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// Milliseconds since the epoch as a time; before it, and where no calendar goes, there is none.
#[must_use]
pub fn time_ms(ms: i64) -> Option<OffsetDateTime> {
    if !(0..=TIME_MS_MAX).contains(&ms) {
        return None;
    }
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()
}

/// The account entity.
///
/// # Errors
/// When its digits or its deposit asset make no sense.
pub fn trader(wire: ProtoOaTrader) -> Result<Trader, Malformed> {
    let digits = money_digits(wire.money_digits, MONEY_DIGITS_FALLBACK)?;
    let margin_rule = match wire.total_margin_calculation_type() {
        ProtoOaTotalMarginCalculationType::Max => MarginRule::Max,
        ProtoOaTotalMarginCalculationType::Sum => MarginRule::Sum,
        ProtoOaTotalMarginCalculationType::Net => MarginRule::Net,
    };
    Ok(Trader {
        money_digits: digits,
        balance: money(wire.balance, digits),
        balance_version: wire.balance_version,
        bonus: Bonus {
            manager: money(wire.manager_bonus.unwrap_or(0), digits),
            introducing: money(wire.ib_bonus.unwrap_or(0), digits),
        },
        deposit_asset: AssetId(id(wire.deposit_asset_id, "depositAssetId")?),
        margin_rule,
        login: wire.trader_login,
        broker: text(wire.broker_name),
    })
}

/// A position and what it is now.
///
/// # Errors
/// When an id is missing, or an enum or its digits make no sense.
pub fn position(
    wire: ProtoOaPosition,
    account_digits: u8,
) -> Result<(PositionStatus, Position), Malformed> {
    let digits = money_digits(wire.money_digits, account_digits)?;
    let status = match ProtoOaPositionStatus::try_from(wire.position_status) {
        Ok(ProtoOaPositionStatus::PositionStatusOpen) => PositionStatus::Open,
        Ok(ProtoOaPositionStatus::PositionStatusClosed) => PositionStatus::Closed,
        Ok(ProtoOaPositionStatus::PositionStatusCreated) => PositionStatus::Created,
        Ok(ProtoOaPositionStatus::PositionStatusError) => PositionStatus::Error,
        Err(_) => return Err(Malformed::UnknownEnum("positionStatus")),
    };
    let trade = wire.trade_data;
    let position = Position {
        id: PositionId(id(wire.position_id, "positionId")?),
        symbol: SymbolId(id(trade.symbol_id, "symbolId")?),
        side: side(trade.trade_side)?,
        volume: trade.volume,
        entry: price(wire.price),
        stop_loss: price(wire.stop_loss),
        take_profit: price(wire.take_profit),
        swap: money(wire.swap, digits),
        commission: money(wire.commission.unwrap_or(0), digits),
        used_margin: unsigned_money(wire.used_margin.unwrap_or(0), digits),
        opened_at_ms: trade.open_timestamp,
        label: text(trade.label),
        comment: text(trade.comment),
        updated_at_ms: wire.utc_last_update_timestamp,
        trailed_at_ms: None,
    };
    Ok((status, position))
}

/// An order.
///
/// # Errors
/// When an id is missing or an enum is unknown.
pub fn order(wire: ProtoOaOrder) -> Result<Order, Malformed> {
    let order_type = match ProtoOaOrderType::try_from(wire.order_type) {
        Ok(ProtoOaOrderType::Market) => OrderType::Market,
        Ok(ProtoOaOrderType::Limit) => OrderType::Limit,
        Ok(ProtoOaOrderType::Stop) => OrderType::Stop,
        Ok(ProtoOaOrderType::StopLossTakeProfit) => OrderType::StopLossTakeProfit,
        Ok(ProtoOaOrderType::MarketRange) => OrderType::MarketRange,
        Ok(ProtoOaOrderType::StopLimit) => OrderType::StopLimit,
        Err(_) => return Err(Malformed::UnknownEnum("orderType")),
    };
    let status = match ProtoOaOrderStatus::try_from(wire.order_status) {
        Ok(ProtoOaOrderStatus::OrderStatusAccepted) => OrderStatus::Accepted,
        Ok(ProtoOaOrderStatus::OrderStatusFilled) => OrderStatus::Filled,
        Ok(ProtoOaOrderStatus::OrderStatusRejected) => OrderStatus::Rejected,
        Ok(ProtoOaOrderStatus::OrderStatusExpired) => OrderStatus::Expired,
        Ok(ProtoOaOrderStatus::OrderStatusCancelled) => OrderStatus::Cancelled,
        Err(_) => return Err(Malformed::UnknownEnum("orderStatus")),
    };
    let trade = wire.trade_data;
    Ok(Order {
        id: OrderId(id(wire.order_id, "orderId")?),
        position: wire.position_id.filter(|id| *id != 0).map(PositionId),
        symbol: SymbolId(id(trade.symbol_id, "symbolId")?),
        side: side(trade.trade_side)?,
        order_type,
        status,
        volume: trade.volume,
        limit_price: price(wire.limit_price),
        stop_price: price(wire.stop_price),
        stop_loss: price(wire.stop_loss),
        take_profit: price(wire.take_profit),
        expires_at_ms: wire.expiration_timestamp,
        created_at_ms: trade.open_timestamp,
        label: text(trade.label),
        comment: text(trade.comment),
        updated_at_ms: wire.utc_last_update_timestamp,
    })
}

/// An order, unless it is of an unknown kind or in an unknown state: no money depends on it.
///
/// # Errors
/// When an id is missing or its side is unknown.
pub fn known_order(wire: ProtoOaOrder) -> Result<Option<Order>, Malformed> {
    match order(wire) {
        Err(Malformed::UnknownEnum("orderType" | "orderStatus")) => Ok(None),
        read => read.map(Some),
    }
}

/// An execution event's parts. A part that makes no sense fails the whole event: the caller asks
/// for a new snapshot then.
///
/// # Errors
/// When any part makes no sense.
pub fn execution(wire: ProtoOaExecutionEvent, account_digits: u8) -> Result<Execution, Malformed> {
    let deal_balance = match &wire.deal {
        Some(deal) => deal_balance(deal, account_digits)?,
        None => None,
    };
    let cash_balance = match wire.deposit_withdraw {
        Some(cash) => Some(cash_balance(&cash, account_digits)?),
        None => None,
    };
    Ok(Execution {
        position: wire
            .position
            .map(|wire| position(wire, account_digits))
            .transpose()?,
        order: wire.order.map(known_order).transpose()?.flatten(),
        balance: deal_balance.or(cash_balance),
        bonus: wire
            .bonus_deposit_withdraw
            .map(|wire| bonus(&wire, account_digits))
            .transpose()?,
    })
}

fn bonus(wire: &ProtoOaBonusDepositWithdraw, account_digits: u8) -> Result<BonusChange, Malformed> {
    let digits = money_digits(wire.money_digits, account_digits)?;
    Ok(BonusChange {
        bonus: Bonus {
            manager: money(wire.manager_bonus, digits),
            introducing: money(wire.ib_bonus, digits),
        },
        sequence: (wire.change_bonus_timestamp, wire.bonus_history_id),
    })
}

/// The balance after a cash operation.
pub(super) fn cash_balance(
    wire: &ProtoOaDepositWithdraw,
    account_digits: u8,
) -> Result<Balance, Malformed> {
    let digits = money_digits(wire.money_digits, account_digits)?;
    Ok(Balance {
        amount: money(wire.balance, digits),
        version: wire.balance_version,
    })
}

/// The balance after a deal: only a deal that was executed and closed volume moves it.
pub(super) fn deal_balance(
    wire: &ProtoOaDeal,
    account_digits: u8,
) -> Result<Option<Balance>, Malformed> {
    let executed = matches!(
        ProtoOaDealStatus::try_from(wire.deal_status),
        Ok(ProtoOaDealStatus::Filled | ProtoOaDealStatus::PartiallyFilled)
    );
    match &wire.close_position_detail {
        Some(close) if executed => {
            let digits = close_digits(close, wire, account_digits)?;
            Ok(Some(Balance {
                amount: money(close.balance, digits),
                version: close.balance_version,
            }))
        }
        _ => Ok(None),
    }
}

fn close_digits(
    close: &ProtoOaClosePositionDetail,
    deal: &ProtoOaDeal,
    account: u8,
) -> Result<u8, Malformed> {
    money_digits(close.money_digits.or(deal.money_digits), account)
}

/// A deal, as it is stored but for its symbol's name and digits: see [`name_deal`].
///
/// # Errors
/// When an id is missing, or an enum, a time or its digits make no sense.
pub fn deal(wire: &ProtoOaDeal, account_digits: u8) -> Result<Deal, Malformed> {
    let digits = money_digits(wire.money_digits, account_digits)?;
    let status = ProtoOaDealStatus::try_from(wire.deal_status)
        .map_or(UNKNOWN_STATUS, |status| status.as_str_name());
    let shown = |value: Option<f64>| price(value).map(|price| display_price(price, None));
    let closing = match &wire.close_position_detail {
        None => None,
        Some(close) => {
            let digits = close_digits(close, wire, account_digits)?;
            Some(Closing {
                gross_profit: money(close.gross_profit, digits),
                swap: money(close.swap, digits),
                closed_volume: close.closed_volume.map(volume),
                entry_price: shown(Some(close.entry_price)),
                balance_after: money(close.balance, digits),
            })
        }
    };
    Ok(Deal {
        deal_id: DealId(id(wire.deal_id, "dealId")?),
        order_id: OrderId(wire.order_id),
        position_id: PositionId(wire.position_id),
        symbol: None,
        symbol_id: SymbolId(id(wire.symbol_id, "symbolId")?),
        side: side(wire.trade_side)?,
        status,
        volume: volume(wire.volume),
        filled_volume: volume(wire.filled_volume),
        price: shown(wire.execution_price),
        executed_at: time_ms(wire.execution_timestamp)
            .ok_or(Malformed::OutOfRange("executionTimestamp"))?,
        // The closing detail's commission covers both sides of the closed volume; the deal's own
        // is that of its side. The row has the deal's own.
        commission: wire.commission.map(|units| money(units, digits)),
        closing,
    })
}

/// Gives a deal its symbol's name, and its prices the symbol's digits.
#[must_use]
pub fn name_deal(deal: Deal, symbol: &Symbol) -> Deal {
    let shown = |price: Decimal| display_price(price, Some(symbol));
    Deal {
        symbol: symbol.name.as_deref().map(ToOwned::to_owned),
        price: deal.price.map(shown),
        closing: deal.closing.map(|closing| Closing {
            entry_price: closing.entry_price.map(shown),
            ..closing
        }),
        ..deal
    }
}

/// A price as a person reads it: the symbol's digits, or as few as it has.
#[must_use]
pub fn display_price(price: Decimal, symbol: Option<&Symbol>) -> Decimal {
    match symbol {
        Some(symbol) => price.rescale(symbol.digits),
        None => price.trim(0),
    }
}

/// A symbol out of its two halves: the list has name and assets, the details digits and lot size.
///
/// # Errors
/// When an asset id is missing or its digits make no sense.
pub fn symbol(light: &ProtoOaLightSymbol, full: &ProtoOaSymbol) -> Result<Symbol, Malformed> {
    let digits = u8::try_from(full.digits)
        .ok()
        .filter(|digits| *digits <= DIGITS_MAX)
        .ok_or(Malformed::OutOfRange("digits"))?;
    Ok(Symbol {
        id: SymbolId(id(full.symbol_id, "symbolId")?),
        name: text(light.symbol_name.clone()),
        base: AssetId(id(light.base_asset_id(), "baseAssetId")?),
        quote: AssetId(id(light.quote_asset_id(), "quoteAssetId")?),
        digits,
        lot_size: full.lot_size.filter(|size| *size > 0),
    })
}

/// A raw spot price; zero and what no price can be count as absent.
#[must_use]
pub fn spot(raw: Option<u64>) -> Option<i64> {
    raw.and_then(|raw| i64::try_from(raw).ok())
        .filter(|raw| *raw > 0)
}

/// Volume in lots, with as few digits as it has, six at most.
#[must_use]
pub fn lots(volume: i64, symbol: Option<&Symbol>) -> Option<Decimal> {
    const SCALE: u8 = 6;
    let lot_size = symbol?.lot_size?;
    let units = crate::domain::decimal::div_half_away(
        i128::from(volume) * crate::domain::decimal::pow10(SCALE),
        i128::from(lot_size),
    );
    Some(Decimal::new(units, SCALE).trim(2))
}

/// A margin from its own event.
///
/// # Errors
/// When its digits make no sense.
pub fn margin(
    used: u64,
    own_digits: Option<u32>,
    account_digits: u8,
) -> Result<Decimal, Malformed> {
    Ok(unsigned_money(
        used,
        money_digits(own_digits, account_digits)?,
    ))
}

/// A profit or loss of a message that brings its own digits.
///
/// # Errors
/// When they make no sense.
pub fn pnl(units: i64, digits: u32) -> Result<Decimal, Malformed> {
    Ok(money(units, money_digits(Some(digits), 0)?))
}

/// A stop that trailed.
#[must_use]
pub fn stop_price(value: f64) -> Option<Decimal> {
    price(Some(value))
}

#[cfg(test)]
mod tests;
