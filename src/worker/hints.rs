//! Which slots to look at: hints of Postgres, gathered while the coordinator is busy.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::domain::ids::Slot;
use crate::pg::connect::PgConfig;
use crate::pg::listen::Hints;

/// The pause before listening again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Everything: hints may have been lost.
    pub(super) all: bool,
    /// These slots.
    pub(super) slots: BTreeSet<Slot>,
}

/// Gathers hints.
#[derive(Debug, Default)]
pub(super) struct HintBox {
    look: Mutex<Look>,
    wake: Notify,
}

impl HintBox {
    /// Something may have changed in a slot.
    pub(super) fn slot(&self, slot: Slot) {
        self.lock().slots.insert(slot);
        self.wake.notify_one();
    }

    /// Anything may have changed.
    pub(super) fn all(&self) {
        self.lock().all = true;
        self.wake.notify_one();
    }

    /// Waits for a hint.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes what was gathered.
    pub(super) fn take(&self) -> Look {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Look> {
        // Nothing in here can panic halfway through a change.
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens until `stop`, reconnecting for ever.
    pub(super) async fn listen(&self, config: &PgConfig, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let lost = async {
                let mut hints = Hints::connect(config).await?;
                debug!("listening for hints");
                self.all();
                loop {
                    self.slot(hints.next().await?);
                }
            };
            let lost: Result<std::convert::Infallible, crate::pg::PgError> = tokio::select! {
                lost = lost => lost,
                () = stop.cancelled() => return,
            };
            let Err(error) = lost;
            warn!(error = %error, "hints are lost until the next sweep");
            tokio::select! {
                () = tokio::time::sleep(RECONNECT_PAUSE) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
