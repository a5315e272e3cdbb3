//! The report: the result of each check, a line each.

use crate::cli::screen::{Style, paint, print_styled, printable};
use crate::failure::Diagnosis;

/// The longest text of a line: what a server says may be long.
const TEXT_CHARS_MAX: usize = 400;

/// How a check ended.
#[derive(Debug)]
pub(super) enum CheckOutcome {
    /// It passed, with a detail.
    Passed(String),
    /// It failed.
    Failed(Diagnosis),
    /// It could not be tried, for this reason.
    Skipped(&'static str),
}

/// A check and how it ended.
#[derive(Debug)]
pub(super) struct CheckResult {
    name: &'static str,
    pub(super) outcome: CheckOutcome,
}

impl CheckResult {
    pub(super) fn passed(name: &'static str, detail: impl Into<String>) -> Self {
        let outcome = CheckOutcome::Passed(detail.into());
        Self { name, outcome }
    }

    pub(super) const fn failed(name: &'static str, diagnosis: Diagnosis) -> Self {
        let outcome = CheckOutcome::Failed(diagnosis);
        Self { name, outcome }
    }

    pub(super) const fn skipped(name: &'static str, reason: &'static str) -> Self {
        let outcome = CheckOutcome::Skipped(reason);
        Self { name, outcome }
    }

    pub(super) const fn has_failed(&self) -> bool {
        matches!(self.outcome, CheckOutcome::Failed(_))
    }

    pub(super) fn print(&self) {
        let (label, style, text) = match &self.outcome {
            CheckOutcome::Passed(detail) => ("ok  ", Style::Success, detail.clone()),
            CheckOutcome::Failed(diagnosis) => ("FAIL", Style::Error, diagnosis.to_string()),
            CheckOutcome::Skipped(reason) => ("skip", Style::Dim, (*reason).to_owned()),
        };
        let text = printable(&text, TEXT_CHARS_MAX);
        let name = self.name;
        print_styled(&format!("{}  {name:<16}  {text}\n", paint(label, style)));
    }
}
