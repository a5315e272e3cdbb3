//! The production binary: arguments, configuration, runtime, exit code. No logic.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use mahspeccy_bridge::amqp::{self, publisher};
use mahspeccy_bridge::cli::{self, Arguments, Call, CallError, Whose};
use mahspeccy_bridge::config::{Config, Env, Problems};
use mahspeccy_bridge::domain::command::{Command, CommandKind};
use mahspeccy_bridge::domain::ids::{AccountId, UserId};
use mahspeccy_bridge::pg::connect::PgConfig;
use mahspeccy_bridge::pg::{probe, schema};
use mahspeccy_bridge::shutdown::{Signals, Stages};
use mahspeccy_bridge::worker::{self, StartError, WorkerConfig};
use mahspeccy_bridge::{failure, telemetry};
use time::OffsetDateTime;
use uuid::Uuid;

/// Bad configuration (`EX_CONFIG`'s neighbour `EX_USAGE`).
const EXIT_CONFIG: u8 = 64;
/// A dependency was unreachable (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// An internal error (`EX_SOFTWARE`).
const EXIT_INTERNAL: u8 = 70;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; whether they could be printed changes nothing.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_CONFIG)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    if let Some(Call::Completions { shell }) = arguments.call {
        cli::completions(shell);
        return ExitCode::SUCCESS;
    }
    // Before anything speaks TLS: several libraries would otherwise each look for a provider.
    // It fails only when one is installed already, which nobody does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match call(arguments.call.unwrap_or(Call::Worker)) {
        Ok(code) => code,
        Err(problems) => fail(EXIT_CONFIG, &problems.to_string()),
    }
}

fn call(call: Call) -> Result<ExitCode, Problems> {
    let env = Env::load(Path::new("."))?;
    Ok(match call {
        Call::Worker => run(worker(Config::for_worker(&env)?)),
        Call::Migrate => {
            let config = Config::for_migrate(&env)?;
            run(async move {
                telemetry::init(&config.log);
                let pg = PgConfig::new(config.database_url, "mahspeccy-bridge migrate");
                match schema::migrate(&pg).await {
                    Ok(version) => {
                        println!("the schema is at version {version}");
                        ExitCode::SUCCESS
                    }
                    Err(error) => {
                        let diagnosis = probe::diagnose(&error, &pg);
                        fail(EXIT_UNAVAILABLE, &format!("Postgres: {diagnosis}"))
                    }
                }
            })
        }
        Call::Start(whose) => publish(&env, CommandKind::Start, whose)?,
        Call::Stop(whose) => publish(&env, CommandKind::Stop, whose)?,
        Call::Status(arguments) => {
            let config = Config::for_migrate(&env)?;
            let pg = PgConfig::new(config.database_url, "mahspeccy-bridge status");
            run(async move { ended(cli::status::run(&pg, &arguments).await) })
        }
        Call::Dead { action } => {
            let config = Config::for_publish(&env)?;
            run(async move { ended(cli::dead::run(&config.amqp, action).await) })
        }
        Call::Check => {
            let config = Config::for_worker(&env)?;
            run(async move { ended(cli::check::run(&config).await) })
        }
        Call::Completions { .. } => ExitCode::SUCCESS,
    })
}

async fn worker(config: Config) -> ExitCode {
    telemetry::init(&config.log);
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(EXIT_INTERNAL, &failure::with_causes(&error)),
    };
    let stages = Stages::default();
    tokio::spawn(signals.drive(stages.clone()));
    match worker::run(WorkerConfig::from(config), stages).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match &error {
                StartError::Config(_) => EXIT_CONFIG,
                StartError::Dependency { .. } => EXIT_UNAVAILABLE,
                StartError::Internal(_) => EXIT_INTERNAL,
            };
            fail(code, &error.to_string())
        }
    }
}

fn publish(env: &Env, kind: CommandKind, whose: Whose) -> Result<ExitCode, Problems> {
    let config = Config::for_publish(env)?;
    let user = match UserId::new(whose.user) {
        Ok(user) => user,
        Err(error) => return Ok(fail(EXIT_CONFIG, &error.to_string())),
    };
    if whose.account.is_some_and(|account| account <= 0) {
        return Ok(fail(EXIT_CONFIG, "--account is a positive number"));
    }
    let command = Command {
        id: Uuid::new_v4(),
        kind,
        user,
        account: whose.account.map(AccountId),
        issued_at: OffsetDateTime::now_utc(),
    };
    Ok(run(async move {
        telemetry::init(&config.log);
        match publisher::publish(&config.amqp, &command).await {
            Ok(()) => {
                println!("{} {} confirmed", kind.as_str(), command.id);
                ExitCode::SUCCESS
            }
            Err(error) => {
                let diagnosis = amqp::probe::diagnose(&error, &config.amqp);
                fail(EXIT_UNAVAILABLE, &format!("RabbitMQ: {diagnosis}"))
            }
        }
    }))
}

fn ended(result: Result<(), CallError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match &error {
                CallError::Usage(_) => EXIT_CONFIG,
                CallError::Unavailable(_) => EXIT_UNAVAILABLE,
            };
            fail(code, &error.to_string())
        }
    }
}

fn run(call: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(call),
        Err(error) => fail(EXIT_INTERNAL, &failure::with_causes(&error)),
    }
}

/// On stderr, whatever the log's format and filter are: it is the last thing said.
fn fail(code: u8, what: &str) -> ExitCode {
    eprintln!("{what}");
    ExitCode::from(code)
}
