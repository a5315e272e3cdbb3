//! The production binary: arguments, configuration, runtime, exit code. No logic.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mahspeccy_bridge::amqp::publisher;
use mahspeccy_bridge::config::{Config, Env, Problems};
use mahspeccy_bridge::domain::command::{Command, CommandKind};
use mahspeccy_bridge::domain::ids::{AccountId, UserId};
use mahspeccy_bridge::pg::connect::PgConfig;
use mahspeccy_bridge::pg::schema;
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

/// Streams cTrader accounts into a Supabase app's Postgres.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    call: Option<Call>,
}

#[derive(Subcommand)]
enum Call {
    /// Consume commands, stream accounts, write the cache, serve health (the default)
    Worker,
    /// Apply the migrations and exit
    Migrate,
    /// Publish a start command and wait for the broker's confirm
    Start(Whose),
    /// Publish a stop command and wait for the broker's confirm
    Stop(Whose),
}

#[derive(Args)]
struct Whose {
    /// The app's id of the user: a mail address or a UUID
    user: String,
    /// ctidTraderAccountId; the primary account for a start, every running one for a stop
    #[arg(long)]
    account: Option<i64>,
}

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
    // Before anything speaks TLS: several libraries would otherwise each look for a provider.
    // It fails only when one is installed already, which nobody does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let env = match Env::load(Path::new(".")) {
        Ok(env) => env,
        Err(problems) => return bad_config(&problems),
    };
    match arguments.call.unwrap_or(Call::Worker) {
        Call::Worker => match Config::for_worker(&env) {
            Ok(config) => run(worker(config)),
            Err(problems) => bad_config(&problems),
        },
        Call::Migrate => match Config::for_migrate(&env) {
            Ok(config) => run(async move {
                telemetry::init(&config.log);
                let pg = PgConfig::new(config.database_url, "mahspeccy-bridge migrate");
                match schema::migrate(&pg).await {
                    Ok(version) => {
                        println!("the schema is at version {version}");
                        ExitCode::SUCCESS
                    }
                    Err(error) => fail(EXIT_UNAVAILABLE, &failure::with_causes(&error)),
                }
            }),
            Err(problems) => bad_config(&problems),
        },
        Call::Start(whose) => publish(&env, CommandKind::Start, whose),
        Call::Stop(whose) => publish(&env, CommandKind::Stop, whose),
    }
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

fn publish(env: &Env, kind: CommandKind, whose: Whose) -> ExitCode {
    let config = match Config::for_publish(env) {
        Ok(config) => config,
        Err(problems) => return bad_config(&problems),
    };
    let user = match UserId::new(whose.user) {
        Ok(user) => user,
        Err(error) => return fail(EXIT_CONFIG, &error.to_string()),
    };
    if whose.account.is_some_and(|account| account <= 0) {
        return fail(EXIT_CONFIG, "--account is a positive number");
    }
    let command = Command {
        id: Uuid::new_v4(),
        kind,
        user,
        account: whose.account.map(AccountId),
        issued_at: OffsetDateTime::now_utc(),
    };
    run(async move {
        telemetry::init(&config.log);
        match publisher::publish(&config.amqp, &command).await {
            Ok(()) => {
                println!("{} {} confirmed", kind.as_str(), command.id);
                ExitCode::SUCCESS
            }
            Err(error) => fail(EXIT_UNAVAILABLE, &failure::with_causes(&error)),
        }
    })
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

fn bad_config(problems: &Problems) -> ExitCode {
    fail(EXIT_CONFIG, &problems.to_string())
}

/// On stderr, whatever the log's format and filter are: it is the last thing said.
fn fail(code: u8, what: &str) -> ExitCode {
    eprintln!("{what}");
    ExitCode::from(code)
}
