//! From when on an account's deals are looked for, and what was known of it when it was last followed.

use std::time::{Duration, Instant};

use super::{Roster, Stage};
use crate::ctrader::connection::{Connection, HistoryReport};
use crate::domain::fence::HistoryMark;
use crate::domain::ids::AccountId;

/// How far a first look goes back.
const FIRST_LOOK_MS: i64 = 7 * 24 * 3_600_000;

/// Looks overlap by that: clocks differ, and a deal may be missing from the history for a moment.
const OVERLAP_MS: i64 = 600_000;

/// A live account's history is looked into that often, should an event have been lost that nothing
/// else shows.
const LOOK_EVERY: Duration = Duration::from_hours(1);

/// A look that did not tell all is repeated after that.
const LOOK_AGAIN_AFTER: Duration = Duration::from_mins(10);

impl Roster {
    /// Looks for the deals of a live account since the earliest time that one of its sessions needs.
    pub(super) fn look_back(&mut self, account: AccountId, link: &mut Connection, now: Instant) {
        let first = self.wall_ms(now).saturating_sub(FIRST_LOOK_MS);
        let mut from_ms: Option<i64> = None;
        for (_, entry) in self.sharing(account) {
            if entry.stage != Stage::Live || entry.assignment.standby {
                continue;
            }
            entry.history_at = Some(now + LOOK_AGAIN_AFTER);
            entry.lost_deal = false;
            let through = entry.assignment.through_ms;
            let own = through.map_or(first, |through| through.saturating_sub(OVERLAP_MS));
            from_ms = Some(from_ms.map_or(own, |from| from.min(own)));
        }
        if let Some(from_ms) = from_ms {
            link.fetch_history(account, from_ms, now);
        }
    }

    /// A later snapshot differs from what the events said.
    pub(in crate::worker) fn handle_amended(
        &mut self,
        account: AccountId,
        link: &mut Connection,
        now: Instant,
    ) {
        self.look_back(account, link, now);
    }

    /// A look is over; gives back for whom all deals are told, and up to when.
    pub(in crate::worker) fn handle_history(
        &mut self,
        account: AccountId,
        report: &HistoryReport,
        now: Instant,
    ) -> Vec<HistoryMark> {
        let is_whole = !report.is_partial && report.unexplained.is_none();
        let mut marks = Vec::new();
        for (_, entry) in self.sharing(account) {
            // Of one that came since, an earlier time may be needed: its own look is under way.
            let from = entry
                .assignment
                .through_ms
                .unwrap_or_else(|| report.through_ms.saturating_sub(FIRST_LOOK_MS));
            if !is_whole || entry.lost_deal || entry.assignment.standby || from < report.from_ms {
                continue;
            }
            let through_ms = report.through_ms.max(from);
            entry.assignment.through_ms = Some(through_ms);
            entry.history_at = Some(now + LOOK_EVERY);
            let fence = entry.assignment.fence.clone();
            marks.extend(HistoryMark::at_ms(fence, through_ms));
        }
        marks
    }

    /// A deal of an account found no room.
    pub(in crate::worker) fn handle_lost_deal(&mut self, account: AccountId) {
        for (_, entry) in self.sharing(account) {
            entry.lost_deal = true;
        }
    }

    /// What a connection knows of an account is what the next one should know.
    pub(in crate::worker) fn remember(&mut self, account: AccountId, link: &Connection) {
        let Some(known) = link.last_seen(account) else {
            return;
        };
        for (_, entry) in self.sharing(account) {
            entry.assignment.known = known.clone();
        }
    }

    /// The same of all accounts: the connection is over.
    pub(in crate::worker) fn remember_all(&mut self, link: &Connection) {
        let accounts: Vec<AccountId> = self.entries.keys().map(|key| key.account).collect();
        for account in accounts {
            self.remember(account, link);
        }
    }

    /// The wall clock's time at a moment, milliseconds since the epoch.
    pub(super) fn wall_ms(&self, now: Instant) -> i64 {
        let (at, wall_ms) = self.wall;
        let since = now.saturating_duration_since(at).as_millis();
        wall_ms.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }
}
