//! What the consumer calls for each command, and the counts of what became of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::command::{Command, CommandKind};

/// Why a command was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It may be applied later: Postgres cannot be reached, or is too slow.
    #[error("the command cannot be applied now")]
    Later(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It can never be applied. The reason goes to the dead-letter queue with it.
    #[error("the command can never be applied: {0}")]
    Never(String),
}

/// Applies commands.
pub trait Handler: Send + Sync + 'static {
    /// Applies one command. Returns after its effect is committed. The same command may be given again at any time.
    fn apply(&self, command: Command) -> impl Future<Output = Result<(), ApplyError>> + Send;
}

impl<F, A> Handler for F
where
    F: Fn(Command) -> A + Send + Sync + 'static,
    A: Future<Output = Result<(), ApplyError>> + Send,
{
    fn apply(&self, command: Command) -> impl Future<Output = Result<(), ApplyError>> + Send {
        self(command)
    }
}

/// What became of a command, as the metric `bridge_commands_total` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandOutcome {
    /// Committed.
    Applied,
    /// One try failed, and the command is held for another.
    Retried,
    /// Dead-lettered.
    Dead,
}

impl CommandOutcome {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Retried => "retried",
            Self::Dead => "dead",
        }
    }
}

/// Counts by command (`None`: it could not be parsed) and outcome.
pub type CommandCounts = BTreeMap<(Option<CommandKind>, CommandOutcome), u64>;

/// The handler and the counts, which the deliveries of all connections share.
pub(super) struct CountingHandler<H> {
    pub(super) handler: H,
    counts: Arc<Mutex<CommandCounts>>,
}

impl<H> CountingHandler<H> {
    pub(super) fn new(handler: H) -> Self {
        Self {
            handler,
            counts: Arc::default(),
        }
    }

    pub(super) fn count(&self, kind: Option<CommandKind>, outcome: CommandOutcome) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((kind, outcome)).or_default() += 1;
    }

    pub(super) fn counter(&self) -> CommandCounter {
        CommandCounter(Arc::clone(&self.counts))
    }
}

/// Reads the counts.
#[derive(Debug, Clone)]
pub(super) struct CommandCounter(Arc<Mutex<CommandCounts>>);

impl CommandCounter {
    pub(super) fn read(&self) -> CommandCounts {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
