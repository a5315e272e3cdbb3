//! Listens for Postgres' notifications and turns them into wakeups.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::pg::PgError;
use crate::pg::connect::PgConfig;
use crate::pg::listen::{Notification, NotificationListener};
use crate::worker::handles::wakeups::Wakeups;

/// The pause before listening again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Listens until `stop`, reconnecting for ever.
pub(in crate::worker) async fn listen(
    config: &PgConfig,
    wakeups: &Wakeups,
    stop: &CancellationToken,
) {
    while !stop.is_cancelled() {
        let lost: Result<Infallible, PgError> = tokio::select! {
            lost = forward(config, wakeups) => lost,
            () = stop.cancelled() => return,
        };
        let Err(error) = lost;
        warn!(error = %error, "the LISTEN connection is lost: changes are noticed with the next sweep");
        wakeups.request_lock_check();
        tokio::select! {
            () = tokio::time::sleep(RECONNECT_PAUSE) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Forwards notifications until the connection is lost.
async fn forward(config: &PgConfig, wakeups: &Wakeups) -> Result<Infallible, PgError> {
    let mut listener = NotificationListener::connect(config).await?;
    debug!("listening for notifications");
    // What happened before is unknown.
    wakeups.wake_all();
    loop {
        match listener.next().await? {
            Notification::Slot(slot) => wakeups.wake_slot(slot),
            Notification::Fleet(number) => wakeups.wake_fleet_of(number),
        }
    }
}
