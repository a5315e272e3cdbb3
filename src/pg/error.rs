//! What can go wrong with Postgres, by what the caller does about it.

use std::time::Duration;

use sqlx::migrate::MigrateError;

use super::pooler::PoolerError;
use super::schema::SchemaError;

/// Why Postgres did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// Down, full, too slow or in the way of others: the same may work later, on a new connection.
    #[error("Postgres is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// No answer in time. The connection is of no more use.
    #[error("Postgres did not answer within {0:?}")]
    TimedOut(Duration),
    /// The lock connection was given up in the middle of a statement, or its locks are gone.
    #[error("the connection that held the claims is lost")]
    LockLost,
    /// The schema is not the one this release needs.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The URL leads through a pooler that can't hold claims.
    #[error(transparent)]
    Pooler(#[from] PoolerError),
    /// Wrong address, password, database, certificate or permission: for an operator.
    #[error("Postgres refuses the bridge")]
    Refused(#[source] sqlx::Error),
    /// A statement or a value is wrong: ours to repair.
    #[error("Postgres rejected a statement")]
    Internal(#[source] sqlx::Error),
    /// A table holds what the bridge would not have written.
    #[error("bridge.{table} holds {what}")]
    Foreign {
        /// Which table of the schema `bridge`.
        table: &'static str,
        /// What is wrong with a row of it.
        what: &'static str,
    },
}

impl PgError {
    /// Whether the same may work later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::TimedOut(_) | Self::LockLost
        )
    }

    /// Whether the server, or the machine it runs on, was heard of: it refuses, is about to start or to end,
    /// or ended the connection. Silence is no answer.
    #[must_use]
    pub fn is_answer(&self) -> bool {
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
            | Self::Foreign { .. } => true,
        }
    }

    /// Whether a value of the statement was at fault, so that others may pass without it.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
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
            // A server that ends in the middle of a message looks like a breach of the protocol.
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

/// What an SQLSTATE asks for. Five characters, the first two of which are its class
/// (PostgreSQL, appendix A).
fn kind(code: Option<&str>) -> Kind {
    let code = code.unwrap_or_default();
    match code.get(..2).unwrap_or_default() {
        // Connection, transaction rolled back for another's sake, resources, operator, system.
        "08" | "40" | "53" | "57" | "58" => Kind::Unavailable,
        // Poolers say everything with the code for internal errors.
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
            ("XX000", true, false),  // whatever a pooler has to say
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
