//! A consumer on a vhost of its own, with a handler whose behaviour a test sets.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::BasicProperties;
use mahspeccy_bridge::amqp::{
    AmqpSettings, ApplyError, ConnectionState, Consumer, ConsumerHandle, topology,
};
use mahspeccy_bridge::domain::command::{Command, CommandKind};
use mahspeccy_bridge::domain::ids::{AccountId, UserId};
use mahspeccy_bridge::domain::secret::Secret;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::rabbitmq::TestVhost;
use crate::support::services;
use crate::support::wait::eventually;

/// Longer than any of this takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// What the handler does with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Apply,
    /// Waits until the mode is another one, then acts by that.
    Hang,
    FailLater,
    FailNever,
    Panic,
}

/// A running consumer, and the commands that it applied.
pub(crate) struct TestConsumer {
    pub(crate) mode: watch::Sender<Mode>,
    /// Ids in the order of their application; the id of a command that was applied twice is there twice.
    pub(crate) applied: Arc<Mutex<Vec<Uuid>>>,
    /// How often the handler was called.
    pub(crate) calls: watch::Receiver<usize>,
    pub(crate) handle: ConsumerHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl TestConsumer {
    pub(crate) fn start(url: &str) -> Self {
        let mode = watch::Sender::new(Mode::Apply);
        let applied = Arc::new(Mutex::new(Vec::new()));
        let (called, calls) = watch::channel(0);
        let (seen_mode, seen_applied) = (mode.clone(), Arc::clone(&applied));
        let handler = move |command: Command| {
            called.send_modify(|calls| *calls += 1);
            let mut mode = seen_mode.subscribe();
            let applied = Arc::clone(&seen_applied);
            async move {
                let mode = *mode
                    .wait_for(|mode| *mode != Mode::Hang)
                    .await
                    .expect("the test consumer keeps the sender");
                match mode {
                    Mode::Apply | Mode::Hang => {
                        applied.lock().expect("applied").push(command.id);
                        Ok(())
                    }
                    Mode::FailLater => Err(ApplyError::Later("the database is down".into())),
                    Mode::FailNever => Err(ApplyError::Never("not in this wörld".to_owned())),
                    Mode::Panic => panic!("on purpose"),
                }
            }
        };
        let (consumer, handle) = Consumer::new(settings(url), handler);
        let stop = CancellationToken::new();
        let task = tokio::spawn(consumer.run(stop.clone()));
        Self {
            mode,
            applied,
            calls,
            handle,
            stop,
            task,
        }
    }

    pub(crate) async fn connected(&self) {
        self.handle
            .state()
            .wait_for(|state| *state == ConnectionState::Connected)
            .await
            .expect("the consumer runs");
    }

    pub(crate) async fn disconnected(&self) -> String {
        let mut state = self.handle.state();
        let state = state
            .wait_for(|state| *state != ConnectionState::Connected)
            .await
            .expect("the consumer runs");
        let ConnectionState::Disconnected { reason, .. } = &*state else {
            unreachable!("waited for");
        };
        reason.clone()
    }

    pub(crate) fn applied(&self) -> HashSet<Uuid> {
        let applied = self.applied.lock().expect("applied");
        applied.iter().copied().collect()
    }

    /// Waits until every one of these commands was applied.
    pub(crate) async fn all_applied(&self, commands: &[Command]) {
        eventually("all commands to be applied", DEADLINE, async || {
            let applied = self.applied();
            let missing = commands.iter().filter(|c| !applied.contains(&c.id)).count();
            if missing == 0 {
                Ok(())
            } else {
                Err(format!("{missing} are missing"))
            }
        })
        .await;
    }

    /// Waits until the handler was called this often.
    pub(crate) async fn called(&self, times: usize) {
        let mut calls = self.calls.clone();
        tokio::time::timeout(DEADLINE, calls.wait_for(|calls| *calls >= times))
            .await
            .expect("the handler is called")
            .expect("the handler keeps the sender");
    }

    /// Asks the consumer to stop.
    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the consumer, and waits until it has stopped.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .expect("it stops")
            .expect("it does not panic");
    }
}

pub(crate) fn settings(url: &str) -> AmqpSettings {
    AmqpSettings {
        url: Secret::new(url),
        connection_name: "worker-1".to_owned(),
    }
}

/// Different commands, half of them starts.
pub(crate) fn commands(count: i64) -> Vec<Command> {
    (1..=count)
        .map(|n| Command {
            id: Uuid::new_v4(),
            kind: if n % 2 == 0 {
                CommandKind::Stop
            } else {
                CommandKind::Start
            },
            user: UserId::new(format!("user-{n}@example.org")).expect("valid"),
            account: Some(AccountId(n)),
            issued_at: OffsetDateTime::from_unix_timestamp(1_800_000_000 + n).expect("valid"),
        })
        .collect()
}

/// Publishes commands as the edge function does.
pub(crate) async fn send(vhost: &TestVhost, commands: &[Command]) {
    for command in commands {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(command.id.to_string().as_str().into());
        let body = command.to_json();
        vhost
            .publish(
                topology::COMMANDS_EXCHANGE,
                command.kind.as_str(),
                body.as_bytes(),
                properties,
            )
            .await;
    }
}

/// Waits until a queue has this many messages.
pub(crate) async fn depth(vhost: &TestVhost, queue: &str, count: u32) {
    let what = format!("{queue} to hold {count}");
    eventually(&what, DEADLINE, async || {
        match vhost.queue_depth(queue).await {
            Some(depth) if depth == count => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// Asserts that nothing waits; after the consumer has stopped, that nothing is held either.
pub(crate) async fn nothing_left(vhost: &TestVhost) {
    depth(vhost, topology::COMMANDS_QUEUE, 0).await;
    depth(vhost, topology::DEAD_QUEUE, 0).await;
}

/// Reads an object of the vhost from the management API.
pub(crate) async fn management(vhost: &TestVhost, kind: &str, name: &str) -> Value {
    let url = services::management_url()
        .join(&format!("/api/{kind}/{}/{name}", vhost.name()))
        .expect("a URL");
    let response = reqwest::get(url).await.expect("an answer");
    assert!(response.status().is_success(), "{}", response.status());
    response.json().await.expect("JSON")
}
