//! What a link has to say in rows: the regular round, what cannot wait for it, and last words.

use std::time::Instant;

use time::OffsetDateTime;
use tracing::error;

use super::Link;
use crate::ctrader::connection::Connection;
use crate::domain::deal::{Deal, Source};
use crate::domain::fence::Fence;
use crate::domain::ids::AccountId;
use crate::domain::row::{AccountRow, RowContent, SessionState};
use crate::domain::status::Status;
use crate::pg::deals::DealWrite;
use crate::worker::link::roster::{LiveSession, Roster};

impl Link {
    /// A regular round: every live row is written, whole if it changed.
    pub(super) fn round(&self, roster: &mut Roster, connection: &mut Connection) {
        if !connection.is_following() {
            return;
        }
        let live: Vec<LiveSession<'_>> = roster.live().collect();
        for sessions in live.chunk_by(|one, other| one.account == other.account) {
            let Some((last, others)) = sessions.split_last() else {
                continue;
            };
            let account = last.account;
            let always = last.row_due || others.iter().any(|session| session.row_due);
            // One that is logging out follows no more, whoever shares it.
            if !connection.is_live(account) {
                continue;
            }
            let row = connection.take_row(account, always, wall_at).map(Box::new);
            for session in others {
                self.outbox
                    .put(session.fence, content(session, row.clone()));
            }
            self.outbox.put(last.fence, content(last, row));
        }
        self.outbox.wake();
    }

    /// Says and passes on what the roster has, and writes what cannot wait.
    pub(super) fn see_to(&self, roster: &mut Roster, connection: &Connection) {
        self.say(roster);
        self.pass_on(roster);
        self.tell_settled(roster, Some(connection));
        if roster.row_is_due() {
            self.put_due_rows(roster, connection, connection.is_following());
        }
    }

    /// Writes the rows that cannot wait for the next round: of sessions that have just become live
    /// or fallen silent.
    pub(super) fn put_due_rows(
        &self,
        roster: &mut Roster,
        connection: &Connection,
        following: bool,
    ) {
        self.put_rows(roster, connection, following, |session| session.row_due);
    }

    /// Writes whole rows of live sessions, with the latest figures there are.
    pub(super) fn put_rows(
        &self,
        roster: &mut Roster,
        connection: &Connection,
        connected: bool,
        which: impl Fn(&LiveSession<'_>) -> bool,
    ) {
        let mut put = Vec::new();
        for session in roster.live().filter(|session| which(session)) {
            let Some(row) = connection.peek_row(session.account, wall_at) else {
                continue;
            };
            let mut state = session.state;
            if !connected {
                state.status = Status::Reconnecting;
            }
            self.outbox.put(
                session.fence,
                RowContent::Full {
                    state,
                    connected,
                    account: Box::new(row),
                },
            );
            put.push(session.fence.key.clone());
        }
        for key in &put {
            roster.row_put(key);
        }
        if !put.is_empty() {
            self.outbox.wake();
        }
    }

    pub(super) fn put_deal(
        &self,
        roster: &mut Roster,
        account: AccountId,
        source: Source,
        deal: &Deal,
    ) {
        let fences: Vec<Fence> = roster.fences_of(account).cloned().collect();
        for fence in &fences {
            self.put_deal_of(roster, fence, source, deal);
        }
        roster.defer_deal(account, source, deal);
    }

    pub(super) fn put_deal_of(
        &self,
        roster: &mut Roster,
        fence: &Fence,
        source: Source,
        deal: &Deal,
    ) {
        let account = fence.key.account;
        let write = DealWrite {
            fence: fence.clone(),
            source,
            deal: deal.clone(),
        };
        if !self.outbox.put_deal(write) {
            error!(link = self.name, %account, deal = %deal.deal_id, "no room for a deal: the database is away too long");
            roster.handle_lost_deal(account);
        }
        self.outbox.wake();
    }

    pub(super) fn release_all(
        &self,
        roster: &mut Roster,
        connection: Option<&mut Connection>,
        now: Instant,
    ) {
        for (fence, is_demo) in roster.stop_all(connection, now) {
            // Of a slot that never was ours nothing is said.
            if fence.epoch == Fence::UNCLAIMED_EPOCH {
                continue;
            }
            self.put_state(&fence, SessionState::of(Status::Pending).on(is_demo));
        }
    }

    pub(super) fn put_state(&self, fence: &Fence, state: SessionState) {
        self.outbox.put(fence, RowContent::State(state));
        self.outbox.wake();
    }

    pub(super) fn say(&self, roster: &mut Roster) {
        let updates = roster.take_status_updates();
        if updates.is_empty() {
            return;
        }
        for update in updates {
            self.outbox
                .put(&update.fence, RowContent::State(update.state));
        }
        self.outbox.wake();
    }
}

/// What a round says of a session: its row, or that it is still so.
fn content(session: &LiveSession<'_>, row: Option<Box<AccountRow>>) -> RowContent {
    match row {
        Some(account) => RowContent::Full {
            state: session.state.clone(),
            connected: true,
            account,
        },
        None => RowContent::Heartbeat,
    }
}

/// The wall clock's time at a moment that the monotonic clock knows.
fn wall_at(at: Instant) -> OffsetDateTime {
    OffsetDateTime::now_utc() - at.elapsed()
}
