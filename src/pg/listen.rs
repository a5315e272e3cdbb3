//! Notifications that the sessions or credentials of a slot, or the hand-overs of a worker, changed.
//!
//! A notification only names what to read again. Those sent while nobody listens are lost, so a worker reads everything
//! when it connects, and again from time to time.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::connect::{CONNECT_TIMEOUT, PgConfig, within};
use super::error::PgError;
use crate::domain::ids::Slot;

/// The channel of the notifications about slots; the payload is the slot's number.
pub const SLOT_CHANNEL: &str = "bridge_sessions";

/// The channel of the notifications about hand-overs; the payload is the number of the worker that they concern.
pub const FLEET_CHANNEL: &str = "bridge_fleet";

/// What to read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// The sessions of this slot.
    Slot(Slot),
    /// The hand-overs, for the worker of this number.
    Fleet(i32),
}

/// A connection without a notification for this long is pinged.
const QUIET: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that listens. Like that of the claims, it must not be shared.
#[derive(Debug)]
pub struct NotificationListener {
    listener: PgListener,
}

impl NotificationListener {
    /// Connects and listens.
    ///
    /// # Errors
    /// When Postgres can't be reached.
    pub async fn connect(config: &PgConfig) -> Result<Self, PgError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(config.options()?);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        within(config.reply_timeout(), async {
            Ok(listener.listen_all([SLOT_CHANNEL, FLEET_CHANNEL]).await?)
        })
        .await?;
        Ok(Self { listener })
    }

    /// Waits for the next notification.
    ///
    /// # Errors
    /// The connection is lost, and perhaps notifications with it: connect again, then read everything.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it loses no notification.
    pub async fn next(&mut self) -> Result<Notification, PgError> {
        loop {
            // Not `within`: a quiet connection is no failure.
            match tokio::time::timeout(QUIET, self.listener.try_recv()).await {
                Ok(Ok(Some(notification))) => {
                    // The bridge sends nothing but numbers.
                    if let Ok(number) = notification.payload().parse() {
                        return Ok(if notification.channel() == FLEET_CHANNEL {
                            Notification::Fleet(number)
                        } else {
                            Notification::Slot(Slot(number))
                        });
                    }
                }
                Ok(Ok(None)) => return Err(PgError::Unavailable(sqlx::Error::PoolClosed)),
                Ok(Err(err)) => return Err(err.into()),
                Err(_) => {
                    within(PING_TIMEOUT, async {
                        sqlx::raw_sql("-- listen.ping\nselect 1")
                            .execute(&mut self.listener)
                            .await?;
                        Ok(())
                    })
                    .await?;
                }
            }
        }
    }
}
