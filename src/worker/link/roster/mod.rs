//! Which sessions one link carries, and where each of them stands. Sans-IO: commands, events and
//! the time come in; what to ask of the connection and what to say in rows go out.
//!
//! An account is authorised by one user's token, its bearer's. Another user of the same account
//! shares the stream only after cTrader itself said that their own token covers the account:
//! nobody sees an account by somebody else's right.

mod history;
mod retry;
mod session;
mod standby;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::ctrader::connection::{Connection, Down};
use crate::domain::fence::Fence;
use crate::domain::ids::{AccountId, SessionKey};
use crate::domain::ledger::LastSeen;
use crate::domain::row::SessionState;
use crate::domain::secret::Secret;

pub(in crate::worker) use retry::{Remedy, remedy_of};
use retry::{for_user, remedy};
use session::{Entry, Stage, state};
pub(in crate::worker) use standby::Held;
use token::Question;
pub(in crate::worker) use token::Want;

/// A session that this worker shall run.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Assignment {
    pub(in crate::worker) fence: Fence,
    pub(in crate::worker) is_demo: bool,
    pub(in crate::worker) token: Secret,
    /// All its deals up to then are stored, milliseconds since the epoch; `None`: none ever were.
    pub(in crate::worker) through_ms: Option<i64>,
    /// What was known of the account when somebody last followed it.
    pub(in crate::worker) known: LastSeen,
    /// It shall stream and write nothing: the slot is another worker's still, or its claim in doubt.
    pub(in crate::worker) standby: bool,
}

/// How often, and how long.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct RetryPolicy {
    /// Consecutive failures after which a session counts as failed.
    pub(in crate::worker) attempts_max: u32,
    /// The pause of a failed session.
    pub(in crate::worker) failed_pause: Duration,
}

/// Something for the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worker) struct Say {
    pub(in crate::worker) fence: Fence,
    pub(in crate::worker) state: SessionState,
}

/// A live session, for the rounds of rows.
pub(in crate::worker) struct LiveSession<'a> {
    pub(in crate::worker) fence: &'a Fence,
    pub(in crate::worker) account: AccountId,
    pub(in crate::worker) row_due: bool,
    pub(in crate::worker) state: SessionState,
}

/// The sessions of one link.
#[derive(Debug)]
pub(in crate::worker) struct Roster {
    policy: RetryPolicy,
    /// Boxed, as a node of the map has room for eleven.
    entries: BTreeMap<SessionKey, Box<Entry>>,
    bearers: BTreeMap<AccountId, SessionKey>,
    /// Accounts whose log-out is not confirmed yet.
    leaving: BTreeSet<AccountId>,
    tickets: BTreeMap<u64, (SessionKey, Question)>,
    next_ticket: u64,
    wants: Vec<Want>,
    /// A moment, and the wall clock's time then, in milliseconds since the epoch.
    wall: (Instant, i64),
    /// Since when the connection was lost, or none came to be, until one is ready again.
    outage: Option<Outage>,
    says: Vec<Say>,
    /// Deals of sessions that stood by, to be written now.
    released: Vec<Held>,
    /// Sessions that stand by may have settled.
    unsettled: bool,
}

/// Why there is no connection, for sessions that begin meanwhile.
#[derive(Debug)]
struct Outage {
    attempts: u32,
    error: String,
}

impl Roster {
    pub(in crate::worker) fn new(policy: RetryPolicy, now: Instant, wall_ms: i64) -> Self {
        Self {
            policy,
            wants: Vec::new(),
            wall: (now, wall_ms),
            entries: BTreeMap::new(),
            bearers: BTreeMap::new(),
            leaving: BTreeSet::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            outage: None,
            says: Vec::new(),
            released: Vec::new(),
            unsettled: false,
        }
    }

    // ── commands ─────────────────────────────────────────────────────────────────────────────

    /// Takes a session on. One that is there already gets the new fence and token.
    pub(in crate::worker) fn start(
        &mut self,
        assignment: Assignment,
        mut link: Option<&mut Connection>,
        now: Instant,
    ) {
        let key = assignment.fence.key.clone();
        // What keeps the others from being opened keeps this one too, perhaps for minutes.
        let (attempts, error) = match &self.outage {
            Some(outage) => (outage.attempts, Some(outage.error.clone())),
            None => (0, None),
        };
        self.unsettled |= assignment.standby;
        if let Some(entry) = self.entries.get_mut(&key) {
            let same_token = entry.assignment.token == assignment.token;
            // What it knew of the account, it knows better than the tables.
            let before = std::mem::replace(&mut entry.assignment, assignment);
            entry.assignment.through_ms = before.through_ms;
            entry.assignment.known = before.known;
            entry.row_due = true;
            entry.settled = false;
            let promoted = before.standby && !entry.assignment.standby;
            let unchanged = same_token && (promoted || !matches!(entry.stage, Stage::Waiting(_)));
            if promoted {
                self.release(&key, link.as_deref_mut(), now);
            }
            if unchanged {
                self.say(&key);
                return;
            }
            let Some(entry) = self.entries.get_mut(&key) else {
                return;
            };
            entry.attempts = attempts;
            entry.error = error;
            // Another token proves nothing by what the last one did: whoever shares an account by
            // theirs is checked anew. The bearer's stream goes on until cTrader ends it.
            let is_bearer = self.bearers.get(&key.account) == Some(&key);
            if matches!(entry.stage, Stage::Waiting(_)) || (!same_token && !is_bearer) {
                entry.stage = Stage::Ready;
                self.tickets.retain(|_, (waiting, _)| *waiting != key);
            } else if let Some(link) = link.as_deref_mut().filter(|_| !same_token) {
                // Offered should cTrader not end the session of the old one by itself.
                link.renew_token(key.account, entry.assignment.token.clone(), now);
            }
        } else {
            let entry = Entry {
                assignment,
                offered: None,
                stage: Stage::Ready,
                attempts,
                error,
                was_live: false,
                row_due: false,
                history_at: None,
                lost_deal: false,
                live_at: None,
                settled: false,
                held: Vec::new(),
            };
            self.entries.insert(key.clone(), Box::new(entry));
        }
        self.say(&key);
        self.open_ready(link, now);
    }

    /// Lets a session go. What its row says then is the caller's.
    pub(in crate::worker) fn stop(
        &mut self,
        key: &SessionKey,
        link: Option<&mut Connection>,
        now: Instant,
    ) -> Option<Fence> {
        let entry = self.entries.remove(key)?;
        self.tickets.retain(|_, (waiting, _)| waiting != key);
        let account = key.account;
        if self.bearers.get(&account) == Some(key) {
            self.bearers.remove(&account);
            if let Some(link) = link {
                self.leaving.insert(account);
                link.close(account, now);
            }
        }
        Some(entry.assignment.fence)
    }

    /// Everything there is, let go at once.
    pub(in crate::worker) fn stop_all(
        &mut self,
        mut link: Option<&mut Connection>,
        now: Instant,
    ) -> Vec<(Fence, bool)> {
        let keys: Vec<SessionKey> = self.entries.keys().cloned().collect();
        keys.iter()
            .filter_map(|key| {
                let is_demo = self.entries.get(key)?.assignment.is_demo;
                let fence = self.stop(key, link.as_deref_mut(), now)?;
                Some((fence, is_demo))
            })
            .collect()
    }

    // ── the link ─────────────────────────────────────────────────────────────────────────────

    /// A new connection is there.
    pub(in crate::worker) fn handle_connected(
        &mut self,
        link: &mut Connection,
        now: Instant,
        wall_ms: i64,
    ) {
        self.wall = (now, wall_ms);
        self.open_ready(Some(link), now);
    }

    /// The connection is ready for sessions.
    pub(in crate::worker) fn handle_ready(&mut self) {
        self.outage = None;
    }

    /// The connection is gone, or none came to be.
    ///
    /// `hopeless`: trying again soon is of no use.
    pub(in crate::worker) fn handle_disconnected(&mut self, error: &str, hopeless: bool) {
        let attempts_min = if hopeless {
            self.policy.attempts_max
        } else {
            0
        };
        let before = self.outage.as_ref().map_or(0, |outage| outage.attempts);
        self.outage = Some(Outage {
            attempts: before.saturating_add(1).max(attempts_min),
            error: error.to_owned(),
        });
        self.bearers.clear();
        self.leaving.clear();
        self.tickets.clear();
        let keys: Vec<SessionKey> = self.entries.keys().cloned().collect();
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            if !matches!(entry.stage, Stage::Waiting(_)) {
                entry.stage = Stage::Ready;
                entry.attempts = entry.attempts.saturating_add(1).max(attempts_min);
                entry.error = Some(error.to_owned());
                self.say(&key);
            }
        }
    }

    /// The socket went silent, or speaks again.
    pub(in crate::worker) fn handle_following(&mut self, following: bool) {
        let live: Vec<SessionKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.stage == Stage::Live)
            .map(|(key, _)| key.clone())
            .collect();
        for key in live {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.row_due = true;
                entry.error = (!following).then(|| "cTrader has gone silent".to_owned());
            }
        }
    }

    /// An account follows the stream.
    pub(in crate::worker) fn handle_live(
        &mut self,
        account: AccountId,
        link: &mut Connection,
        now: Instant,
    ) {
        for (_, entry) in self.sharing(account) {
            if entry.stage == Stage::Opening {
                entry.go_live(now);
            }
        }
        self.look_back(account, link, now);
    }

    /// An event of an account was lost: its rows follow nothing until it is live again.
    pub(in crate::worker) fn handle_behind(&mut self, account: AccountId) {
        let mut keys = Vec::new();
        for (key, entry) in self.sharing(account) {
            if entry.stage == Stage::Live {
                entry.stage = Stage::Opening;
                entry.error = Some("an event was lost: the account is read anew".to_owned());
                keys.push(key.clone());
            }
        }
        for key in keys {
            self.say(&key);
        }
    }

    /// An account's session is over.
    pub(in crate::worker) fn handle_down(
        &mut self,
        account: AccountId,
        down: &Down,
        jitter: f64,
        link: &mut Connection,
        now: Instant,
    ) {
        self.leaving.remove(&account);
        self.remember(account, link);
        let bearer = self.bearers.remove(&account);
        let remedy = remedy(down, self.wall_ms(now));
        let mut keys = Vec::new();
        let mut asks = Vec::new();
        let policy = self.policy;
        for (key, entry) in self.sharing(account) {
            if !matches!(entry.stage, Stage::Opening | Stage::Live) {
                continue;
            }
            keys.push(key.clone());
            // What befell the bearer's token says nothing of the others', nor of a newer one.
            let other_token = entry.offered.as_ref() != Some(&entry.assignment.token);
            if *down == Down::LoggedOut
                || other_token
                || bearer.as_ref().is_some_and(|bearer| bearer != key)
            {
                entry.stage = Stage::Ready;
                continue;
            }
            entry.fail(for_user(down), remedy, policy, jitter, now);
            asks.push((key.clone(), entry.assignment.token.clone()));
        }
        for (key, token) in asks {
            self.seek(key, token, down, remedy, link, now);
        }
        for key in keys {
            self.say(&key);
        }
        self.open_ready(Some(link), now);
    }

    /// Opens what waited long enough, and looks into the histories that are due.
    pub(in crate::worker) fn handle_timeout(
        &mut self,
        mut link: Option<&mut Connection>,
        now: Instant,
    ) {
        let mut looks = BTreeSet::new();
        for (key, entry) in &mut self.entries {
            if matches!(entry.stage, Stage::Waiting(until) if until <= now) {
                entry.stage = Stage::Ready;
            }
            if entry.stage == Stage::Live && entry.history_at.is_some_and(|at| at <= now) {
                looks.insert(key.account);
            }
        }
        if let Some(link) = link.as_deref_mut() {
            for account in looks {
                self.look_back(account, link, now);
            }
        }
        self.open_ready(link, now);
    }

    /// When [`Roster::handle_timeout`] is due.
    pub(in crate::worker) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.entries.values().filter_map(|entry| match entry.stage {
            Stage::Waiting(until) => Some(until),
            Stage::Live => entry.history_at,
            Stage::Ready | Stage::Verifying | Stage::Opening => None,
        });
        waiting.chain(self.settles_at()).min()
    }

    /// What the rows shall say now.
    pub(in crate::worker) fn take_says(&mut self) -> Vec<Say> {
        std::mem::take(&mut self.says)
    }

    /// The sessions whose rows follow the stream, by account. Of those that stand by nothing is written.
    pub(in crate::worker) fn live(&self) -> impl Iterator<Item = LiveSession<'_>> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.stage == Stage::Live && !entry.assignment.standby)
            .map(|(key, entry)| LiveSession {
                fence: &entry.assignment.fence,
                account: key.account,
                row_due: entry.row_due,
                state: state(entry, self.policy.attempts_max),
            })
    }

    /// The fences of all sessions that share an account's stream.
    pub(in crate::worker) fn fences_of(&self, account: AccountId) -> impl Iterator<Item = &Fence> {
        self.entries
            .iter()
            .filter(move |(key, entry)| {
                key.account == account
                    && !entry.assignment.standby
                    && matches!(entry.stage, Stage::Opening | Stage::Live)
            })
            .map(|(_, entry)| &entry.assignment.fence)
    }

    /// The row of a session was put whole.
    pub(in crate::worker) fn row_put(&mut self, key: &SessionKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.row_due = false;
        }
    }

    /// Whether a row is to be written whole without waiting for the next round.
    pub(in crate::worker) fn row_is_due(&self) -> bool {
        self.entries
            .values()
            .any(|entry| entry.row_due && entry.stage == Stage::Live && !entry.assignment.standby)
    }

    /// How many sessions there are.
    pub(in crate::worker) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether an account still waits for its log-out.
    pub(in crate::worker) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    fn sharing(&mut self, account: AccountId) -> impl Iterator<Item = (&SessionKey, &mut Entry)> {
        self.entries
            .iter_mut()
            .filter(move |(key, _)| key.account == account)
            .map(|(key, entry)| (key, entry.as_mut()))
    }

    fn open_ready(&mut self, link: Option<&mut Connection>, now: Instant) {
        let Some(link) = link else { return };
        for (key, entry) in &mut self.entries {
            if entry.stage != Stage::Ready || self.leaving.contains(&key.account) {
                continue;
            }
            match self.bearers.get(&key.account) {
                Some(bearer) if bearer != key => {
                    self.next_ticket += 1;
                    self.tickets
                        .insert(self.next_ticket, (key.clone(), Question::Share));
                    entry.stage = Stage::Verifying;
                    entry.offered = Some(entry.assignment.token.clone());
                    link.verify_token(self.next_ticket, &entry.assignment.token, now);
                }
                Some(_) | None => {
                    self.bearers.insert(key.account, key.clone());
                    entry.stage = Stage::Opening;
                    entry.offered = Some(entry.assignment.token.clone());
                    let Assignment { token, known, .. } = &entry.assignment;
                    link.open(key.account, token.clone(), known.clone(), now);
                }
            }
        }
    }

    fn say(&mut self, key: &SessionKey) {
        if let Some(entry) = self
            .entries
            .get(key)
            .filter(|entry| entry.stage != Stage::Live && !entry.assignment.standby)
        {
            let state = state(entry, self.policy.attempts_max);
            self.says.push(Say {
                fence: entry.assignment.fence.clone(),
                state,
            });
        }
    }
}

#[cfg(test)]
mod tests;
