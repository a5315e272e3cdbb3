//! What a link does with the sessions of its roster: starts and stops them.

use std::time::Instant;

use super::Roster;
use super::session::{Stage, UserSession};
use crate::ctrader::connection::Connection;
use crate::domain::fence::Fence;
use crate::domain::ids::SessionKey;
use crate::worker::handles::link::Assignment;

impl Roster {
    /// Starts a session. One that is there already takes over the new fence and token.
    pub(in crate::worker) fn start(
        &mut self,
        assignment: Assignment,
        mut connection: Option<&mut Connection>,
        now: Instant,
    ) {
        let key = assignment.fence.key.clone();
        self.standby_pending |= assignment.standby;
        if self.session_mut(&key).is_some() {
            self.reassign(&key, assignment, connection.as_deref_mut(), now);
        } else {
            let (attempts, error) = self.initial_failure();
            let session = UserSession::new(assignment, attempts, error);
            let stream = self.accounts.entry(key.account).or_default();
            self.session_count += usize::from(stream.insert(session));
        }
        self.publish_status(&key);
        self.open_account(key.account, connection, now);
    }

    /// Gives a session its new assignment. Unless that changes nothing for cTrader, it starts over.
    fn reassign(
        &mut self,
        key: &SessionKey,
        assignment: Assignment,
        mut connection: Option<&mut Connection>,
        now: Instant,
    ) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let is_same_token = session.assignment.token == assignment.token;
        let is_promoted = session.reassign(assignment);
        let is_waiting = matches!(session.stage, Stage::Waiting(_));
        if is_promoted {
            self.promote(key, connection.as_deref_mut(), now);
        }
        if is_same_token && (is_promoted || !is_waiting) {
            return;
        }
        let (attempts, error) = self.initial_failure();
        let Some(stream) = self.accounts.get_mut(&key.account) else {
            return;
        };
        let is_authoriser = stream.authorised_by.as_ref() == Some(&key.user);
        let Some(session) = stream.session_mut(&key.user) else {
            return;
        };
        session.attempts = attempts;
        session.error = error;
        // What the last token covered proves nothing about another one, so a user who shares the stream is checked
        // again. The stream that the last token authorised goes on until cTrader ends it.
        if is_waiting || (!is_same_token && !is_authoriser) {
            session.stage = Stage::Ready;
            self.token_checks.cancel(key);
        } else if let Some(connection) = connection.filter(|_| !is_same_token) {
            // For the case that cTrader does not end the session of the last token by itself.
            connection.renew_token(key.account, session.assignment.token.clone(), now);
        }
    }

    /// The failed attempts and the error that a session starts with: whatever keeps the others from being opened
    /// keeps this one from it too, perhaps for minutes.
    fn initial_failure(&self) -> (u32, Option<String>) {
        match &self.outage {
            Some(outage) => (outage.attempts, Some(outage.error.clone())),
            None => (0, None),
        }
    }

    /// Stops a session. Returns its fence; the caller writes the final status.
    pub(in crate::worker) fn stop(
        &mut self,
        key: &SessionKey,
        connection: Option<&mut Connection>,
        now: Instant,
    ) -> Option<Fence> {
        let stopped = self.remove(key, connection, now)?;
        Some(stopped.assignment.fence)
    }

    /// Stops all sessions. Returns their fences, each with whether its account is a demo account.
    pub(in crate::worker) fn stop_all(
        &mut self,
        mut connection: Option<&mut Connection>,
        now: Instant,
    ) -> Vec<(Fence, bool)> {
        self.token_checks.cancel_all();
        let keys: Vec<SessionKey> = self
            .sessions()
            .map(|session| session.key().clone())
            .collect();
        keys.iter()
            .filter_map(|key| self.remove(key, connection.as_deref_mut(), now))
            .map(|session| (session.assignment.fence, session.assignment.is_demo))
            .collect()
    }

    /// Removes a session. Logs its account out if this session's token authorised it; the other sessions of the
    /// account are opened again after that.
    fn remove(
        &mut self,
        key: &SessionKey,
        connection: Option<&mut Connection>,
        now: Instant,
    ) -> Option<UserSession> {
        let account = key.account;
        let stream = self.accounts.get_mut(&account)?;
        let session = stream.remove(&key.user)?;
        self.session_count -= 1;
        self.token_checks.cancel(key);
        if stream.authorised_by.as_ref() == Some(&key.user) {
            stream.authorised_by = None;
            if let Some(connection) = connection {
                stream.logging_out = true;
                connection.close(account, now);
            }
        }
        if stream.is_unused() {
            self.accounts.remove(&account);
        }
        Some(session)
    }
}
