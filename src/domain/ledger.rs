//! Which changes of an account's balance were seen, and which were not.
//!
//! Every change of a balance has a version, one higher than the one before. So a version that was
//! jumped over is a change that no event reported: what closed then is in the history of deals, the
//! rest in the cash flow. A position that is gone must have a closing deal, whatever the versions say.

use std::collections::BTreeSet;

use litemap::LiteMap;

use super::decimal::Decimal;
use super::ids::PositionId;

/// Versions remembered beyond one that is missing. An account with more in one gap is read again.
const SEEN_MAX: usize = 10_000;

/// Open positions with their volumes in units, where known.
pub type Positions = LiteMap<PositionId, Option<Decimal>>;

/// What an account was when it was last followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastSeen {
    /// Every change of the balance up to this version was seen.
    pub version: Option<i64>,
    /// What was open; `None`: there was never a snapshot.
    pub positions: Option<Positions>,
}

/// What history did not explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unexplained {
    /// Changes of the balance without a deal or a cash operation.
    pub changes: u64,
    /// Positions that are gone, new or larger without a deal that made them so.
    pub positions: usize,
}

/// The changes of one account's balance, as far as they were seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Every change up to this version was seen, or happened before the first snapshot.
    through: Option<i64>,
    /// Those seen beyond it.
    seen: BTreeSet<i64>,
    /// The version that the last snapshot had: what is missing below it is no lost event.
    snapshot: Option<i64>,
    /// The version that the balance has now.
    current: Option<i64>,
    /// Positions that are gone, and had no closing deal so far.
    closed: BTreeSet<PositionId>,
    /// Positions that are new or have another volume, and had no deal so far.
    opened: BTreeSet<PositionId>,
}

impl Ledger {
    /// Nothing seen yet, but what was known when the account was last followed.
    #[must_use]
    pub fn new(last_seen: &LastSeen) -> Self {
        Self {
            through: last_seen.version,
            ..Self::default()
        }
    }

    /// Records a snapshot with this version and these open positions; `before` were open before it.
    pub fn handle_snapshot(
        &mut self,
        version: Option<i64>,
        before: Option<&Positions>,
        open: &Positions,
    ) {
        self.snapshot = version.max(self.snapshot);
        self.current = version.max(self.current);
        // A balance that starts anew (a demo account that was reset) has no gap.
        if self.through > self.current || self.through.is_none() {
            self.through = self.current;
            self.seen.clear();
        }
        if let Some(before) = before {
            self.closed.extend(before.keys());
            let opened = open.iter().filter(|(id, volume)| match before.get(id) {
                None => true,
                Some(held) => held
                    .zip(**volume)
                    .is_some_and(|(held, volume)| held != volume),
            });
            self.opened.extend(opened.map(|(id, _)| *id));
        }
        self.closed.retain(|position| !open.contains_key(position));
        self.opened.retain(|position| open.contains_key(position));
    }

    /// Records a deal or a cash operation that made the balance of this version.
    pub fn record_version(&mut self, version: Option<i64>) {
        let Some(version) = version else { return };
        if self.through.is_some_and(|through| version > through) && self.seen.len() < SEEN_MAX {
            self.seen.insert(version);
        }
        while let Some(next) = self.through.and_then(|through| through.checked_add(1))
            && self.seen.remove(&next)
        {
            self.through = Some(next);
        }
    }

    /// Records a deal of a position, and whether it closed volume.
    pub fn record_deal(&mut self, position: PositionId, closing: bool) {
        self.opened.remove(&position);
        if closing {
            self.closed.remove(&position);
        }
    }

    /// Records that the balance has this version now, by whatever event.
    pub fn handle_version(&mut self, version: Option<i64>) {
        self.current = self.current.max(version);
        if self.through.is_none() {
            self.through = self.current;
        }
    }

    /// Whether an event since the last snapshot did not come: the account is not what it seems.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        let (Some(through), Some(now)) = (self.through, self.current) else {
            return false;
        };
        let from = self
            .snapshot
            .map_or(through, |snapshot| snapshot.max(through));
        now > from && self.missing_beyond(from, now) > 0
    }

    /// Every change up to this version was seen.
    #[must_use]
    pub const fn through(&self) -> Option<i64> {
        self.through
    }

    /// What is still unexplained.
    #[must_use]
    pub fn unexplained(&self) -> Option<Unexplained> {
        let changes = match (self.through, self.current) {
            (Some(through), Some(now)) if now > through => self.missing_beyond(through, now),
            _ => 0,
        };
        let positions = self.closed.len() + self.opened.len();
        (changes > 0 || positions > 0).then_some(Unexplained { changes, positions })
    }

    /// Whether a change of the balance is missing that no deal explains: a cash operation, most likely.
    #[must_use]
    pub fn lacks_changes(&self) -> bool {
        self.unexplained().is_some_and(|left| left.changes > 0)
    }

    /// Counts what is missing as seen: nothing more will explain it.
    pub fn accept_unexplained(&mut self) {
        self.through = self.current.max(self.through);
        self.seen.clear();
        self.closed.clear();
        self.opened.clear();
    }

    fn missing_beyond(&self, from: i64, now: i64) -> u64 {
        let seen = self.seen.range(from.saturating_add(1)..=now).count() as u64;
        now.abs_diff(from).saturating_sub(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(ids: &[i64]) -> Positions {
        ids.iter().map(|id| (PositionId(*id), None)).collect()
    }

    fn last_seen(version: i64) -> LastSeen {
        LastSeen {
            version: Some(version),
            positions: None,
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "what it is compared with is an option"
    )]
    fn left(changes: u64, positions: usize) -> Option<Unexplained> {
        Some(Unexplained { changes, positions })
    }

    #[test]
    fn a_jump_is_a_lost_event_until_it_comes() {
        let mut ledger = Ledger::default();
        ledger.handle_snapshot(Some(40), None, &open(&[]));
        ledger.handle_version(Some(42));
        ledger.record_version(Some(42));
        assert!(ledger.has_gap());
        assert_eq!(ledger.unexplained(), left(1, 0));
        ledger.record_version(Some(41));
        assert!(!ledger.has_gap());
        assert_eq!(ledger.unexplained(), None);
    }

    #[test]
    fn a_version_that_came_without_its_event_is_a_lost_event() {
        let mut ledger = Ledger::default();
        ledger.handle_snapshot(Some(40), None, &open(&[]));
        ledger.handle_version(Some(41));
        assert!(ledger.has_gap());
        // A new snapshot has the result; only the history has its causes.
        ledger.handle_snapshot(Some(41), Some(&open(&[])), &open(&[]));
        assert!(!ledger.has_gap());
        assert_eq!(ledger.unexplained(), left(1, 0));
        ledger.record_version(Some(41));
        assert_eq!(ledger.unexplained(), None);
    }

    #[test]
    fn a_gap_is_explained_by_deals_and_cash_whatever_their_order() {
        let mut ledger = Ledger::new(&last_seen(40));
        ledger.handle_snapshot(Some(43), Some(&open(&[7, 8])), &open(&[8]));
        assert!(!ledger.has_gap(), "nothing was lost since the snapshot");
        assert_eq!(ledger.unexplained(), left(3, 1));
        ledger.record_version(Some(43));
        ledger.record_version(Some(41));
        ledger.record_deal(PositionId(7), false);
        assert_eq!(
            ledger.unexplained(),
            left(1, 1),
            "an opening deal closes nothing"
        );
        ledger.record_deal(PositionId(7), true);
        assert!(ledger.lacks_changes());
        ledger.record_version(Some(42));
        assert_eq!(ledger.unexplained(), None);
    }

    #[test]
    fn a_position_that_is_new_or_larger_has_a_deal() {
        let volume = |units| Some(Decimal::new(units, 0));
        let before = Positions::from_iter([(PositionId(7), volume(10)), (PositionId(8), None)]);
        let after = Positions::from_iter([
            (PositionId(7), volume(20)),
            (PositionId(8), volume(5)),
            (PositionId(9), volume(5)),
        ]);
        let mut ledger = Ledger::new(&last_seen(40));
        ledger.handle_snapshot(Some(40), Some(&before), &after);
        assert_eq!(ledger.unexplained(), left(0, 2), "7 grew, 9 is new");
        ledger.record_deal(PositionId(9), false);
        ledger.record_deal(PositionId(7), false);
        assert_eq!(ledger.unexplained(), None);
    }

    #[test]
    fn without_versions_only_positions_are_missed() {
        let mut ledger = Ledger::default();
        ledger.handle_snapshot(None, Some(&open(&[7])), &open(&[]));
        ledger.handle_version(None);
        assert!(!ledger.has_gap());
        assert_eq!(ledger.unexplained(), left(0, 1));
    }

    #[test]
    fn a_first_snapshot_has_nothing_to_explain_and_a_reset_neither() {
        let mut ledger = Ledger::default();
        ledger.handle_snapshot(Some(9), None, &open(&[1]));
        assert_eq!(ledger.unexplained(), None);
        let mut ledger = Ledger::new(&last_seen(40));
        ledger.handle_snapshot(Some(2), None, &open(&[]));
        assert_eq!(ledger.unexplained(), None);
    }
}
