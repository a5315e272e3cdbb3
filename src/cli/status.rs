//! `status`: sessions as the tables have them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::screen::{Cell, Tone, colours, is_terminal, print, printable, table};
use super::{CallError, StatusArguments};
use crate::pg::PgError;
use crate::pg::connect::{Database, PgConfig};
use crate::pg::overview::{self, SessionOverview};
use crate::pg::probe::diagnose;

/// Between two looks of `--watch`: rows are written that often.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// A row of a live session that is older than this is late: the interval, the write, and some.
const LATE_SECS: f64 = 5.0;

/// To the corner, and all that was there away.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Prints the sessions, once or until Ctrl-C.
///
/// # Errors
/// When Postgres cannot be asked; with `--watch` only the first time.
pub async fn run(config: &PgConfig, arguments: &StatusArguments) -> Result<(), CallError> {
    let unavailable = |error| CallError::unavailable("Postgres", &diagnose(&error, config));
    let database = Database::new(config, 1).map_err(unavailable)?;
    let user = arguments.user.as_deref();
    let look = async || {
        database
            .run(async |conn| overview::sessions(conn, user).await)
            .await
    };
    show(&look().await.map_err(unavailable)?, arguments);
    if arguments.watch {
        watch(look, arguments, unavailable).await;
    }
    database.close().await;
    Ok(())
}

async fn watch(
    look: impl AsyncFn() -> Result<Vec<SessionOverview>, PgError>,
    arguments: &StatusArguments,
    unavailable: impl Fn(PgError) -> CallError,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            _ = tokio::signal::ctrl_c() => return,
        }
        match look().await {
            Ok(sessions) if show(&sessions, arguments) => {}
            Ok(_) => return,
            // It may come back, and whoever watches wants to see that.
            Err(error) => eprintln!("{}", unavailable(error)),
        }
    }
}

/// Whether anybody still reads.
fn show(sessions: &[SessionOverview], arguments: &StatusArguments) -> bool {
    if arguments.json {
        // There is nothing in it that JSON could not say.
        let json = serde_json::to_string(sessions).unwrap_or_default();
        return print(&(json + "\n"));
    }
    let mut text = String::new();
    if arguments.watch && is_terminal() {
        text.push_str(CLEAR);
    }
    if !sessions.is_empty() {
        let rows: Vec<Vec<Cell>> = sessions.iter().map(row).collect();
        text.push_str(&table(&HEAD, &rows, colours()));
    }
    text.push_str(&summary(sessions, arguments.user.as_deref()));
    print(&text)
}

const HEAD: [&str; 11] = [
    "USER",
    "ACCOUNT",
    "ENV",
    "WANTED",
    "STATUS",
    "WORKER",
    "AGE",
    "BALANCE",
    "EQUITY",
    "POSITIONS",
    "WHY",
];

fn row(session: &SessionOverview) -> Vec<Cell> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let amount = |amount: &Option<String>| match (amount, &session.currency) {
        (Some(amount), Some(currency)) => format!("{amount} {currency}"),
        _ => or_dash(amount),
    };
    let tone = match session.status.as_str() {
        "live" => Tone::Good,
        "failed" => Tone::Bad,
        "stopped" => Tone::Faint,
        _ => Tone::Uneasy,
    };
    let late = session.is_connected && session.age_seconds.is_some_and(|age| age > LATE_SECS);
    let tries = match session.attempts {
        0 => String::new(),
        tries => format!(" (tried {tries} times)"),
    };
    let why = session
        .last_error
        .as_ref()
        .map_or_else(String::new, |why| why.clone() + &tries);
    vec![
        Cell::new(session.user_id.as_str()),
        Cell::right(
            session
                .account_id
                .map_or_else(|| "primary".to_owned(), |id| id.to_string()),
        ),
        Cell::new(match session.is_demo {
            Some(true) => "demo",
            Some(false) => "live",
            None => "-",
        }),
        Cell::new(session.desired.as_str()),
        Cell::new(session.status.as_str()).tone(tone),
        Cell::new(or_dash(&session.worker_id)),
        Cell::right(session.age_seconds.map_or_else(|| "-".to_owned(), age)).tone(if late {
            Tone::Bad
        } else {
            Tone::Plain
        }),
        Cell::right(amount(&session.balance)),
        Cell::right(amount(&session.equity)),
        Cell::right(session.positions.to_string()),
        Cell::new(why),
    ]
}

/// A length of time in its largest unit.
fn age(seconds: f64) -> String {
    for (unit, name) in [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")] {
        if seconds >= 2.0 * unit {
            return format!("{:.0} {name}", (seconds / unit).floor());
        }
    }
    format!("{:.1} s", seconds.max(0.0))
}

fn summary(sessions: &[SessionOverview], user: Option<&str>) -> String {
    if sessions.is_empty() {
        return match user {
            Some(user) => format!("no session of {}\n", printable(user, 320)),
            None => "no session\n".to_owned(),
        };
    }
    let count = |status: &str| {
        sessions
            .iter()
            .filter(|session| session.status == status)
            .count()
    };
    let workers: BTreeSet<_> = sessions
        .iter()
        .filter_map(|session| session.worker_id.as_ref())
        .collect();
    let plural = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let mut parts = vec![plural(sessions.len(), "session")];
    for status in [
        "live",
        "connecting",
        "reconnecting",
        "pending",
        "failed",
        "stopped",
    ] {
        if count(status) > 0 {
            parts.push(format!("{} {status}", count(status)));
        }
    }
    parts.push(plural(workers.len(), "worker"));
    parts.join(", ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [
            (0.04, "0.0 s"),
            (119.0, "119.0 s"),
            (121.0, "2 min"),
            (7_300.0, "2 h"),
            (200_000.0, "2 d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
