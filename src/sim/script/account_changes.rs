//! What a broker does to an account: deposits, bonuses, swaps, margins, leverage, rights.

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use crate::sim::state::money;
use crate::sim::state::order::ExecutionDetails;
use crate::sim::state::ratio::{Ratio, f64_raw};
use crate::sim::world::spec::{MarginType, Side};
use wire::ProtoOaExecutionType as Execution;

impl Broker {
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

    /// Grants (positive) or takes back (negative) bonus of the broker.
    pub fn bonus(&mut self, account: i64, delta: i64) {
        self.change_bonus(account, delta, 0);
    }

    /// Grants (positive) or takes back (negative) bonus of an introducing broker.
    pub fn ib_bonus(&mut self, account: i64, delta: i64) {
        self.change_bonus(account, 0, delta);
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
        let details = ExecutionDetails {
            position: Some(book.wire_position(&position)),
            ..Default::default()
        };
        self.record(account, || JournalEvent::Swap(position_id, delta));
        self.publish_execution(account, Execution::Swap, None, true, details);
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
                let pip = Ratio::new(
                    1,
                    10_i128.pow(u32::try_from(symbol.spec.pip_position).ok()?),
                );
                let rate = venue.rate(symbol.spec.quote, book.deposit_asset)?;
                let pips = Ratio::raw(f64_raw(pips));
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
        self.record_margin(account, position_id);
        self.publish(
            account,
            PayloadType::ProtoOaMarginChangedEvent,
            None,
            &event,
        );
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
            self.record(account, || JournalEvent::MarginType(rule));
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
}
