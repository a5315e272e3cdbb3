//! One session of a roster: its stage, and the status that its row shows.

use std::time::Instant;

use super::retry::{RetryDecision, RetryPolicy};
use crate::domain::backoff;
use crate::domain::deal::{Deal, Source};
use crate::domain::ids::SessionKey;
use crate::domain::row::SessionState;
use crate::domain::secret::Secret;
use crate::domain::status::Status;
use crate::worker::handles::link::Assignment;
use crate::worker::handles::link::StatusUpdate;

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is to be opened as soon as the link is connected.
    Ready,
    /// Another user's token authorised the account. Whether this user's own token covers it is being checked.
    Verifying,
    /// The account's stream is being opened.
    Opening,
    /// Its row follows the stream.
    Live,
    /// It failed, and is tried again at that time.
    Waiting(Instant),
}

/// One user's session of an account.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact by itself, whatever the others are"
)]
pub(super) struct UserSession {
    pub(super) assignment: Assignment,
    /// The token that was last sent to cTrader. The assignment may have a newer one.
    pub(super) sent_token: Option<Secret>,
    pub(super) stage: Stage,
    /// Consecutive failures.
    pub(super) attempts: u32,
    pub(super) error: Option<String>,
    pub(super) was_live: bool,
    /// Its row must be written whole: it became live, or its state changed, and the row was not written since.
    pub(super) row_due: bool,
    /// When its history is requested next, while it is live.
    pub(super) history_at: Option<Instant>,
    /// A deal was dropped because the outbox or the deferred deals were full. Its history has a gap.
    pub(super) lost_deal: bool,
    /// Since when it has been live.
    pub(super) live_since: Option<Instant>,
    /// It is on standby and ready to be promoted, and the coordinator was told so.
    pub(super) standby_ready: bool,
    /// Deals that came while it was on standby.
    pub(super) deferred_deals: Vec<(Source, Deal)>,
}

impl UserSession {
    /// A session to be opened, after so many failed attempts to connect.
    pub(super) const fn new(assignment: Assignment, attempts: u32, error: Option<String>) -> Self {
        Self {
            assignment,
            sent_token: None,
            stage: Stage::Ready,
            attempts,
            error,
            was_live: false,
            row_due: false,
            history_at: None,
            lost_deal: false,
            live_since: None,
            standby_ready: false,
            deferred_deals: Vec::new(),
        }
    }

    pub(super) const fn key(&self) -> &SessionKey {
        &self.assignment.fence.key
    }

    /// Whether it uses the account's stream, live or about to be.
    pub(super) const fn uses_stream(&self) -> bool {
        matches!(self.stage, Stage::Opening | Stage::Live)
    }

    /// Whether rows of the account's figures are written for it.
    pub(super) fn writes_rows(&self) -> bool {
        self.stage == Stage::Live && !self.assignment.standby
    }

    /// Takes over a new assignment. Returns whether that promotes it from standby.
    pub(super) fn reassign(&mut self, assignment: Assignment) -> bool {
        let before = std::mem::replace(&mut self.assignment, assignment);
        // It has followed the account since, so it knows both better than the tables do.
        self.assignment.through_ms = before.through_ms;
        self.assignment.known = before.known;
        self.row_due = true;
        self.standby_ready = false;
        before.standby && !self.assignment.standby
    }

    pub(super) fn go_live(&mut self, now: Instant) {
        self.stage = Stage::Live;
        self.live_since = Some(now);
        self.was_live = true;
        self.attempts = 0;
        self.error = None;
        self.row_due = true;
    }

    /// Counts another failure, and waits as long as the decision asks for.
    pub(super) fn fail(
        &mut self,
        error: String,
        decision: RetryDecision,
        policy: RetryPolicy,
        jitter: f64,
        now: Instant,
    ) {
        self.attempts = self.attempts.saturating_add(1);
        if decision == RetryDecision::NeedsIntervention {
            self.attempts = self.attempts.max(policy.attempts_max);
        }
        self.error = Some(error);
        let pause = if self.attempts >= policy.attempts_max {
            policy.failed_pause
        } else {
            backoff::CTRADER.pause(self.attempts, jitter)
        };
        self.stage = Stage::Waiting(now + pause.max(decision.pause_min()));
    }

    /// The state that its row shows.
    pub(super) fn state(&self, policy: RetryPolicy) -> SessionState {
        let status = if self.stage == Stage::Live && self.error.is_none() {
            Status::Live
        } else if self.attempts >= policy.attempts_max {
            Status::Failed
        } else if self.attempts > 0 || self.was_live {
            Status::Reconnecting
        } else {
            Status::Connecting
        };
        SessionState {
            status,
            last_error: self.error.clone(),
            attempts: i32::try_from(self.attempts).unwrap_or(i32::MAX),
            is_demo: Some(self.assignment.is_demo),
        }
    }

    /// The state to publish by itself. `None` if nothing is written for it, or if it is live: then its state is
    /// part of its rows.
    pub(super) fn status_update(&self, policy: RetryPolicy) -> Option<StatusUpdate> {
        if self.stage == Stage::Live || self.assignment.standby {
            return None;
        }
        Some(StatusUpdate {
            fence: self.assignment.fence.clone(),
            state: self.state(policy),
        })
    }
}
