//! What a roster asks about tokens: whether one covers an account, and whether there is a newer one.

use std::time::Instant;

use super::Roster;
use super::output::CredentialRequest;
use super::retry::{RetryDecision, decide_retry, session_error_text};
use super::session::Stage;
use super::token_check::TokenCheck;
use crate::ctrader::connection::{Connection, Covered, Down};
use crate::ctrader::error::Refusal;
use crate::domain::ids::SessionKey;
use crate::domain::secret::Secret;

impl Roster {
    /// Requests what a session that is down needs to come back: another token, or a check of its account's
    /// environment.
    pub(super) fn request_credentials(
        &mut self,
        key: SessionKey,
        token: Secret,
        down: &Down,
        decision: RetryDecision,
        connection: &mut Connection,
        now: Instant,
    ) {
        match decision {
            RetryDecision::RefreshToken => self
                .credential_requests
                .push(CredentialRequest::Refresh(key, token)),
            RetryDecision::CheckEnvironment => {
                let ticket = self.token_checks.begin(key, TokenCheck::Environment);
                connection.verify_token(ticket, &token, now);
            }
            RetryDecision::Retry if *down == Down::TokenInvalidated => self
                .credential_requests
                .push(CredentialRequest::Reload(key)),
            RetryDecision::Retry
            | RetryDecision::RetryAfter(_)
            | RetryDecision::NeedsIntervention => {}
        }
    }

    /// cTrader told which accounts a token covers, or refused to. `jitter` is between 0 and 1.
    pub(in crate::worker) fn handle_token_verified(
        &mut self,
        ticket: u64,
        answer: &Result<Covered, Refusal>,
        jitter: f64,
        connection: &mut Connection,
        now: Instant,
    ) {
        let Some((key, check)) = self.token_checks.end(ticket) else {
            return;
        };
        match check {
            TokenCheck::Share => self.handle_share_check(&key, answer, jitter, connection, now),
            TokenCheck::Environment => self.handle_environment_check(&key, answer, now),
        }
        self.publish_status(&key);
        self.open_account(key.account, Some(connection), now);
    }

    fn handle_share_check(
        &mut self,
        key: &SessionKey,
        answer: &Result<Covered, Refusal>,
        jitter: f64,
        connection: &mut Connection,
        now: Instant,
    ) {
        let (policy, wall_ms) = (self.policy, self.wall_ms(now));
        let Some(stream) = self.accounts.get_mut(&key.account) else {
            return;
        };
        let stream_stage = stream.authoriser().map(|authoriser| authoriser.stage);
        let Some(session) = stream.session_mut(&key.user) else {
            return;
        };
        match answer {
            Ok(covered) if covered.contains_key(&key.account) => match stream_stage {
                Some(Stage::Live) => {
                    session.go_live(now);
                    self.request_history(key.account, connection, now);
                }
                Some(_) => session.stage = Stage::Opening,
                // The authoriser has stopped meanwhile.
                None => session.stage = Stage::Ready,
            },
            Ok(_) => {
                let reason = Refusal::with_code("ACCOUNT_NOT_AUTHORIZED").for_user();
                session.fail(
                    reason,
                    RetryDecision::NeedsIntervention,
                    policy,
                    jitter,
                    now,
                );
            }
            Err(refusal) => {
                let down = Down::Refused(refusal.clone());
                let decision = decide_retry(&down, wall_ms);
                session.fail(session_error_text(&down), decision, policy, jitter, now);
                if decision == RetryDecision::RefreshToken {
                    let token = session.assignment.token.clone();
                    self.credential_requests
                        .push(CredentialRequest::Refresh(key.clone(), token));
                }
            }
        }
    }

    /// cTrader could not route requests to the account. If it belongs to the other environment, retries are of no
    /// use.
    fn handle_environment_check(
        &mut self,
        key: &SessionKey,
        answer: &Result<Covered, Refusal>,
        now: Instant,
    ) {
        let policy = self.policy;
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let is_live = answer
            .as_ref()
            .ok()
            .and_then(|covered| covered.get(&key.account));
        let is_elsewhere = is_live.copied().flatten() == Some(session.assignment.is_demo);
        if is_elsewhere && matches!(session.stage, Stage::Waiting(_)) {
            let (is, stored) = if session.assignment.is_demo {
                ("live", "demo")
            } else {
                ("demo", "live")
            };
            let reason =
                format!("this is a {is} account, stored as a {stored} one: connect cTrader again");
            session.fail(reason, RetryDecision::NeedsIntervention, policy, 1.0, now);
        }
    }

    /// A token can be neither used nor refreshed, for this reason. A session that streams goes on.
    pub(in crate::worker) fn handle_unrenewable(
        &mut self,
        key: &SessionKey,
        token: &Secret,
        reason: String,
        now: Instant,
    ) {
        let policy = self.policy;
        let Some(session) = self.session_mut(key) else {
            return;
        };
        if session.assignment.token == *token && matches!(session.stage, Stage::Waiting(_)) {
            session.fail(reason, RetryDecision::NeedsIntervention, policy, 1.0, now);
            self.publish_status(key);
        }
    }
}
