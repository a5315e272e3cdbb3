//! The command line: what an operator types, from the arguments to the exit code.
//!
//! Each subcommand has a module. It prints its result to standard output and its error to standard
//! error, so that programs can read the output; only `worker`, `migrate`, `start` and `stop` log.

mod arguments;
mod check;
mod completions;
mod dead;
mod error;
mod migrate;
mod publish;
mod screen;
mod status;
mod worker;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::config::{Config, Env};
use crate::domain::command::CommandKind;
use crate::failure::with_causes;
use arguments::{Arguments, Subcommand};
use error::{CliError, EXIT_USAGE};

/// Runs the subcommand that the process's arguments name, to its end.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors. If they cannot be printed, nothing else can be.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(arguments.subcommand.unwrap_or(Subcommand::Worker)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // On standard error, whatever the log's format and filter are.
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(subcommand: Subcommand) -> Result<(), CliError> {
    if let Subcommand::Completions { shell } = subcommand {
        completions::print(shell);
        return Ok(());
    }
    // Before anything uses TLS: several libraries would each look for a provider otherwise. This fails
    // only if a provider is installed already, and nobody else installs one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let env = Env::load(Path::new("."))?;
    match subcommand {
        Subcommand::Worker => block_on(worker::run(Config::for_worker(&env)?)),
        Subcommand::Migrate => block_on(migrate::run(Config::for_migrate(&env)?)),
        Subcommand::Start(target) => {
            let config = Config::for_publish(&env)?;
            block_on(publish::run(config, CommandKind::Start, target))
        }
        Subcommand::Stop(target) => {
            let config = Config::for_publish(&env)?;
            block_on(publish::run(config, CommandKind::Stop, target))
        }
        Subcommand::Status(arguments) => {
            block_on(status::run(Config::for_migrate(&env)?, &arguments))
        }
        Subcommand::Dead { action } => {
            let config = Config::for_publish(&env)?;
            block_on(dead::run(&config.amqp, action))
        }
        Subcommand::Check => block_on(check::run(&Config::for_worker(&env)?)),
        Subcommand::Completions { .. } => Ok(()),
    }
}

fn block_on(subcommand: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Internal(with_causes(&error)))?
        .block_on(subcommand)
}
