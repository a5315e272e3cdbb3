//! The sessions of a connection by account, and which of them is due next.
//!
//! Quotes come a hundred thousand times a second and leave every deadline as it was, so they have an access
//! of their own ([`Sessions::get_quoted`]). Every other access marks the session, and only the deadlines of
//! marked sessions are looked up again.

use std::collections::BTreeSet;
use std::time::Instant;

use litemap::LiteMap;

use crate::ctrader::session::Session;
use crate::domain::ids::AccountId;

#[derive(Debug)]
struct Tracked {
    session: Box<Session>,
    /// Its deadline as it is in the order of deadlines.
    due: Option<Instant>,
}

/// Sessions by account.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    tracked: LiteMap<AccountId, Tracked>,
    deadlines: BTreeSet<(Instant, AccountId)>,
    /// Sessions whose deadline may have changed since.
    marked: Vec<AccountId>,
}

impl Sessions {
    pub(super) fn insert(&mut self, account: AccountId, session: Session) {
        self.remove(account);
        let tracked = Tracked {
            session: Box::new(session),
            due: None,
        };
        self.tracked.insert(account, tracked);
        self.marked.push(account);
    }

    pub(super) fn remove(&mut self, account: AccountId) -> Option<Session> {
        let tracked = self.tracked.remove(&account)?;
        if let Some(due) = tracked.due {
            self.deadlines.remove(&(due, account));
        }
        Some(*tracked.session)
    }

    pub(super) fn get(&self, account: AccountId) -> Option<&Session> {
        self.tracked.get(&account).map(|tracked| &*tracked.session)
    }

    /// A session that may be changed in any way.
    pub(super) fn get_mut(&mut self, account: AccountId) -> Option<&mut Session> {
        let tracked = self.tracked.get_mut(&account)?;
        if self.marked.last() != Some(&account) {
            self.marked.push(account);
        }
        Some(&mut tracked.session)
    }

    /// A session that may be changed only in what its deadline does not depend on.
    pub(super) fn get_quoted(&mut self, account: AccountId) -> Option<&mut Session> {
        let tracked = self.tracked.get_mut(&account)?;
        Some(&mut tracked.session)
    }

    pub(super) fn contains(&self, account: AccountId) -> bool {
        self.tracked.contains_key(&account)
    }

    pub(super) fn len(&self) -> usize {
        self.tracked.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.tracked.values().map(|tracked| &*tracked.session)
    }

    /// Removes all of them, in the order of their accounts.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (AccountId, Session)> + use<> {
        let tracked = std::mem::take(self).tracked;
        let tracked = tracked.into_iter();
        tracked.map(|(account, tracked)| (account, *tracked.session))
    }

    /// When the first session is due.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        self.refresh_deadlines();
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The sessions that are due, in the order of their accounts.
    pub(super) fn due(&mut self, now: Instant) -> BTreeSet<AccountId> {
        self.refresh_deadlines();
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, account)| *account).collect()
    }

    fn refresh_deadlines(&mut self) {
        for account in self.marked.drain(..) {
            let Some(tracked) = self.tracked.get_mut(&account) else {
                continue;
            };
            let due = tracked.session.deadline();
            if due == tracked.due {
                continue;
            }
            if let Some(before) = std::mem::replace(&mut tracked.due, due) {
                self.deadlines.remove(&(before, account));
            }
            if let Some(due) = due {
                self.deadlines.insert((due, account));
            }
        }
    }
}
