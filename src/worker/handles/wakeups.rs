//! Which slots to look at: hints of Postgres, gathered while the coordinator is busy.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::domain::ids::{SessionKey, Slot};
use crate::pg::connect::PgConfig;
use crate::pg::listen::{Notification, NotificationListener};

/// The pause before listening again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::worker) struct Look {
    /// Everything: hints may have been lost.
    pub(in crate::worker) all: bool,
    /// These slots.
    pub(in crate::worker) slots: BTreeSet<Slot>,
    /// The hand-overs.
    pub(in crate::worker) fleet: bool,
    /// These sessions, which stand by, are as far as they get.
    pub(in crate::worker) settled: Vec<SessionKey>,
    /// Of these sessions a link has let go.
    pub(in crate::worker) left: Vec<SessionKey>,
}

/// Gathers hints.
#[derive(Debug, Default)]
pub(in crate::worker) struct HintBox {
    look: Mutex<Look>,
    wake: Notify,
    /// This worker's number in the fleet.
    me: AtomicI32,
    /// Something went wrong with the database.
    doubt: Notify,
}

impl HintBox {
    /// Something may have changed in a slot.
    pub(in crate::worker) fn slot(&self, slot: Slot) {
        self.lock().slots.insert(slot);
        self.wake.notify_one();
    }

    /// Sessions that stand by are as far as they get.
    pub(in crate::worker) fn settled(&self, keys: Vec<SessionKey>) {
        self.lock().settled.extend(keys);
        self.wake.notify_one();
    }

    /// A link has let go of a session, after its last words.
    pub(in crate::worker) fn left(&self, key: SessionKey) {
        self.lock().left.push(key);
        self.wake.notify_one();
    }

    /// The hand-overs may have changed.
    pub(in crate::worker) fn fleet(&self) {
        self.lock().fleet = true;
        self.wake.notify_one();
    }

    /// Which number the hints about hand-overs carry that are for this worker.
    pub(in crate::worker) fn set_number(&self, number: i32) {
        self.me.store(number, Ordering::Relaxed);
    }

    /// Anything may have changed.
    pub(in crate::worker) fn all(&self) {
        let mut look = self.lock();
        look.all = true;
        look.fleet = true;
        drop(look);
        self.wake.notify_one();
    }

    /// Waits for a hint.
    pub(in crate::worker) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Something went wrong with the database: the claims may be gone with it.
    pub(in crate::worker) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Waits for such a doubt.
    pub(in crate::worker) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Takes what was gathered.
    pub(in crate::worker) fn take(&self) -> Look {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Look> {
        // Nothing in here can panic halfway through a change.
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens until `stop`, reconnecting for ever.
    pub(in crate::worker) async fn listen(&self, config: &PgConfig, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let lost = async {
                let mut hints = NotificationListener::connect(config).await?;
                debug!("listening for hints");
                self.all();
                loop {
                    match hints.next().await? {
                        Notification::Slot(slot) => self.slot(slot),
                        Notification::Fleet(number)
                            if number == self.me.load(Ordering::Relaxed) =>
                        {
                            self.fleet();
                        }
                        Notification::Fleet(_) => {}
                    }
                }
            };
            let lost: Result<std::convert::Infallible, crate::pg::PgError> = tokio::select! {
                lost = lost => lost,
                () = stop.cancelled() => return,
            };
            let Err(error) = lost;
            warn!(error = %error, "hints are lost until the next sweep");
            self.doubt();
            tokio::select! {
                () = tokio::time::sleep(RECONNECT_PAUSE) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
