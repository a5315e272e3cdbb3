//! The health server, on a thread and a runtime of its own: it answers while the worker's own threads are
//! all busy, says so when a loop has stalled, and ends the process when that stays so.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::failure::with_causes;
use crate::http::{Health, HealthServer, HealthSnapshot};
use crate::worker::config::StartError;

/// A loop that has been overdue for this long does not come back. Postgres has given the claims of such a
/// worker to others long ago; a new process is of more use.
const WEDGED_AFTER: Duration = Duration::from_mins(1);

/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `EX_SOFTWARE`.
const EXIT_INTERNAL: i32 = 70;

/// The server's thread.
pub(in crate::worker) struct HealthThread {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl HealthThread {
    /// Listens, and answers from now on.
    pub(in crate::worker) async fn start(port: u16, health: Health) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let (bound, is_bound) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let stopped = stop.clone();
        thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || {
                serve(port, health, stopped, bound);
                // Nobody waits for it when the worker ends by itself.
                let _ = end.send(());
            })
            .map_err(|error| StartError::Internal(with_causes(&error)))?;
        match is_bound.await {
            Ok(Ok(())) => Ok(Self { stop, ended }),
            Ok(Err(reason)) => Err(StartError::Config(reason)),
            Err(_) => Err(StartError::Internal(
                "the health server's thread ended".to_owned(),
            )),
        }
    }

    /// Ends it, last of all.
    pub(in crate::worker) async fn stop(self) {
        self.stop.cancel();
        // It has its own time-outs for what is still being answered.
        let _ = self.ended.await;
    }
}

fn serve(
    port: u16,
    health: Health,
    stop: CancellationToken,
    bound: oneshot::Sender<Result<(), String>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let served: io::Result<()> = runtime.map(|runtime| {
        runtime.block_on(async {
            let server = match HealthServer::bind(port).await {
                Ok(server) => server,
                Err(error) => {
                    // Whoever asked has waited for it.
                    let _ = bound.send(Err(error.to_string()));
                    return;
                }
            };
            let _ = bound.send(Ok(()));
            let snapshot = health.snapshot.clone();
            tokio::select! {
                () = server.run(health, stop) => {}
                name = wedged(snapshot, WEDGED_AFTER) => {
                    error!(
                        name, after_secs = WEDGED_AFTER.as_secs(),
                        "an internal loop has stalled: ending, so that a new process can begin"
                    );
                    std::process::exit(EXIT_INTERNAL);
                }
            }
        });
    });
    if let Err(error) = served {
        error!(error = %error, "the health server has no runtime");
    }
}

/// Comes back with the loop that has been overdue for so long.
async fn wedged(snapshot: watch::Receiver<HealthSnapshot>, patience: Duration) -> &'static str {
    let mut since: Option<(&'static str, Instant)> = None;
    let mut looks = tokio::time::interval(LOOK_EVERY.min(patience));
    loop {
        looks.tick().await;
        let now = Instant::now();
        let Some((name, _)) = snapshot.borrow().stalled(now) else {
            // A process that was paused as a whole wakes up like this.
            since = None;
            continue;
        };
        let (first, began) = *since.get_or_insert((name, now));
        if now.saturating_duration_since(began) >= patience {
            return first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::LoopHeartbeat;

    #[tokio::test]
    async fn a_loop_that_stays_silent_is_found_and_one_that_recovers_is_not() {
        let beat = |age_max| LoopHeartbeat {
            at: Instant::now(),
            age_max,
        };
        let (sender, snapshot) = watch::channel(HealthSnapshot::default());
        let patience = Duration::from_millis(40);
        sender.send_modify(|snapshot| {
            snapshot
                .loops
                .insert("quick", beat(Duration::from_hours(1)));
        });
        let found = tokio::time::timeout(4 * patience, wedged(snapshot.clone(), patience)).await;
        assert!(found.is_err(), "nothing is overdue");
        sender.send_modify(|snapshot| {
            snapshot.loops.insert("slow", beat(Duration::ZERO));
        });
        assert_eq!(wedged(snapshot, patience).await, "slow");
    }
}
