//! The sessions of a connection by account, and which of them is due next.
//!
//! Quotes come a hundred thousand times a second and leave every deadline as it was, so they have a way
//! in of their own. Whoever else may change a session marks it, and only marked ones are asked anew.

use std::collections::BTreeSet;
use std::time::Instant;

use litemap::LiteMap;

use crate::ctrader::session::Session;
use crate::domain::ids::AccountId;

#[derive(Debug)]
struct Place {
    session: Box<Session>,
    /// As it stands in the order of deadlines.
    due: Option<Instant>,
}

/// Sessions by account.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    places: LiteMap<AccountId, Place>,
    deadlines: BTreeSet<(Instant, AccountId)>,
    /// Whose deadline may be another by now.
    marked: Vec<AccountId>,
}

impl Sessions {
    pub(super) fn insert(&mut self, account: AccountId, session: Session) {
        self.remove(account);
        let place = Place {
            session: Box::new(session),
            due: None,
        };
        self.places.insert(account, place);
        self.marked.push(account);
    }

    pub(super) fn remove(&mut self, account: AccountId) -> Option<Session> {
        let place = self.places.remove(&account)?;
        if let Some(due) = place.due {
            self.deadlines.remove(&(due, account));
        }
        Some(*place.session)
    }

    pub(super) fn get(&self, account: AccountId) -> Option<&Session> {
        self.places.get(&account).map(|place| &*place.session)
    }

    /// To be changed in any way.
    pub(super) fn get_mut(&mut self, account: AccountId) -> Option<&mut Session> {
        let place = self.places.get_mut(&account)?;
        if self.marked.last() != Some(&account) {
            self.marked.push(account);
        }
        Some(&mut place.session)
    }

    /// To be changed in what its deadline does not depend on.
    pub(super) fn get_quoted(&mut self, account: AccountId) -> Option<&mut Session> {
        let place = self.places.get_mut(&account)?;
        Some(&mut place.session)
    }

    pub(super) fn contains(&self, account: AccountId) -> bool {
        self.places.contains_key(&account)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.places.values().map(|place| &*place.session)
    }

    /// All of them, in the order of their accounts.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (AccountId, Session)> + use<> {
        let places = std::mem::take(self).places;
        let places = places.into_iter();
        places.map(|(account, place)| (account, *place.session))
    }

    /// When the first is due.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        self.settle();
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Those that are due, in the order of their accounts.
    pub(super) fn due(&mut self, now: Instant) -> BTreeSet<AccountId> {
        self.settle();
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, account)| *account).collect()
    }

    fn settle(&mut self) {
        for account in self.marked.drain(..) {
            let Some(place) = self.places.get_mut(&account) else {
                continue;
            };
            let due = place.session.deadline();
            if due == place.due {
                continue;
            }
            if let Some(before) = std::mem::replace(&mut place.due, due) {
                self.deadlines.remove(&(before, account));
            }
            if let Some(due) = due {
                self.deadlines.insert((due, account));
            }
        }
    }
}
