//! The state that commands want a session in, and the state it is in.

use std::fmt;

/// The state that a session should be in. Commands set it, workers never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// Stream it.
    Running,
    /// Do not stream it.
    Stopped,
}

impl Desired {
    /// Its text in `bridge.sessions.desired`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }

    /// Parses the text in `bridge.sessions.desired`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Running, Self::Stopped]
            .into_iter()
            .find(|desired| desired.as_str() == word)
    }
}

/// The state a session is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Wanted, and no worker has started it yet.
    Pending,
    /// On the way to its first snapshot.
    Connecting,
    /// The row follows the stream.
    Live,
    /// It was live, or tried to be, and is being tried again.
    Reconnecting,
    /// A retry soon would not help; `last_error` says what is missing.
    Failed,
    /// Not wanted.
    Stopped,
}

impl Status {
    /// All of them, in the order of a session's life.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Connecting,
        Self::Live,
        Self::Reconnecting,
        Self::Failed,
        Self::Stopped,
    ];

    /// Its text in `bridge.sessions.status` and `ctrader_cache.status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::Reconnecting => "reconnecting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Parses the text in `bridge.sessions.status` and `ctrader_cache.status`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
