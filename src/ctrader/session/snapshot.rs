//! The snapshot: the account entity, and cTrader's list of positions and orders. Both halves make the
//! account; after a gap a new snapshot makes it anew.

use std::time::Instant;

use super::state::{Checks, OVERTAKING_MAX, Phase, Session};
use super::timer::Timer;
use crate::ctrader::ask::Ask;
use crate::ctrader::convert::{self, Malformed};
use crate::ctrader::request::Request;
use crate::ctrader::wire::{ProtoOaReconcileRes, ProtoOaTrader};
use crate::domain::account::{Account, Trader};
use crate::domain::decimal::Decimal;
use crate::domain::ledger::{LastSeen, Positions};
use crate::domain::position::VOLUME_SCALE;

impl Session {
    /// Returns the requests for both halves of the snapshot.
    pub(in crate::ctrader) fn handle_authorised(&mut self) -> [Request; 2] {
        self.phase = Phase::Loading;
        [self.ask(Ask::Trader), self.ask(Ask::Snapshot)]
    }

    pub(in crate::ctrader) fn handle_trader(
        &mut self,
        wire: ProtoOaTrader,
        now: Instant,
    ) -> Result<(), Malformed> {
        self.trader = Some(Box::new(convert::trader(wire)?));
        self.complete_snapshot(now)
    }

    pub(in crate::ctrader) fn handle_snapshot(
        &mut self,
        wire: ProtoOaReconcileRes,
        now: Instant,
    ) -> Result<(), Malformed> {
        self.snapshot = Some(Box::new(wire));
        self.complete_snapshot(now)
    }

    /// Once both halves are there: makes the account, and applies the events since.
    fn complete_snapshot(&mut self, now: Instant) -> Result<(), Malformed> {
        let (trader, snapshot) = match (self.trader.take(), self.snapshot.take()) {
            (Some(trader), Some(snapshot)) => (trader, snapshot),
            // The first half stays until the other is there, whichever it is.
            (trader, snapshot) => {
                (self.trader, self.snapshot) = (trader, snapshot);
                return Ok(());
            }
        };
        let account = read_snapshot(self.previous.as_deref(), *trader, *snapshot)?;
        let previous = self.previous.take();
        let before = previous.as_deref().map(open_positions);
        let before = before.or(self.last_positions.take());
        self.adopt(account, before.as_ref(), now);
        let buffered = std::mem::take(&mut self.buffered);
        for event in buffered {
            self.handle_event(event, now)?;
        }
        self.watch_gap(now);
        Ok(())
    }

    /// Takes over the account that a snapshot has.
    fn adopt(&mut self, account: Account, before: Option<&Positions>, now: Instant) {
        let open = open_positions(&account);
        let version = account.trader().balance_version;
        self.ledger.handle_snapshot(version, before, &open);
        self.timers.stop(Timer::Gap);
        self.needs_snapshot = false;
        self.account = Some(account);
        self.changed = true;
        self.event_at = now;
    }

    /// Asks for a new snapshot, since an event was lost. The account follows nothing until it is there.
    pub(in crate::ctrader) fn resync(&mut self, now: Instant) -> [Request; 2] {
        if let Some(account) = self.account.take() {
            self.previous = Some(Box::new(account));
        }
        // What was planned for the old state is not for the new one.
        for timer in [
            Timer::Gap,
            Timer::SnapshotCheck,
            Timer::Audit,
            Timer::PnlFallback,
            Timer::PnlFallbackExpiry,
        ] {
            self.timers.stop(timer);
        }
        self.checks = Checks::default();
        // What came before the loss was noticed is in the snapshot, or was undone by what was lost.
        let recent = self.recent.drain(..);
        self.buffered = recent
            .filter(|(at, _)| *at + OVERTAKING_MAX >= now)
            .map(|(_, event)| event)
            .collect();
        (self.trader, self.snapshot) = (None, None);
        self.phase = Phase::Loading;
        [self.ask(Ask::Trader), self.ask(Ask::Snapshot)]
    }

    /// What the account's next session should know; `None` before there was a snapshot.
    pub(in crate::ctrader) fn last_seen(&self) -> Option<LastSeen> {
        let account = self.account.as_ref().or(self.previous.as_deref())?;
        Some(LastSeen {
            version: self.ledger.through(),
            positions: Some(open_positions(account)),
        })
    }
}

/// The open positions of an account, with their volumes in units.
pub(super) fn open_positions(account: &Account) -> Positions {
    let volume = |hundredths| Decimal::new(i128::from(hundredths), VOLUME_SCALE).trim(0);
    account
        .positions()
        .map(|position| (position.id, Some(volume(position.volume))))
        .collect()
}

/// The account that a snapshot has, after `before` if there was one.
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
