//! Events of the account: kept until the snapshot is there, then applied in the order in which they come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::deals::first_time;
use super::state::{Session, WireEvent};
use crate::ctrader::convert::{self, Malformed};
use crate::domain::account::Event;
use crate::domain::deal::Source;
use crate::domain::ids::{PositionId, SymbolId};

/// A snapshot may lag behind the events by that, and more than was ever seen: what came since is
/// replayed over it. No more, since what an event opened, a lost one may have closed.
pub(super) const LAG_MAX: Duration = Duration::from_secs(1);

/// Events kept while the snapshot is on its way; an account with more in flight starts again.
pub(super) const BUFFERED_MAX: usize = 10_000;

/// Symbols of orders that are being executed, subscribed before their position is there.
pub(super) const HINTS_MAX: usize = 8;

impl Session {
    /// Applies an event, or keeps it until the snapshot is there.
    pub(in crate::ctrader) fn handle_event(
        &mut self,
        event: WireEvent,
        now: Instant,
    ) -> Result<(), Malformed> {
        if self.account.is_none() {
            if self.buffered.len() == BUFFERED_MAX {
                return Err(Malformed::OutOfRange(
                    "the number of events before the snapshot",
                ));
            }
            self.buffered.push(event);
            return Ok(());
        }
        self.remember(event.clone(), now);
        if self.apply(event)? {
            self.changed = true;
            self.event_at = now;
        }
        self.watch_ledger(now);
        Ok(())
    }

    /// Drops the events that no snapshot could lack any more.
    pub(in crate::ctrader) fn forget_recent(&mut self, now: Instant) {
        // While one is on its way, nothing that it might not have is forgotten.
        if self.checks.snapshot_sent_at.is_none() && !self.checks.is_verifying() {
            while self
                .recent
                .front()
                .is_some_and(|(at, _)| *at + LAG_MAX < now)
            {
                self.recent.pop_front();
            }
        }
    }

    pub(super) fn remember(&mut self, event: WireEvent, now: Instant) {
        self.forget_recent(now);
        if self.recent.len() == BUFFERED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((now, event));
    }

    /// Applies an event to the account; whether it is different now.
    pub(super) fn apply(&mut self, event: WireEvent) -> Result<bool, Malformed> {
        let Some(account) = &mut self.account else {
            return Ok(false);
        };
        let digits = account.trader().money_digits;
        let event = match event {
            WireEvent::Execution(wire) => {
                if let Some(wire) = &wire.deal {
                    let deal = convert::deal(wire, digits)?;
                    self.ledger
                        .see_deal(deal.position_id, deal.closing.is_some());
                    if first_time(&mut self.deals_seen, deal.deal_id) {
                        self.deals.push_back((deal, Source::Event));
                    }
                }
                let execution = convert::execution(*wire, digits)?;
                if let Some(balance) = execution.balance {
                    self.ledger.see(balance.version);
                }
                if let Some(order) = &execution.order {
                    hint(&mut self.hints, order.symbol);
                }
                if let Some((_, position)) = &execution.position {
                    let held = account.positions().find(|held| held.id == position.id);
                    if held.is_some_and(|held| held.volume != position.volume) {
                        self.checks.drop_stand_in(position.id);
                    }
                }
                Event::Execution(Box::new(execution))
            }
            WireEvent::Trader(wire) => Event::Trader(Box::new(convert::trader(*wire)?)),
            WireEvent::Margin(wire) => {
                let id = PositionId(wire.position_id.cast_signed());
                Event::Margin(
                    id,
                    convert::margin(wire.used_margin, wire.money_digits, digits)?,
                )
            }
            WireEvent::TrailingStop(wire) => {
                let stop = convert::stop_price(wire.stop_price)
                    .ok_or(Malformed::OutOfRange("stopPrice"))?;
                Event::TrailingStop(
                    PositionId(wire.position_id),
                    stop,
                    wire.utc_last_update_timestamp,
                )
            }
        };
        let changed = account.apply(event);
        self.ledger.handle_version(account.trader().balance_version);
        Ok(changed)
    }
}

pub(super) fn hint(hints: &mut VecDeque<SymbolId>, symbol: SymbolId) {
    if !hints.contains(&symbol) {
        if hints.len() == HINTS_MAX {
            hints.pop_front();
        }
        hints.push_back(symbol);
    }
}
