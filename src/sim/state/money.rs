//! What positions are worth: conversion, profit, commission, margin, equity. Exact until the last step,
//! then rounded per position, halves away from zero, at the account's precision.

use std::collections::{BTreeMap, VecDeque};

use crate::sim::world::spec::{Commission, MarginType, Side};

use super::account::{Account, Position};
use super::ratio::Ratio;
use super::venue::{Symbol, Venue};

impl Venue {
    /// The shortest chain of symbols from one asset to another; empty for the same asset.
    pub(crate) fn chain(&self, from: i64, to: i64) -> Option<Vec<i64>> {
        let mut came: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(asset) = queue.pop_front() {
            if asset == to {
                let (mut chain, mut at) = (Vec::new(), to);
                while at != from {
                    let (symbol, previous) = *came.get(&at)?;
                    chain.push(symbol);
                    at = previous;
                }
                chain.reverse();
                return Some(chain);
            }
            for symbol in self.symbols.values() {
                let next = if symbol.spec.base == asset {
                    symbol.spec.quote
                } else if symbol.spec.quote == asset {
                    symbol.spec.base
                } else {
                    continue;
                };
                if next != from && !came.contains_key(&next) {
                    came.insert(next, (symbol.spec.id, asset));
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// Value of one `from` in `to`, at the bids of the chain. `None` while a bid is missing.
    pub(crate) fn rate(&self, from: i64, to: i64) -> Option<Ratio> {
        let (mut rate, mut asset) = (Ratio::ONE, from);
        for id in self.chain(from, to)? {
            let symbol = self.symbols.get(&id)?;
            let price = Ratio::raw(symbol.bid?);
            (rate, asset) = if symbol.spec.base == asset {
                (rate.times(price), symbol.spec.quote)
            } else {
                (rate.over(price), symbol.spec.base)
            };
        }
        Some(rate)
    }

    /// Value of one base unit in US dollars.
    pub(crate) fn base_to_usd(&self, symbol: &Symbol) -> Option<Ratio> {
        self.rate(symbol.spec.base, self.asset("USD")?)
    }
}

/// Units of a volume in 1/100 unit.
pub(crate) fn units(volume: i64) -> Ratio {
    Ratio::new(volume.into(), 100)
}

/// `units × marginRate / leverage`, in the account's smallest unit.
pub(crate) fn used_margin(volume: i64, margin_rate_e8: i64, factor: Ratio, digits: u32) -> i64 {
    units(volume)
        .times(Ratio::new(margin_rate_e8.into(), 100_000_000))
        .times(factor)
        .scaled(digits)
        .round()
}

/// Gross profit of `volume` closed at a raw price, in the account's smallest unit.
pub(crate) fn gross(position: &Position, volume: i64, close: i64, rate: Ratio, digits: u32) -> i64 {
    let (entry, exit) = (Ratio::fine(position.price), Ratio::raw(close));
    let difference = match position.side {
        Side::Buy => exit.minus(entry),
        Side::Sell => entry.minus(exit),
    };
    difference
        .times(units(volume))
        .times(rate)
        .scaled(digits)
        .round()
}

/// Commission of one side, in the account's smallest unit, never positive.
pub(crate) fn commission(venue: &Venue, account: &Account, symbol: &Symbol, volume: i64) -> i64 {
    let usd =
        |amount: Ratio| Some(amount.times(venue.rate(venue.asset("USD")?, account.deposit_asset)?));
    let quote =
        |amount: Ratio| Some(amount.times(venue.rate(symbol.spec.quote, account.deposit_asset)?));
    let lots = Ratio::new(volume.into(), symbol.spec.lot_size.into());
    let e8 = |rate: i64| Ratio::new(rate.into(), 100_000_000);
    let charge = match symbol.spec.commission {
        Commission::Free => None,
        Commission::UsdPerLot(rate) => usd(lots.times(e8(rate))),
        Commission::QuotePerLot(rate) => quote(lots.times(e8(rate))),
        Commission::UsdPerMillionUsd(rate) => venue.base_to_usd(symbol).and_then(|value| {
            usd(units(volume)
                .times(value)
                .times(e8(rate))
                .over(Ratio::int(1_000_000)))
        }),
        Commission::PercentageOfValue(rate) => symbol.bid.and_then(|bid| {
            quote(
                units(volume)
                    .times(Ratio::raw(bid))
                    .times(Ratio::new(rate.into(), 10_000_000)),
            )
        }),
    };
    -charge.unwrap_or(Ratio::ZERO).scaled(account.digits).round()
}

/// What opening a volume costs and ties up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) commission: i64,
    pub(crate) margin_rate_e8: i64,
    pub(crate) margin_factor: Ratio,
}

pub(crate) fn opening(
    venue: &Venue,
    account: &Account,
    symbol: i64,
    side: Side,
    volume: i64,
) -> Opening {
    let Some(symbol) = venue.symbols.get(&symbol) else {
        return Opening {
            commission: 0,
            margin_rate_e8: 0,
            margin_factor: Ratio::ZERO,
        };
    };
    let rate = venue.rate(symbol.spec.base, account.deposit_asset);
    // An index has no symbol that leads from its base asset: it is valued by its own price.
    let rate = rate.or_else(|| {
        let quote = venue.rate(symbol.spec.quote, account.deposit_asset)?;
        Some(Ratio::raw(symbol.bid?).times(quote))
    });
    Opening {
        commission: commission(venue, account, symbol, volume),
        margin_rate_e8: rate.unwrap_or(Ratio::ZERO).scaled(8).round(),
        margin_factor: margin_factor(venue, account, symbol, side, volume),
    }
}

/// 1 / leverage, or the mix of the tiers that the volume falls into, given what the side holds already.
fn margin_factor(
    venue: &Venue,
    account: &Account,
    symbol: &Symbol,
    side: Side,
    volume: i64,
) -> Ratio {
    let own = i64::from(account.leverage.max(1));
    let flat = Ratio::new(1, own.into());
    let table = symbol
        .spec
        .leverage_id
        .and_then(|id| venue.leverages.iter().find(|table| table.id == id));
    let (Some(table), Some(usd), true) = (table, venue.base_to_usd(symbol), volume > 0) else {
        return flat;
    };
    let held: i64 = account
        .positions
        .values()
        .filter(|position| position.symbol == symbol.spec.id && position.side == side)
        .map(|position| position.volume)
        .sum();
    // A volume is in 1/100 unit, so its value is in USD cents.
    let value = |volume: i64| Ratio::int(volume).times(usd);
    let (mut at, end) = (value(held), value(held + volume));
    let mut margin = Ratio::ZERO;
    for (index, (limit, leverage)) in table.tiers.iter().enumerate() {
        let last = index + 1 == table.tiers.len();
        let upper = if last {
            end
        } else {
            end.min(Ratio::int(*limit))
        };
        if at.less_than(upper) {
            let leverage = own.min(i64::from(*leverage));
            margin = margin.plus(upper.minus(at).over(Ratio::int(leverage)));
            at = upper;
        }
    }
    margin.over(value(volume))
}

impl Account {
    /// Margin of a position in the account's smallest unit.
    pub(crate) fn used_margin(&self, position: &Position) -> i64 {
        used_margin(
            position.volume,
            position.margin_rate_e8,
            position.margin_factor,
            self.digits,
        )
    }
}

/// Σ of the positions' margins by the account's rule.
pub(crate) fn total_margin(account: &Account) -> i64 {
    let mut sides: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for position in account.positions.values() {
        let margin = account.used_margin(position);
        let (long, short) = sides.entry(position.symbol).or_default();
        match position.side {
            Side::Buy => *long += margin,
            Side::Sell => *short += margin,
        }
    }
    let rule = |(long, short): &(i64, i64)| match account.margin_type {
        MarginType::Max => *long.max(short),
        MarginType::Sum => long + short,
        MarginType::Net => (long - short).abs(),
    };
    sides.values().map(rule).sum()
}

/// The price a position would close at: bid for a long, ask for a short.
pub(crate) fn closing_price(symbol: &Symbol, side: Side) -> Option<i64> {
    match side {
        Side::Buy => symbol.bid,
        Side::Sell => symbol.ask,
    }
}

/// Gross profit of an open position now.
pub(crate) fn floating(venue: &Venue, account: &Account, position: &Position) -> Option<i64> {
    let symbol = venue.symbols.get(&position.symbol)?;
    let close = closing_price(symbol, position.side)?;
    let rate = venue.rate(symbol.spec.quote, account.deposit_asset)?;
    Some(gross(
        position,
        position.volume,
        close,
        rate,
        account.digits,
    ))
}

/// Bonus that counts towards equity: `clamp(min(total bonus, balance + Σ net), ≥ 0)`.
pub(crate) fn active_bonus(account: &Account, net: i64) -> i64 {
    (account.manager_bonus + account.ib_bonus)
        .min(account.balance + net)
        .max(0)
}
