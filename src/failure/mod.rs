//! Errors as one line for people: the error and its causes. None of ours shows a URL or a secret.

pub mod network;

use std::error::Error;

/// What went wrong and what to do about it, for an operator: a clause each, without a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What is the case.
    pub cause: String,
    /// What mends it.
    pub fix: String,
}

impl Diagnosis {
    /// Of two clauses.
    pub fn new(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            fix: fix.into(),
        }
    }
}

impl std::fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}. To mend it: {}", self.cause, self.fix)
    }
}

/// An error and what caused it.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow_the_error() {
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(with_causes(&error), "outer: inner");
    }
}
