//! The health server, on a thread and a runtime of its own. It responds while the worker's own threads are all
//! busy, reports a loop that has stalled, and ends the process if the loop stays stalled.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::failure::with_causes;
use crate::http::{Health, HealthServer, HealthSnapshot};
use crate::worker::config::StartError;

/// A loop that has been overdue for this long will not recover. Other workers have claimed the slots of such a
/// worker long ago, so the process ends and a new one can start.
const STALL_TIMEOUT: Duration = Duration::from_mins(1);

/// How often the loops are checked.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// `EX_SOFTWARE`.
const EXIT_INTERNAL: i32 = 70;

/// The server's thread.
pub(in crate::worker) struct HealthThread {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl HealthThread {
    /// Listens, and serves requests from now on.
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
        // It has its own time-outs for requests under way.
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
                name = find_stalled(snapshot, STALL_TIMEOUT) => {
                    error!(
                        name, after_secs = STALL_TIMEOUT.as_secs(),
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

/// Returns the name of the first loop that has been overdue for so long.
async fn find_stalled(
    snapshot: watch::Receiver<HealthSnapshot>,
    timeout: Duration,
) -> &'static str {
    let mut since: Option<(&'static str, Instant)> = None;
    let mut checks = tokio::time::interval(STALL_CHECK_INTERVAL.min(timeout));
    loop {
        checks.tick().await;
        let now = Instant::now();
        let Some((name, _)) = snapshot.borrow().stalled(now) else {
            // A process that was paused as a whole wakes up like this.
            since = None;
            continue;
        };
        let (first, began) = *since.get_or_insert((name, now));
        if now.saturating_duration_since(began) >= timeout {
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
        let timeout = Duration::from_millis(40);
        sender.send_modify(|snapshot| {
            snapshot
                .loops
                .insert("quick", beat(Duration::from_hours(1)));
        });
        let found =
            tokio::time::timeout(4 * timeout, find_stalled(snapshot.clone(), timeout)).await;
        assert!(found.is_err(), "nothing is overdue");
        sender.send_modify(|snapshot| {
            snapshot.loops.insert("slow", beat(Duration::ZERO));
        });
        assert_eq!(find_stalled(snapshot, timeout).await, "slow");
    }
}
