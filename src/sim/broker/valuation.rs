//! What an account is worth now.

use crate::ctrader::wire::{self, ProtoOaOrderType as OrderType};
use crate::sim::state::broker::Broker;
use crate::sim::state::money;
use crate::sim::state::ratio::{Ratio, fine_f64};
use crate::sim::state::truth::{AccountTruth, PositionTruth};

impl Broker {
    /// An account's truth now.
    pub fn truth(&self, account: i64) -> Option<AccountTruth> {
        let account = self.accounts.get(&account)?;
        let venue = self.venues.get(account.venue)?;
        let positions: Vec<PositionTruth> = account
            .positions
            .values()
            .map(|position| {
                let floating = money::floating(venue, account, position);
                let gross = floating.unwrap_or_default();
                PositionTruth {
                    id: position.id,
                    symbol_id: position.symbol,
                    symbol: venue
                        .symbols
                        .get(&position.symbol)
                        .map(|s| s.spec.name.clone())
                        .unwrap_or_default(),
                    side: position.side,
                    volume: position.volume,
                    price: fine_f64(position.price),
                    gross,
                    priced: floating.is_some(),
                    net: gross + position.swap + position.commission,
                    swap: position.swap,
                    commission: position.commission,
                    used_margin: account.used_margin(position),
                    stop_loss: position.stop_loss,
                    take_profit: position.take_profit,
                }
            })
            .collect();
        let gross = positions.iter().map(|position| position.gross).sum();
        let net = positions.iter().map(|position| position.net).sum();
        let active_bonus = money::active_bonus(account, net);
        let equity = account.balance + net + active_bonus;
        let used_margin = money::total_margin(account);
        let level =
            (used_margin > 0).then(|| Ratio::new(i128::from(equity) * 100, used_margin.into()));
        Some(AccountTruth {
            balance: account.balance,
            balance_version: account.balance_version,
            money_digits: account.digits,
            active_bonus,
            gross,
            net,
            equity,
            used_margin,
            free_margin: equity - used_margin,
            margin_level: level.map(Ratio::to_f64),
            positions,
            pending: account
                .orders
                .values()
                .filter(|order| is_pending(order))
                .map(|order| order.order_id)
                .collect(),
        })
    }
}

/// Whether an order waits for its price, and is not the protective order of a position.
fn is_pending(order: &wire::ProtoOaOrder) -> bool {
    let kind = OrderType::try_from(order.order_type).ok();
    matches!(
        kind,
        Some(OrderType::Limit | OrderType::Stop | OrderType::StopLimit)
    )
}
