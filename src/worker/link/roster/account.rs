//! One account of a roster: its stream on the current connection, and the sessions that share it.

use std::time::Instant;

use super::session::{Stage, UserSession};
use super::token_check::{TokenCheck, TokenChecks};
use crate::ctrader::connection::Connection;
use crate::domain::ids::{AccountId, UserId};

/// The stream of one account and the sessions that share it.
#[derive(Debug, Default)]
pub(super) struct AccountStream {
    /// The user whose token authorised the account on the current connection.
    pub(super) authorised_by: Option<UserId>,
    /// The log-out was requested and is not confirmed yet. Until then nobody can be authorised again.
    pub(super) logging_out: bool,
    /// One session a user, in the order of users. Almost every account has exactly one, so the first is stored
    /// without spare capacity.
    sessions: Vec<UserSession>,
}

impl AccountStream {
    pub(super) fn sessions(&self) -> &[UserSession] {
        &self.sessions
    }

    pub(super) fn sessions_mut(&mut self) -> &mut [UserSession] {
        &mut self.sessions
    }

    pub(super) fn session(&self, user: &UserId) -> Option<&UserSession> {
        self.sessions.get(self.position(user).ok()?)
    }

    pub(super) fn session_mut(&mut self, user: &UserId) -> Option<&mut UserSession> {
        let at = self.position(user).ok()?;
        self.sessions.get_mut(at)
    }

    /// Adds a session, unless its user has one already.
    ///
    /// Returns whether it was added.
    pub(super) fn insert(&mut self, session: UserSession) -> bool {
        let Err(at) = self.position(&session.key().user) else {
            return false;
        };
        if self.sessions.is_empty() {
            self.sessions.reserve_exact(1);
        }
        self.sessions.insert(at, session);
        true
    }

    pub(super) fn remove(&mut self, user: &UserId) -> Option<UserSession> {
        let at = self.position(user).ok()?;
        let session = self.sessions.remove(at);
        self.sessions.shrink_to_fit();
        Some(session)
    }

    /// The session whose token authorised the account.
    pub(super) fn authoriser(&self) -> Option<&UserSession> {
        self.session(self.authorised_by.as_ref()?)
    }

    /// Whether neither a session nor an unconfirmed log-out needs it any more.
    pub(super) const fn is_unused(&self) -> bool {
        self.sessions.is_empty() && !self.logging_out
    }

    /// Forgets what the last connection knew of the account.
    pub(super) fn reset(&mut self) {
        self.authorised_by = None;
        self.logging_out = false;
    }

    /// Opens the sessions that are ready. The first one authorises the account by its token; each other one
    /// has its token checked first.
    pub(super) fn open_ready(
        &mut self,
        account: AccountId,
        checks: &mut TokenChecks,
        connection: &mut Connection,
        now: Instant,
    ) {
        if self.logging_out {
            return;
        }
        for session in &mut self.sessions {
            if session.stage != Stage::Ready {
                continue;
            }
            let key = session.key();
            let token = session.assignment.token.clone();
            match &self.authorised_by {
                Some(user) if *user != key.user => {
                    let ticket = checks.begin(key.clone(), TokenCheck::Share);
                    session.stage = Stage::Verifying;
                    connection.verify_token(ticket, &token, now);
                }
                Some(_) | None => {
                    self.authorised_by = Some(key.user.clone());
                    session.stage = Stage::Opening;
                    let last_seen = session.assignment.known.clone();
                    connection.open(account, token.clone(), last_seen, now);
                }
            }
            session.sent_token = Some(token);
        }
    }

    fn position(&self, user: &UserId) -> Result<usize, usize> {
        self.sessions
            .binary_search_by(|session| session.key().user.cmp(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fence::Fence;
    use crate::domain::ids::SessionKey;
    use crate::domain::ledger::Known;
    use crate::domain::secret::Secret;
    use crate::worker::handles::link::Assignment;

    fn session(user: &str) -> UserSession {
        let key = SessionKey {
            user: UserId::new(user).expect("valid"),
            account: AccountId(17),
        };
        let assignment = Assignment {
            fence: Fence::new(&key, 1),
            is_demo: true,
            token: Secret::new("token"),
            through_ms: None,
            known: Known::default(),
            standby: false,
        };
        UserSession::new(assignment, 0, None)
    }

    #[test]
    fn a_stream_has_one_session_a_user_and_no_room_for_more_than_the_first() {
        let mut stream = AccountStream::default();
        assert!(stream.insert(session("b")));
        assert_eq!(stream.sessions.capacity(), 1);
        assert!(stream.insert(session("c")) && stream.insert(session("a")));
        assert!(!stream.insert(session("b")), "the user has one already");
        let users = |stream: &AccountStream| -> Vec<String> {
            let sessions = stream.sessions().iter();
            sessions
                .map(|session| session.key().user.as_str().to_owned())
                .collect()
        };
        assert_eq!(users(&stream), ["a", "b", "c"]);
        let b = session("b").key().user.clone();
        assert!(stream.remove(&b).is_some() && stream.remove(&b).is_none());
        assert_eq!(users(&stream), ["a", "c"]);
        let c = session("c").key().user.clone();
        assert!(stream.remove(&c).is_some());
        assert_eq!(stream.sessions.capacity(), 1);
        // What sessions take is measured in tens of thousands of them.
        assert!(size_of::<UserSession>() <= 240 && size_of::<AccountStream>() <= 48);
    }
}
