//! The log: lines on standard output, as JSON or for people.
//!
//! The level of some libraries is capped whatever `RUST_LOG` is, since at lower levels they log secrets: the
//! AMQP client its login and whole messages, the WebSocket client whole frames with tokens. A cap cannot be
//! lifted from outside.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// The filter if `RUST_LOG` is not set. The AMQP client is off: for each of its errors we log a line of our own,
/// with the consequence.
pub const DEFAULT_FILTER: &str = "info,lapin=off,sqlx=warn,rustls=warn,hyper=warn";

/// The most verbose level of a library, by the prefix of its targets.
const CAPS: [(&str, LevelFilter); 7] = [
    // At warn: returned messages with their bodies. At trace: frames, the login among them.
    ("lapin", LevelFilter::ERROR),
    ("amq_protocol", LevelFilter::ERROR),
    // At debug: every statement.
    ("sqlx", LevelFilter::INFO),
    // At trace: frames with access tokens.
    ("tungstenite", LevelFilter::INFO),
    ("tokio_tungstenite", LevelFilter::INFO),
    ("rustls", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
];

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people, with colours on a terminal.
    Pretty,
}

/// What is logged, and in which format.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// `None`: JSON when standard output is no terminal.
    pub format: Option<LogFormat>,
    /// In the syntax of `RUST_LOG`; the configuration has checked it.
    pub filter: String,
}

/// Starts logging to standard output.
///
/// # Panics
/// When it is called twice in one process.
pub fn init(settings: &LogSettings) {
    let terminal = io::stdout().is_terminal();
    tracing_subscriber::registry()
        .with(layer(settings, terminal, io::stdout))
        .init();
}

/// Returns the filter and the format as one layer that writes to `writer`.
pub fn layer<S, W>(
    settings: &LogSettings,
    terminal: bool,
    writer: W,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let default = if terminal {
        LogFormat::Pretty
    } else {
        LogFormat::Json
    };
    let format = tracing_subscriber::fmt::layer().with_writer(writer);
    let wanted = EnvFilter::builder().parse_lossy(&settings.filter);
    // Without a hint every record of every library would be built before it is discarded: a third of the cost of
    // a quote.
    let most = wanted.max_level_hint().unwrap_or(LevelFilter::TRACE);
    let filter = wanted.and(filter_fn(within_cap).with_max_level_hint(most));
    match settings.format.unwrap_or(default) {
        LogFormat::Json => format
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_filter(filter)
            .boxed(),
        LogFormat::Pretty => format.with_ansi(terminal).with_filter(filter).boxed(),
    }
}

fn within_cap(metadata: &Metadata<'_>) -> bool {
    CAPS.iter()
        .filter(|(prefix, _)| metadata.target().starts_with(prefix))
        .all(|(_, cap)| *metadata.level() <= *cap)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lines").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(settings: &LogSettings, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let written = lines.clone();
        let layer = layer(settings, false, move || lines.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = written.0.lock().expect("lines").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn lines_are_json_without_a_terminal() {
        let settings = LogSettings {
            format: None,
            filter: DEFAULT_FILTER.to_owned(),
        };
        let text = logged(&settings, || {
            tracing::info!(worker_id = "w1", "hello");
            tracing::debug!("not this");
            tracing::error!(target: "lapin::channel", "nor this");
        });
        let line: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
        assert_eq!(line["message"], "hello");
        assert_eq!(line["worker_id"], "w1");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn no_filter_makes_libraries_log_what_they_must_not() {
        let settings = LogSettings {
            format: Some(LogFormat::Pretty),
            filter: "trace,lapin=trace,sqlx=trace".to_owned(),
        };
        let text = logged(&settings, || {
            tracing::trace!(target: "lapin::frames", "secret");
            tracing::warn!(target: "lapin::returned_messages", "secret");
            tracing::debug!(target: "sqlx::query", "secret");
            tracing::trace!(target: "tungstenite::protocol", "secret");
            tracing::error!(target: "lapin::channel", "shown");
            tracing::trace!(target: "mahspeccy_bridge", "shown too");
        });
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
