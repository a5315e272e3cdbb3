//! `status`: prints the sessions as Postgres has them.

use std::collections::BTreeSet;
use std::time::Duration;

use comfy_table::Cell;

use super::arguments::StatusArguments;
use super::error::CliError;
use super::screen::{
    Column, Style, cell, print, print_styled, printable, replace_styled, styled_cell, table,
};
use crate::config::MigrateConfig;
use crate::pg::PgError;
use crate::pg::connect::{Database, PgConfig};
use crate::pg::overview::{self, SessionOverview};
use crate::pg::probe::diagnose;

/// Between two refreshes of `--watch`: rows are written that often.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// A row of a live session is late once it is older than this: the write interval, the write, and a margin.
const LATE_SECS: f64 = 5.0;

/// Prints the sessions, once or until Ctrl-C.
///
/// # Errors
/// When Postgres cannot be asked; with `--watch` only the first time.
pub(super) async fn run(
    config: MigrateConfig,
    arguments: &StatusArguments,
) -> Result<(), CliError> {
    let config = PgConfig::new(config.database_url, "mahspeccy-bridge status");
    let unavailable = |error| CliError::unavailable("Postgres", &diagnose(&error, &config));
    let database = Database::new(&config, 1).map_err(unavailable)?;
    let user = arguments.user.as_deref();
    let load = async || {
        database
            .run(async |conn| overview::sessions(conn, user).await)
            .await
    };
    show(&load().await.map_err(unavailable)?, arguments);
    if arguments.watch {
        watch(load, arguments, unavailable).await;
    }
    database.close().await;
    Ok(())
}

async fn watch(
    load: impl AsyncFn() -> Result<Vec<SessionOverview>, PgError>,
    arguments: &StatusArguments,
    unavailable: impl Fn(PgError) -> CliError,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            _ = tokio::signal::ctrl_c() => return,
        }
        match load().await {
            Ok(sessions) if show(&sessions, arguments) => {}
            Ok(_) => return,
            // It may come back, and whoever watches should see that.
            Err(error) => eprintln!("{}", unavailable(error)),
        }
    }
}

/// Prints the sessions, and returns whether anybody still reads.
fn show(sessions: &[SessionOverview], arguments: &StatusArguments) -> bool {
    if arguments.json {
        // It has nothing that JSON cannot represent.
        let json = serde_json::to_string(sessions).unwrap_or_default();
        return print(&(json + "\n"));
    }
    let mut text = String::new();
    if !sessions.is_empty() {
        text.push_str(&table(&COLUMNS, sessions.iter().map(row).collect()));
    }
    text.push_str(&summary(sessions, arguments.user.as_deref()));
    if arguments.watch {
        replace_styled(&text)
    } else {
        print_styled(&text)
    }
}

/// In a terminal of 80 columns there is room for user, account, status, age, equity and reason.
const COLUMNS: [Column; 11] = [
    Column::text("USER").cut_to(12),
    Column::number("ACCOUNT").hide(2),
    Column::text("ENV").hide(7),
    Column::text("WANTED").hide(6),
    Column::text("STATUS"),
    Column::text("WORKER").cut_to(8).hide(5),
    Column::number("AGE").hide(1),
    Column::number("BALANCE").hide(4),
    Column::number("EQUITY").hide(3),
    Column::number("POSITIONS").hide(8),
    Column::text("WHY").cut_to(12),
];

fn row(session: &SessionOverview) -> Vec<Cell> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let amount = |amount: &Option<String>| match (amount, &session.currency) {
        (Some(amount), Some(currency)) => format!("{amount} {currency}"),
        _ => or_dash(amount),
    };
    let status_style = match session.status.as_str() {
        "live" => Style::Success,
        "failed" => Style::Error,
        "stopped" => Style::Dim,
        _ => Style::Warning,
    };
    let is_late = session.is_connected && session.age_seconds.is_some_and(|age| age > LATE_SECS);
    let age_style = if is_late { Style::Error } else { Style::Plain };
    let tries = match session.attempts {
        0 => String::new(),
        tries => format!(" (tried {tries} times)"),
    };
    let why = session
        .last_error
        .as_ref()
        .map_or_else(String::new, |why| why.clone() + &tries);
    vec![
        cell(session.user_id.as_str()),
        cell(
            session
                .account_id
                .map_or_else(|| "primary".to_owned(), |id| id.to_string()),
        ),
        cell(match session.is_demo {
            Some(true) => "demo",
            Some(false) => "live",
            None => "-",
        }),
        cell(session.desired.as_str()),
        styled_cell(session.status.as_str(), status_style),
        cell(or_dash(&session.worker_id)),
        styled_cell(
            session.age_seconds.map_or_else(|| "-".to_owned(), age),
            age_style,
        ),
        cell(amount(&session.balance)),
        cell(amount(&session.equity)),
        cell(session.positions.to_string()),
        cell(why),
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
