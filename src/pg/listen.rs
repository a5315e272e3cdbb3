//! Hints that a slot's sessions or credentials changed.
//!
//! A hint says where to look and nothing else. Those sent while nobody listens are lost, so whoever
//! connects looks at everything once, and now and then again.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::PgError;
use super::connect::{CONNECT_TIMEOUT, PgConfig, within};
use crate::domain::ids::Slot;

/// The channel of the hints about slots; the payload is the slot's number.
pub const CHANNEL: &str = "bridge_sessions";

/// The channel of the hints about hand-overs; the payload is the number of the worker that should look.
pub const FLEET_CHANNEL: &str = "bridge_fleet";

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// At this slot's sessions.
    Slot(Slot),
    /// At the hand-overs, if one is the worker of that number.
    Fleet(i32),
}

/// A connection on which nothing was said for this long is asked whether it is alive.
const QUIET: Duration = Duration::from_secs(20);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that listens. It needs a session of its own, as the claims do.
#[derive(Debug)]
pub struct Hints {
    listener: PgListener,
}

impl Hints {
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
            Ok(listener.listen_all([CHANNEL, FLEET_CHANNEL]).await?)
        })
        .await?;
        Ok(Self { listener })
    }

    /// Waits for the next hint.
    ///
    /// # Errors
    /// The connection is lost, and perhaps hints with it: connect anew, then look at everything.
    ///
    /// # Cancel safety
    /// Given up while it waits, it loses no hint.
    pub async fn next(&mut self) -> Result<Hint, PgError> {
        loop {
            match tokio::time::timeout(QUIET, self.listener.try_recv()).await {
                Ok(Ok(Some(hint))) => {
                    // What is not a number was not sent by the bridge.
                    if let Ok(number) = hint.payload().parse() {
                        return Ok(if hint.channel() == FLEET_CHANNEL {
                            Hint::Fleet(number)
                        } else {
                            Hint::Slot(Slot(number))
                        });
                    }
                }
                Ok(Ok(None)) => return Err(PgError::Unavailable(sqlx::Error::PoolClosed)),
                Ok(Err(err)) => return Err(err.into()),
                Err(_) => {
                    within(PROBE_TIMEOUT, async {
                        sqlx::raw_sql("-- listen.probe\nselect 1")
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
