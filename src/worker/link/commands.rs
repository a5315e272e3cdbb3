//! How a link handles its commands, with and without a connection.

use std::collections::BTreeSet;
use std::time::Instant;

use tokio::sync::oneshot;

use super::context::LinkContext;
use super::replies::ActiveConnection;
use crate::ctrader::connection::{Connection, Refreshed};
use crate::domain::fence::Fence;
use crate::domain::ids::SessionKey;
use crate::domain::row::SessionState;
use crate::domain::status::Status;
use crate::worker::handles::link::LinkCommand;

/// What is left to do after a command.
pub(super) enum CommandOutcome {
    /// Nothing.
    Handled,
    /// The connection is to be closed: another worker has its permit.
    PermitLost,
    /// The link is to end once its accounts are logged out, and to confirm it to this sender.
    Drain(oneshot::Sender<()>),
}

impl LinkContext {
    /// Handles a command. The latest figures of a session are written before it stops.
    pub(super) fn handle_command(
        &mut self,
        command: LinkCommand,
        mut active: Option<&mut ActiveConnection>,
        now: Instant,
    ) -> CommandOutcome {
        let mut outcome = CommandOutcome::Handled;
        match command {
            // Its sender does not know of the drain yet: another worker will run the session.
            LinkCommand::Start(_) if self.draining => {}
            LinkCommand::Start(assignment) => {
                self.claims_lost = false;
                self.roster.start(*assignment, connection(active), now);
                self.put_deferred_deals();
            }
            LinkCommand::Stop { key, final_status } => {
                let mut connection = connection(active);
                if let (Some(_), Some(connection)) = (&final_status, connection.as_deref_mut()) {
                    self.put_rows(connection, false, |live| live.fence.key == key);
                }
                self.roster.stop(&key, connection, now);
                if let Some(update) = final_status {
                    self.put_state(&update.fence, update.state);
                    self.wakeups.released(key);
                }
            }
            LinkCommand::HandOver(keys, reply_to) => {
                let mut connection = connection(active);
                if let Some(connection) = connection.as_deref_mut() {
                    let is_following = connection.is_following();
                    let handed_over: BTreeSet<&SessionKey> = keys.iter().collect();
                    self.put_rows(connection, is_following, |live| {
                        handed_over.contains(&live.fence.key)
                    });
                }
                for key in &keys {
                    self.roster.stop(key, connection.as_deref_mut(), now);
                }
                // The sender may no longer wait for the reply.
                let _ = reply_to.send(());
            }
            LinkCommand::Suspend => self.roster.suspend(),
            LinkCommand::ReleaseAll => {
                self.claims_lost = true;
                self.release_all(connection(active), now);
            }
            LinkCommand::PermitLost => outcome = CommandOutcome::PermitLost,
            LinkCommand::Refresh(token, reply_to) => match active.as_deref_mut() {
                Some(active) => {
                    let ticket = active.replies.add_refresh(reply_to);
                    active.connection.refresh_token(ticket, &token, now);
                }
                // Without a connection the token was not used.
                None => {
                    let _ = reply_to.send(Refreshed::Unsent);
                }
            },
            LinkCommand::Verify(token, reply_to) => {
                // Without a connection `reply_to` is dropped, and its receiver gets an error.
                if let Some(active) = active {
                    let ticket = active.replies.add_verification(reply_to);
                    active.connection.verify_token(ticket, &token, now);
                }
            }
            LinkCommand::RenewalFailed { key, token, reason } => {
                self.roster.handle_renewal_failed(&key, &token, reason, now);
            }
            LinkCommand::Drain(reply_to) => {
                self.draining = true;
                self.release_all(connection(active), now);
                outcome = CommandOutcome::Drain(reply_to);
            }
        }
        self.status.set_sessions(self.roster.len());
        outcome
    }

    /// Stops all sessions. Their rows keep the last figures and are no longer live.
    fn release_all(&mut self, mut connection: Option<&mut Connection>, now: Instant) {
        if let Some(connection) = connection.as_deref_mut() {
            self.put_rows(connection, false, |_| true);
        }
        for (fence, is_demo) in self.roster.stop_all(connection, now) {
            // Nothing is written of a slot that never was ours.
            if fence.epoch != Fence::UNCLAIMED_EPOCH {
                self.put_state(
                    &fence,
                    SessionState::of(Status::Pending).in_environment(is_demo),
                );
            }
        }
    }

    /// Reports the standby sessions that are ready.
    pub(super) fn report_standby_ready(&mut self, connection: Option<&Connection>) {
        let ready = self.roster.take_standby_ready(connection, Instant::now());
        if !ready.is_empty() {
            self.wakeups.standby_ready(ready);
        }
    }
}

fn connection(active: Option<&mut ActiveConnection>) -> Option<&mut Connection> {
    active.map(|active| &mut active.connection)
}
