//! What is asked about tokens: whether one covers an account, and whether another one is to be had.

use std::time::Instant;

use super::retry::{Remedy, for_user, remedy};
use super::{Roster, Stage};
use crate::ctrader::connection::{Connection, Covered, Down};
use crate::ctrader::error::{NOT_COVERED, RequestError};
use crate::domain::ids::SessionKey;
use crate::domain::secret::Secret;

/// What the roster cannot do by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worker) enum Want {
    /// The stored credentials may have changed: cTrader ended a session because of its token.
    Reload(SessionKey),
    /// cTrader refused this token: it is to be renewed, unless a newer one is stored.
    Renew(SessionKey, Secret),
}

/// Why a token is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Its user wants to share the stream of another.
    Share,
    /// Its account cannot be routed to: it may be one of the other environment.
    Route,
}

impl Roster {
    /// What is to be done elsewhere.
    pub(in crate::worker) fn take_wants(&mut self) -> Vec<Want> {
        std::mem::take(&mut self.wants)
    }

    /// Seeks help for a session that is down.
    pub(super) fn seek(
        &mut self,
        key: SessionKey,
        token: Secret,
        down: &Down,
        remedy: Remedy,
        link: &mut Connection,
        now: Instant,
    ) {
        match remedy {
            Remedy::Renew => self.wants.push(Want::Renew(key, token)),
            Remedy::Route => {
                self.next_ticket += 1;
                self.tickets
                    .insert(self.next_ticket, (key, Question::Route));
                link.verify_token(self.next_ticket, &token, now);
            }
            Remedy::Soon if *down == Down::TokenInvalidated => {
                self.wants.push(Want::Reload(key));
            }
            Remedy::Soon | Remedy::NotBefore(_) | Remedy::Help => {}
        }
    }

    /// cTrader said what a token covers.
    pub(in crate::worker) fn handle_token_verified(
        &mut self,
        ticket: u64,
        answer: &Result<Covered, RequestError>,
        jitter: f64,
        link: &mut Connection,
        now: Instant,
    ) {
        let Some((key, question)) = self.tickets.remove(&ticket) else {
            return;
        };
        match question {
            Question::Share => self.handle_shared(&key, answer, jitter, link, now),
            Question::Route => self.handle_routed(&key, answer, now),
        }
        self.say(&key);
    }

    fn handle_shared(
        &mut self,
        key: &SessionKey,
        answer: &Result<Covered, RequestError>,
        jitter: f64,
        link: &mut Connection,
        now: Instant,
    ) {
        let bearer_is_live = self
            .bearers
            .get(&key.account)
            .and_then(|bearer| self.entries.get(bearer))
            .map(|entry| entry.stage);
        let (policy, wall_ms) = (self.policy, self.wall_ms(now));
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        match answer {
            Ok(covered) if covered.contains_key(&key.account) => match bearer_is_live {
                Some(Stage::Live) => {
                    entry.go_live(now);
                    self.look_back(key.account, link, now);
                }
                Some(_) => entry.stage = Stage::Opening,
                None => entry.stage = Stage::Ready,
            },
            Ok(_) => {
                entry.fail(NOT_COVERED.to_owned(), Remedy::Help, policy, jitter, now);
            }
            Err(error @ (RequestError::Unreadable | RequestError::NoAnswer)) => {
                entry.fail(error.for_user(), Remedy::Soon, policy, jitter, now);
            }
            Err(RequestError::Refused(refusal)) => {
                let down = Down::Refused(refusal.clone());
                let remedy = remedy(&down, wall_ms);
                entry.fail(for_user(&down), remedy, policy, jitter, now);
                if remedy == Remedy::Renew {
                    let token = entry.assignment.token.clone();
                    self.wants.push(Want::Renew(key.clone(), token));
                }
            }
        }
    }

    /// An account that could not be routed to: is it one of the other environment?
    fn handle_routed(
        &mut self,
        key: &SessionKey,
        answer: &Result<Covered, RequestError>,
        now: Instant,
    ) {
        let policy = self.policy;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let is_live = answer
            .as_ref()
            .ok()
            .and_then(|covered| covered.get(&key.account));
        let is_elsewhere = is_live.copied().flatten() == Some(entry.assignment.is_demo);
        if is_elsewhere && matches!(entry.stage, Stage::Waiting(_)) {
            let (is, stored) = if entry.assignment.is_demo {
                ("live", "demo")
            } else {
                ("demo", "live")
            };
            let reason =
                format!("this is a {is} account, stored as a {stored} one: connect cTrader again");
            entry.fail(reason, Remedy::Help, policy, 1.0, now);
        }
    }

    /// There is no other token to be had for a session, and why. What streams goes on.
    pub(in crate::worker) fn handle_unrenewable(
        &mut self,
        key: &SessionKey,
        token: &Secret,
        reason: String,
        now: Instant,
    ) {
        let policy = self.policy;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.assignment.token == *token && matches!(entry.stage, Stage::Waiting(_)) {
            entry.fail(reason, Remedy::Help, policy, 1.0, now);
            self.say(key);
        }
    }
}
