//! Waiting for a condition, with a deadline. Tests do not sleep for luck.

use std::fmt::Debug;
use std::time::Duration;

/// Between two looks: short beside what is waited for, long beside a query on loopback.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a look at the world may answer: `bool`, `Option` and `Result` do.
pub(crate) trait Look {
    /// What is there once the condition holds.
    type Found;

    /// What was looked for.
    ///
    /// # Errors
    ///
    /// What is the case instead.
    fn found(self) -> Result<Self::Found, String>;
}

impl Look for bool {
    type Found = ();

    fn found(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("false".to_owned())
        }
    }
}

impl<T> Look for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "None".to_owned())
    }
}

impl<T, E: Debug> Look for Result<T, E> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

/// Looks again and again until the condition holds, and answers what was found.
///
/// `what` completes the sentence "waited for …". A look that answers `Err(state)` gives a better
/// message than `false` when the deadline passes.
///
/// # Panics
///
/// If the condition does not hold by the deadline, with the state last seen.
pub(crate) async fn eventually<L: Look>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> L,
) -> L::Found {
    let mut last = "nothing, the first look has not come back".to_owned();
    let looks = async {
        loop {
            match look().await.found() {
                Ok(found) => return found,
                Err(state) => last = state,
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let found = tokio::time::timeout(deadline, looks).await;
    found.unwrap_or_else(|_| panic!("waited {deadline:?} for {what}; last seen: {last}"))
}
