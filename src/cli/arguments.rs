//! The subcommands, their arguments and their help texts.

use clap::{Args, Parser};

/// Streams cTrader accounts into a Supabase app's Postgres.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER, disable_help_subcommand = true)]
pub(super) struct Arguments {
    /// The subcommand; `worker` if there is none.
    #[command(subcommand)]
    pub(super) subcommand: Option<Subcommand>,
}

const AFTER: &str = "\
A first run:
  mahspeccy-bridge check                    shows what is missing, and how to fix it
  mahspeccy-bridge migrate                  creates the tables
  mahspeccy-bridge worker                   runs until SIGTERM
  mahspeccy-bridge start lance@example.org  starts streaming a user's primary account
  mahspeccy-bridge status --watch           shows its state as it changes

Settings are environment variables, also read from .env in the working directory:
DATABASE_URL, AMQP_URL, CTRADER_CLIENT_ID and CTRADER_CLIENT_SECRET are required, the
documentation lists all. RUST_LOG=debug makes the worker log more.

Exit codes: 0 done or drained; 64 bad arguments or configuration; 69 a dependency
cannot be used; 70 an internal error.";

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Consume commands, stream accounts, write the cache, serve health (the default)
    #[command(after_help = "\
On SIGTERM the worker drains: it writes the last figures, releases its claims and exits
with 0, all within SHUTDOWN_GRACE_SECS. A second signal stops it at once. It serves
GET /health, /livez, /readyz and /metrics on PORT.")]
    Worker,
    /// Apply the migrations and exit
    #[command(after_help = "\
Safe while workers run, and safe to run twice. A worker never migrates: it refuses to
start on a schema that it does not know, and names the version it needs.")]
    Migrate,
    /// Publish a start command and wait for the broker's confirm
    #[command(after_help = "\
Examples:
  mahspeccy-bridge start lance@example.org
  mahspeccy-bridge start lance@example.org --account 5150705

The command is stored when this returns; `status` shows when it is applied.")]
    Start(SessionSelector),
    /// Publish a stop command and wait for the broker's confirm
    #[command(after_help = "\
Examples:
  mahspeccy-bridge stop lance@example.org                    every account of the user
  mahspeccy-bridge stop lance@example.org --account 5150705  this one")]
    Stop(SessionSelector),
    /// Show sessions: owner, state, age of the row, balance, equity, positions
    #[command(after_help = "\
Examples:
  mahspeccy-bridge status                      every session
  mahspeccy-bridge status lance@example.org    one user's
  mahspeccy-bridge status --watch              refreshed every two seconds, until Ctrl-C
  mahspeccy-bridge status --json | jq '.[] | select(.status == \"failed\")'

WORKER is the worker that holds the claim at this moment, or a dash if none does. AGE is
the age of the row: for a live session at most two seconds, plus the time of the write.
A terminal that is too narrow shows fewer columns. Only Postgres is asked.")]
    Status(StatusArguments),
    /// List, requeue or drop dead-lettered commands
    #[command(after_help = "\
Examples:
  mahspeccy-bridge dead                        lists them with their reasons
  mahspeccy-bridge dead requeue 8b0f2c52-6c3f-4a1e-9d0e-2f1f3f6f7a10
  mahspeccy-bridge dead requeue --all          once the cause is fixed
  mahspeccy-bridge dead drop body-3f79bb7b435b

Nothing is lost if this is interrupted: a command leaves the dead-letter queue after the
broker has confirmed its copy. Applying a command twice changes nothing, and neither does
a command that a later one has replaced.")]
    Dead {
        /// What to do; `list` by default.
        #[command(subcommand)]
        action: Option<DeadAction>,
    },
    /// Try every dependency, and show how to fix what fails
    #[command(after_help = "\
Prints a line for each: Postgres, the kind of pooler, schema, permissions, room for
locks, clock, RabbitMQ, permissions there, and cTrader's demo and live hosts (TLS and the
application's authorisation). The exit code is 0 only if all pass. It declares the
broker's queues as a worker does, and changes nothing else.")]
    Check,
    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  mahspeccy-bridge completions bash >/etc/bash_completion.d/mahspeccy-bridge
  mahspeccy-bridge completions zsh >\"${fpath[1]}/_mahspeccy-bridge\"")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// The sessions that a start or stop command is for.
#[derive(Debug, Args)]
pub(super) struct SessionSelector {
    /// The app's id of the user: a mail address or a UUID
    pub(super) user: String,
    /// ctidTraderAccountId; without it the primary account for a start, every running one for a stop
    #[arg(long)]
    pub(super) account: Option<i64>,
}

/// What `status` shows, and how.
#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Only this user's sessions
    pub(super) user: Option<String>,
    /// Print a JSON array; with --watch, one array per line
    #[arg(long)]
    pub(super) json: bool,
    /// Refresh every two seconds, until Ctrl-C
    #[arg(long)]
    pub(super) watch: bool,
}

/// What `dead` does.
#[derive(Debug, clap::Subcommand)]
pub(super) enum DeadAction {
    /// List them: id, command, user, reason
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
        /// All of them
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Delete one for good
    Drop {
        /// The id that `list` shows
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_subcommand_and_argument_has_a_help_text() {
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
