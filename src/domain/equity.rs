//! Profit, equity and margin: pure functions of an account and its market.
//!
//! Exact: prices, volumes and rates are integers and fractions of integers, and each position is
//! rounded once, halves away from zero, to the account's own precision. A position whose quote or
//! conversion is missing has no profit yet, and then the account has no equity yet. What does not fit
//! 128 bits is as unknown.

use litemap::LiteMap;

use ethnum::I256;

use super::account::{Account, MarginRule};
use super::deal::Side;
use super::decimal::{Decimal, div_half_away, pow10};
use super::ids::{PositionId, SymbolId};
use super::market::{Market, Rate, SPOT_SCALE};
use super::position::{Position, VOLUME_SCALE, WIRE_PRICE_SCALE};

/// Digits of the margin level, in percent.
pub const MARGIN_LEVEL_SCALE: u8 = 4;

/// A position's figures in the account's money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionValue {
    /// The price it would close at: bid for BUY, ask for SELL.
    pub close: Option<Decimal>,
    /// Before swap and commission.
    pub gross: Option<Decimal>,
    /// Gross + swap + commission booked so far (the server's definition).
    pub net: Option<Decimal>,
    /// Swap at the account's precision.
    pub swap: Decimal,
    /// Commission at the account's precision.
    pub commission: Decimal,
    /// Margin at the account's precision.
    pub used_margin: Decimal,
}

/// An account's figures in its own money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountValue {
    /// A value for each position, in the account's order of them.
    pub positions: Vec<PositionValue>,
    /// Σ gross.
    pub gross: Option<Decimal>,
    /// Σ net.
    pub net: Option<Decimal>,
    /// The part of the bonus that counts.
    pub active_bonus: Option<Decimal>,
    /// Balance + Σ net + active bonus.
    pub equity: Option<Decimal>,
    /// By the account's rule.
    pub used_margin: Decimal,
    /// Equity − used margin.
    pub free_margin: Option<Decimal>,
    /// Equity / used margin, percent; `None` without used margin.
    pub margin_level: Option<Decimal>,
}

/// Gross profits that the server computed, for positions that cannot be valued by quotes.
pub type PnlFallbacks = LiteMap<PositionId, Decimal>;

/// Values an account by the quotes that are known now.
#[must_use]
pub fn value(account: &Account, market: &Market) -> AccountValue {
    value_with(account, market, &PnlFallbacks::new())
}

/// The same, with the server's own figure where a quote is missing.
#[must_use]
pub fn value_with(
    account: &Account,
    market: &Market,
    pnl_fallbacks: &PnlFallbacks,
) -> AccountValue {
    let trader = account.trader();
    let digits = trader.money_digits;
    let money = |units: i128| Decimal::new(units, digits);
    let positions: Vec<PositionValue> = account
        .positions()
        .map(|position| value_position(position, account, market, pnl_fallbacks))
        .collect();
    let sum = |part: fn(&PositionValue) -> Option<Decimal>| -> Option<i128> {
        positions.iter().try_fold(0i128, |sum, position| {
            sum.checked_add(part(position)?.units)
        })
    };
    let gross = sum(|position| position.gross);
    let net = sum(|position| position.net);
    let balance = trader.balance.rescale(digits).units;
    let cash = net.and_then(|net| balance.checked_add(net));
    let total_bonus =
        trader.bonus.manager.rescale(digits).units + trader.bonus.introducing.rescale(digits).units;
    let active_bonus = cash.map(|cash| total_bonus.min(cash).max(0));
    let equity = cash
        .zip(active_bonus)
        .and_then(|(cash, bonus)| cash.checked_add(bonus));
    let used_margin = used_margin(account, &positions);
    let margin_level = equity
        .filter(|_| used_margin > 0)
        .and_then(|equity| equity.checked_mul(pow10(MARGIN_LEVEL_SCALE + 2)))
        .map(|scaled| div_half_away(scaled, used_margin))
        .map(|units| Decimal::new(units, MARGIN_LEVEL_SCALE));
    AccountValue {
        positions,
        gross: gross.map(money),
        net: net.map(money),
        active_bonus: active_bonus.map(money),
        equity: equity.map(money),
        used_margin: money(used_margin),
        free_margin: equity
            .and_then(|equity| equity.checked_sub(used_margin))
            .map(money),
        margin_level,
    }
}

/// Whether the quotes that are known now value a position.
#[must_use]
pub fn is_valued(position: &Position, account: &Account, market: &Market) -> bool {
    value_position(position, account, market, &PnlFallbacks::new())
        .gross
        .is_some()
}

fn value_position(
    position: &Position,
    account: &Account,
    market: &Market,
    pnl_fallbacks: &PnlFallbacks,
) -> PositionValue {
    let trader = account.trader();
    let digits = trader.money_digits;
    let symbol = market.symbols.get(&position.symbol);
    let close = market
        .quotes
        .get(&position.symbol)
        .and_then(|quote| match position.side {
            Side::Buy => quote.bid,
            Side::Sell => quote.ask,
        });
    let swap = position.swap.rescale(digits);
    let commission = position.commission.rescale(digits);
    let gross = symbol
        .zip(close)
        .zip(position.entry)
        .and_then(|((symbol, close), entry)| {
            let rate = market.rate(symbol, trader.deposit_asset)?;
            gross_profit(position, entry, close, rate, digits)
        })
        .map(|units| Decimal::new(units, digits))
        .or_else(|| Some(pnl_fallbacks.get(&position.id)?.rescale(digits)));
    PositionValue {
        close: close.map(|close| Decimal::new(i128::from(close), SPOT_SCALE)),
        gross,
        net: gross
            .and_then(|gross| gross.units.checked_add(swap.units + commission.units))
            .map(|units| Decimal::new(units, digits)),
        swap,
        commission,
        used_margin: position.used_margin.rescale(digits),
    }
}

/// (close − entry) × units × rate for BUY, (entry − close) × units × rate for SELL, in
/// 10^-`digits` of the deposit asset; `None` when it does not fit.
fn gross_profit(
    position: &Position,
    entry: Decimal,
    close: i64,
    rate: Rate,
    digits: u8,
) -> Option<i128> {
    // A volume-weighted entry has more digits than its symbol: all that the wire brought count.
    let entry = entry.rescale(WIRE_PRICE_SCALE).units;
    let close = i128::from(close).checked_mul(pow10(WIRE_PRICE_SCALE - SPOT_SCALE))?;
    let difference = match position.side {
        Side::Buy => close.checked_sub(entry)?,
        Side::Sell => entry.checked_sub(close)?,
    };
    let in_quote = difference.checked_mul(i128::from(position.volume))?;
    // in_quote is in 10^-12 of the quote asset; digits and that scale cancel as far as they can.
    let in_quote_scale = WIRE_PRICE_SCALE + VOLUME_SCALE;
    let (up, down) = if digits >= in_quote_scale {
        (pow10(digits - in_quote_scale), 1)
    } else {
        (1, pow10(in_quote_scale - digits))
    };
    let narrow = || {
        let numerator = in_quote.checked_mul(up)?.checked_mul(rate.numerator)?;
        Some(div_half_away(
            numerator,
            rate.denominator.checked_mul(down)?,
        ))
    };
    narrow().or_else(|| {
        let numerator = I256::from(in_quote)
            .checked_mul(up.into())?
            .checked_mul(rate.numerator.into())?;
        let denominator = I256::from(rate.denominator).checked_mul(down.into())?;
        wide_div_half_away(numerator, denominator)
    })
}

/// [`div_half_away`] for what 128 bits do not hold.
fn wide_div_half_away(numerator: I256, denominator: I256) -> Option<i128> {
    let quotient = numerator / denominator;
    let rest = (numerator % denominator).abs();
    let away = if rest >= denominator - rest {
        numerator.signum()
    } else {
        I256::ZERO
    };
    i128::try_from(quotient + away).ok()
}

fn used_margin(account: &Account, values: &[PositionValue]) -> i128 {
    let mut sides: LiteMap<SymbolId, (i128, i128)> = LiteMap::new();
    for (position, value) in account.positions().zip(values) {
        let (long, short) = sides.entry(position.symbol).or_default();
        match position.side {
            Side::Buy => *long += value.used_margin.units,
            Side::Sell => *short += value.used_margin.units,
        }
    }
    let rule = account.trader().margin_rule;
    sides
        .values()
        .map(|(long, short)| match rule {
            MarginRule::Max => *long.max(short),
            MarginRule::Sum => long + short,
            MarginRule::Net => (long - short).abs(),
        })
        .sum()
}

#[cfg(test)]
mod tests;
