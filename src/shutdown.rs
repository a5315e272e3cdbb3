//! SIGTERM and SIGINT, as two tokens: the first signal asks to drain, the second to stop now.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The two stages of stopping.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// Take no more work, hand over what there is, then stop.
    pub soft: CancellationToken,
    /// Stop now. It is never cancelled before `soft`.
    pub hard: CancellationToken,
}

impl Stages {
    /// Asks to drain, or to stop now if that was asked before.
    pub fn advance(&self) {
        if self.soft.is_cancelled() {
            self.hard.cancel();
        } else {
            self.soft.cancel();
        }
    }

    /// Asks to stop now.
    pub fn stop_now(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }
}

/// The signals, caught from now on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches the signals; from here on they do not end the process any more.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Advances the stages with each signal; ends with the last stage.
    pub async fn drive(mut self, stages: Stages) {
        while !stages.hard.is_cancelled() {
            let name = tokio::select! {
                Some(()) = self.terminate.recv() => "SIGTERM",
                Some(()) = self.interrupt.recv() => "SIGINT",
                () = stages.hard.cancelled() => return,
                // The signal driver is gone, and the runtime with it.
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
