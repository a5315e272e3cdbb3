//! What happens to a roster's connection and its accounts, and the timeouts of its sessions.

use std::time::Instant;

use super::Roster;
use super::account::AccountStream;
use super::retry::{Outage, decide_retry, session_error_text};
use super::session::Stage;
use crate::ctrader::connection::{Connection, Down};
use crate::domain::clock::WallClock;
use crate::domain::ids::AccountId;

impl Roster {
    // ── the connection ───────────────────────────────────────────────────────────────────────

    /// There is a new connection. It begins at the moment of the clock.
    pub(in crate::worker) fn handle_connected(
        &mut self,
        connection: &mut Connection,
        clock: WallClock,
    ) {
        self.clock = clock;
        // A connection that carried no sessions any more may have been closed before cTrader confirmed all log-outs.
        self.reset_streams();
        self.open_all(connection, clock.moment());
    }

    /// cTrader accepted the application on the connection.
    pub(in crate::worker) fn handle_ready(&mut self) {
        self.outage = None;
    }

    /// The connection is lost, or could not be made.
    ///
    /// `is_fatal`: connecting again soon is of no use, so the sessions count as failed at once.
    pub(in crate::worker) fn handle_disconnected(&mut self, error: &str, is_fatal: bool) {
        let policy = self.policy;
        let attempts_min = if is_fatal { policy.attempts_max } else { 0 };
        let count = |attempts: u32| attempts.saturating_add(1).max(attempts_min);
        let before = self.outage.as_ref().map_or(0, |outage| outage.attempts);
        self.outage = Some(Outage {
            attempts: count(before),
            error: error.to_owned(),
        });
        self.token_checks.cancel_all();
        self.reset_streams();
        let sessions = self.accounts.values_mut();
        for session in sessions.flat_map(AccountStream::sessions_mut) {
            if matches!(session.stage, Stage::Waiting(_)) {
                continue;
            }
            session.stage = Stage::Ready;
            session.attempts = count(session.attempts);
            session.error = Some(error.to_owned());
            self.status_updates.extend(session.status_update(policy));
        }
    }

    /// Forgets what the last connection knew of all accounts.
    fn reset_streams(&mut self) {
        self.accounts.retain(|_, stream| {
            stream.reset();
            !stream.is_unused()
        });
    }

    /// The socket went silent, or sends again (`is_following`).
    pub(in crate::worker) fn handle_following(&mut self, is_following: bool) {
        for session in self.sessions_mut() {
            if session.stage == Stage::Live {
                session.row_due = true;
                session.error = (!is_following).then(|| "cTrader has gone silent".to_owned());
            }
        }
    }

    // ── one account ──────────────────────────────────────────────────────────────────────────

    /// An account follows the stream.
    pub(in crate::worker) fn handle_live(
        &mut self,
        account: AccountId,
        connection: &mut Connection,
        now: Instant,
    ) {
        for session in self.sharing(account) {
            if session.stage == Stage::Opening {
                session.go_live(now);
            }
        }
        self.request_history(account, connection, now);
    }

    /// An event of an account was lost. Its rows are not written until it is live again.
    pub(in crate::worker) fn handle_gap_detected(&mut self, account: AccountId) {
        let policy = self.policy;
        let mut updates = Vec::new();
        for session in self.sharing(account) {
            if session.stage == Stage::Live {
                session.stage = Stage::Opening;
                session.error = Some("an event was lost: the account is read anew".to_owned());
                updates.extend(session.status_update(policy));
            }
        }
        self.status_updates.extend(updates);
    }

    /// The session of an account on the connection has ended. `jitter` is between 0 and 1.
    pub(in crate::worker) fn handle_down(
        &mut self,
        account: AccountId,
        down: &Down,
        jitter: f64,
        connection: &mut Connection,
        now: Instant,
    ) {
        self.save_last_seen(account, connection);
        let decision = decide_retry(down, self.wall_ms(now));
        let policy = self.policy;
        let Some(stream) = self.accounts.get_mut(&account) else {
            return;
        };
        let authorised_by = stream.authorised_by.clone();
        stream.reset();
        let mut failed = Vec::new();
        for session in stream.sessions_mut() {
            if !session.uses_stream() {
                continue;
            }
            let shares = authorised_by
                .as_ref()
                .is_some_and(|user| *user != session.key().user);
            // What happened to one token is no failure of another user's token, nor of a newer one.
            let has_newer_token = session.sent_token.as_ref() != Some(&session.assignment.token);
            if *down == Down::LoggedOut || has_newer_token || shares {
                session.stage = Stage::Ready;
            } else {
                session.fail(session_error_text(down), decision, policy, jitter, now);
                failed.push((session.key().clone(), session.assignment.token.clone()));
            }
            self.status_updates.extend(session.status_update(policy));
        }
        if stream.is_unused() {
            self.accounts.remove(&account);
        }
        for (key, token) in failed {
            self.request_credentials(key, token, down, decision, connection, now);
        }
        self.open_account(account, Some(connection), now);
    }

    // ── time ─────────────────────────────────────────────────────────────────────────────────

    /// Opens the sessions that have waited long enough, and requests the histories that are due.
    pub(in crate::worker) fn handle_timeout(
        &mut self,
        connection: Option<&mut Connection>,
        now: Instant,
    ) {
        let mut due = Vec::new();
        for (account, stream) in &mut self.accounts {
            let mut history_is_due = false;
            for session in stream.sessions_mut() {
                if matches!(session.stage, Stage::Waiting(until) if until <= now) {
                    session.stage = Stage::Ready;
                }
                history_is_due |=
                    session.stage == Stage::Live && session.history_at.is_some_and(|at| at <= now);
            }
            if history_is_due {
                due.push(*account);
            }
        }
        if let Some(connection) = connection {
            for account in due {
                self.request_history(account, connection, now);
            }
            self.open_all(connection, now);
        }
    }

    /// When [`Roster::handle_timeout`] is due.
    pub(in crate::worker) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.sessions().filter_map(|session| match session.stage {
            Stage::Waiting(until) => Some(until),
            Stage::Live => session.history_at,
            Stage::Ready | Stage::Verifying | Stage::Opening => None,
        });
        waiting.chain(self.standby_deadline()).min()
    }
}
