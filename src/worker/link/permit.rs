//! The permit for a connection: the fleet has so many and no more, and a link without one waits.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::{Drained, Link, NO_PERMIT};

/// The pause between two requests.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

impl Link {
    /// Waits for a permit. Returns at once if there is one already, or no session any more.
    pub(super) async fn obtain_permit(&mut self) -> Result<(), Drained> {
        let name = self.config.name;
        let mut is_waiting = false;
        while !self.has_permit && self.context.roster.len() > 0 {
            let (locks, number) = (self.locks.clone(), self.config.number);
            let request = async move { locks.request_permit(number).await };
            self.has_permit = self.while_handling_commands(request).await? == Some(true);
            if self.has_permit {
                break;
            }
            self.context.status.set_waiting(true);
            if !is_waiting {
                is_waiting = true;
                warn!(link = name, "{NO_PERMIT}");
                self.context.handle_disconnected(NO_PERMIT, false);
            }
            self.while_handling_commands(sleep(REQUEST_INTERVAL))
                .await?;
        }
        if is_waiting {
            info!(link = name, "the link has a permit to connect to cTrader");
        }
        self.context.status.set_waiting(false);
        Ok(())
    }

    /// Returns the permit, for another worker. If too many requests wait, the link keeps it for its next
    /// connection.
    pub(super) fn return_permit(&mut self) {
        if self.locks.return_permit(self.config.number) {
            self.has_permit = false;
        }
    }
}
