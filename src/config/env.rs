//! The environment variables as text, from the process and from the file `.env`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

use serde::Deserialize;

macro_rules! env {
    ($($field:ident $name:literal)+) => {
        /// The variables as they are set. An empty one counts as not set.
        #[derive(Clone, Default, Deserialize)]
        pub struct Env {
            $($field: Option<String>,)+
        }

        impl Env {
            /// The names of all variables that are read.
            pub const NAMES: &[&str] = &[$($name),+];

            pub(super) fn get(&self, name: &str) -> Option<&str> {
                let value = match name {
                    $($name => self.$field.as_deref(),)+
                    _ => unreachable!("{name} is not in the list above"),
                };
                value.map(str::trim).filter(|value| !value.is_empty())
            }
        }
    };
}

env! {
    database_url "DATABASE_URL"
    amqp_url "AMQP_URL"
    ctrader_client_id "CTRADER_CLIENT_ID"
    ctrader_client_secret "CTRADER_CLIENT_SECRET"
    ctrader_demo_url "CTRADER_DEMO_URL"
    ctrader_live_url "CTRADER_LIVE_URL"
    ctrader_ca_file "CTRADER_CA_FILE"
    ctrader_connections "CTRADER_CONNECTIONS"
    ctrader_connection_limit "CTRADER_CONNECTION_LIMIT"
    ctrader_request_rate "CTRADER_REQUEST_RATE"
    ctrader_history_rate "CTRADER_HISTORY_RATE"
    port "PORT"
    worker_id "WORKER_ID"
    fly_machine_id "FLY_MACHINE_ID"
    max_sessions "MAX_SESSIONS"
    cache_write_interval_ms "CACHE_WRITE_INTERVAL_MS"
    reconnect_max_attempts "RECONNECT_MAX_ATTEMPTS"
    failed_retry_secs "FAILED_RETRY_SECS"
    shutdown_grace_secs "SHUTDOWN_GRACE_SECS"
    idle_exit_secs "IDLE_EXIT_SECS"
    token_encryption_key "TOKEN_ENCRYPTION_KEY"
    log_format "LOG_FORMAT"
    rust_log "RUST_LOG"
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Self::NAMES.iter().filter(|name| self.get(name).is_some());
        f.debug_set().entries(set).finish()
    }
}

impl Env {
    /// Reads the file `.env` of a directory, if there is one, and the process's environment, which wins.
    ///
    /// # Errors
    /// When the file or one of our variables cannot be read.
    pub fn load(directory: &Path) -> Result<Self, Problems> {
        load(&directory.join(".env"), std::env::vars_os())
    }

    /// Takes pairs of name and value. Names that are not ours are ignored.
    pub fn from_pairs<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        from_pairs(pairs.into_iter().map(|(k, v)| (k.into(), v.into())))
    }
}

/// One thing that is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable, or `.env`.
    pub variable: &'static str,
    /// What is wrong with it, without its value.
    pub what: String,
}

/// Everything that is wrong with the environment, one line per problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{} {}", problem.variable, problem.what)?;
        }
        Ok(())
    }
}

/// Reads the file's variables; those of the process replace them, even if they are empty.
fn load(file: &Path, process: impl Iterator<Item = (OsString, OsString)>) -> Result<Env, Problems> {
    let mut problems = Vec::new();
    let mut pairs = BTreeMap::new();
    match dotenvy::from_path_iter(file) {
        Ok(entries) => {
            for (at, entry) in entries.enumerate() {
                match entry {
                    Ok((name, value)) => drop(pairs.insert(name, value)),
                    // The error would repeat the line, which may have a secret.
                    Err(_) => problems.push(Problem {
                        variable: ".env",
                        what: format!("has an entry that cannot be read, the {}. one", at + 1),
                    }),
                }
            }
        }
        Err(dotenvy::Error::Io(err)) if err.kind() == io::ErrorKind::NotFound => {}
        Err(_) => problems.push(Problem {
            variable: ".env",
            what: "cannot be read".to_owned(),
        }),
    }
    for (name, value) in process {
        let Some(name) = Env::NAMES.iter().find(|variable| name == **variable) else {
            continue;
        };
        match value.into_string() {
            Ok(value) => drop(pairs.insert((*name).to_owned(), value)),
            Err(_) => problems.push(Problem {
                variable: name,
                what: "is not UTF-8".to_owned(),
            }),
        }
    }
    if problems.is_empty() {
        Ok(from_pairs(pairs))
    } else {
        Err(Problems(problems))
    }
}

/// envy ignores the case of names, so that it gets only those that are exactly ours.
fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Env {
    let known: BTreeMap<String, String> = pairs
        .into_iter()
        .filter(|(name, _)| Env::NAMES.contains(&name.as_str()))
        .collect();
    envy::from_iter(known).expect("text of distinct names is what the fields are")
}
