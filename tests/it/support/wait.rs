//! Waiting for a condition, with a deadline. Tests do not sleep for luck.

use std::fmt::Debug;
use std::time::Duration;

/// The pause between two polls: short beside what is waited for, long beside a query on loopback.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a poll may return: a `bool`, an `Option` or a `Result`.
pub(crate) trait PollResult {
    /// What is there once the condition holds.
    type Found;

    /// Returns what was waited for.
    ///
    /// # Errors
    ///
    /// The state that was seen instead.
    fn found(self) -> Result<Self::Found, String>;
}

impl PollResult for bool {
    type Found = ();

    fn found(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("false".to_owned())
        }
    }
}

impl<T> PollResult for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "None".to_owned())
    }
}

impl<T, E: Debug> PollResult for Result<T, E> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

/// Polls until the condition holds, and returns what was found.
///
/// `what` completes the sentence "waited for …". A poll that returns `Err(state)` gives a better
/// message than `false` when the deadline passes.
///
/// # Panics
///
/// If the condition does not hold by the deadline, with the state last seen.
pub(crate) async fn eventually<R: PollResult>(
    what: &str,
    deadline: Duration,
    mut poll: impl AsyncFnMut() -> R,
) -> R::Found {
    let mut last = "nothing, the first poll has not returned".to_owned();
    let polls = async {
        loop {
            match poll().await.found() {
                Ok(found) => return found,
                Err(state) => last = state,
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let found = tokio::time::timeout(deadline, polls).await;
    found.unwrap_or_else(|_| panic!("waited {deadline:?} for {what}; last seen: {last}"))
}
