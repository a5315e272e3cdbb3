//! The command line beside `worker`: what an operator types. Each call is a module; this one has the
//! arguments and their help.
//!
//! What a call answers goes to standard output, and why it failed to standard error. Nothing here
//! logs, so that output can be read by programs.

pub mod check;
pub mod dead;
mod screen;
pub mod status;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

/// What a call has to say when it failed, by exit code.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Bad arguments or configuration: 64.
    #[error("{0}")]
    Usage(String),
    /// A dependency could not be used: 69.
    #[error("{0}")]
    Unavailable(String),
}

impl CallError {
    fn unavailable(what: &str, diagnosis: &crate::failure::Diagnosis) -> Self {
        Self::Unavailable(format!("{what}: {diagnosis}"))
    }
}

/// Streams cTrader accounts into a Supabase app's Postgres.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub call: Option<Call>,
}

const AFTER: &str = "\
A first run:
  mahspeccy-bridge check                    tells what is missing, and how to mend it
  mahspeccy-bridge migrate                  makes the tables
  mahspeccy-bridge worker                   works until SIGTERM
  mahspeccy-bridge start lance@example.org  streams a user's primary account
  mahspeccy-bridge status --watch           shows what becomes of it

Settings are environment variables, also read from .env in the working directory:
DATABASE_URL, AMQP_URL, CTRADER_CLIENT_ID and CTRADER_CLIENT_SECRET are needed, the
README lists all. RUST_LOG=debug shows more of what the worker does.

Exit codes: 0 done or drained; 64 bad arguments or configuration; 69 a dependency
cannot be used; 70 an internal error.";

/// The calls.
#[derive(Debug, Subcommand)]
pub enum Call {
    /// Consume commands, stream accounts, write the cache, serve health (the default)
    #[command(after_help = "\
SIGTERM drains it: last figures are written, claims released, exit code 0, all within
SHUTDOWN_GRACE_SECS. A second signal ends it at once. GET /health, /livez, /readyz and
/metrics on PORT tell how it is.")]
    Worker,
    /// Apply the migrations and exit
    #[command(after_help = "\
Safe beside running workers, and when run twice. A worker never migrates: it refuses to
start on a schema that it does not know, and says which version it needs.")]
    Migrate,
    /// Publish a start command and wait for the broker's confirm
    #[command(after_help = "\
Examples:
  mahspeccy-bridge start lance@example.org
  mahspeccy-bridge start lance@example.org --account 5150705

The command is stored when this returns; `status` shows when it is applied.")]
    Start(Whose),
    /// Publish a stop command and wait for the broker's confirm
    #[command(after_help = "\
Examples:
  mahspeccy-bridge stop lance@example.org                    every account of the user
  mahspeccy-bridge stop lance@example.org --account 5150705  this one")]
    Stop(Whose),
    /// Show sessions: owner, state, age of the row, balance, equity, positions
    #[command(after_help = "\
Examples:
  mahspeccy-bridge status                      every session
  mahspeccy-bridge status lance@example.org    one user's
  mahspeccy-bridge status --watch              again every two seconds, until Ctrl-C
  mahspeccy-bridge status --json | jq '.[] | select(.status == \"failed\")'

WORKER is who holds the claim at this moment: a dash means nobody does. AGE is that of
the row; a live session's is at most two seconds and the write itself. Only Postgres is
asked.")]
    Status(StatusArguments),
    /// Look after dead-lettered commands
    #[command(after_help = "\
Examples:
  mahspeccy-bridge dead                        what is there, and why
  mahspeccy-bridge dead requeue 8b0f2c52-6c3f-4a1e-9d0e-2f1f3f6f7a10
  mahspeccy-bridge dead requeue --all          after what made them fail was mended
  mahspeccy-bridge dead drop body-3f79bb7b435b

Nothing is lost when this dies halfway: a command leaves the dead-letter queue after the
broker has confirmed its copy. Applying one twice changes nothing, and one that a later
command has overtaken changes nothing either.")]
    Dead {
        /// What to do; `list` if nothing is said.
        #[command(subcommand)]
        action: Option<DeadAction>,
    },
    /// Try every dependency, and tell how to mend what fails
    #[command(after_help = "\
A line for each: Postgres, the kind of pooler, schema, rights, room for locks, clock,
RabbitMQ, rights there, and cTrader's demo and live hosts (TLS and the application's
authorisation). Exit code 0 only if all hold. It declares the broker's queues as a worker
does, and changes nothing else.")]
    Check,
    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  mahspeccy-bridge completions bash >/etc/bash_completion.d/mahspeccy-bridge
  mahspeccy-bridge completions zsh >\"${fpath[1]}/_mahspeccy-bridge\"")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Whom a command concerns.
#[derive(Debug, Args)]
pub struct Whose {
    /// The app's id of the user: a mail address or a UUID
    pub user: String,
    /// ctidTraderAccountId; without it the primary account for a start, every running one for a stop
    #[arg(long)]
    pub account: Option<i64>,
}

/// What to show.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Only this user's sessions
    pub user: Option<String>,
    /// JSON: an array, or with --watch an array a line
    #[arg(long)]
    pub json: bool,
    /// Again every two seconds, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadAction {
    /// Show them: id, command, user, reason
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Put one back into the queue of commands
    Requeue {
        /// The id that `list` shows
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// Every one
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Do away with one for good
    Drop {
        /// The id that `list` shows
        id: String,
    },
}

/// A script that completes this program's arguments.
pub fn completions(shell: Shell) {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    screen::print(&String::from_utf8_lossy(&script));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_call_and_argument_has_a_word_of_help() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{}", argument.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Arguments::command());
    }
}
