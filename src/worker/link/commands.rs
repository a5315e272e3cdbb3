//! How a link carries out its commands, with and without a connection.

use std::time::Instant;

use tokio::sync::oneshot;

use super::context::LinkContext;
use super::replies::Exchange;
use crate::ctrader::connection::{Connection, Refreshed};
use crate::domain::fence::Fence;
use crate::domain::row::SessionState;
use crate::domain::status::Status;
use crate::worker::handles::link::LinkCommand;

/// What is left to do after a command.
pub(super) enum Outcome {
    /// Nothing.
    Handled,
    /// The connection is to be closed: another worker has its permit.
    PermitLost,
    /// The link is to end once its accounts are logged out, and to confirm it to this sender.
    Drain(oneshot::Sender<()>),
}

impl LinkContext {
    /// Carries a command out. What the stream said since the last round is written before a session stops.
    pub(super) fn handle_command(
        &mut self,
        command: LinkCommand,
        mut exchange: Option<&mut Exchange>,
        now: Instant,
    ) -> Outcome {
        let mut outcome = Outcome::Handled;
        match command {
            // Its sender did not know of the drain yet: another worker will run it.
            LinkCommand::Start(_) if self.draining => {}
            LinkCommand::Start(assignment) => {
                self.claims_lost = false;
                self.roster.start(*assignment, connection(exchange), now);
                self.put_deferred_deals();
            }
            LinkCommand::Stop { key, final_status } => {
                let mut connection = connection(exchange);
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
                let mut connection = connection(exchange);
                if let Some(connection) = connection.as_deref_mut() {
                    let is_following = connection.is_following();
                    self.put_rows(connection, is_following, |live| {
                        keys.contains(&live.fence.key)
                    });
                }
                for key in &keys {
                    self.roster.stop(key, connection.as_deref_mut(), now);
                }
                // Who no longer waits goes on without the reply.
                let _ = reply_to.send(());
            }
            LinkCommand::Suspend => self.roster.suspend(),
            LinkCommand::ReleaseAll => {
                self.claims_lost = true;
                self.release_all(connection(exchange), now);
            }
            LinkCommand::PermitLost => outcome = Outcome::PermitLost,
            LinkCommand::Refresh(token, reply_to) => match exchange.as_deref_mut() {
                Some(exchange) => {
                    let ticket = exchange.replies.add_refresh(reply_to);
                    exchange.connection.refresh_token(ticket, &token, now);
                }
                // Without a connection the token stays as good as it was.
                None => {
                    let _ = reply_to.send(Refreshed::Unsent);
                }
            },
            LinkCommand::Verify(token, reply_to) => {
                // Without a connection the sender is dropped: who waits learns nothing.
                if let Some(exchange) = exchange {
                    let ticket = exchange.replies.add_verification(reply_to);
                    exchange.connection.verify_token(ticket, &token, now);
                }
            }
            LinkCommand::RenewalFailed { key, token, reason } => {
                self.roster.handle_unrenewable(&key, &token, reason, now);
            }
            LinkCommand::Drain(reply_to) => {
                self.draining = true;
                self.release_all(connection(exchange), now);
                outcome = Outcome::Drain(reply_to);
            }
        }
        self.status.set_sessions(self.roster.len());
        outcome
    }

    /// Stops all sessions: their rows show the last figures, and look live no longer.
    fn release_all(&mut self, mut connection: Option<&mut Connection>, now: Instant) {
        if let Some(connection) = connection.as_deref_mut() {
            self.put_rows(connection, false, |_| true);
        }
        for (fence, is_demo) in self.roster.stop_all(connection, now) {
            // Nothing is written of a slot that never was ours.
            if fence.epoch != Fence::UNCLAIMED_EPOCH {
                self.put_state(&fence, SessionState::of(Status::Pending).on(is_demo));
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

fn connection(exchange: Option<&mut Exchange>) -> Option<&mut Connection> {
    exchange.map(|exchange| &mut exchange.connection)
}
