//! The audit: now and then our P&L is compared with the server's own.
//!
//! Where a quote is missing, the server's figure is shown in place of ours, and asked for again until the
//! quote is there.

use std::time::{Duration, Instant};

use litemap::LiteMap;

use super::snapshot::open_positions;
use super::state::{Phase, Session};
use super::timer::Timer;
use crate::ctrader::convert::{self, Malformed};
use crate::ctrader::wire::ProtoOaGetPositionUnrealizedPnLRes;
use crate::domain::decimal::Decimal;
use crate::domain::equity::{self, PnlFallbacks};
use crate::domain::ids::PositionId;

/// How often an account's P&L is compared with the server's.
pub(super) const AUDIT_INTERVAL: Duration = Duration::from_mins(5);

/// But all accounts of a connection together no more often than that: two requests each are a tenth of
/// its budget.
const AUDIT_SPACING: Duration = Duration::from_millis(400);

/// The first comparison comes that long after an account went live.
pub(super) const AUDIT_FIRST: Duration = Duration::from_secs(15);

/// The server's figure is asked for when a quote is missing for that long.
const FALLBACK_AFTER: Duration = Duration::from_secs(1);

/// And again that often, as long as it is missing: cTrader's own advice.
const FALLBACK_INTERVAL: Duration = Duration::from_secs(3);

/// And that long after it did not come.
const FALLBACK_RETRY: Duration = Duration::from_secs(30);

/// The server's figure is dropped that long after it should have been renewed.
const FALLBACK_GRACE: Duration = Duration::from_secs(15);

/// What a position's P&L may differ by, in the account's smallest unit: each end rounds twice.
const TOLERANCE_UNITS: i128 = 3;

/// And one part in so many of its gross profit: which side of a quote the server converts by is not
/// known.
const TOLERANCE_PART: i128 = 1_000;

/// Our P&L against the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Σ of what the positions differ by, without signs, in the account's money.
    pub drift: Decimal,
    /// How many were compared.
    pub positions: usize,
    /// Whether one differs by more than rounding and conversion explain.
    pub is_excessive: bool,
}

impl Session {
    /// Plans to ask the server for its P&L if ours cannot be computed.
    pub(in crate::ctrader) fn schedule_pnl_fallback(&mut self, now: Instant) {
        if self.phase != Phase::Live {
            return;
        }
        if self.is_valued() {
            self.timers.stop(Timer::PnlFallback);
            self.timers.stop(Timer::PnlFallbackExpiry);
            self.checks.pnl_fallbacks.clear();
        } else if !self.checks.audit_pending && !self.timers.is_set(Timer::PnlFallback) {
            self.timers.set(Timer::PnlFallback, now + FALLBACK_AFTER);
        }
    }

    /// Notes our own figures: the server has just been asked for its.
    pub(super) fn note_audited_state(&mut self) {
        self.checks.audit_net = self.net_by_position();
        self.checks.audit_open = self
            .account
            .as_ref()
            .map(open_positions)
            .unwrap_or_default();
    }

    /// Our net P&L of each position that is valued by quotes.
    fn net_by_position(&self) -> LiteMap<PositionId, Decimal> {
        let Some(account) = &self.account else {
            return LiteMap::new();
        };
        let value = equity::value(account, &self.market);
        let positions = account.positions().map(|position| position.id);
        positions
            .zip(value.positions)
            .filter_map(|(id, value)| Some((id, value.net?)))
            .collect()
    }

    /// Compares our P&L with the server's, and takes the server's where ours is unknown. Returns `None`
    /// if no position could be compared.
    pub(in crate::ctrader) fn handle_audit(
        &mut self,
        wire: &ProtoOaGetPositionUnrealizedPnLRes,
        now: Instant,
    ) -> Result<Option<Audit>, Malformed> {
        self.checks.audit_pending = false;
        let before = std::mem::take(&mut self.checks.audit_net);
        let open_before = std::mem::take(&mut self.checks.audit_open);
        let Some(account) = self.account.as_ref().filter(|_| self.phase == Phase::Live) else {
            return Ok(None);
        };
        let digits = account.trader().money_digits;
        let mut theirs = LiteMap::new();
        for line in &wire.position_unrealized_pn_l {
            let money = |units: i64| -> Result<Decimal, Malformed> {
                Ok(convert::pnl(units, wire.money_digits)?.rescale(digits))
            };
            let figures = (
                money(line.gross_unrealized_pn_l)?,
                money(line.net_unrealized_pn_l)?,
            );
            theirs.insert(PositionId(line.position_id), figures);
        }
        let ours = self.net_by_position();
        let open = open_positions(account);
        let fallbacks: PnlFallbacks = account
            .positions()
            .filter(|position| !ours.contains_key(&position.id))
            // A figure for another volume is none for this one.
            .filter(|position| open.get(&position.id) == open_before.get(&position.id))
            .filter_map(|position| Some((position.id, theirs.get(&position.id)?.0)))
            .collect();
        let (drift, positions, is_excessive) = compare(&before, &ours, &theirs);
        let valued = ours.len() == account.positions().len();
        let same = account
            .positions()
            .map(|position| position.id)
            .eq(theirs.keys().copied());
        if !same {
            self.recheck_snapshot_soon(now);
        }
        self.schedule_next_fallback(valued, fallbacks.is_empty(), now);
        self.set_pnl_fallbacks(fallbacks, now);
        let audit = Audit {
            drift: Decimal::new(drift, digits),
            positions,
            is_excessive,
        };
        Ok((positions > 0).then_some(audit))
    }

    /// Plans when the server is asked again, if some position has no figure of ours. `none`: it has none
    /// either.
    fn schedule_next_fallback(&mut self, valued: bool, none: bool, now: Instant) {
        let renewal = now + FALLBACK_INTERVAL;
        if none {
            self.timers.stop(Timer::PnlFallbackExpiry);
        } else {
            self.timers
                .set(Timer::PnlFallbackExpiry, renewal + FALLBACK_GRACE);
        }
        if valued {
            self.timers.stop(Timer::PnlFallback);
        } else if none {
            // What the server does not know either is asked for less often.
            self.timers.set(Timer::PnlFallback, now + FALLBACK_RETRY);
        } else {
            self.timers.set(Timer::PnlFallback, renewal);
        }
    }

    /// Drops the server's figures: newer ones did not come.
    pub(in crate::ctrader) fn handle_audit_failed(&mut self, now: Instant) {
        self.checks.audit_pending = false;
        self.timers.set(Timer::PnlFallback, now + FALLBACK_RETRY);
        self.set_pnl_fallbacks(PnlFallbacks::new(), now);
    }

    pub(super) fn set_pnl_fallbacks(&mut self, fallbacks: PnlFallbacks, now: Instant) {
        if fallbacks.is_empty() {
            self.timers.stop(Timer::PnlFallbackExpiry);
        }
        if self.checks.pnl_fallbacks != fallbacks {
            self.checks.pnl_fallbacks = fallbacks;
            self.changed = true;
            self.event_at = now;
        }
    }
}

/// How often an account is audited that shares the connection with so many.
pub(super) fn audit_interval(sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
    AUDIT_INTERVAL.max(AUDIT_SPACING.saturating_mul(sessions))
}

/// Σ of the differences, of how many positions, and whether one is too large. Quotes move while the
/// request is on its way: a figure between ours before and ours after does not differ.
fn compare(
    before: &LiteMap<PositionId, Decimal>,
    ours: &LiteMap<PositionId, Decimal>,
    theirs: &LiteMap<PositionId, (Decimal, Decimal)>,
) -> (i128, usize, bool) {
    let (mut drift, mut positions, mut is_excessive) = (0, 0, false);
    for (id, (gross, net)) in theirs {
        let (Some(before), Some(ours)) = (before.get(id), ours.get(id)) else {
            continue;
        };
        let low = before.units.min(ours.units);
        let high = before.units.max(ours.units);
        let off = (low - net.units).max(net.units - high).max(0);
        let tolerance = TOLERANCE_UNITS + gross.units.abs() / TOLERANCE_PART;
        positions += 1;
        drift += off;
        is_excessive |= off > tolerance;
    }
    (drift, positions, is_excessive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_that_move_meanwhile_are_no_drift() {
        let at = |units: i128| LiteMap::from_iter([(PositionId(1), Decimal::new(units, 2))]);
        let theirs = |net: i128| {
            let figures = (Decimal::new(net, 2), Decimal::new(net, 2));
            LiteMap::from_iter([(PositionId(1), figures)])
        };
        assert_eq!(compare(&at(100), &at(140), &theirs(120)), (0, 1, false));
        assert_eq!(compare(&at(140), &at(100), &theirs(97)), (3, 1, false));
        assert_eq!(compare(&at(100), &at(140), &theirs(150)), (10, 1, true));
        assert_eq!(
            compare(&at(100), &LiteMap::new(), &theirs(150)),
            (0, 0, false)
        );
        // A tenth of a per cent of a large profit is the choice of a side of the conversion.
        let large = (1_000_000, 1_000_000, 1_000_900);
        assert_eq!(
            compare(&at(large.0), &at(large.1), &theirs(large.2)),
            (900, 1, false)
        );
    }

    #[test]
    fn a_crowd_is_audited_within_a_tenth_of_the_budget() {
        assert_eq!(audit_interval(1), AUDIT_INTERVAL);
        assert_eq!(audit_interval(10_000), Duration::from_secs(4_000));
    }
}
