//! The rows and deals that a link puts into the outbox: the regular round, and what cannot wait for it.

use tracing::error;

use super::context::{LinkContext, read_clock};
use super::roster::{DeferredDeal, LiveSession};
use crate::ctrader::connection::Connection;
use crate::domain::deal::{Deal, Source};
use crate::domain::fence::Fence;
use crate::domain::ids::AccountId;
use crate::domain::row::{AccountRow, RowContent, SessionState};
use crate::domain::status::Status;
use crate::pg::deals::DealWrite;

impl LinkContext {
    /// A regular round: puts every live row, whole if it changed.
    pub(super) fn put_round(&mut self, connection: &mut Connection) {
        if !connection.is_following() {
            return;
        }
        let clock = read_clock();
        let live: Vec<LiveSession<'_>> = self.roster.live().collect();
        for sessions in live.chunk_by(|one, other| one.account == other.account) {
            let Some((last, others)) = sessions.split_last() else {
                continue;
            };
            let account = last.account;
            let always = last.row_due || others.iter().any(|session| session.row_due);
            // An account that is being logged out no longer follows the stream, whoever shares it.
            if !connection.is_live(account) {
                continue;
            }
            let row = connection
                .take_row(account, always, |moment| clock.at(moment))
                .map(Box::new);
            for session in others {
                self.outbox
                    .put(session.fence, content(session, row.clone()));
            }
            self.outbox.put(last.fence, content(last, row));
        }
        self.outbox.wake();
    }

    /// Forwards the outputs of the roster, and puts the rows that cannot wait for the next round: of
    /// sessions that have just become live, or whose connection has fallen silent.
    pub(super) fn flush_outputs(&mut self, connection: &Connection) {
        self.publish_status_updates();
        self.forward_requests();
        self.report_standby_ready(Some(connection));
        if self.roster.row_is_due() {
            self.put_rows(connection, connection.is_following(), |session| {
                session.row_due
            });
        }
    }

    /// Puts whole rows of live sessions, with the latest figures there are.
    pub(super) fn put_rows(
        &mut self,
        connection: &Connection,
        connected: bool,
        which: impl Fn(&LiveSession<'_>) -> bool,
    ) {
        let clock = read_clock();
        let mut put = Vec::new();
        for session in self.roster.live().filter(|session| which(session)) {
            let Some(row) = connection.peek_row(session.account, |moment| clock.at(moment)) else {
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
            self.roster.row_put(key);
        }
        if !put.is_empty() {
            self.outbox.wake();
        }
    }

    /// Puts a deal of each session that shares the account.
    pub(super) fn put_deal(&mut self, account: AccountId, source: Source, deal: &Deal) {
        let fences: Vec<Fence> = self.roster.fences_of(account).cloned().collect();
        for fence in fences {
            self.put_deal_of(fence, source, deal.clone());
        }
        self.roster.defer_deal(account, source, deal);
    }

    /// Puts the deals that were held back while their sessions were on standby.
    pub(super) fn put_deferred_deals(&mut self) {
        for DeferredDeal {
            fence,
            source,
            deal,
        } in self.roster.take_deferred_deals()
        {
            self.put_deal_of(fence, source, deal);
        }
    }

    fn put_deal_of(&mut self, fence: Fence, source: Source, deal: Deal) {
        let (account, deal_id) = (fence.key.account, deal.deal_id);
        let write = DealWrite {
            fence,
            source,
            deal,
        };
        if !self.outbox.put_deal(write) {
            error!(link = self.name, %account, deal = %deal_id, "no room for a deal: the database is away too long");
            self.roster.handle_lost_deal(account);
        }
        self.outbox.wake();
    }

    pub(super) fn put_state(&self, fence: &Fence, state: SessionState) {
        self.outbox.put(fence, RowContent::State(state));
        self.outbox.wake();
    }

    /// Puts the states that the roster has to publish.
    pub(super) fn publish_status_updates(&mut self) {
        let updates = self.roster.take_status_updates();
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

/// What a round puts of a session: its row, or a heartbeat if the row is unchanged.
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
