//! What can go wrong with Postgres, grouped by what the caller does about it.

use std::time::Duration;

use sqlx::migrate::MigrateError;

/// Why something could not be done with Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// Postgres is down, full or too slow, or the statement conflicted with another: the same may work later, on a new
    /// connection.
    #[error("Postgres is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// Postgres did not reply in time. The connection cannot be used any more.
    #[error("Postgres did not answer within {0:?}")]
    TimedOut(Duration),
    /// A call on the lock connection did not return, or its locks are lost.
    #[error("the connection that held the claims is lost")]
    LockLost,
    /// The schema is not the one this release needs.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The URL leads through a pooler that cannot hold claims.
    #[error(transparent)]
    Pooler(#[from] PoolerError),
    /// The address, password, database, certificate or a permission is wrong: an operator has to correct it.
    #[error("Postgres refuses the bridge")]
    Refused(#[source] sqlx::Error),
    /// A statement or a value is wrong: a bug of the bridge.
    #[error("Postgres rejected a statement")]
    Internal(#[source] sqlx::Error),
    /// A table holds what the bridge would not have written.
    #[error("bridge.{table} holds {what}")]
    UnexpectedValue {
        /// Which table of the schema `bridge`.
        table: &'static str,
        /// What is wrong with a row of it.
        what: &'static str,
    },
}

/// Why this release cannot work with the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// No migration was ever applied.
    #[error(
        "the database has no bridge schema; this release needs version {needs}: run `mahspeccy-bridge migrate`"
    )]
    Missing {
        /// What this release needs.
        needs: i64,
    },
    /// Migrations of this release are missing.
    #[error(
        "the database has bridge schema version {found}; this release needs version {needs}: run `mahspeccy-bridge migrate`"
    )]
    Older {
        /// What this release needs.
        needs: i64,
        /// The last version before the first that is missing, 0 for none.
        found: i64,
    },
    /// A later release has removed what this one uses.
    #[error(
        "the database has bridge schema version {found}, for releases that know version {floor} or later; this release needs version {needs}"
    )]
    Newer {
        /// What this release needs.
        needs: i64,
        /// What the database has.
        found: i64,
        /// The lowest version that a release must know.
        floor: i64,
    },
    /// A migration was edited after it was applied.
    #[error("migration {version} of the database differs from this release's")]
    Changed {
        /// Which one.
        version: i64,
    },
    /// A migration was not finished.
    #[error("migration {version} of the database was not finished")]
    Unfinished {
        /// Which one.
        version: i64,
    },
    /// The server lacks what the migrations use.
    #[error("the server is Postgres {found}; the bridge needs 15 or later")]
    Server {
        /// Its major version.
        found: u32,
    },
}

/// The URL leads through a pooler that cannot hold claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "DATABASE_URL leads through a transaction pooler ({evidence}). A claim is an advisory lock of a \
     session, and such a pooler lends a session's backend to others between transactions, so the claim \
     would be lost or stay for ever. Use the direct connection or the session pooler (on Supabase, port \
     5432 of either)"
)]
pub struct PoolerError {
    /// What was observed.
    pub evidence: PoolerEvidence,
}

/// By what a transaction pooler was detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolerEvidence {
    /// Two open connections had the same backend.
    SharedBackend,
    /// A connection's backend changed between two statements.
    ChangedBackend,
}

impl std::fmt::Display for PoolerEvidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SharedBackend => "one backend served two open connections",
            Self::ChangedBackend => "a connection's backend changed between two statements",
        })
    }
}

impl PgError {
    pub(super) const fn unexpected(table: &'static str, what: &'static str) -> Self {
        Self::UnexpectedValue { table, what }
    }

    /// Whether the same may work later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::TimedOut(_) | Self::LockLost
        )
    }

    /// Whether the server, or the machine it runs on, replied at all: it refused, is starting or stopping, or closed the
    /// connection.
    #[must_use]
    pub fn is_reply(&self) -> bool {
        use std::io::ErrorKind;
        match self {
            Self::Unavailable(sqlx::Error::Io(err)) => !matches!(
                err.kind(),
                ErrorKind::TimedOut
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::NetworkDown
                    | ErrorKind::WouldBlock
            ),
            Self::TimedOut(_) => false,
            Self::Unavailable(_)
            | Self::LockLost
            | Self::Schema(_)
            | Self::Pooler(_)
            | Self::Refused(_)
            | Self::Internal(_)
            | Self::UnexpectedValue { .. } => true,
        }
    }

    /// Whether a value of the statement caused the error, so that the statement may work without that value.
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        let Self::Internal(sqlx::Error::Database(err)) = self else {
            return matches!(self, Self::Internal(sqlx::Error::Encode(_)));
        };
        err.code()
            .is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
    }
}

impl From<sqlx::Error> for PgError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "sqlx's errors are non-exhaustive; what is not known is ours to repair"
    )]
    fn from(err: sqlx::Error) -> Self {
        match &err {
            sqlx::Error::Database(database) => match kind(database.code().as_deref()) {
                Kind::Unavailable => Self::Unavailable(err),
                Kind::Refused => Self::Refused(err),
                Kind::Internal => Self::Internal(err),
            },
            // If the server stops in the middle of a message, sqlx reports an error of the protocol.
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(err),
            sqlx::Error::Configuration(_)
            | sqlx::Error::InvalidArgument(_)
            | sqlx::Error::Tls(_) => Self::Refused(err),
            _ => Self::Internal(err),
        }
    }
}

impl From<MigrateError> for PgError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the other kinds cannot come from migrations that are compiled in"
    )]
    fn from(err: MigrateError) -> Self {
        match err {
            MigrateError::Execute(err) | MigrateError::ExecuteMigration(err, _) => err.into(),
            MigrateError::VersionMismatch(version) => SchemaError::Changed { version }.into(),
            MigrateError::Dirty(version) => SchemaError::Unfinished { version }.into(),
            other => Self::Internal(sqlx::Error::Migrate(Box::new(other))),
        }
    }
}

enum Kind {
    Unavailable,
    Refused,
    Internal,
}

/// Classifies an SQLSTATE: five characters, the first two of which are its class
/// (PostgreSQL, appendix A).
fn kind(code: Option<&str>) -> Kind {
    let code = code.unwrap_or_default();
    match code.get(..2).unwrap_or_default() {
        // Connection, transaction rolled back for another's sake, resources, operator, system.
        "08" | "40" | "53" | "57" | "58" => Kind::Unavailable,
        // Poolers use the code for internal errors for everything.
        "XX" if code == "XX000" => Kind::Unavailable,
        "28" | "3D" => Kind::Refused,
        _ => match code {
            // lock_not_available, read_only_sql_transaction (a standby, or a full disk on Supabase),
            // idle_in_transaction_session_timeout
            "55P03" | "25006" | "25P03" => Kind::Unavailable,
            // insufficient_privilege
            "42501" => Kind::Refused,
            _ => Kind::Internal,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlstate_tells_whether_to_try_again() {
        for (code, transient, refused) in [
            ("57P01", true, false),  // admin_shutdown
            ("57014", true, false),  // query_canceled: statement_timeout
            ("53300", true, false),  // too_many_connections
            ("40P01", true, false),  // deadlock_detected
            ("55P03", true, false),  // lock_not_available
            ("XX000", true, false),  // any error of a pooler
            ("28P01", false, true),  // invalid_password
            ("3D000", false, true),  // no such database
            ("42501", false, true),  // insufficient_privilege
            ("42P01", false, false), // undefined_table
            ("22P05", false, false), // untranslatable_character
        ] {
            let kind = kind(Some(code));
            assert_eq!(matches!(kind, Kind::Unavailable), transient, "{code}");
            assert_eq!(matches!(kind, Kind::Refused), refused, "{code}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_being_shown() {
        let err = "postgres://me:hunter2@[oops/db"
            .parse::<sqlx::postgres::PgConnectOptions>()
            .map_err(PgError::from)
            .expect_err("no URL");
        assert!(matches!(err, PgError::Refused(_)));
        let shown = format!("{err} {err:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
