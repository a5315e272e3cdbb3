//! What a link is told, and how it is carried out.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{LINGER, LOGOUT_TIMEOUT, Link};
use crate::ctrader::connection::{Connection, Covered, Refreshed};
use crate::ctrader::error::RequestError;
use crate::domain::fence::Fence;
use crate::domain::ids::SessionKey;
use crate::domain::row::SessionState;
use crate::domain::secret::Secret;
use crate::worker::link::roster::{Assignment, Held, Roster};

/// What the coordinator tells a link. Its inbox is bounded: a full one makes the coordinator wait,
/// which loses nothing, since the desired state stands in the table.
#[derive(Debug)]
pub(in crate::worker) enum LinkCommand {
    /// Run a session, or take over its new token, epoch or command.
    Start(Box<Assignment>),
    /// Let a session go, and tell; its row says this from then on, and nothing looks live. `None`: the row is
    /// another worker's to write.
    Stop(SessionKey, Option<(Fence, SessionState)>),
    /// Write the rows of these once more as they are, and let them go: another worker streams them already.
    HandOver(Vec<SessionKey>, oneshot::Sender<()>),
    /// Go on streaming and write nothing until started anew: the claims are in doubt.
    Suspend,
    /// Let all sessions go: the claims are lost.
    ReleaseAll,
    /// The permit for the connection is gone: close it, and ask for another one.
    Unpermitted,
    /// Spend a refresh token, and tell what became of it.
    Refresh(Secret, oneshot::Sender<Refreshed>),
    /// Ask what an access token covers.
    Verify(Secret, oneshot::Sender<Result<Covered, RequestError>>),
    /// There is no other token to be had for the session with this one, and why.
    Unrenewable(SessionKey, Secret, String),
    /// Let everything go, log out, and answer.
    Drain(oneshot::Sender<()>),
}

impl Link {
    /// Carries a command out; gives back whom to answer when the link is drained.
    pub(super) fn handle(
        &mut self,
        roster: &mut Roster,
        command: LinkCommand,
        mut connection: Option<&mut Connection>,
    ) -> Option<oneshot::Sender<()>> {
        let now = Instant::now();
        if let Some(connection) = connection.as_deref_mut() {
            self.put_last_rows(roster, connection, &command);
        }
        let mut done = None;
        match command {
            LinkCommand::Start(assignment) => {
                self.released = false;
                roster.start(*assignment, connection, now);
                self.put_released(roster);
            }
            LinkCommand::Stop(key, words) => {
                roster.stop(&key, connection, now);
                if let Some((fence, state)) = words {
                    self.put_state(&fence, state);
                    self.hints.left(key);
                }
            }
            LinkCommand::HandOver(keys, asker) => {
                for key in &keys {
                    roster.stop(key, connection.as_deref_mut(), now);
                }
                // Who no longer waits goes on without the answer.
                let _ = asker.send(());
            }
            LinkCommand::Suspend => roster.suspend(),
            // Without a connection the token stays as good as it was.
            LinkCommand::Refresh(_, asker) => {
                let _ = asker.send(Refreshed::Unsent);
            }
            // Nobody is told, and so learns nothing.
            LinkCommand::Verify(..) => {}
            LinkCommand::Unrenewable(key, token, reason) => {
                roster.handle_unrenewable(&key, &token, reason, now);
            }
            LinkCommand::ReleaseAll => {
                self.released = true;
                self.release_all(roster, connection, now);
            }
            LinkCommand::Unpermitted => self.permitted = false,
            LinkCommand::Drain(answer) => {
                self.release_all(roster, connection, now);
                done = Some(answer);
            }
        }
        self.status.set_sessions(roster.len());
        done
    }

    /// What the stream said since the last round is written before the session goes.
    fn put_last_rows(&self, roster: &mut Roster, connection: &Connection, command: &LinkCommand) {
        match command {
            LinkCommand::Stop(key, Some(_)) => {
                self.put_rows(roster, connection, false, |live| live == key);
            }
            LinkCommand::HandOver(keys, _) => {
                let following = connection.is_following();
                self.put_rows(roster, connection, following, |live| keys.contains(live));
            }
            LinkCommand::ReleaseAll | LinkCommand::Drain(_) => {
                self.put_rows(roster, connection, false, |_| true);
            }
            LinkCommand::Stop(_, None)
            | LinkCommand::Start(_)
            | LinkCommand::Suspend
            | LinkCommand::Unpermitted
            | LinkCommand::Refresh(..)
            | LinkCommand::Verify(..)
            | LinkCommand::Unrenewable(..) => {}
        }
    }

    /// Deals that were held back while the session stood by.
    fn put_released(&self, roster: &mut Roster) {
        for Held {
            fence,
            source,
            deal,
        } in roster.take_released()
        {
            self.put_deal_of(roster, &fence, source, &deal);
        }
    }

    /// Tells the coordinator which sessions that stand by are as far as they get.
    pub(super) fn tell_settled(&self, roster: &mut Roster, connection: Option<&Connection>) {
        let settled = roster.take_settled(connection, Instant::now());
        if !settled.is_empty() {
            self.hints.settled(settled);
        }
    }

    /// How long a link without sessions keeps its socket.
    pub(super) const fn linger(&self) -> Duration {
        if self.released {
            LOGOUT_TIMEOUT
        } else {
            LINGER
        }
    }
}
