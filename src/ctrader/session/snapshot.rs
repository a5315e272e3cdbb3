//! The snapshot: the account entity and cTrader's list of positions and orders, and the session's first
//! and later state by them.

use std::time::Instant;

use super::state::{OVERTAKING_MAX, Phase, Session};
use crate::ctrader::convert::{self, Malformed};
use crate::ctrader::request::{Ask, Request};
use crate::ctrader::wire::{ProtoOaReconcileRes, ProtoOaTrader};
use crate::domain::account::{Account, Trader};
use crate::domain::decimal::Decimal;
use crate::domain::ledger::{self, Positions};
use crate::domain::position::VOLUME_SCALE;

impl Session {
    pub(in crate::ctrader) fn handle_authorised(&mut self) -> [Request; 2] {
        self.phase = Phase::Loading;
        [self.ask(Ask::Trader), self.ask(Ask::Reconcile)]
    }

    pub(in crate::ctrader) fn handle_trader(
        &mut self,
        wire: ProtoOaTrader,
        now: Instant,
    ) -> Result<(), Malformed> {
        self.trader = Some(Box::new(convert::trader(wire)?));
        self.begin(now)
    }

    pub(in crate::ctrader) fn handle_reconcile(
        &mut self,
        wire: ProtoOaReconcileRes,
        now: Instant,
    ) -> Result<(), Malformed> {
        self.reconciled = Some(Box::new(wire));
        self.begin(now)
    }

    /// Once both halves of the snapshot are there: the account, and the events since.
    pub(super) fn begin(&mut self, now: Instant) -> Result<(), Malformed> {
        let (trader, snapshot) = match (self.trader.take(), self.reconciled.take()) {
            (Some(trader), Some(snapshot)) => (trader, snapshot),
            // The first half stays until the other is there, whichever it is.
            (trader, snapshot) => {
                (self.trader, self.reconciled) = (trader, snapshot);
                return Ok(());
            }
        };
        let account = read_snapshot(self.before.as_deref(), *trader, *snapshot)?;
        let before = self.before.take();
        let before = before.as_deref().map(open_positions).or(self.known.take());
        self.take_over(account, before.as_ref(), now);
        let buffered = std::mem::take(&mut self.buffered);
        for event in buffered {
            self.handle_event(event, now)?;
        }
        self.watch_ledger(now);
        Ok(())
    }

    /// A snapshot is the account from now on.
    pub(super) fn take_over(&mut self, account: Account, before: Option<&Positions>, now: Instant) {
        let open = open_positions(&account);
        let version = account.trader().balance_version;
        self.ledger.handle_snapshot(version, before, &open);
        self.behind_since = None;
        self.lost = false;
        self.account = Some(account);
        self.changed = true;
        self.event_at = now;
    }

    /// The account is read anew, since something of it was lost. It follows nothing until then.
    pub(in crate::ctrader) fn read_anew(&mut self, now: Instant) -> [Request; 2] {
        if let Some(account) = self.account.take() {
            self.before = Some(Box::new(account));
        }
        self.behind_since = None;
        self.checks.stop();
        // What came before the loss was noticed is in the snapshot, or was undone by what was lost.
        let recent = self.recent.drain(..);
        self.buffered = recent
            .filter(|(at, _)| *at + OVERTAKING_MAX >= now)
            .map(|(_, event)| event)
            .collect();
        (self.trader, self.reconciled) = (None, None);
        self.phase = Phase::Loading;
        [self.ask(Ask::Trader), self.ask(Ask::Reconcile)]
    }

    /// What whoever follows the account next should know of it; `None` before there was a snapshot.
    pub(in crate::ctrader) fn known(&self) -> Option<ledger::Known> {
        let account = self.account.as_ref().or(self.before.as_deref())?;
        Some(ledger::Known {
            version: self.ledger.through(),
            positions: Some(open_positions(account)),
        })
    }
}

pub(super) fn open_positions(account: &Account) -> Positions {
    let volume = |hundredths| Decimal::new(i128::from(hundredths), VOLUME_SCALE).trim(0);
    account
        .positions()
        .map(|position| (position.id, Some(volume(position.volume))))
        .collect()
}

/// The account that a snapshot says, after `before` if there was one.
pub(super) fn read_snapshot(
    before: Option<&Account>,
    trader: Trader,
    snapshot: ProtoOaReconcileRes,
) -> Result<Account, Malformed> {
    let digits = trader.money_digits;
    let positions: Result<Vec<_>, _> = snapshot
        .position
        .into_iter()
        .map(|wire| convert::position(wire, digits))
        .collect();
    let orders: Result<Vec<_>, _> = snapshot
        .order
        .into_iter()
        .filter_map(|wire| convert::known_order(wire).transpose())
        .collect();
    Ok(match before {
        Some(before) => before.renewed(trader, positions?, orders?),
        None => Account::new(trader, positions?, orders?),
    })
}
