//! Why a subcommand failed, and the exit code for it.

use crate::config::Problems;
use crate::failure::Diagnosis;

/// Bad arguments or configuration (`EX_USAGE`).
pub(super) const EXIT_USAGE: u8 = 64;
/// A dependency could not be used (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// An internal error (`EX_SOFTWARE`).
const EXIT_INTERNAL: u8 = 70;

/// Why a subcommand failed, as one text for the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The arguments or the configuration are wrong.
    #[error("{0}")]
    Usage(String),
    /// A dependency could not be used.
    #[error("{0}")]
    Unavailable(String),
    /// Nothing that the operator can fix.
    #[error("{0}")]
    Internal(String),
}

impl CliError {
    /// A dependency, by its name, that could not be used.
    pub(super) fn unavailable(dependency: &str, diagnosis: &Diagnosis) -> Self {
        Self::Unavailable(format!("{dependency}: {diagnosis}"))
    }

    /// The process's exit code.
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Unavailable(_) => EXIT_UNAVAILABLE,
            Self::Internal(_) => EXIT_INTERNAL,
        }
    }
}

impl From<Problems> for CliError {
    fn from(problems: Problems) -> Self {
        Self::Usage(problems.to_string())
    }
}
