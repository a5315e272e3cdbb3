//! Money that moves without a trade: deposits, bonuses, swaps, margin changes; and margin watch.

use std::time::Duration;

use rand::RngExt;

use crate::ctrader::wire;
use wire::ProtoOaExecutionType as Execution;

use super::broker::Broker;
use super::ledger::What;
use super::money;
use super::spec::{MarginType, Side};

/// A margin call of one threshold comes at most this often.
const MARGIN_CALL_EVERY: Duration = Duration::from_mins(10);

impl Broker {
    /// The clientMsgId of an event made by hand.
    pub(super) fn hand_id(&mut self) -> Option<String> {
        self.faults
            .foreign_ids
            .then(|| format!("terminal-{:016x}", self.rng.random::<u64>()))
    }

    /// Deposits (positive) or withdraws (negative) cash, in the account's smallest unit.
    pub fn deposit(&mut self, account: i64, delta: i64) {
        let kind = if delta < 0 {
            wire::ProtoOaChangeBalanceType::BalanceWithdraw
        } else {
            wire::ProtoOaChangeBalanceType::BalanceDeposit
        };
        self.change_balance(account, delta, kind.into());
    }

    /// Swap that is booked on the balance and not on a position: operations 21 and 22.
    pub fn swap_on_balance(&mut self, account: i64, delta: i64) {
        let kind = if delta < 0 {
            wire::ProtoOaChangeBalanceType::BalanceWithdrawSwap
        } else {
            wire::ProtoOaChangeBalanceType::BalanceDepositSwap
        };
        self.change_balance(account, delta, kind.into());
    }

    /// Bonus that counts as balance and may not be withdrawn: operations 19 and 20.
    pub fn nonwithdrawable_bonus(&mut self, account: i64, delta: i64) {
        let kind = if delta < 0 {
            wire::ProtoOaChangeBalanceType::BalanceWithdrawNonwithdrawableBonus
        } else {
            wire::ProtoOaChangeBalanceType::BalanceDepositNonwithdrawableBonus
        };
        if let Some(book) = self.accounts.get_mut(&account) {
            book.nonwithdrawable_bonus += delta;
        }
        self.change_balance(account, delta, kind.into());
    }

    /// Changes the balance by an operation of any `ProtoOAChangeBalanceType`.
    pub fn change_balance(&mut self, account: i64, delta: i64, operation_type: i32) {
        let history_id = self.fresh_id(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        book.balance += delta;
        book.balance_version += 1;
        self.write(account, || What::Cash(delta));
        let unsigned = self.settings().unsigned_withdrawals;
        let told = if unsigned { delta.abs() } else { delta };
        let Some(equity) = self.truth(account).map(|truth| truth.equity) else {
            return;
        };
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let flow = wire::ProtoOaDepositWithdraw {
            operation_type,
            balance_history_id: history_id,
            balance: book.balance,
            delta: told,
            change_balance_timestamp: now_ms,
            external_note: None,
            balance_version: Some(book.balance_version),
            equity: Some(equity),
            money_digits: book.object_digits(),
        };
        book.cash.push(flow.clone());
        let event = wire::ProtoOaExecutionEvent {
            ctid_trader_account_id: account,
            execution_type: Execution::DepositWithdraw.into(),
            deposit_withdraw: Some(flow),
            is_server_event: Some(true),
            ..Default::default()
        };
        self.publish(account, 2126, None, &event);
        self.after_balance(account);
    }

    /// What follows a balance change, if it is set to.
    pub(super) fn after_balance(&mut self, account: i64) {
        if self.settings().trader_updates {
            self.trader_updated(account);
        }
    }

    /// Sends the whole trader (2123).
    pub fn trader_updated(&mut self, account: i64) {
        let Some(trader) = self.wire_trader(account) else {
            return;
        };
        let event = wire::ProtoOaTraderUpdatedEvent {
            payload_type: None,
            ctid_trader_account_id: account,
            trader,
        };
        self.publish(account, 2123, None, &event);
    }

    /// Changes the account's leverage and says so with 2123.
    pub fn set_leverage(&mut self, account: i64, leverage: u32) {
        if let Some(book) = self.accounts.get_mut(&account) {
            book.leverage = leverage;
        }
        self.trader_updated(account);
    }

    /// Changes how the account's margins add up and says so with 2123.
    pub fn set_margin_type(&mut self, account: i64, rule: MarginType) {
        if let Some(book) = self.accounts.get_mut(&account) {
            book.margin_type = rule;
            self.write(account, || What::Rule(rule));
        }
        self.trader_updated(account);
    }

    /// Changes the account's rights (`ProtoOAAccessRights` by number) and says so with 2123.
    pub fn set_access_rights(&mut self, account: i64, rights: i32) {
        if let Some(book) = self.accounts.get_mut(&account) {
            book.access_rights = rights;
        }
        self.trader_updated(account);
    }

    /// Account auth is refused with `RET_ACCOUNT_DISABLED` from now on, or no longer.
    pub fn set_disabled(&mut self, account: i64, disabled: bool) {
        if let Some(book) = self.accounts.get_mut(&account) {
            book.disabled = disabled;
        }
    }

    /// Grants (positive) or takes back (negative) bonus of the broker.
    pub fn bonus(&mut self, account: i64, delta: i64) {
        self.change_bonus(account, delta, 0);
    }

    /// Grants (positive) or takes back (negative) bonus of an introducing broker.
    pub fn ib_bonus(&mut self, account: i64, delta: i64) {
        self.change_bonus(account, 0, delta);
    }

    fn change_bonus(&mut self, account: i64, manager: i64, ib: i64) {
        let history_id = self.fresh_id(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        book.manager_bonus += manager;
        book.ib_bonus += ib;
        let change = wire::ProtoOaBonusDepositWithdraw {
            operation_type: i32::from(manager + ib < 0),
            bonus_history_id: history_id,
            manager_bonus: book.manager_bonus,
            manager_delta: manager,
            ib_bonus: book.ib_bonus,
            ib_delta: ib,
            change_bonus_timestamp: now_ms,
            external_note: None,
            introducing_broker_id: None,
            money_digits: book.object_digits(),
        };
        self.write(account, || What::Bonus(manager, ib));
        let event = wire::ProtoOaExecutionEvent {
            ctid_trader_account_id: account,
            execution_type: Execution::BonusDepositWithdraw.into(),
            bonus_deposit_withdraw: Some(change),
            is_server_event: Some(true),
            ..Default::default()
        };
        self.publish(account, 2126, None, &event);
    }

    /// Books swap on a position: its `swap` changes, the balance does not.
    pub fn swap(&mut self, account: i64, position_id: i64, delta: i64) {
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let Some(position) = book.positions.get_mut(&position_id) else {
            return;
        };
        position.swap += delta;
        position.updated_ms = now_ms;
        let position = position.clone();
        let parts = super::orders::Parts {
            position: Some(book.wire_position(&position)),
            ..Default::default()
        };
        self.write(account, || What::Swap(position_id, delta));
        self.execution(account, Execution::Swap, None, true, parts);
    }

    /// The nightly rollover of an account: every position gets its symbol's swap of one day.
    pub fn rollover(&mut self, account: i64) {
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        let Some(venue) = self.venues.get(book.venue) else {
            return;
        };
        let charges: Vec<(i64, i64)> = book
            .positions
            .values()
            .filter_map(|position| {
                let symbol = venue.symbols.get(&position.symbol)?;
                let pips = match position.side {
                    Side::Buy => symbol.spec.swap_long,
                    Side::Sell => symbol.spec.swap_short,
                };
                let pip = super::num::Ratio::new(
                    1,
                    10_i128.pow(u32::try_from(symbol.spec.pip_position).ok()?),
                );
                let rate = venue.rate(symbol.spec.quote, book.deposit_asset)?;
                let pips = super::num::Ratio::raw(super::num::f64_raw(pips));
                let charge = pips
                    .times(pip)
                    .times(money::units(position.volume))
                    .times(rate);
                Some((position.id, charge.scaled(book.digits).round()))
            })
            .collect();
        for (position, charge) in charges {
            self.swap(account, position, charge);
        }
    }

    /// The used margin of a position changes (2141): a new margin rate, ×10^8.
    pub fn change_margin(&mut self, account: i64, position_id: i64, margin_rate_e8: i64) {
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let Some(position) = book.positions.get_mut(&position_id) else {
            return;
        };
        position.margin_rate_e8 = margin_rate_e8;
        let position = position.clone();
        let scale = 10_i64.pow(book.position_digits - book.digits);
        let event = wire::ProtoOaMarginChangedEvent {
            payload_type: None,
            ctid_trader_account_id: account,
            position_id: position_id.cast_unsigned(),
            used_margin: (book.used_margin(&position) * scale).cast_unsigned(),
            money_digits: book.send_object_digits.then_some(book.position_digits),
        };
        self.write_margin(account, position_id);
        self.publish(account, 2141, None, &event);
    }

    /// Sends margin calls that are due and closes positions of accounts below their stop-out level.
    pub(super) fn watch_margin(&mut self) {
        let watched: Vec<i64> = self
            .accounts
            .values()
            .filter(|book| !book.positions.is_empty())
            .filter(|book| {
                book.stop_out_level.is_some()
                    || self
                        .conns
                        .values()
                        .any(|c| c.accounts.contains_key(&book.id))
            })
            .map(|book| book.id)
            .collect();
        for account in watched {
            let Some(level) = self.truth(account).and_then(|truth| truth.margin_level) else {
                continue;
            };
            self.margin_call(account, level);
            self.stop_out_below(account, level);
        }
    }

    fn margin_call(&mut self, account: i64, level: f64) {
        let now = self.now;
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let mut due = Vec::new();
        for call in &book.margin_calls {
            let recent = book
                .margin_called
                .get(&call.margin_call_type)
                .is_some_and(|at| now.saturating_duration_since(*at) < MARGIN_CALL_EVERY);
            if level <= call.margin_level_threshold && !recent {
                due.push(*call);
            }
        }
        for call in &due {
            book.margin_called.insert(call.margin_call_type, now);
        }
        for margin_call in due {
            let event = wire::ProtoOaMarginCallTriggerEvent {
                payload_type: None,
                ctid_trader_account_id: account,
                margin_call,
            };
            self.publish(account, 2172, None, &event);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a level is a small percentage")]
    fn stop_out_below(&mut self, account: i64, level: f64) {
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        if !book
            .stop_out_level
            .is_some_and(|stop_out| level < stop_out as f64)
        {
            return;
        }
        let largest = book
            .positions
            .values()
            .max_by_key(|position| book.used_margin(position));
        let Some((id, symbol, volume)) = largest.map(|held| (held.id, held.symbol, held.volume))
        else {
            return;
        };
        let step = self
            .venues
            .get(book.venue)
            .and_then(|venue| venue.symbols.get(&symbol))
            .map_or(1, |symbol| symbol.spec.step_volume.max(1));
        let half = (volume / 2 / step * step).max(step);
        let in_parts = self.settings().partial_stop_out && !book.fair_stop_out;
        self.stop_out(account, id, in_parts.then_some(half));
    }

    /// The seeded traders: opens or closes something for the accounts whose turn it is.
    pub(super) fn run_activity(&mut self) {
        let due: Vec<i64> = self
            .accounts
            .values()
            .filter(|book| {
                book.activity.is_some() && book.next_activity.is_none_or(|at| at <= self.now)
            })
            .map(|book| book.id)
            .collect();
        for account in due {
            let jitter = self.rng.random_range(50..150);
            let Some(book) = self.accounts.get_mut(&account) else {
                continue;
            };
            let first = book.next_activity.is_none();
            book.next_activity = book.activity.map(|mean| self.now + mean * jitter / 100);
            if !first {
                self.trade_a_little(account);
            }
        }
    }

    fn trade_a_little(&mut self, account: i64) {
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        let open: Vec<(i64, i64)> = book.positions.values().map(|p| (p.id, p.symbol)).collect();
        let Some(venue) = self.venues.get(book.venue) else {
            return;
        };
        let symbols: Vec<(String, i64)> = venue
            .symbols
            .values()
            .map(|s| (s.spec.name.clone(), s.spec.min_volume))
            .collect();
        let grow = open.len() < 2 || (open.len() < 6 && self.rng.random_bool(0.5));
        // What the traders try may be refused (no money, no quotes): then nothing happens this time.
        if grow {
            let Some((symbol, step)) = symbols.get(self.rng.random_range(0..symbols.len().max(1)))
            else {
                return;
            };
            let side = if self.rng.random_bool(0.5) {
                Side::Buy
            } else {
                Side::Sell
            };
            let volume = step * self.rng.random_range(1..=5);
            let _ = self.open_market(account, symbol, side, volume);
        } else if let Some((position, _)) = open.get(self.rng.random_range(0..open.len().max(1))) {
            let _ = self.close_position(account, *position, None);
        }
    }
}
