//! One thing that traders, the broker or the market do to an account. What the simulator refuses
//! does not happen.

use mahspeccy_bridge::sim::{
    AccountTruth, Broker, BrokerSpec, MarginType, OrderAmendment, OrderSpec, PositionTruth, Side,
    SymbolSpec,
};

use super::world::{ACCOUNT, tick};
use crate::support::pair::Chance;

/// Balance operations of every kind but deposits and withdrawals, which have their own.
const OPERATIONS: [i32; 12] = [3, 5, 9, 10, 13, 15, 16, 17, 18, 28, 34, 39];

/// Shares of the kinds of moves.
const MOVES: u64 = 34;

struct Turn<'a> {
    broker: &'a mut Broker,
    spec: &'a BrokerSpec,
    chance: &'a mut Chance,
    truth: AccountTruth,
}

/// Does one thing.
pub(super) fn anything(broker: &mut Broker, spec: &BrokerSpec, chance: &mut Chance) {
    let truth = broker.truth(ACCOUNT).expect("the account exists");
    let mut turn = Turn {
        broker,
        spec,
        chance,
        truth,
    };
    match turn.chance.below(MOVES) {
        0..=7 => turn.quote(),
        8..=13 => turn.order(),
        14..=17 => turn.close(),
        18..=20 => turn.pending(),
        21..=23 => turn.levels(),
        24..=27 => turn.money(),
        28..=30 => turn.position(),
        _ => turn.account(),
    }
}

impl Turn<'_> {
    fn few(&mut self, end: u64) -> i64 {
        i64::try_from(self.chance.below(end)).expect("few")
    }

    fn symbol(&mut self) -> SymbolSpec {
        let index = self.chance.below(self.spec.symbols.len() as u64);
        self.spec.symbols[usize::try_from(index).expect("few")].clone()
    }

    fn quote_of(&self, symbol: &SymbolSpec) -> (i64, i64) {
        let quote = self.broker.quote(&self.spec.title, &symbol.name);
        let (bid, ask) = quote.expect("the broker has it");
        // What nobody has quoted yet will be worth this.
        let bid = bid.or(ask).unwrap_or(65_000);
        (bid, ask.unwrap_or(bid + tick(symbol)))
    }

    /// A step of the price: up to half a percent, on the symbol's grid.
    fn step(&mut self, symbol: &SymbolSpec, price: i64) -> i64 {
        let reach = (price / 200 / tick(symbol)).max(1);
        (self.few(2 * reach.unsigned_abs() + 1) - reach) * tick(symbol)
    }

    fn a_position(&mut self) -> Option<PositionTruth> {
        let index = self.chance.below(self.truth.positions.len() as u64);
        let index = usize::try_from(index).expect("few");
        self.truth.positions.get(index).cloned()
    }

    fn symbol_of(&self, position: &PositionTruth) -> SymbolSpec {
        let mut symbols = self.spec.symbols.iter();
        let found = symbols.find(|symbol| symbol.id == position.symbol_id);
        found.expect("the broker has it").clone()
    }

    /// A bid, an ask, both, or both the wrong way round.
    fn quote(&mut self) {
        let symbol = match self.a_position() {
            Some(position) if self.chance.per_mille(700) => self.symbol_of(&position),
            _ => self.symbol(),
        };
        let (bid, ask) = self.quote_of(&symbol);
        let step = self.step(&symbol, bid);
        let (bid, ask) = (bid + step, ask + step);
        let (bid, ask) = match self.chance.below(8) {
            0..=2 => (Some(bid), None),
            3..=5 => (None, Some(ask)),
            6 => (Some(bid), Some(ask)),
            _ => (Some(ask), Some(bid)),
        };
        self.broker.set_quote(&symbol.name, bid, ask);
    }

    /// Orders of all kinds, with and without levels, for a new position or for one that is there.
    fn order(&mut self) {
        let symbol = self.symbol();
        let (bid, ask) = self.quote_of(&symbol);
        let side = self.chance.pick(&[Side::Buy, Side::Sell]);
        let volume = symbol.min_volume * (1 + self.few(9));
        let away = (bid / 300 / tick(&symbol) + 1) * tick(&symbol);
        let name = symbol.name.as_str();
        let (below, above) = (bid - away, ask + away);
        let (better, worse, sign) = match side {
            Side::Buy => (below, above, 1),
            Side::Sell => (above, below, -1),
        };
        let mut order = match self.chance.below(8) {
            0..=3 => OrderSpec::market(name, side, volume),
            4 | 5 => OrderSpec::limit(name, side, volume, better),
            6 => OrderSpec::stop(name, side, volume, worse),
            _ => OrderSpec::stop_limit(name, side, volume, worse, worse + sign * away),
        };
        order = match self.chance.below(5) {
            0 => order.relative(Some(4 * away), Some(5 * away)),
            1 => order.relative(Some(3 * away), None).trailing(),
            2 => order.levels(
                Some(better - 4 * sign * away),
                Some(worse + 4 * sign * away),
            ),
            _ => order,
        };
        if let Some(position) = self.a_position()
            && self.chance.per_mille(200)
            && position.symbol_id == symbol.id
        {
            order = order.on(position.id);
        }
        self.broker.settings_mut().fill_parts = self.chance.pick(&[1, 1, 1, 2, 3]);
        drop(self.broker.place_order(ACCOUNT, &order));
    }

    /// By hand, by a level or for lack of margin; a part or all of it.
    fn close(&mut self) {
        let Some(position) = self.a_position() else {
            return;
        };
        let step = self.symbol_of(&position).step_volume;
        let steps = position.volume / step;
        let part = (self.few(steps.unsigned_abs()) + 1) * step;
        let volume = self.chance.pick(&[None, Some(part), Some(part)]);
        self.broker.settings_mut().fill_parts = self.chance.pick(&[1, 1, 2]);
        match self.chance.below(6) {
            0 => self.broker.stop_out(ACCOUNT, position.id, volume),
            1 => self.broker.hit_protection(ACCOUNT, position.id),
            _ => drop(self.broker.close_position(ACCOUNT, position.id, volume)),
        }
    }

    fn pending(&mut self) {
        let index = self.chance.below(self.truth.pending.len() as u64);
        let index = usize::try_from(index).expect("few");
        let Some(order) = self.truth.pending.get(index).copied() else {
            return;
        };
        drop(match self.chance.below(4) {
            0 => self.broker.cancel_order(ACCOUNT, order),
            1 => self.broker.expire_order(ACCOUNT, order),
            _ => {
                let change = OrderAmendment {
                    take_profit: self.chance.pick(&[None, Some(9_000_000)]),
                    expiration_ms: Some(1_760_000_000_000),
                    ..OrderAmendment::default()
                };
                self.broker.amend_order(ACCOUNT, order, change)
            }
        });
    }

    /// Levels set, changed, removed, and a stop that trails.
    fn levels(&mut self) {
        let Some(position) = self.a_position() else {
            return;
        };
        let symbol = self.symbol_of(&position);
        let (bid, ask) = self.quote_of(&symbol);
        let away = (1 + self.few(40)) * (bid / 400 / tick(&symbol) + 1) * tick(&symbol);
        let (stop, take) = match position.side {
            Side::Buy => (bid - away, bid + away),
            Side::Sell => (ask + away, ask - away),
        };
        let moved = stop.max(tick(&symbol));
        let (stop, take) = (Some(moved), Some(take.max(tick(&symbol))));
        match self.chance.below(5) {
            0 => drop(self.broker.amend_levels(ACCOUNT, position.id, stop, take)),
            1 => drop(self.broker.amend_levels(ACCOUNT, position.id, None, take)),
            2 => drop(self.broker.amend_levels(ACCOUNT, position.id, None, None)),
            _ => self.broker.trail_stop(ACCOUNT, position.id, moved),
        }
    }

    /// Cash, bonus, and swap that is booked as cash.
    fn money(&mut self) {
        let unit = 10_i64.pow(self.truth.money_digits);
        let amount = (self.few(2_001) - 1_000) * unit / 7;
        match self.chance.below(7) {
            0 | 1 => self.broker.deposit(ACCOUNT, amount),
            2 => self.broker.bonus(ACCOUNT, amount.abs()),
            3 => self.broker.ib_bonus(ACCOUNT, amount.abs() / 3),
            4 => self.broker.swap_on_balance(ACCOUNT, amount / 50),
            5 => self.broker.nonwithdrawable_bonus(ACCOUNT, amount.abs()),
            _ => {
                let operation = self.chance.pick(&OPERATIONS);
                self.broker.change_balance(ACCOUNT, amount / 9, operation);
            }
        }
    }

    /// Swap and margin of a position, or the swap of all of them.
    fn position(&mut self) {
        let Some(position) = self.a_position() else {
            return;
        };
        let amount = self.few(401) - 300;
        let rate = 1_000_000 * (1 + self.few(500));
        match self.chance.below(3) {
            0 => self.broker.swap(ACCOUNT, position.id, amount),
            1 => self.broker.change_margin(ACCOUNT, position.id, rate),
            _ => self.broker.rollover(ACCOUNT),
        }
    }

    /// The account's own settings, and its symbols'.
    fn account(&mut self) {
        let rules = [MarginType::Max, MarginType::Sum, MarginType::Net];
        let rule = self.chance.pick(&rules);
        let leverage = self.chance.pick(&[20, 100, 500]);
        match self.chance.below(4) {
            0 => self.broker.set_margin_type(ACCOUNT, rule),
            1 => self.broker.set_leverage(ACCOUNT, leverage),
            2 => self.broker.trader_updated(ACCOUNT),
            _ => {
                let symbol = self.symbol();
                self.broker.symbol_changed(&self.spec.title, &symbol.name);
            }
        }
    }
}
