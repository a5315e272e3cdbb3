//! One session of a roster: where it stands, and what its row says of that.

use std::time::Instant;

use super::retry::Remedy;
use super::{Assignment, RetryPolicy};
use crate::domain::backoff;
use crate::domain::deal::{Deal, Source};
use crate::domain::row::SessionState;
use crate::domain::secret::Secret;
use crate::domain::status::Status;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// To be opened as soon as the link is up.
    Ready,
    /// Its own token is being checked for an account that another user streams.
    Verifying,
    /// Part of a session that is not live yet.
    Opening,
    /// Its row follows the stream.
    Live,
    /// To be tried again then.
    Waiting(Instant),
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact by itself, whatever the others are"
)]
pub(super) struct Entry {
    pub(super) assignment: Assignment,
    /// The token that the connection was given; a newer one may have come since.
    pub(super) offered: Option<Secret>,
    pub(super) stage: Stage,
    pub(super) attempts: u32,
    pub(super) error: Option<String>,
    pub(super) was_live: bool,
    /// The row must be written whole: it was not yet, since the session became live.
    pub(super) row_due: bool,
    /// When its history is looked into next, while it is live.
    pub(super) history_at: Option<Instant>,
    /// A deal of it found no room: its history has a hole.
    pub(super) lost_deal: bool,
    /// Since when it is live.
    pub(super) live_at: Option<Instant>,
    /// It stands by, and is as far as it gets.
    pub(super) settled: bool,
    /// Deals that came while it stood by.
    pub(super) held: Vec<(Source, Deal)>,
}

impl Entry {
    pub(super) fn go_live(&mut self, now: Instant) {
        self.stage = Stage::Live;
        self.live_at = Some(now);
        self.was_live = true;
        self.attempts = 0;
        self.error = None;
        self.row_due = true;
    }

    /// Another failure: it waits, as long as what befell it asks for.
    pub(super) fn fail(
        &mut self,
        error: String,
        remedy: Remedy,
        policy: RetryPolicy,
        jitter: f64,
        now: Instant,
    ) {
        self.attempts = self.attempts.saturating_add(1);
        if remedy == Remedy::Help {
            self.attempts = self.attempts.max(policy.attempts_max);
        }
        self.error = Some(error);
        let pause = if self.attempts >= policy.attempts_max {
            policy.failed_pause
        } else {
            backoff::RECONNECT.pause(self.attempts, jitter)
        };
        self.stage = Stage::Waiting(now + pause.max(remedy.pause_min()));
    }
}

pub(super) fn state(entry: &Entry, attempts_max: u32) -> SessionState {
    let status = if entry.stage == Stage::Live && entry.error.is_none() {
        Status::Live
    } else if entry.attempts >= attempts_max {
        Status::Failed
    } else if entry.attempts > 0 || entry.was_live {
        Status::Reconnecting
    } else {
        Status::Connecting
    };
    SessionState {
        status,
        last_error: entry.error.clone(),
        attempts: i32::try_from(entry.attempts).unwrap_or(i32::MAX),
        is_demo: Some(entry.assignment.is_demo),
    }
}
