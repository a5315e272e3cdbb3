//! What a session is wanted to be, and what it is.

use std::fmt;

/// The state a session shall be in; set by commands, never by workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// Stream it.
    Running,
    /// Leave it alone.
    Stopped,
}

impl Desired {
    /// The word in `bridge.sessions.desired`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// The state a session is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Wanted, and nobody has begun yet.
    Pending,
    /// On the way to its first snapshot.
    Connecting,
    /// The row follows the stream.
    Live,
    /// It was live, or tried to be, and tries again.
    Reconnecting,
    /// It waits for somebody or something other than time alone; `last_error` says what.
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

    /// The word in `bridge.sessions.status` and `ctrader_cache.status`.
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
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
