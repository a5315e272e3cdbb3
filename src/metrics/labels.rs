//! The values of labels. Those of requests, events and sessions' states are given by the modules that
//! count them.

/// How the refresh of a token ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// A new pair of tokens is stored.
    Renewed,
    /// The pair that another worker received is used.
    Adopted,
    /// cTrader refused the refresh token.
    Refused,
    /// No reply came, or it could not be read.
    Lost,
    /// It could not be tried at that moment.
    Deferred,
}

/// Label values that the modules define which count them.
#[derive(Debug, Clone, Copy)]
pub struct LabelValues {
    /// The statuses of sessions, in the order of a session's life.
    pub statuses: [&'static str; 6],
    /// Kinds of messages from cTrader that are no reply to a request.
    pub events: &'static [&'static str],
    /// How requests to cTrader end.
    pub requests: &'static [&'static str],
}

impl RefreshOutcome {
    pub(super) const ALL: [Self; 5] = [
        Self::Renewed,
        Self::Adopted,
        Self::Refused,
        Self::Lost,
        Self::Deferred,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Adopted => "adopted",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Deferred => "deferred",
        }
    }
}

/// The state of a connection to cTrader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Connected, and the application is authorised.
    Up,
    /// Not connected, although sessions need it.
    Down,
    /// Not connected, and no session needs it.
    Idle,
}

impl LinkState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Idle];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Idle => "idle",
        }
    }
}

/// How many rows one round of writes wrote or failed to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRows {
    /// Rows whose content was written.
    pub changed: u64,
    /// Rows that had not changed: only their time was written.
    pub heartbeat: u64,
    /// Rows that the fence refused.
    pub fenced: u64,
}

impl CacheRows {
    pub(super) const KINDS: [&'static str; 3] = ["changed", "heartbeat", "fenced"];

    pub(super) const fn counts(self) -> [u64; 3] {
        [self.changed, self.heartbeat, self.fenced]
    }
}
