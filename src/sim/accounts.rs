//! An account's books, and how they look on the wire.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::ctrader::wire;

use super::account_spec::{AccountSpec, PositionSpec};
use super::broker::{Broker, Request};
use super::envelope::Refusal;
use super::faults::millis;
use super::money;
use super::num::{FINE_PER_RAW, Ratio, fine_f64, raw_f64};
use super::spec::{AccountKind, Environment, MarginType, Side};

/// An open position.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) id: i64,
    pub(super) symbol: i64,
    pub(super) side: Side,
    /// 1/100 unit.
    pub(super) volume: i64,
    /// Entry price, 10^-10.
    pub(super) price: i64,
    pub(super) swap: i64,
    pub(super) commission: i64,
    /// Base → deposit at opening, ×10^8.
    pub(super) margin_rate_e8: i64,
    /// Margin per unit of value: 1 / leverage, or the tiers' mix.
    pub(super) margin_factor: Ratio,
    pub(super) stop_loss: Option<i64>,
    pub(super) take_profit: Option<i64>,
    pub(super) trailing: bool,
    pub(super) opened_ms: i64,
    pub(super) updated_ms: i64,
    pub(super) closed_ms: Option<i64>,
    pub(super) label: Option<String>,
    pub(super) comment: Option<String>,
    /// Its protective order.
    pub(super) protection: Option<i64>,
}

/// Positions and orders as they were from a time on.
#[derive(Clone, Debug)]
pub(super) struct Past {
    from: Instant,
    positions: BTreeMap<i64, Position>,
    orders: BTreeMap<i64, wire::ProtoOaOrder>,
}

/// An account.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of an account, as its spec has them"
)]
pub(super) struct Account {
    pub(super) id: i64,
    pub(super) venue: usize,
    pub(super) environment: Environment,
    pub(super) login: i64,
    pub(super) deposit_asset: i64,
    pub(super) digits: u32,
    pub(super) send_digits: bool,
    pub(super) send_object_digits: bool,
    pub(super) position_digits: u32,
    pub(super) kind: AccountKind,
    pub(super) margin_type: MarginType,
    pub(super) leverage: u32,
    pub(super) access_rights: i32,
    pub(super) disabled: bool,
    pub(super) balance: i64,
    pub(super) balance_version: i64,
    pub(super) manager_bonus: i64,
    pub(super) ib_bonus: i64,
    /// Part of the balance.
    pub(super) nonwithdrawable_bonus: i64,
    pub(super) stop_out_level: Option<i64>,
    pub(super) fair_stop_out: bool,
    pub(super) positions: BTreeMap<i64, Position>,
    /// Ids of positions that have ended.
    pub(super) closed: BTreeSet<i64>,
    /// Working and protective orders.
    pub(super) orders: BTreeMap<i64, wire::ProtoOaOrder>,
    pub(super) deals: Vec<wire::ProtoOaDeal>,
    pub(super) cash: Vec<wire::ProtoOaDepositWithdraw>,
    /// How positions and orders were after each event, while reconcile lags.
    pub(super) past: VecDeque<Past>,
    pub(super) margin_calls: Vec<wire::ProtoOaMarginCall>,
    pub(super) margin_called: BTreeMap<i32, Instant>,
    pub(super) activity: Option<std::time::Duration>,
    pub(super) next_activity: Option<Instant>,
    pub(super) registered_ms: i64,
}

impl Account {
    /// `moneyDigits` of every object but the trader and positions.
    pub(super) fn object_digits(&self) -> Option<u32> {
        self.send_object_digits.then_some(self.digits)
    }

    pub(super) fn last_closing_ms(&self) -> Option<i64> {
        let closing = self
            .deals
            .iter()
            .rev()
            .find(|deal| deal.close_position_detail.is_some());
        closing.map(|deal| deal.execution_timestamp)
    }

    /// Margin of a position in the account's smallest unit.
    pub(super) fn used_margin(&self, position: &Position) -> i64 {
        money::used_margin(
            position.volume,
            position.margin_rate_e8,
            position.margin_factor,
            self.digits,
        )
    }

    pub(super) fn trader(&self, broker_name: &str) -> wire::ProtoOaTrader {
        wire::ProtoOaTrader {
            ctid_trader_account_id: self.id,
            balance: self.balance,
            balance_version: Some(self.balance_version),
            manager_bonus: Some(self.manager_bonus),
            ib_bonus: Some(self.ib_bonus),
            non_withdrawable_bonus: Some(self.nonwithdrawable_bonus),
            access_rights: Some(self.access_rights),
            deposit_asset_id: self.deposit_asset,
            swap_free: Some(false),
            leverage_in_cents: Some(self.leverage * 100),
            total_margin_calculation_type: Some(match self.margin_type {
                MarginType::Max => 0,
                MarginType::Sum => 1,
                MarginType::Net => 2,
            }),
            max_leverage: Some(self.leverage * 100),
            trader_login: Some(self.login),
            account_type: Some(match self.kind {
                AccountKind::Hedged => 0,
                AccountKind::Netted => 1,
            }),
            broker_name: Some(broker_name.to_lowercase()),
            registration_timestamp: Some(self.registered_ms),
            is_limited_risk: Some(false),
            money_digits: self.send_digits.then_some(self.digits),
            fair_stop_out: Some(self.fair_stop_out),
            ..Default::default()
        }
    }

    /// A position as it stands: OPEN, or CLOSED once nothing is left of it.
    pub(super) fn wire_position(&self, position: &Position) -> wire::ProtoOaPosition {
        let scale = 10_i64.pow(self.position_digits - self.digits);
        let open = position.volume > 0;
        let status = if open {
            wire::ProtoOaPositionStatus::PositionStatusOpen
        } else {
            wire::ProtoOaPositionStatus::PositionStatusClosed
        };
        wire::ProtoOaPosition {
            position_id: position.id,
            trade_data: wire::ProtoOaTradeData {
                symbol_id: position.symbol,
                volume: position.volume,
                trade_side: position.side.wire(),
                open_timestamp: Some(position.opened_ms),
                label: position.label.clone(),
                comment: position.comment.clone(),
                guaranteed_stop_loss: Some(false),
                measurement_units: None,
                close_timestamp: position.closed_ms.map(i64::cast_unsigned),
            },
            position_status: status.into(),
            swap: position.swap * scale,
            price: Some(fine_f64(position.price)),
            stop_loss: position.stop_loss.map(raw_f64),
            take_profit: position.take_profit.map(raw_f64),
            utc_last_update_timestamp: Some(position.updated_ms),
            commission: Some(position.commission * scale),
            margin_rate: Some(Ratio::new(position.margin_rate_e8.into(), 100_000_000).to_f64()),
            mirroring_commission: Some(0),
            guaranteed_stop_loss: Some(false),
            used_margin: Some(self.used_margin(position).cast_unsigned() * scale.cast_unsigned()),
            money_digits: self.send_object_digits.then_some(self.position_digits),
            trailing_stop_loss: position.trailing.then_some(true),
            stop_loss_trigger_method: None,
        }
    }

    /// A position that an order will open: status CREATED, or CLOSED if the order was cancelled.
    pub(super) fn wire_unborn(
        &self,
        order: &wire::ProtoOaOrder,
        closed: bool,
    ) -> wire::ProtoOaPosition {
        let status = if closed {
            wire::ProtoOaPositionStatus::PositionStatusClosed
        } else {
            wire::ProtoOaPositionStatus::PositionStatusCreated
        };
        wire::ProtoOaPosition {
            position_id: order.position_id.unwrap_or_default(),
            trade_data: wire::ProtoOaTradeData {
                symbol_id: order.trade_data.symbol_id,
                volume: 0,
                trade_side: order.trade_data.trade_side,
                open_timestamp: order.trade_data.open_timestamp,
                label: order.trade_data.label.clone(),
                comment: order.trade_data.comment.clone(),
                ..Default::default()
            },
            position_status: status.into(),
            swap: 0,
            utc_last_update_timestamp: order.utc_last_update_timestamp,
            commission: Some(0),
            used_margin: Some(0),
            money_digits: self.send_object_digits.then_some(self.position_digits),
            ..Default::default()
        }
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
            past: VecDeque::new(),
            margin_calls: margin_calls(now_ms),
            margin_called: BTreeMap::new(),
            activity: spec.activity,
            next_activity: None,
            registered_ms: now_ms - millis(std::time::Duration::from_hours(24 * 365)),
        };
        self.accounts.insert(spec.id, account);
        for position in spec.positions {
            self.plant(spec.id, &position);
        }
    }

    /// Gives an account a position as if it had been opened an hour ago, with nothing said on the wire.
    fn plant(&mut self, account_id: i64, spec: &PositionSpec) {
        let venue = self
            .accounts
            .get(&account_id)
            .map_or(0, |account| account.venue);
        let feed = self.venues.get(venue).expect("an account's venue exists");
        let symbol = feed
            .symbol_id(&spec.symbol)
            .expect("the broker has the position's symbol");
        let opened_ms = self.wall_ms() - millis(std::time::Duration::from_hours(1));
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
        self.record_planted(account_id, &position);
        if let Some(account) = self.accounts.get_mut(&account_id) {
            account.positions.insert(position.id, position);
        }
        if spec.stop_loss.is_some() || spec.take_profit.is_some() {
            self.protect(account_id, spec.id, spec.stop_loss, spec.take_profit);
        }
    }

    pub(super) fn venue_of(&self, account: i64) -> Result<usize, Refusal> {
        let found = self.accounts.get(&account).map(|account| account.venue);
        found.ok_or_else(|| Refusal::new("CH_CTID_TRADER_ACCOUNT_NOT_FOUND").account(account))
    }

    pub(super) fn need_symbols(
        &self,
        venue: usize,
        symbols: &[i64],
        code: &str,
        account: i64,
    ) -> Result<(), Refusal> {
        let known = |id: &i64| {
            self.venues
                .get(venue)
                .is_some_and(|venue| venue.symbols.contains_key(id))
        };
        match symbols.iter().find(|id| !known(id)) {
            None => Ok(()),
            Some(id) => Err(Refusal::new(code)
                .description(&format!("Symbol {id} is not found"))
                .account(account)),
        }
    }

    pub(super) fn on_trader(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaTraderReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        self.need_account(request, id)?;
        let Some(trader) = self.wire_trader(id) else {
            return Ok(());
        };
        let reply = wire::ProtoOaTraderRes {
            payload_type: None,
            ctid_trader_account_id: id,
            trader,
        };
        self.reply(request, 2122, &reply);
        Ok(())
    }

    pub(super) fn wire_trader(&self, id: i64) -> Option<wire::ProtoOaTrader> {
        let account = self.accounts.get(&id)?;
        Some(account.trader(&self.venues.get(account.venue)?.title))
    }

    pub(super) fn on_reconcile(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaReconcileReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        self.need_account(request, id)?;
        let protective = wire::ProtoOaOrderType::StopLossTakeProfit as i32;
        let market = wire::ProtoOaOrderType::Market as i32;
        let with_protection = body.return_protection_orders.unwrap_or(false);
        let lag = self.faults.reconcile_lag;
        let seen = self.now.checked_sub(lag).filter(|_| lag > Duration::ZERO);
        let Some(account) = self.accounts.get(&id) else {
            return Ok(());
        };
        let past = seen.and_then(|seen| {
            let before = account.past.iter().rev().find(|past| past.from <= seen);
            before.or(account.past.front())
        });
        let (positions, orders) = match past {
            Some(past) => (&past.positions, &past.orders),
            None => (&account.positions, &account.orders),
        };
        let positions = positions.values();
        let orders = orders.values().filter(|order| {
            order.order_type != market && (with_protection || order.order_type != protective)
        });
        let reply = wire::ProtoOaReconcileRes {
            payload_type: None,
            ctid_trader_account_id: id,
            position: positions
                .map(|position| account.wire_position(position))
                .collect(),
            order: orders.cloned().collect(),
        };
        self.reply(request, 2125, &reply);
        Ok(())
    }

    /// Remembers how an account is now, for a reconcile that lags.
    pub(super) fn keep_past(&mut self, account: i64) {
        let lag = self.faults.reconcile_lag;
        let now = self.now;
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        if lag.is_zero() {
            book.past.clear();
            return;
        }
        let past = Past {
            from: now,
            positions: book.positions.clone(),
            orders: book.orders.clone(),
        };
        book.past.push_back(past);
        // The one that was true when the oldest lag began is still needed.
        while book.past.get(1).is_some_and(|next| next.from + lag <= now) {
            book.past.pop_front();
        }
    }

    /// Watches a working order for its price.
    pub(super) fn rest(&mut self, account: i64, symbol: i64, order: i64, on: bool) {
        let Some(venue) = self.accounts.get(&account).map(|account| account.venue) else {
            return;
        };
        let list: &mut BTreeSet<(i64, i64)> = self.resting.entry((venue, symbol)).or_default();
        if on {
            list.insert((account, order));
        } else {
            list.remove(&(account, order));
        }
    }
}

/// The three thresholds every account has.
fn margin_calls(now_ms: i64) -> Vec<wire::ProtoOaMarginCall> {
    [(61, 100.0), (62, 70.0), (63, 50.0)]
        .into_iter()
        .map(|(kind, threshold)| wire::ProtoOaMarginCall {
            margin_call_type: kind,
            margin_level_threshold: threshold,
            utc_last_update_timestamp: Some(now_ms),
        })
        .collect()
}
