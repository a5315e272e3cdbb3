//! One account's state: what a snapshot and the events after it amount to, in whatever order they come.
//!
//! Balances are ordered by `balanceVersion`, positions and orders by `utcLastUpdateTimestamp`, and
//! what has ended stays ended: so a duplicate, or an event that was already in the snapshot,
//! changes nothing. The balance moves only with closing deals and cash operations.

use std::collections::VecDeque;
use std::sync::Arc;

use litemap::LiteMap;

use super::decimal::Decimal;
use super::ids::{AssetId, OrderId, PositionId, SymbolId};
use super::position::{Order, OrderStatus, Position, PositionStatus};

/// How many ended positions and orders are remembered, each: far more than can be in flight.
const ENDED_MAX: usize = 512;

/// How positions in one symbol share their margin (`ProtoOATotalMarginCalculationType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarginRule {
    /// The larger of the long total and the short total.
    Max,
    /// All of them.
    Sum,
    /// The difference of the two sides.
    Net,
}

/// The account entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trader {
    /// Digits of the account's own money: all its figures have that many.
    pub money_digits: u8,
    /// Cash.
    pub balance: Decimal,
    /// +1 with every change of the balance.
    pub balance_version: Option<i64>,
    /// Bonus given by the broker and by introducing brokers.
    pub bonus: Bonus,
    /// What the account is kept in.
    pub deposit_asset: AssetId,
    /// How margin adds up.
    pub margin_rule: MarginRule,
    /// The number the user sees.
    pub login: Option<i64>,
    /// The broker's name: accounts of one broker share symbols.
    pub broker: Option<Arc<str>>,
}

/// The two parts of an account's bonus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bonus {
    /// From the broker.
    pub manager: Decimal,
    /// From introducing brokers.
    pub introducing: Decimal,
}

/// The bonus after a bonus operation, and which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BonusChange {
    /// After the operation.
    pub bonus: Bonus,
    /// `changeBonusTimestamp` and `bonusHistoryId`: they order the operations.
    pub sequence: (i64, i64),
}

/// A balance and the version it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// After the change.
    pub amount: Decimal,
    /// Which change.
    pub version: Option<i64>,
}

/// The parts of an execution event that change the account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Execution {
    /// The position after the event.
    pub position: Option<(PositionStatus, Position)>,
    /// The order after the event.
    pub order: Option<Order>,
    /// The balance after a closing deal or a cash operation.
    pub balance: Option<Balance>,
    /// The bonus after a bonus operation.
    pub bonus: Option<BonusChange>,
}

/// Something that happened to the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountEvent {
    /// An order, position, deal or cash change.
    Execution(Box<Execution>),
    /// The account entity changed.
    Trader(Box<Trader>),
    /// The server holds another margin for a position.
    Margin(PositionId, Decimal),
    /// A trailing stop moved, at that time in milliseconds since the epoch.
    TrailingStop(PositionId, Decimal, i64),
}

/// An account between a snapshot and the end of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    trader: Trader,
    positions: LiteMap<PositionId, Box<Position>>,
    orders: LiteMap<OrderId, Box<Order>>,
    ended_positions: VecDeque<PositionId>,
    ended_orders: VecDeque<OrderId>,
    /// The last bonus operation.
    bonus_sequence: Option<(i64, i64)>,
}

impl Account {
    /// The account as a snapshot has it.
    #[must_use]
    pub fn new(
        trader: Trader,
        positions: impl IntoIterator<Item = (PositionStatus, Position)>,
        orders: impl IntoIterator<Item = Order>,
    ) -> Self {
        let empty = Self {
            trader,
            positions: LiteMap::new(),
            orders: LiteMap::new(),
            ended_positions: VecDeque::new(),
            ended_orders: VecDeque::new(),
            bonus_sequence: None,
        };
        empty.filled(positions, orders)
    }

    /// The account as a later snapshot has it. What was seen to end stays ended, and the later balance
    /// of the two counts: a snapshot may lag behind the events.
    #[must_use]
    pub fn renewed(
        &self,
        trader: Trader,
        positions: impl IntoIterator<Item = (PositionStatus, Position)>,
        orders: impl IntoIterator<Item = Order>,
    ) -> Self {
        let mut empty = Self {
            trader: self.trader.clone(),
            positions: LiteMap::new(),
            orders: LiteMap::new(),
            ended_positions: self.ended_positions.clone(),
            ended_orders: self.ended_orders.clone(),
            bonus_sequence: self.bonus_sequence,
        };
        empty.apply_trader(trader);
        empty.filled(positions, orders)
    }

    fn filled(
        mut self,
        positions: impl IntoIterator<Item = (PositionStatus, Position)>,
        orders: impl IntoIterator<Item = Order>,
    ) -> Self {
        for (status, position) in positions {
            self.apply_position(status, position);
        }
        for order in orders {
            self.apply_order(order);
        }
        self
    }

    /// The account entity.
    #[must_use]
    pub const fn trader(&self) -> &Trader {
        &self.trader
    }

    /// Open positions, by id.
    pub fn positions(&self) -> impl ExactSizeIterator<Item = &Position> {
        self.positions.values().map(Box::as_ref)
    }

    /// Pending orders, by id.
    pub fn orders(&self) -> impl ExactSizeIterator<Item = &Order> {
        self.orders.values().map(Box::as_ref)
    }

    /// The symbols of all positions and orders.
    pub fn symbols(&self) -> impl Iterator<Item = SymbolId> + '_ {
        let positions = self.positions.values().map(|position| position.symbol);
        positions.chain(self.orders.values().map(|order| order.symbol))
    }

    /// Applies one event; returns whether anything is different now.
    pub fn apply(&mut self, event: AccountEvent) -> bool {
        match event {
            AccountEvent::Execution(execution) => {
                let Execution {
                    position,
                    order,
                    balance,
                    bonus,
                } = *execution;
                let mut changed = false;
                if let Some((status, position)) = position {
                    changed |= self.apply_position(status, position);
                }
                if let Some(order) = order {
                    changed |= self.apply_order(order);
                }
                if let Some(balance) = balance {
                    changed |= self.apply_balance(balance);
                }
                if let Some(change) = bonus {
                    changed |= self.apply_bonus(change);
                }
                changed
            }
            AccountEvent::Trader(trader) => self.apply_trader(*trader),
            AccountEvent::Margin(id, used_margin) => {
                self.positions.get_mut(&id).is_some_and(|position| {
                    let changed = position.used_margin != used_margin;
                    position.used_margin = used_margin;
                    changed
                })
            }
            AccountEvent::TrailingStop(id, stop_loss, at_ms) => self
                .positions
                .get_mut(&id)
                .is_some_and(|position| trail(position, stop_loss, at_ms)),
        }
    }

    fn apply_bonus(&mut self, change: BonusChange) -> bool {
        let older = self
            .bonus_sequence
            .is_some_and(|last| change.sequence < last);
        if older || self.trader.bonus == change.bonus {
            return false;
        }
        self.trader.bonus = change.bonus;
        self.bonus_sequence = Some(change.sequence);
        true
    }

    /// Settings count as they come; an earlier balance brings neither itself nor its bonus.
    fn apply_trader(&mut self, trader: Trader) -> bool {
        let before = self.trader.clone();
        let older = is_older(trader.balance_version, before.balance_version);
        let balance = Balance {
            amount: trader.balance,
            version: trader.balance_version,
        };
        self.trader = Trader {
            balance: before.balance,
            balance_version: before.balance_version,
            bonus: if older { before.bonus } else { trader.bonus },
            ..trader
        };
        self.apply_balance(balance);
        self.trader != before
    }

    fn apply_balance(&mut self, balance: Balance) -> bool {
        let older = is_older(balance.version, self.trader.balance_version);
        let amount = balance.amount.rescale(self.trader.money_digits);
        let version = balance.version.or(self.trader.balance_version);
        if older || (self.trader.balance, self.trader.balance_version) == (amount, version) {
            return false;
        }
        self.trader.balance = amount;
        self.trader.balance_version = version;
        true
    }

    fn apply_position(&mut self, status: PositionStatus, position: Position) -> bool {
        let id = position.id;
        let ends = match status {
            PositionStatus::Created => return false,
            PositionStatus::Open => position.volume == 0,
            PositionStatus::Closed | PositionStatus::Error => true,
        };
        if ends {
            remember(&mut self.ended_positions, id);
            return self.positions.remove(&id).is_some();
        }
        if self.ended_positions.contains(&id) {
            return false;
        }
        let mut position = position;
        if let Some(stored) = self.positions.get(&id) {
            if is_older(position.updated_at_ms, stored.updated_at_ms) {
                return false;
            }
            // A stop that trailed since is not in an earlier state of the position.
            if is_older(position.updated_at_ms, stored.trailed_at_ms) {
                position.stop_loss = stored.stop_loss;
                position.trailed_at_ms = stored.trailed_at_ms;
            }
            if **stored == position {
                return false;
            }
        }
        self.positions.insert(id, Box::new(position));
        true
    }

    fn apply_order(&mut self, order: Order) -> bool {
        let id = order.id;
        if !order.order_type.is_pending() {
            return false;
        }
        if order.status != OrderStatus::Accepted {
            remember(&mut self.ended_orders, id);
            return self.orders.remove(&id).is_some();
        }
        let stale = self.ended_orders.contains(&id)
            || self.orders.get(&id).is_some_and(|stored| {
                is_older(order.updated_at_ms, stored.updated_at_ms) || **stored == order
            });
        if !stale {
            self.orders.insert(id, Box::new(order));
        }
        !stale
    }
}

/// Whether a version is behind the stored one; what has no version can't be ordered and counts.
fn is_older(new: Option<i64>, stored: Option<i64>) -> bool {
    new.zip(stored).is_some_and(|(new, stored)| new < stored)
}

/// A trailing stop's move. It leaves the position's own time of change alone, so it has one of its own.
fn trail(position: &mut Position, stop_loss: Decimal, at_ms: i64) -> bool {
    if is_older(Some(at_ms), position.updated_at_ms)
        || is_older(Some(at_ms), position.trailed_at_ms)
    {
        return false;
    }
    let changed = position.stop_loss != Some(stop_loss);
    position.stop_loss = Some(stop_loss);
    position.trailed_at_ms = Some(at_ms);
    changed
}

fn remember<T: PartialEq>(ended: &mut VecDeque<T>, id: T) {
    if !ended.contains(&id) {
        if ended.len() == ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(id);
    }
}

#[cfg(test)]
mod tests;
