//! The permit for a connection: the fleet has so many and no more, and who has none waits.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{Link, Waited};
use crate::worker::keeper::ClaimRequest;
use crate::worker::roster::Roster;

/// What a session's row says meanwhile.
pub(super) const NO_PERMIT: &str =
    "all connections to cTrader are taken: waiting for one to become free";

/// The pause between two questions for one.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Link {
    /// Waits for a permit, and for nothing if there is one already or nothing to carry any more.
    pub(super) async fn permit(&mut self, roster: &mut Roster) -> Waited {
        let mut said = false;
        while !self.permitted && roster.len() > 0 {
            let (claims, number) = (self.claims.clone(), self.number);
            let asked = Box::pin(async move {
                let (asker, answer) = oneshot::channel();
                // The keeper is gone only when the worker stops.
                claims
                    .send(ClaimRequest::Permit(number, asker))
                    .await
                    .ok()?;
                answer.await.ok()
            });
            match self.wait_beside(roster, asked).await {
                Ok(granted) => self.permitted = granted == Some(true),
                Err(done) => return Waited::Drained(done),
            }
            if self.permitted {
                break;
            }
            self.status.set_waiting(true);
            if !said {
                said = true;
                warn!(link = self.name, "{NO_PERMIT}");
                self.lost(roster, NO_PERMIT, false);
            }
            let pause = Box::pin(sleep_until(Instant::now() + ASK_EVERY));
            if let Err(done) = self.wait_beside(roster, pause).await {
                return Waited::Drained(done);
            }
        }
        if said {
            info!(link = self.name, "the connection to cTrader is permitted");
        }
        self.status.set_waiting(false);
        Waited::Over
    }

    /// Somebody else may have the connection's place.
    pub(super) fn return_permit(&mut self) {
        // A full channel: it is kept, and used by the next connection.
        if self
            .claims
            .try_send(ClaimRequest::ReturnPermit(self.number))
            .is_ok()
        {
            self.permitted = false;
        }
    }

    /// Takes commands until something is done.
    async fn wait_beside<T>(
        &mut self,
        roster: &mut Roster,
        mut task: std::pin::Pin<Box<impl Future<Output = T>>>,
    ) -> Result<T, Option<oneshot::Sender<()>>> {
        loop {
            tokio::select! {
                done = &mut task => return Ok(done),
                command = self.inbox.recv() => match command {
                    None => return Err(None),
                    Some(command) => {
                        if let Some(done) = self.handle(roster, command, None) {
                            return Err(Some(done));
                        }
                        self.say(roster);
                        self.tell_settled(roster, None);
                    }
                }
            }
        }
    }
}
