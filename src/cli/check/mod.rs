//! `check`: tries what a worker needs, a line each, with the fix for what fails. The dependencies are
//! tried side by side; what needs another one that failed is skipped and says so.

mod ctrader;
mod postgres;
mod rabbitmq;

use super::CallError;
use super::screen::{Tone, colours, paint, print, printable};
use crate::config::Config;
use crate::failure::Diagnosis;

/// The longest line: a server's words may be long.
const LINE_CHARS_MAX: usize = 400;

/// What was found out about one thing.
#[derive(Debug)]
enum Found {
    /// It is as it should be, and this is how.
    Good(String),
    /// It is not.
    Bad(Diagnosis),
    /// It could not be tried.
    Skipped(&'static str),
}

/// A line of the report.
#[derive(Debug)]
struct Line {
    what: &'static str,
    found: Found,
}

impl Line {
    fn good(what: &'static str, how: impl Into<String>) -> Self {
        Self {
            what,
            found: Found::Good(how.into()),
        }
    }

    const fn bad(what: &'static str, diagnosis: Diagnosis) -> Self {
        Self {
            what,
            found: Found::Bad(diagnosis),
        }
    }

    const fn skipped(what: &'static str, why: &'static str) -> Self {
        Self {
            what,
            found: Found::Skipped(why),
        }
    }

    fn print(&self, colours: bool) {
        let (word, tone, text) = match &self.found {
            Found::Good(how) => ("ok  ", Tone::Good, how.clone()),
            Found::Bad(diagnosis) => ("FAIL", Tone::Bad, diagnosis.to_string()),
            Found::Skipped(why) => ("skip", Tone::Faint, (*why).to_owned()),
        };
        let text = printable(&text, LINE_CHARS_MAX);
        let what = self.what;
        print(&format!(
            "{}  {what:<16}  {text}\n",
            paint(word, tone, colours)
        ));
    }
}

/// Tries everything and prints what was found.
///
/// # Errors
/// When anything does not hold.
pub async fn run(config: &Config) -> Result<(), CallError> {
    let colours = colours();
    let (postgres, rabbitmq, demo, live) = tokio::join!(
        Box::pin(postgres::lines(config.database_url.clone())),
        Box::pin(rabbitmq::lines(&config.amqp)),
        Box::pin(ctrader::line(
            "cTrader demo",
            "CTRADER_DEMO_URL",
            &config.ctrader.demo_url,
            &config.ctrader
        )),
        Box::pin(ctrader::line(
            "cTrader live",
            "CTRADER_LIVE_URL",
            &config.ctrader.live_url,
            &config.ctrader
        )),
    );
    let lines: Vec<Line> = postgres
        .into_iter()
        .chain(rabbitmq)
        .chain([demo, live])
        .collect();
    for line in &lines {
        line.print(colours);
    }
    let failed = lines
        .iter()
        .filter(|line| matches!(line.found, Found::Bad(_)))
        .count();
    match failed {
        0 => Ok(()),
        failed => Err(CallError::Unavailable(format!(
            "{failed} of {} do not hold",
            lines.len()
        ))),
    }
}
