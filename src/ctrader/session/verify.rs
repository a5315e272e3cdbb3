//! Whether what is shown is so: a second snapshot after the first, which may have lagged, and now and
//! then the server's own unrealised P&L.
//!
//! Where a quote is missing the server's figure stands in for ours, and is asked for again until the
//! quote is there.

use litemap::LiteMap;
use std::time::{Duration, Instant};

use super::events::LAG_MAX;
use super::snapshot::{open_positions, read_snapshot};
use super::state::{Phase, Session};
use crate::ctrader::convert::{self, Malformed};
use crate::ctrader::request::{Ask, Request};
use crate::ctrader::wire::{ProtoOaGetPositionUnrealizedPnLRes, ProtoOaReconcileRes};
use crate::domain::decimal::Decimal;
use crate::domain::equity::{self, StandIns};
use crate::domain::ids::PositionId;
use crate::domain::secret::Secret;

/// A second snapshot is asked for that long after the first, and again while events keep crossing it.
const VERIFY_AFTER: Duration = Duration::from_secs(2);

/// Snapshots after the first, at most.
const VERIFICATIONS_MAX: u32 = 4;

/// How often an account's P&L is compared with the server's.
const AUDIT_EVERY: Duration = Duration::from_mins(5);

/// But all accounts of a connection together no more often than that: two requests each are a tenth of
/// its budget.
const AUDIT_SPACING: Duration = Duration::from_millis(400);

/// The first comparison comes that long after an account went live.
const AUDIT_FIRST: Duration = Duration::from_secs(15);

/// The server's figure is asked for when a quote is missing for that long.
const STAND_IN_AFTER: Duration = Duration::from_secs(1);

/// And again that often, as long as it is missing: cTrader's own advice.
const STAND_IN_EVERY: Duration = Duration::from_secs(3);

/// And that long after it did not come.
const STAND_IN_RETRY: Duration = Duration::from_secs(30);

/// A figure that stands in is dropped that long after it should have been renewed.
const STAND_IN_GRACE: Duration = Duration::from_secs(15);

/// A newer token is offered for a live account that long after it came, if cTrader has not ended the
/// session of the old one by then.
const REAUTHORISE_AFTER: Duration = Duration::from_secs(10);

/// What a position's P&L may differ by, in the account's smallest unit: each end rounds twice.
const TOLERANCE_UNITS: i128 = 3;

/// And one part in so many of its gross profit: which side of a quote the server converts by is not
/// known.
const TOLERANCE_PART: i128 = 1_000;

/// Our P&L against the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Σ of what the positions differ by, without signs.
    pub drift: Decimal,
    /// How many were compared.
    pub positions: usize,
    /// Whether one differs by more than rounding and conversion explain.
    pub is_excessive: bool,
}

impl Session {
    /// The account is live.
    pub(super) fn plan_checks(&mut self, now: Instant) {
        self.checks.verifications = 0;
        self.checks.verify_at = Some(now + VERIFY_AFTER);
        // Not all accounts at once: a second apart, by their ids.
        let apart = Duration::from_secs(self.id.0.unsigned_abs() % AUDIT_EVERY.as_secs());
        self.checks.audit_at = Some(now + AUDIT_FIRST + apart);
        self.watch_quotes(now);
    }

    /// Asks the server for its figures soon if ours cannot be computed.
    pub(in crate::ctrader) fn watch_quotes(&mut self, now: Instant) {
        if self.phase != Phase::Live {
            return;
        }
        if self.is_valued() {
            self.checks.stand_in_at = None;
            self.checks.stand_ins_until = None;
            self.checks.stand_ins.clear();
        } else if !self.checks.auditing && self.checks.stand_in_at.is_none() {
            self.checks.stand_in_at = Some(now + STAND_IN_AFTER);
        }
    }

    /// Takes a newer token over. It is offered after a while, should the old one's session go on.
    pub(in crate::ctrader) fn renew_token(&mut self, token: Secret, now: Instant) {
        if self.token != token {
            self.token = token;
            self.checks.reauthorise_at = Some(now + REAUTHORISE_AFTER);
        }
    }

    /// Asks what is due. `sessions` is how many share the connection's budget.
    pub(in crate::ctrader) fn handle_checks(
        &mut self,
        sessions: usize,
        now: Instant,
    ) -> Vec<Request> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut asks = Vec::new();
        if due(self.checks.reauthorise_at) {
            self.checks.reauthorise_at = None;
            asks.push(self.ask(Ask::Reauthorise));
        }
        if due(self.checks.verify_at) {
            self.checks.verify_at = None;
            if !self.checks.verifying {
                self.checks.verifying = true;
                asks.push(self.ask(Ask::Verify));
            }
        }
        let mut wanted = false;
        if due(self.checks.stand_ins_until) {
            self.put_stand_ins(StandIns::new(), now);
        }
        if due(self.checks.stand_in_at) {
            self.checks.stand_in_at = None;
            wanted = !self.is_valued();
        }
        if due(self.checks.audit_at) {
            self.checks.audit_at = Some(now + audit_interval(sessions));
            // Also one that seems flat: an opening that no event told of changes no version.
            wanted = true;
            asks.push(self.ask(Ask::Recheck));
        }
        if wanted && !self.checks.auditing {
            self.checks.auditing = true;
            asks.push(self.ask(Ask::Audit));
        }
        asks
    }

    /// A request has left.
    pub(in crate::ctrader) fn handle_sent(&mut self, ask: &Ask, now: Instant) {
        if matches!(ask, Ask::Reconcile | Ask::Verify) {
            self.checks.snapshot_sent_at = Some(now);
        } else if *ask == Ask::Audit {
            self.checks.audited = self.net_by_position();
            self.checks.audited_open = self
                .account
                .as_ref()
                .map(open_positions)
                .unwrap_or_default();
        }
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

    /// A later snapshot: what it has and we had not, or the reverse, is put right. Returns whether
    /// positions came or went by it, which a deal must explain.
    pub(in crate::ctrader) fn handle_verified(
        &mut self,
        wire: ProtoOaReconcileRes,
        now: Instant,
    ) -> Result<bool, Malformed> {
        // One that was asked for before the account was read anew says nothing of what is now.
        if !std::mem::take(&mut self.checks.verifying) {
            return Ok(false);
        }
        let sent_at = self.checks.snapshot_sent_at.take().unwrap_or(now);
        // Read anew meanwhile, or about to be: then by that.
        let Some(account) = self.account.clone().filter(|_| self.phase == Phase::Live) else {
            return Ok(false);
        };
        let renewed = read_snapshot(Some(&account), account.trader().clone(), wire)?;
        self.account = Some(renewed);
        // It may lag behind the events that came around the time that it was asked for.
        let recent: Vec<_> = self
            .recent
            .iter()
            .filter(|(at, _)| *at + LAG_MAX >= sent_at)
            .map(|(_, event)| event.clone())
            .collect();
        let crossed = !recent.is_empty();
        for event in recent {
            self.apply(event)?;
        }
        let Some(renewed) = &self.account else {
            return Ok(false);
        };
        let differs = !renewed.positions().eq(account.positions())
            || !renewed.orders().eq(account.orders())
            || renewed.trader() != account.trader();
        let (before, open) = (open_positions(&account), open_positions(renewed));
        let version = renewed.trader().balance_version;
        if *renewed == account {
            // As almost always: what is there stays where it is, rather than leave holes in the heap.
            self.account = Some(account);
        }
        if differs {
            self.changed = true;
            self.event_at = now;
        }
        if before != open {
            self.ledger.handle_snapshot(version, Some(&before), &open);
        }
        self.checks.verifications += 1;
        if (crossed || differs) && self.checks.verifications < VERIFICATIONS_MAX {
            self.checks.verify_at = Some(now + VERIFY_AFTER);
        }
        Ok(before != open)
    }

    /// The server's own P&L.
    pub(in crate::ctrader) fn handle_audited(
        &mut self,
        wire: &ProtoOaGetPositionUnrealizedPnLRes,
        now: Instant,
    ) -> Result<Option<Audit>, Malformed> {
        self.checks.auditing = false;
        let before = std::mem::take(&mut self.checks.audited);
        let audited_open = std::mem::take(&mut self.checks.audited_open);
        let Some(account) = self.account.as_ref().filter(|_| self.phase == Phase::Live) else {
            return Ok(None);
        };
        let digits = account.trader().money_digits;
        let mut told = LiteMap::new();
        for line in &wire.position_unrealized_pn_l {
            let money = |units: i64| -> Result<Decimal, Malformed> {
                Ok(convert::audited(units, wire.money_digits)?.rescale(digits))
            };
            let figures = (
                money(line.gross_unrealized_pn_l)?,
                money(line.net_unrealized_pn_l)?,
            );
            told.insert(PositionId(line.position_id), figures);
        }
        let ours = self.net_by_position();
        let open = open_positions(account);
        let stand_ins: StandIns = account
            .positions()
            .filter(|position| !ours.contains_key(&position.id))
            // A figure for another volume is none for this one.
            .filter(|position| open.get(&position.id) == audited_open.get(&position.id))
            .filter_map(|position| Some((position.id, told.get(&position.id)?.0)))
            .collect();
        let (drift, positions, is_excessive) = compare(&before, &ours, &told);
        let valued = ours.len() == account.positions().len();
        // One that only one end knows of is in flight, or lost: a snapshot tells.
        let same = account
            .positions()
            .map(|position| position.id)
            .eq(told.keys().copied());
        if !same && !self.checks.verifying && self.checks.verify_at.is_none() {
            self.checks.verifications = 0;
            self.checks.verify_at = Some(now + VERIFY_AFTER);
        }
        let renewal = now + STAND_IN_EVERY;
        self.checks.stand_ins_until = (!stand_ins.is_empty()).then(|| renewal + STAND_IN_GRACE);
        // What the server does not know either is not asked for at every turn.
        self.checks.stand_in_at = Some(if stand_ins.is_empty() {
            now + STAND_IN_RETRY
        } else {
            renewal
        })
        .filter(|_| !valued);
        self.put_stand_ins(stand_ins, now);
        let audit = Audit {
            drift: Decimal::new(drift, digits),
            positions,
            is_excessive,
        };
        Ok((positions > 0).then_some(audit))
    }

    /// The server did not say: what stood in is too old to go on doing so.
    pub(in crate::ctrader) fn handle_unaudited(&mut self, now: Instant) {
        self.checks.auditing = false;
        self.checks.stand_in_at = Some(now + STAND_IN_RETRY);
        self.put_stand_ins(StandIns::new(), now);
    }

    /// The balance's version, as the server has it: a higher one is a change that no event told of.
    pub(in crate::ctrader) fn handle_rechecked(&mut self, version: Option<i64>, now: Instant) {
        if self.phase == Phase::Live {
            self.ledger.handle_version(version);
            self.watch_ledger(now);
        }
    }

    /// The second snapshot did not come: the first counts, until the next audit at least.
    pub(in crate::ctrader) fn handle_unverified(&mut self) {
        self.checks.verifying = false;
        self.checks.snapshot_sent_at = None;
    }

    /// The newer token authorised the account: its subscriptions and its state are looked at anew.
    pub(in crate::ctrader) fn handle_reauthorised(&mut self, now: Instant) {
        self.resubscribe();
        self.checks.verifications = 0;
        self.checks.verify_at = Some(now);
    }

    fn put_stand_ins(&mut self, stand_ins: StandIns, now: Instant) {
        if stand_ins.is_empty() {
            self.checks.stand_ins_until = None;
        }
        if self.checks.stand_ins != stand_ins {
            self.checks.stand_ins = stand_ins;
            self.changed = true;
            self.event_at = now;
        }
    }
}

fn audit_interval(sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
    AUDIT_EVERY.max(AUDIT_SPACING.saturating_mul(sessions))
}

/// Σ of the differences, of how many positions, and whether one is too large. Quotes move while the
/// question is on its way: what lies between our figures before and after does not differ.
fn compare(
    before: &LiteMap<PositionId, Decimal>,
    ours: &LiteMap<PositionId, Decimal>,
    told: &LiteMap<PositionId, (Decimal, Decimal)>,
) -> (i128, usize, bool) {
    let (mut drift, mut positions, mut is_excessive) = (0, 0, false);
    for (id, (gross, net)) in told {
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
        let told = |net: i128| {
            let figures = (Decimal::new(net, 2), Decimal::new(net, 2));
            LiteMap::from_iter([(PositionId(1), figures)])
        };
        assert_eq!(compare(&at(100), &at(140), &told(120)), (0, 1, false));
        assert_eq!(compare(&at(140), &at(100), &told(97)), (3, 1, false));
        assert_eq!(compare(&at(100), &at(140), &told(150)), (10, 1, true));
        assert_eq!(
            compare(&at(100), &LiteMap::new(), &told(150)),
            (0, 0, false)
        );
        // A tenth of a per cent of a large profit is the choice of a side of the conversion.
        let large = (1_000_000, 1_000_000, 1_000_900);
        assert_eq!(
            compare(&at(large.0), &at(large.1), &told(large.2)),
            (900, 1, false)
        );
    }

    #[test]
    fn a_crowd_is_audited_within_a_tenth_of_the_budget() {
        assert_eq!(audit_interval(1), AUDIT_EVERY);
        assert_eq!(audit_interval(10_000), Duration::from_secs(4_000));
    }
}
