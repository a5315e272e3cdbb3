//! An account recomputed from nothing: how it began, and the plain list of what happened since.
//!
//! It is slow and simple on purpose, and shares no code with either end. Every call begins at the
//! beginning. Money is a count of the account's smallest unit, an entry price a count of 10^-10, a
//! quote a count of 10^-5.

use std::collections::BTreeMap;

use mahspeccy_bridge::ctrader::wire;
use mahspeccy_bridge::sim::{BrokerSpec, JournalEntry, JournalEvent, MarginType, Side};

use super::exact::{Fraction, ten};
use super::figures::{Figures, Held, Pending};

/// Digits of an entry price as the server keeps it.
const ENTRY_DIGITS: u8 = 10;

/// Order types that wait for a price: LIMIT, STOP and STOP_LIMIT.
const PENDING: [i32; 3] = [2, 3, 6];
const ACCEPTED: i32 = 1;
const CONVERSION_MAX: usize = 3;

/// A position as the list of deals has it.
#[derive(Debug, Clone)]
pub(super) struct Position {
    pub(super) symbol: i64,
    pub(super) side: Side,
    /// 1/100 unit.
    pub(super) volume: i128,
    pub(super) entry: i128,
    pub(super) swap: i128,
    pub(super) commission: i128,
    pub(super) margin: i128,
    pub(super) stop_loss: Option<i64>,
    pub(super) take_profit: Option<i64>,
}

/// How an account began.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) account: i64,
    pub(super) broker: BrokerSpec,
    pub(super) deposit_asset: i64,
    pub(super) digits: u8,
    pub(super) balance: i128,
    pub(super) version: i64,
    pub(super) bonus: i128,
    pub(super) rule: MarginType,
    pub(super) positions: BTreeMap<i64, Position>,
}

/// The account at some point of the list.
struct Book<'a> {
    start: &'a Start,
    quotes: BTreeMap<i64, (Option<i64>, Option<i64>)>,
    balance: i128,
    version: i64,
    bonus: i128,
    rule: MarginType,
    positions: BTreeMap<i64, Position>,
    orders: BTreeMap<i64, &'a wire::ProtoOaOrder>,
}

impl Start {
    /// What the row must be after all of this.
    pub(super) fn after(&self, happened: &[JournalEntry]) -> Figures {
        let known = |price: i64| (price > 0).then_some(price);
        let symbols = self.broker.symbols.iter();
        let mut book = Book {
            start: self,
            quotes: symbols
                .map(|symbol| (symbol.id, (known(symbol.bid), known(symbol.ask))))
                .collect(),
            balance: self.balance,
            version: self.version,
            bonus: self.bonus,
            rule: self.rule,
            positions: self.positions.clone(),
            orders: BTreeMap::new(),
        };
        for entry in happened {
            if entry.account == 0 || entry.account == self.account {
                book.add(&entry.event);
            }
        }
        book.figures()
    }

    /// The symbols that lead from one asset to another, the fewest there are, and in each whether
    /// it is entered by its base.
    fn path(&self, from: i64, to: i64, most: usize) -> Option<Vec<(i64, bool)>> {
        if from == to {
            return Some(Vec::new());
        }
        (0..most).find_map(|fewer| {
            self.broker.symbols.iter().find_map(|symbol| {
                let (next, by_base) = match from {
                    from if from == symbol.base => (symbol.quote, true),
                    from if from == symbol.quote => (symbol.base, false),
                    _ => return None,
                };
                let rest = self.path(next, to, fewer)?;
                Some([vec![(symbol.id, by_base)], rest].concat())
            })
        })
    }
}

impl<'a> Book<'a> {
    fn add(&mut self, what: &'a JournalEvent) {
        match what {
            JournalEvent::Quote {
                broker,
                symbol,
                bid,
                ask,
            } => {
                if *broker == self.start.broker.title {
                    let quote = self.quotes.entry(*symbol).or_default();
                    *quote = (bid.or(quote.0), ask.or(quote.1));
                }
            }
            JournalEvent::Deal(deal) => self.deal(deal),
            JournalEvent::Cash(delta) => {
                self.balance += i128::from(*delta);
                self.version += 1;
            }
            JournalEvent::Bonus(manager, introducing) => {
                self.bonus += i128::from(manager + introducing);
            }
            JournalEvent::Swap(id, delta) => self.held(*id).swap += i128::from(*delta),
            JournalEvent::Margin(id, margin) => self.held(*id).margin = i128::from(*margin),
            JournalEvent::Levels(id, stop_loss, take_profit) => {
                let position = self.held(*id);
                position.stop_loss = *stop_loss;
                position.take_profit = *take_profit;
            }
            JournalEvent::Order(order) => {
                let waits = PENDING.contains(&order.order_type) && order.order_status == ACCEPTED;
                if waits {
                    self.orders.insert(order.order_id, order);
                } else {
                    self.orders.remove(&order.order_id);
                }
            }
            JournalEvent::MarginType(rule) => self.rule = *rule,
        }
    }

    fn held(&mut self, id: i64) -> &mut Position {
        self.positions.get_mut(&id).expect("the position is open")
    }

    fn deal(&mut self, deal: &wire::ProtoOaDeal) {
        let volume = i128::from(deal.filled_volume);
        let price = raw(deal.execution_price.expect("it was executed"));
        let commission = i128::from(deal.commission.unwrap_or(0));
        if let Some(close) = &deal.close_position_detail {
            let position = self.held(deal.position_id).clone();
            let gross = self
                .profit(&position, volume, price)
                .expect("it was closed at known prices");
            assert_eq!(gross, i128::from(close.gross_profit), "of {deal:?}");
            let closed = i128::from(close.commission) - commission;
            self.balance += gross
                + i128::from(close.swap)
                + i128::from(close.commission)
                + i128::from(close.pnl_conversion_fee.unwrap_or(0));
            self.version += 1;
            let after = (close.balance, close.balance_version);
            assert_eq!(after.1, Some(self.version), "of {deal:?}");
            assert_eq!(i128::from(after.0), self.balance, "of {deal:?}");
            let left = self.held(deal.position_id);
            left.volume -= volume;
            left.swap -= i128::from(close.swap);
            left.commission -= closed;
            if left.volume == 0 {
                self.positions.remove(&deal.position_id);
            }
            return;
        }
        let added = i128::from(price) * ten(ENTRY_DIGITS - 5);
        let position = self
            .positions
            .entry(deal.position_id)
            .or_insert_with(|| Position {
                symbol: deal.symbol_id,
                side: if deal.trade_side == 1 {
                    Side::Buy
                } else {
                    Side::Sell
                },
                volume: 0,
                entry: 0,
                swap: 0,
                commission: 0,
                margin: 0,
                stop_loss: None,
                take_profit: None,
            });
        let all = position.entry * position.volume + added * volume;
        position.volume += volume;
        position.entry = Fraction::whole(all).over(position.volume).nearest();
        position.commission += commission;
    }

    /// What one of an asset is worth in the deposit asset, by the bids.
    fn worth(&self, asset: i64) -> Option<Fraction> {
        let path = self
            .start
            .path(asset, self.start.deposit_asset, CONVERSION_MAX)?;
        let mut worth = Fraction::whole(1);
        for (symbol, by_base) in path {
            let bid = i128::from(self.quotes.get(&symbol)?.0?);
            worth = if by_base {
                worth.times(bid).over(ten(5))
            } else {
                worth.times(ten(5)).over(bid)
            };
        }
        Some(worth)
    }

    fn profit(&self, position: &Position, volume: i128, price: i64) -> Option<i128> {
        let symbols = &self.start.broker.symbols;
        let symbol = symbols.iter().find(|symbol| symbol.id == position.symbol)?;
        let price = i128::from(price) * ten(ENTRY_DIGITS - 5);
        let gained = match position.side {
            Side::Buy => price - position.entry,
            Side::Sell => position.entry - price,
        };
        let in_quote = Fraction::whole(gained * volume).over(ten(ENTRY_DIGITS + 2));
        let in_deposit = in_quote.by(self.worth(symbol.quote)?);
        Some(in_deposit.times(ten(self.start.digits)).nearest())
    }

    fn position(&self, id: i64, position: &Position) -> Held {
        let symbols = &self.start.broker.symbols;
        let symbol = symbols
            .iter()
            .find(|symbol| symbol.id == position.symbol)
            .expect("the broker has it");
        let quote = self.quotes.get(&position.symbol);
        let price = quote.and_then(|(bid, ask)| match position.side {
            Side::Buy => *bid,
            Side::Sell => *ask,
        });
        let gross = price.and_then(|price| self.profit(position, position.volume, price));
        let digits = u8::try_from(symbol.digits).expect("few digits");
        let unit = ten(ENTRY_DIGITS - digits);
        let shown = Fraction::whole(position.entry).over(unit).nearest() * unit;
        Held {
            id,
            symbol: symbol.name.clone(),
            symbol_id: symbol.id,
            side: name(position.side),
            volume: position.volume,
            entry: shown,
            price: price.map(i128::from),
            stop_loss: position.stop_loss.map(i128::from),
            take_profit: position.take_profit.map(i128::from),
            swap: position.swap,
            commission: position.commission,
            gross,
            net: gross.map(|gross| gross + position.swap + position.commission),
            margin: position.margin,
        }
    }

    fn figures(&self) -> Figures {
        let positions: Vec<Held> = self
            .positions
            .iter()
            .map(|(id, position)| self.position(*id, position))
            .collect();
        let gross = positions
            .iter()
            .map(|held| held.gross)
            .sum::<Option<i128>>();
        let net = positions.iter().map(|held| held.net).sum::<Option<i128>>();
        let bonus = net.map(|net| self.bonus.min(self.balance + net).max(0));
        let equity = net
            .zip(bonus)
            .map(|(net, bonus)| self.balance + net + bonus);
        let margin = self.margin(&positions);
        let level = equity
            .filter(|_| margin > 0)
            .map(|equity| Fraction::whole(equity * 1_000_000).over(margin).nearest());
        Figures {
            balance: self.balance,
            version: Some(self.version),
            bonus,
            gross,
            net,
            equity,
            margin,
            free_margin: equity.map(|equity| equity - margin),
            level,
            positions,
            orders: self.orders.values().copied().map(pending).collect(),
        }
    }

    fn margin(&self, positions: &[Held]) -> i128 {
        let of = |symbol: i64, side: Side| -> i128 {
            let held = positions.iter();
            held.filter(|held| held.symbol_id == symbol && held.side == name(side))
                .map(|held| held.margin)
                .sum()
        };
        let symbols = self.start.broker.symbols.iter();
        let totals = symbols.map(|symbol| (of(symbol.id, Side::Buy), of(symbol.id, Side::Sell)));
        totals
            .map(|(long, short)| match self.rule {
                MarginType::Max => long.max(short),
                MarginType::Sum => long + short,
                MarginType::Net => (long - short).abs(),
            })
            .sum()
    }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Buy => "BUY",
        Side::Sell => "SELL",
    }
}

/// A double that is a price of at most five digits, raw.
#[expect(clippy::cast_possible_truncation, reason = "prices are far below 2^63")]
fn raw(price: f64) -> i64 {
    (price * 100_000.0).round() as i64
}

fn pending(order: &wire::ProtoOaOrder) -> Pending {
    let price = |price: Option<f64>| price.map(|price| i128::from(raw(price)));
    Pending {
        id: order.order_id,
        position: order.position_id,
        kind: match order.order_type {
            2 => "LIMIT",
            3 => "STOP",
            _ => "STOP_LIMIT",
        },
        symbol_id: order.trade_data.symbol_id,
        side: if order.trade_data.trade_side == 1 {
            "BUY"
        } else {
            "SELL"
        },
        volume: order.trade_data.volume.into(),
        limit: price(order.limit_price),
        stop: price(order.stop_price),
        stop_loss: price(order.stop_loss),
        take_profit: price(order.take_profit),
    }
}
