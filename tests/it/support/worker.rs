//! A worker as a process: controlled by signals, watched by its health server, and read by its log.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::fleet::DEADLINE;
use super::wait::eventually;

/// A running worker.
pub(crate) struct Worker {
    pub(super) child: Child,
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) log: PathBuf,
}

impl Worker {
    /// Sends a signal by name.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .await;
        assert!(sent.expect("kill runs").success(), "{name} to {pid}");
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        let ended = tokio::time::timeout(within, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("{} did not end within {within:?}", self.id))
            .expect("it was waited for")
    }

    /// Asks for an orderly end, and gets it.
    pub(crate) async fn drain(mut self) -> String {
        self.signal("TERM").await;
        let status = self.ended(DEADLINE).await;
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }

    /// What became of a command, once the worker has applied it.
    pub(crate) async fn outcome(&self, id: Uuid) -> String {
        let id = id.to_string();
        eventually("the command to be applied", DEADLINE, async || {
            // The last line may be half written.
            self.log().lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let about_it = line["message"] == "command" && line["id"] == id.as_str();
                about_it.then(|| line["outcome"].as_str().unwrap_or_default().to_owned())
            })
        })
        .await
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    /// Whether it reports that it is ready. It may not listen yet.
    pub(crate) async fn is_ready(&self) -> bool {
        reqwest::get(format!("http://127.0.0.1:{}/readyz", self.port))
            .await
            .is_ok_and(|answer| answer.status() == 200)
    }

    /// A response of the health server: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", self.port))
            .await
            .expect("an answer");
        (
            answer.status().as_u16(),
            answer.text().await.expect("a body"),
        )
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- the log of {}:\n{}---",
                self.id,
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}
