//! A broker and an account as a seed has them, and how the account began.

use std::collections::BTreeMap;

use mahspeccy_bridge::sim::presets::{alpha, beta};
use mahspeccy_bridge::sim::{
    AccountSpec, BrokerSpec, Builder, MarginType, PositionSpec, Side, Simulator, SymbolSpec,
};

use super::reference::{Position, Start};
use crate::support::pair::{Chance, Pair};

pub(super) const ACCOUNT: i64 = 1001;
pub(super) const TOKEN: &str = "token";

/// A world to play in.
pub(super) struct World {
    pub(super) broker: BrokerSpec,
    account: AccountSpec,
    currency: &'static str,
    digits: u8,
    balance: i64,
    bonus: i64,
    rule: MarginType,
    entries: BTreeMap<i64, i64>,
}

/// The smallest step of a symbol's price, raw.
pub(super) fn tick(symbol: &SymbolSpec) -> i64 {
    10_i64.pow(u32::try_from(5 - symbol.digits).expect("five digits at most"))
}

/// A broker of the two; the first one also has a symbol that nobody has quoted yet.
fn broker(chance: &mut Chance) -> (BrokerSpec, &'static [&'static str]) {
    if chance.per_mille(200) {
        return (beta(), &["EUR", "USD", "JPY", "GBP"]);
    }
    let unquoted = SymbolSpec::new(70, "AUDUSD", 10, 2);
    let broker = alpha().asset(10, "AUD", 2).symbol(unquoted);
    (broker, &["EUR", "USD", "JPY", "GBP", "CHF", "TRY"])
}

impl World {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let (broker, currencies) = broker(chance);
        let currency = chance.pick(currencies);
        let digits = chance.pick(&[0_u8, 2, 2, 8]);
        let unit = 10_i64.pow(u32::from(digits));
        let dear = if currency == "JPY" { 150 } else { 1 };
        let balance = unit * dear * chance.pick(&[2_000, 50_000, 500_000]);
        let bonus = chance.pick(&[0, 0, balance / 50, balance * 2]);
        let introduced = chance.pick(&[0, 0, balance / 100]);
        let rule = chance.pick(&[MarginType::Max, MarginType::Sum, MarginType::Net]);
        let mut account = AccountSpec::new(ACCOUNT)
            .token(TOKEN)
            .currency(currency)
            .money_digits(digits.into())
            .balance(balance)
            .balance_version(1 + i64::try_from(chance.below(1_000)).expect("few"))
            .margin_type(rule)
            .bonus(bonus, introduced);
        account = match chance.below(5) {
            0 => account.position_money_digits(8),
            1 => account.money_digits_on_trader_only(),
            2 if digits == 2 => account.money_digits_absent(),
            _ => account,
        };
        if chance.per_mille(300) {
            account = account.netted();
        }
        if chance.per_mille(300) {
            account = account.stop_out_level(50);
        }
        let mut world = Self {
            broker,
            account,
            currency,
            digits,
            balance,
            bonus: bonus + introduced,
            rule,
            entries: BTreeMap::new(),
        };
        world.plant(chance);
        world
    }

    /// Up to three positions in as many symbols.
    fn plant(&mut self, chance: &mut Chance) {
        for id in 501..501 + i64::try_from(chance.below(4)).expect("few") {
            let index = usize::try_from(chance.below(self.broker.symbols.len() as u64));
            let symbol = &self.broker.symbols[index.expect("few")];
            let planted = self.account.clone();
            let price = if symbol.bid == 0 { 65_000 } else { symbol.bid };
            let away = i64::try_from(chance.below(41)).expect("few") - 20;
            let entry = (price + price / 2_000 * away) / tick(symbol) * tick(symbol);
            let side = chance.pick(&[Side::Buy, Side::Sell]);
            let volume = symbol.min_volume * chance.pick(&[1, 2, 5]);
            let mut position = PositionSpec::new(id, &symbol.name, side, volume, entry)
                .swap(chance.pick(&[0, -7, 13]))
                .commission(chance.pick(&[0, -35, -60]));
            if chance.per_mille(300) {
                let far = entry / 3 / tick(symbol) * tick(symbol);
                let levels = match side {
                    Side::Buy => (Some(entry - far), Some(entry + far)),
                    Side::Sell => (Some(entry + far), Some(entry - far)),
                };
                position = position.levels(levels.0, levels.1);
            }
            self.entries.insert(id, entry);
            self.account = planted.position(position);
        }
    }

    pub(super) fn builder(&self) -> Builder {
        Simulator::builder()
            .market_paused()
            .ticks_per_second(3.0)
            .broker(self.broker.clone())
            .account(self.account.clone())
    }

    /// How the account begins: what the simulator has before anything happens.
    pub(super) fn start(&self, pair: &Pair) -> Start {
        let begun = pair.broker.truth(ACCOUNT).expect("the account exists");
        let assets = &self.broker.assets;
        let deposit = assets.iter().find(|asset| asset.name == self.currency);
        let held = begun.positions.iter().map(|held| {
            let position = Position {
                symbol: held.symbol_id,
                side: held.side,
                volume: held.volume.into(),
                entry: i128::from(self.entries[&held.id]) * 100_000,
                swap: held.swap.into(),
                commission: held.commission.into(),
                margin: held.used_margin.into(),
                stop_loss: held.stop_loss,
                take_profit: held.take_profit,
            };
            (held.id, position)
        });
        Start {
            account: ACCOUNT,
            broker: self.broker.clone(),
            deposit_asset: deposit.expect("the broker has its currency").id,
            digits: self.digits,
            balance: self.balance.into(),
            version: begun.balance_version,
            bonus: self.bonus.into(),
            rule: self.rule,
            positions: held.collect(),
        }
    }
}
