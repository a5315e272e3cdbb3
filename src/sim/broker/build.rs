//! Makes the server of a world: its brokers, accounts and open positions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use chacha20::ChaCha8Rng;
use rand::SeedableRng;

use crate::sim::state::account::{Account, Position, default_margin_calls};
use crate::sim::state::broker::{Broker, BrokerSetup};
use crate::sim::state::money;
use crate::sim::state::order::{Fill, closing_order, new_deal};
use crate::sim::state::ratio::FINE_PER_RAW;
use crate::sim::state::timer::millis;
use crate::sim::state::venue::Venue;
use crate::sim::world::account_spec::{AccountSpec, PositionSpec};
use crate::sim::world::builder::{Builder, CLIENT_ID, CLIENT_SECRET};
use crate::sim::world::presets;

impl Builder {
    /// Builds the sans-IO server of this world. `now` and `wall_ms` (ms since the epoch) are the same moment.
    ///
    /// # Panics
    /// If an account names a broker, currency or symbol that does not exist.
    pub fn build(self, now: Instant, wall_ms: i64) -> Broker {
        let brokers = if self.brokers.is_empty() {
            vec![presets::alpha(), presets::beta()]
        } else {
            self.brokers
        };
        let mut apps = self.apps;
        if apps.is_empty() {
            apps.insert(CLIENT_ID.to_owned(), CLIENT_SECRET.to_owned());
        }
        let mut broker = Broker::new(BrokerSetup {
            now,
            wall_ms,
            rng: ChaCha8Rng::seed_from_u64(self.seed),
            apps,
            venues: brokers
                .into_iter()
                .map(|spec| Venue::new(spec, now))
                .collect(),
            settings: self.settings,
            market_running: self.market_running,
        });
        if let Some(rate) = self.ticks_per_second {
            broker.tick_rate_all(rate);
        }
        for account in self.accounts {
            broker.add_account(account);
        }
        broker
    }
}

impl Broker {
    /// Adds an account to the running world.
    ///
    /// # Panics
    /// If its broker, currency or a symbol of its positions does not exist: the world is the test's own.
    pub fn add_account(&mut self, spec: AccountSpec) {
        let venue = match &spec.broker {
            None => 0,
            Some(title) => self
                .venues
                .iter()
                .position(|venue| venue.title == *title)
                .expect("the account's broker exists"),
        };
        let feed = self.venues.get(venue).expect("a world has a broker");
        let deposit_asset = feed
            .asset(&spec.currency)
            .expect("the broker has the account's currency");
        for token in &spec.tokens {
            self.grants.ensure(token).accounts.insert(spec.id);
        }
        let now_ms = self.wall_ms();
        let account = Account {
            id: spec.id,
            venue,
            environment: spec.environment,
            login: spec.login,
            deposit_asset,
            digits: spec.digits,
            send_digits: spec.send_digits,
            send_object_digits: spec.send_object_digits,
            position_digits: spec.position_digits.unwrap_or(spec.digits),
            kind: spec.kind,
            margin_type: spec.margin_type,
            leverage: spec.leverage,
            access_rights: spec.access_rights,
            disabled: spec.disabled,
            balance: spec.balance,
            balance_version: spec.balance_version,
            manager_bonus: spec.manager_bonus,
            ib_bonus: spec.ib_bonus,
            nonwithdrawable_bonus: 0,
            stop_out_level: spec.stop_out_level,
            fair_stop_out: spec.fair_stop_out,
            positions: BTreeMap::new(),
            closed: BTreeSet::new(),
            orders: BTreeMap::new(),
            deals: Vec::new(),
            cash: Vec::new(),
            past_snapshots: VecDeque::new(),
            margin_calls: default_margin_calls(now_ms),
            margin_called: BTreeMap::new(),
            activity: spec.activity,
            next_activity: None,
            registered_ms: now_ms - millis(Duration::from_hours(24 * 365)),
        };
        self.accounts.insert(spec.id, account);
        for position in spec.positions {
            self.add_position(spec.id, &position);
        }
    }

    /// Adds an open position to an account, as if it had been opened an hour ago. Sends nothing.
    fn add_position(&mut self, account_id: i64, spec: &PositionSpec) {
        let venue = self
            .accounts
            .get(&account_id)
            .map_or(0, |account| account.venue);
        let feed = self.venues.get(venue).expect("an account's venue exists");
        let symbol = feed
            .symbol_id(&spec.symbol)
            .expect("the broker has the position's symbol");
        let opened_ms = self.wall_ms() - millis(Duration::from_hours(1));
        let account = self
            .accounts
            .get(&account_id)
            .expect("the account was just added");
        let opening = money::opening(feed, account, symbol, spec.side, spec.volume);
        let position = Position {
            id: spec.id,
            symbol,
            side: spec.side,
            volume: spec.volume,
            price: spec.price * FINE_PER_RAW,
            swap: spec.swap,
            commission: spec.commission.unwrap_or(opening.commission),
            margin_rate_e8: spec.margin_rate_e8.unwrap_or(opening.margin_rate_e8),
            margin_factor: opening.margin_factor,
            stop_loss: None,
            take_profit: None,
            trailing: false,
            opened_ms,
            updated_ms: opened_ms,
            closed_ms: None,
            label: None,
            comment: None,
            protection: None,
        };
        self.record_opening_deal(account_id, &position);
        if let Some(account) = self.accounts.get_mut(&account_id) {
            account.positions.insert(position.id, position);
        }
        if spec.stop_loss.is_some() || spec.take_profit.is_some() {
            self.protect(account_id, spec.id, spec.stop_loss, spec.take_profit);
        }
    }

    /// Records the opening deal of a position that a world begins with, so that history has it.
    fn record_opening_deal(&mut self, account: i64, position: &Position) {
        let (order_id, deal_id) = (self.next_id(account), self.next_id(account));
        let mut order = closing_order(position, order_id, position.volume, position.opened_ms);
        order.trade_data.trade_side = position.side.wire();
        let fill = Fill {
            price: position.price / FINE_PER_RAW,
            msg_id: None,
            by_server: false,
            is_last: true,
        };
        let mut deal = new_deal(deal_id, &order, position.volume, fill, position.opened_ms);
        deal.commission = Some(position.commission);
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        deal.money_digits = book.object_digits();
        book.deals.push(deal);
    }
}
