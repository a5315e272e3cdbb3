//! What links are told to do, and which link runs which session.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{mpsc, oneshot};

use crate::ctrader::connection::{Covered, Refreshed};
use crate::ctrader::error::Refusal;
use crate::domain::fence::Fence;
use crate::domain::ids::SessionKey;
use crate::domain::ledger::Known;
use crate::domain::row::SessionState;
use crate::domain::secret::Secret;

/// Commands that may wait for a link. A full inbox makes the sender wait, which loses nothing: the desired
/// state stands in the table.
const COMMANDS_MAX: usize = 1_024;

/// A session that a link shall run.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Assignment {
    pub(in crate::worker) fence: Fence,
    pub(in crate::worker) is_demo: bool,
    pub(in crate::worker) token: Secret,
    /// All its deals up to then are stored, milliseconds since the epoch; `None`: none ever were.
    pub(in crate::worker) through_ms: Option<i64>,
    /// What was known of the account when it was last followed.
    pub(in crate::worker) known: Known,
    /// It shall stream and write nothing: another worker still owns the slot, or the claim is in doubt.
    pub(in crate::worker) standby: bool,
}

/// A state of a session, for its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worker) struct StatusUpdate {
    pub(in crate::worker) fence: Fence,
    pub(in crate::worker) state: SessionState,
}

/// What a link is told to do.
#[derive(Debug)]
pub(in crate::worker) enum LinkCommand {
    /// Run a session, or take over its new token, epoch or command.
    Start(Box<Assignment>),
    /// Stop a session. With a final status, the link publishes it as the last it has to write of the session,
    /// and confirms that it released it. `None`: the row is another worker's to write.
    Stop {
        key: SessionKey,
        final_status: Option<StatusUpdate>,
    },
    /// Write the rows of these sessions once more as they are, and stop them: another worker streams them
    /// already.
    HandOver(Vec<SessionKey>, oneshot::Sender<()>),
    /// Go on streaming and write nothing until started anew: the claims are in doubt.
    Suspend,
    /// Stop all sessions: the claims are lost.
    ReleaseAll,
    /// The permit for the connection is gone: close it, and ask for another one.
    PermitLost,
    /// Spend a refresh token, and reply with what became of it.
    Refresh(Secret, oneshot::Sender<Refreshed>),
    /// Ask cTrader which accounts an access token covers.
    Verify(Secret, oneshot::Sender<Result<Covered, Refusal>>),
    /// The token of a session cannot be renewed, and why.
    RenewalFailed {
        key: SessionKey,
        token: Secret,
        reason: String,
    },
    /// Stop everything, log out, and reply.
    Drain(oneshot::Sender<()>),
}

/// Sends commands to one link.
#[derive(Debug, Clone)]
pub(in crate::worker) struct LinkHandle(mpsc::Sender<LinkCommand>);

impl LinkHandle {
    /// A handle, and where its commands arrive.
    pub(in crate::worker) fn channel() -> (Self, mpsc::Receiver<LinkCommand>) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        (Self(sender), commands)
    }

    /// Sends a command; `false` if the link has ended, which it does only when the worker stops.
    pub(in crate::worker) async fn send(&self, command: LinkCommand) -> bool {
        self.0.send(command).await.is_ok()
    }

    /// Has the link write the last rows of these sessions and stop them; `None` if it has ended.
    pub(in crate::worker) async fn hand_over(
        &self,
        keys: Vec<SessionKey>,
    ) -> Option<oneshot::Receiver<()>> {
        let (reply_to, reply) = oneshot::channel();
        let sent = self.send(LinkCommand::HandOver(keys, reply_to)).await;
        sent.then_some(reply)
    }

    /// Has the link stop everything and log out; `None` if it has ended.
    pub(in crate::worker) async fn drain(&self) -> Option<oneshot::Receiver<()>> {
        let (reply_to, reply) = oneshot::channel();
        let sent = self.send(LinkCommand::Drain(reply_to)).await;
        sent.then_some(reply)
    }

    /// Spends a refresh token; `None` if the link has ended.
    pub(in crate::worker) async fn refresh(
        &self,
        refresh_token: Secret,
    ) -> Option<oneshot::Receiver<Refreshed>> {
        let (reply_to, reply) = oneshot::channel();
        let sent = self
            .send(LinkCommand::Refresh(refresh_token, reply_to))
            .await;
        sent.then_some(reply)
    }

    /// Asks cTrader which accounts an access token covers; `None` if the link has ended.
    pub(in crate::worker) async fn verify(
        &self,
        access_token: Secret,
    ) -> Option<oneshot::Receiver<Result<Covered, Refusal>>> {
        let (reply_to, reply) = oneshot::channel();
        let sent = self.send(LinkCommand::Verify(access_token, reply_to)).await;
        sent.then_some(reply)
    }
}

/// All links, by environment.
#[derive(Debug, Clone, Default)]
pub(in crate::worker) struct Links {
    pub(in crate::worker) demo: Vec<LinkHandle>,
    pub(in crate::worker) live: Vec<LinkHandle>,
}

impl Links {
    /// All of them, demo first: a link's number is its index here.
    pub(in crate::worker) fn all(&self) -> impl Iterator<Item = &LinkHandle> {
        self.demo.iter().chain(&self.live)
    }

    /// The link of that number.
    pub(in crate::worker) fn get(&self, number: usize) -> Option<&LinkHandle> {
        self.all().nth(number)
    }

    /// The number of a token's link: accounts of one grant stay together, since its events concern all of them.
    pub(in crate::worker) fn number_of(&self, is_live: bool, token: &Secret) -> usize {
        let (before, links) = if is_live {
            (self.demo.len(), &self.live)
        } else {
            (0, &self.demo)
        };
        let mut hasher = DefaultHasher::new();
        token.expose().hash(&mut hasher);
        let spread = usize::try_from(hasher.finish() % links.len().max(1) as u64).unwrap_or(0);
        before + spread
    }

    /// The link of a token.
    pub(in crate::worker) fn of_token(&self, is_live: bool, token: &Secret) -> Option<&LinkHandle> {
        self.get(self.number_of(is_live, token))
    }

    /// Sends a command to each link.
    pub(in crate::worker) async fn send_all(&self, command: impl Fn() -> LinkCommand) {
        for link in self.all() {
            // One that has ended runs nothing.
            let _ = link.send(command()).await;
        }
    }
}
