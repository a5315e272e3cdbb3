//! Operations on the balance and the bonus, and their events.

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use wire::ProtoOaExecutionType as Execution;

impl Broker {
    /// Changes the balance by an operation of any `ProtoOAChangeBalanceType`.
    pub fn change_balance(&mut self, account: i64, delta: i64, operation_type: i32) {
        let history_id = self.next_id(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        book.balance += delta;
        book.balance_version += 1;
        self.record(account, || JournalEvent::Cash(delta));
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
        self.publish(account, PayloadType::ProtoOaExecutionEvent, None, &event);
        self.after_balance(account);
    }

    pub(crate) fn change_bonus(&mut self, account: i64, manager: i64, ib: i64) {
        let history_id = self.next_id(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        book.manager_bonus += manager;
        book.ib_bonus += ib;
        let kind = if manager + ib < 0 {
            wire::ProtoOaChangeBonusType::BonusWithdraw
        } else {
            wire::ProtoOaChangeBonusType::BonusDeposit
        };
        let change = wire::ProtoOaBonusDepositWithdraw {
            operation_type: kind.into(),
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
        self.record(account, || JournalEvent::Bonus(manager, ib));
        let event = wire::ProtoOaExecutionEvent {
            ctid_trader_account_id: account,
            execution_type: Execution::BonusDepositWithdraw.into(),
            bonus_deposit_withdraw: Some(change),
            is_server_event: Some(true),
            ..Default::default()
        };
        self.publish(account, PayloadType::ProtoOaExecutionEvent, None, &event);
    }

    /// Sends the whole trader after a balance change, if the settings ask for it.
    pub(super) fn after_balance(&mut self, account: i64) {
        if self.settings().trader_updates {
            self.trader_updated(account);
        }
    }

    /// Sends the whole trader (`ProtoOATraderUpdatedEvent`).
    pub fn trader_updated(&mut self, account: i64) {
        let Some(trader) = self.wire_trader(account) else {
            return;
        };
        let event = wire::ProtoOaTraderUpdatedEvent {
            payload_type: None,
            ctid_trader_account_id: account,
            trader,
        };
        self.publish(account, PayloadType::ProtoOaTraderUpdateEvent, None, &event);
    }
}
