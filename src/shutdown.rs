//! SIGTERM and SIGINT as two cancellation tokens: the first signal starts draining, the second stops at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The two stages of a shutdown.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// Cancelled: take no more work, hand over the sessions, then stop.
    pub soft: CancellationToken,
    /// Cancelled: stop now. It is never cancelled before `soft`.
    pub hard: CancellationToken,
}

impl Stages {
    /// Enters the next stage: draining, then stopping at once.
    pub fn advance(&self) {
        if self.soft.is_cancelled() {
            self.hard.cancel();
        } else {
            self.soft.cancel();
        }
    }

    /// Enters the last stage.
    pub fn stop_now(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }
}

/// The handlers of the signals.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers; from then on the signals do not end the process any more.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Enters the next stage with each signal; returns after the last one.
    pub async fn drive(mut self, stages: Stages) {
        while !stages.hard.is_cancelled() {
            let name = tokio::select! {
                Some(()) = self.terminate.recv() => "SIGTERM",
                Some(()) = self.interrupt.recv() => "SIGINT",
                () = stages.hard.cancelled() => return,
                // The signal driver has ended, and so has the runtime.
                else => return,
            };
            if stages.soft.is_cancelled() {
                warn!(signal = name, "stopping now");
            } else {
                info!(signal = name, "draining; another signal stops at once");
            }
            stages.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_drains_and_the_second_stops() {
        let stages = Stages::default();
        stages.advance();
        assert!(stages.soft.is_cancelled() && !stages.hard.is_cancelled());
        stages.advance();
        assert!(stages.hard.is_cancelled());
    }

    #[test]
    fn stopping_now_is_draining_too() {
        let stages = Stages::default();
        stages.stop_now();
        assert!(stages.soft.is_cancelled() && stages.hard.is_cancelled());
    }

    #[tokio::test]
    async fn real_signals_advance_the_stages() {
        let send = |signal: &str| {
            let pid = std::process::id().to_string();
            let status = std::process::Command::new("kill")
                .args(["-s", signal, &pid])
                .status();
            assert!(status.expect("it runs").success());
        };
        let stages = Stages::default();
        let signals = Signals::install().expect("allowed");
        let driven = tokio::spawn(signals.drive(stages.clone()));
        send("TERM");
        stages.soft.cancelled().await;
        assert!(!stages.hard.is_cancelled());
        send("INT");
        stages.hard.cancelled().await;
        driven.await.expect("it ends with the last stage");
    }
}
