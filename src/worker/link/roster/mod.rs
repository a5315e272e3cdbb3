//! The sessions of one link, by account, and how far each has come. Sans-IO: commands, events of the connection and
//! the time come in; calls to the [`Connection`], status updates and requests for credentials go out.
//!
//! An account is authorised by one user's token. Another user of the same account shares its stream only after
//! cTrader confirmed that their own token covers the account: nobody sees an account by somebody else's right.
//!
//! The files beside this one each hold a part of [`Roster`] (commands, events, history, standby, token) or plain
//! values that know nothing of it (account, output, retry, session, `token_check`).

mod account;
mod commands;
mod events;
mod history;
mod output;
mod retry;
mod session;
mod standby;
mod token;
mod token_check;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::ctrader::connection::Connection;
use crate::domain::clock::WallClock;
use crate::domain::fence::Fence;
use crate::domain::ids::{AccountId, SessionKey};
use crate::worker::handles::link::StatusUpdate;
use account::AccountStream;
pub(in crate::worker) use output::{CredentialRequest, DeferredDeal, LiveSession};
use retry::Outage;
pub(in crate::worker) use retry::{
    RetryPolicy, connection_error_text, is_fatal, reconnect_pause_min,
};
use session::UserSession;
use token_check::TokenChecks;

/// The sessions of one link.
#[derive(Debug)]
pub(in crate::worker) struct Roster {
    policy: RetryPolicy,
    accounts: BTreeMap<AccountId, AccountStream>,
    /// How many sessions the accounts have together.
    session_count: usize,
    token_checks: TokenChecks,
    /// The wall clock, as it was read when the connection began.
    clock: WallClock,
    /// Set from when the connection is lost, or cannot be made, until the next one is ready.
    outage: Option<Outage>,
    /// Sessions may have become ready on standby and not be reported to the coordinator yet.
    standby_pending: bool,
    status_updates: Vec<StatusUpdate>,
    credential_requests: Vec<CredentialRequest>,
    /// Deals of sessions that were promoted from standby.
    deferred_deals: Vec<DeferredDeal>,
}

impl Roster {
    pub(in crate::worker) fn new(policy: RetryPolicy, clock: WallClock) -> Self {
        Self {
            policy,
            accounts: BTreeMap::new(),
            session_count: 0,
            token_checks: TokenChecks::default(),
            clock,
            outage: None,
            standby_pending: false,
            status_updates: Vec::new(),
            credential_requests: Vec::new(),
            deferred_deals: Vec::new(),
        }
    }

    /// Returns the status updates since the last call, oldest first.
    pub(in crate::worker) fn take_status_updates(&mut self) -> Vec<StatusUpdate> {
        std::mem::take(&mut self.status_updates)
    }

    /// Returns the requests for credentials since the last call.
    pub(in crate::worker) fn take_credential_requests(&mut self) -> Vec<CredentialRequest> {
        std::mem::take(&mut self.credential_requests)
    }

    /// The sessions whose rows follow the stream, in the order of accounts and then of users. Sessions on standby
    /// are not among them: nothing is written for those.
    pub(in crate::worker) fn live(&self) -> impl Iterator<Item = LiveSession<'_>> {
        self.sessions()
            .filter(|session| session.writes_rows())
            .map(|session| LiveSession {
                fence: &session.assignment.fence,
                account: session.key().account,
                row_due: session.row_due,
                state: session.state(self.policy),
            })
    }

    /// The fences of all sessions that share an account's stream, in the order of users.
    pub(in crate::worker) fn fences_of(&self, account: AccountId) -> impl Iterator<Item = &Fence> {
        let stream = self.accounts.get(&account);
        stream
            .into_iter()
            .flat_map(AccountStream::sessions)
            .filter(|session| session.uses_stream() && !session.assignment.standby)
            .map(|session| &session.assignment.fence)
    }

    /// Records that the row of a session was written whole.
    pub(in crate::worker) fn row_put(&mut self, key: &SessionKey) {
        if let Some(session) = self.session_mut(key) {
            session.row_due = false;
        }
    }

    /// Whether a row is to be written whole without waiting for the next write round.
    pub(in crate::worker) fn row_is_due(&self) -> bool {
        self.sessions()
            .any(|session| session.row_due && session.writes_rows())
    }

    /// How many sessions there are.
    pub(in crate::worker) const fn len(&self) -> usize {
        self.session_count
    }

    /// Whether the log-out of an account is not confirmed yet.
    pub(in crate::worker) fn is_logging_out(&self) -> bool {
        self.accounts.values().any(|stream| stream.logging_out)
    }

    // ── small steps ──────────────────────────────────────────────────────────────────────────

    fn sessions(&self) -> impl Iterator<Item = &UserSession> {
        self.accounts.values().flat_map(AccountStream::sessions)
    }

    fn sessions_mut(&mut self) -> impl Iterator<Item = &mut UserSession> {
        self.accounts
            .values_mut()
            .flat_map(AccountStream::sessions_mut)
    }

    /// The sessions of one account.
    fn sharing(&mut self, account: AccountId) -> impl Iterator<Item = &mut UserSession> {
        let stream = self.accounts.get_mut(&account);
        stream.into_iter().flat_map(AccountStream::sessions_mut)
    }

    fn session_mut(&mut self, key: &SessionKey) -> Option<&mut UserSession> {
        self.accounts.get_mut(&key.account)?.session_mut(&key.user)
    }

    /// Opens the sessions of one account that are ready.
    fn open_account(
        &mut self,
        account: AccountId,
        connection: Option<&mut Connection>,
        now: Instant,
    ) {
        if let Some(connection) = connection
            && let Some(stream) = self.accounts.get_mut(&account)
        {
            stream.open_ready(account, &mut self.token_checks, connection, now);
        }
    }

    /// Opens all sessions that are ready.
    fn open_all(&mut self, connection: &mut Connection, now: Instant) {
        for (account, stream) in &mut self.accounts {
            stream.open_ready(*account, &mut self.token_checks, connection, now);
        }
    }

    /// Publishes the state of a session that is not live.
    fn publish_status(&mut self, key: &SessionKey) {
        let policy = self.policy;
        let update = self
            .session_mut(key)
            .and_then(|session| session.status_update(policy));
        self.status_updates.extend(update);
    }

    /// The wall clock's time at an instant, in milliseconds since the epoch.
    fn wall_ms(&self, now: Instant) -> i64 {
        self.clock.unix_ms(now)
    }
}

#[cfg(test)]
mod tests;
