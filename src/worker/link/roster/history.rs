//! From when on an account's deals are requested, and what was last seen of the account.

use std::time::{Duration, Instant};

use super::Roster;
use super::session::Stage;
use crate::ctrader::connection::{Connection, HistoryReport};
use crate::domain::fence::HistoryMark;
use crate::domain::ids::AccountId;

/// How far back the first request of a session goes.
const FIRST_HISTORY_MS: i64 = 7 * 24 * 3_600_000;

/// How far requests overlap: clocks differ, and cTrader's history may lack a deal for a moment.
const HISTORY_OVERLAP_MS: i64 = 600_000;

/// How often the history of a live account is requested, for the case that an event was lost and nothing else
/// shows it.
const HISTORY_INTERVAL: Duration = Duration::from_hours(1);

/// The pause before a request that did not return everything is repeated.
const HISTORY_RETRY_AFTER: Duration = Duration::from_mins(10);

impl Roster {
    /// Requests the deals of a live account since the earliest time that one of its sessions needs.
    pub(super) fn request_history(
        &mut self,
        account: AccountId,
        connection: &mut Connection,
        now: Instant,
    ) {
        let first = self.wall_ms(now).saturating_sub(FIRST_HISTORY_MS);
        let mut from_ms: Option<i64> = None;
        for session in self.sharing(account) {
            if session.stage != Stage::Live || session.assignment.standby {
                continue;
            }
            session.history_at = Some(now + HISTORY_RETRY_AFTER);
            session.lost_deal = false;
            let through = session.assignment.through_ms;
            let own = through.map_or(first, |through| through.saturating_sub(HISTORY_OVERLAP_MS));
            from_ms = Some(from_ms.map_or(own, |from| from.min(own)));
        }
        if let Some(from_ms) = from_ms {
            connection.fetch_history(account, from_ms, now);
        }
    }

    /// A later snapshot of an account differs from what its events led to: deals may have been missed.
    pub(in crate::worker) fn handle_snapshot_diverged(
        &mut self,
        account: AccountId,
        connection: &mut Connection,
        now: Instant,
    ) {
        self.request_history(account, connection, now);
    }

    /// A history request has ended. Returns the marks of the sessions whose deals are complete up to a new time.
    pub(in crate::worker) fn handle_history(
        &mut self,
        account: AccountId,
        report: &HistoryReport,
        now: Instant,
    ) -> Vec<HistoryMark> {
        let is_whole = !report.is_partial && report.unexplained.is_none();
        let mut marks = Vec::new();
        for session in self.sharing(account) {
            // A session that started since may need an earlier time: its own request is under way.
            let from = session
                .assignment
                .through_ms
                .unwrap_or_else(|| report.through_ms.saturating_sub(FIRST_HISTORY_MS));
            if !is_whole || session.lost_deal || session.assignment.standby || from < report.from_ms
            {
                continue;
            }
            let through_ms = report.through_ms.max(from);
            session.assignment.through_ms = Some(through_ms);
            session.history_at = Some(now + HISTORY_INTERVAL);
            let fence = session.assignment.fence.clone();
            marks.extend(HistoryMark::at_ms(fence, through_ms));
        }
        marks
    }

    /// A deal of an account was dropped, because the outbox was full.
    pub(in crate::worker) fn handle_lost_deal(&mut self, account: AccountId) {
        for session in self.sharing(account) {
            session.lost_deal = true;
        }
    }

    /// Saves what the connection has seen of an account last, for the next connection.
    pub(in crate::worker) fn save_last_seen(
        &mut self,
        account: AccountId,
        connection: &Connection,
    ) {
        let Some(known) = connection.known(account) else {
            return;
        };
        for session in self.sharing(account) {
            session.assignment.known = known.clone();
        }
    }

    /// Saves the same for all accounts: the connection is over.
    pub(in crate::worker) fn save_all_last_seen(&mut self, connection: &Connection) {
        for (account, stream) in &mut self.accounts {
            let Some(known) = connection.known(*account) else {
                continue;
            };
            for session in stream.sessions_mut() {
                session.assignment.known = known.clone();
            }
        }
    }
}
