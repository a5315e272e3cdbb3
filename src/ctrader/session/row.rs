//! The row of a live session.

use time::OffsetDateTime;

use super::state::Session;
use crate::ctrader::convert::{display_price, lots, time_ms};
use crate::domain::decimal::Decimal;
use crate::domain::equity::{self, PositionValue};
use crate::domain::position::{Order, Position, VOLUME_SCALE};
use crate::domain::row::{AccountRow, OrderRow, PositionRow};

impl Session {
    /// Whether quotes value all of the account's positions.
    pub(in crate::ctrader) fn is_valued(&self) -> bool {
        self.account.as_ref().is_some_and(|account| {
            account
                .positions()
                .all(|position| equity::is_valued(position, account, &self.market))
        })
    }

    pub(in crate::ctrader) fn row(&self, event_at: OffsetDateTime) -> Option<AccountRow> {
        let account = self.account.as_ref()?;
        let trader = account.trader();
        let value = equity::value_with(account, &self.market, &self.checks.pnl_fallbacks);
        let positions = account.positions().zip(&value.positions);
        Some(AccountRow {
            trader_login: trader.login,
            currency: self.currency.clone(),
            balance: trader.balance,
            equity: value.equity,
            unrealized_gross: value.gross,
            unrealized_net: value.net,
            used_margin: value.used_margin,
            free_margin: value.free_margin,
            bonus: value.active_bonus,
            margin_level: value.margin_level,
            positions: positions
                .map(|(position, value)| self.position_row(position, value))
                .collect(),
            orders: account
                .orders()
                .map(|order| self.order_row(order))
                .collect(),
            balance_version: trader.balance_version,
            event_at,
        })
    }

    fn position_row(&self, position: &Position, value: &PositionValue) -> PositionRow {
        let symbol = self.market.symbols.get(&position.symbol).map(AsRef::as_ref);
        let shown = |price: Option<Decimal>| price.map(|price| display_price(price, symbol));
        PositionRow {
            position_id: position.id,
            symbol: symbol.and_then(|symbol| symbol.name.clone()),
            symbol_id: position.symbol,
            side: position.side.as_str(),
            volume: volume(position.volume),
            lots: lots(position.volume, symbol),
            entry_price: shown(position.entry),
            // A spot has five digits whatever the symbol's: none of them is lost here.
            current_price: value
                .close
                .map(|price| price.trim(symbol.map_or(0, |symbol| symbol.digits))),
            stop_loss: shown(position.stop_loss),
            take_profit: shown(position.take_profit),
            swap: value.swap,
            commission: value.commission,
            gross_profit: value.gross,
            net_profit: value.net,
            used_margin: value.used_margin,
            opened_at: position.opened_at_ms.and_then(time_ms),
            label: position.label.clone(),
            comment: position.comment.clone(),
        }
    }

    fn order_row(&self, order: &Order) -> OrderRow {
        let symbol = self.market.symbols.get(&order.symbol).map(AsRef::as_ref);
        let shown = |price: Option<Decimal>| price.map(|price| display_price(price, symbol));
        OrderRow {
            order_id: order.id,
            position_id: order.position,
            symbol: symbol.and_then(|symbol| symbol.name.clone()),
            symbol_id: order.symbol,
            side: order.side.as_str(),
            order_type: order.order_type.as_str(),
            volume: volume(order.volume),
            lots: lots(order.volume, symbol),
            limit_price: shown(order.limit_price),
            stop_price: shown(order.stop_price),
            stop_loss: shown(order.stop_loss),
            take_profit: shown(order.take_profit),
            expires_at: order.expires_at_ms.and_then(time_ms),
            created_at: order.created_at_ms.and_then(time_ms),
            label: order.label.clone(),
            comment: order.comment.clone(),
        }
    }
}

/// Volume in units, with no needless digits.
fn volume(hundredths: i64) -> Decimal {
    Decimal::new(i128::from(hundredths), VOLUME_SCALE).trim(0)
}
