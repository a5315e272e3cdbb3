//! The permit for a connection: the fleet has so many and no more, and who has none waits.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Drained, Link};
use crate::worker::link::roster::Roster;
use crate::worker::ownership::lock_keeper::ClaimRequest;

/// What a session's row says meanwhile.
pub(super) const NO_PERMIT: &str =
    "all connections to cTrader are taken: waiting for one to become free";

/// The pause between two questions for one.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Link {
    /// Waits for a permit, and for nothing if there is one already or nothing to carry any more.
    pub(super) async fn permit(&mut self, roster: &mut Roster) -> Result<(), Drained> {
        let mut said = false;
        while !self.permitted && roster.len() > 0 {
            let (claims, number) = (self.claims.clone(), self.number);
            let asked = async move {
                let (asker, answer) = oneshot::channel();
                // The keeper is gone only when the worker stops.
                claims
                    .send(ClaimRequest::Permit(number, asker))
                    .await
                    .ok()?;
                answer.await.ok()
            };
            self.permitted = self.wait_beside(roster, asked).await? == Some(true);
            if self.permitted {
                break;
            }
            self.status.set_waiting(true);
            if !said {
                said = true;
                warn!(link = self.name, "{NO_PERMIT}");
                self.lost(roster, NO_PERMIT, false);
            }
            self.wait_beside(roster, sleep(ASK_EVERY)).await?;
        }
        if said {
            info!(link = self.name, "the connection to cTrader is permitted");
        }
        self.status.set_waiting(false);
        Ok(())
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
}
