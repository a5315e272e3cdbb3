//! Checks, without changing anything, whether a worker could use a database, and tells an operator why not.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use super::claims::capacity;
use super::connect::{PgConfig, close_within, open, within};
use super::error::{PgError, SchemaError};
use super::from_row::from_row;
use crate::failure::network::NetworkFault;
use crate::failure::{Diagnosis, with_causes};

/// The longest wait for one statement of a check.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest difference of the clocks that is tolerated, in seconds. Commands are ordered by the app's clock, and tokens
/// end by ours.
pub const SKEW_SECS_MAX: f64 = 5.0;

/// The rights that a worker needs, by table.
const RIGHTS: [(&str, &str); 11] = [
    ("bridge._sqlx_migrations", "select"),
    ("bridge.slots", "select,update"),
    ("bridge.workers", "select,insert,update,delete"),
    ("bridge.handovers", "select,insert,update,delete"),
    ("bridge.sessions", "select,insert,update,delete"),
    ("bridge.user_commands", "select,insert,update"),
    ("bridge.credentials", "select,update"),
    ("bridge.history", "select,insert,update"),
    ("bridge.token_refreshes", "select,insert,update,delete"),
    ("public.ctrader_cache", "select,insert,update,delete"),
    ("public.ctrader_deals", "select,insert,update"),
];

/// A connection to a database that is being checked.
#[derive(Debug)]
pub struct DatabaseProbe {
    conn: PgConnection,
    endpoint: String,
}

/// A row of `probe.server`.
struct ServerRow {
    version: String,
    username: String,
    database: String,
}

from_row!(ServerRow {
    version,
    username,
    database
});

/// How far this machine's clock differs from the server's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockSkew {
    /// How far this machine is ahead, seconds.
    pub ahead_secs: f64,
    /// The error of the measurement, seconds.
    pub error_secs: f64,
}

impl ClockSkew {
    /// Whether the difference is larger than [`SKEW_SECS_MAX`] and the error of the measurement explain.
    #[must_use]
    pub fn is_wrong(self) -> bool {
        self.ahead_secs.abs() > SKEW_SECS_MAX + self.error_secs
    }
}

impl DatabaseProbe {
    /// Connects.
    ///
    /// # Errors
    /// When that fails; see [`diagnose`].
    pub async fn connect(config: &PgConfig) -> Result<Self, PgError> {
        Ok(Self {
            conn: open(config).await?,
            endpoint: endpoint(config),
        })
    }

    /// Returns the server's version, endpoint, database and user as one line.
    ///
    /// # Errors
    /// When Postgres does not reply as it should.
    pub async fn server(&mut self) -> Result<String, PgError> {
        let endpoint = self.endpoint.clone();
        self.run(async |conn| {
            let ServerRow {
                version,
                username,
                database,
            } = sqlx::query_as(
                "-- probe.server
                select current_setting('server_version') as version, current_user::text as username,
                    current_database()::text as database",
            )
            .fetch_one(conn)
            .await?;
            let version = version.split(' ').next().unwrap_or_default();
            Ok(format!("{version} at {endpoint}, {database} as {username}"))
        })
        .await
    }

    /// Returns the version of the schema.
    ///
    /// # Errors
    /// When this release cannot work with the schema.
    pub async fn schema(&mut self) -> Result<i64, PgError> {
        self.run(async |conn| super::schema::check(conn).await)
            .await
    }

    /// Returns the rights that a worker needs and does not have, one clause each.
    ///
    /// # Errors
    /// When Postgres does not reply as it should.
    pub async fn missing_rights(&mut self) -> Result<Vec<String>, PgError> {
        let (tables, rights): (Vec<&str>, Vec<&str>) = RIGHTS.into_iter().unzip();
        self.run(async |conn| {
            let read_only: bool = sqlx::query_scalar(
                "-- probe.read_only
                select current_setting('transaction_read_only')::bool",
            )
            .fetch_one(&mut *conn)
            .await?;
            let mut missing: Vec<String> = sqlx::query_scalar(
                "-- probe.rights
                -- A role may have a right to some columns alone.
                select 'may not ' || right_name || ' ' || tab
                from unnest($1::text[], $2::text[]) as need (tab, rights)
                cross join lateral unnest(string_to_array(rights, ',')) as right_name
                where to_regclass(tab) is not null
                    and case
                        when right_name in ('select', 'update') then not has_any_column_privilege(tab, right_name)
                        else not has_table_privilege(tab, right_name)
                    end
                union all
                select 'does not see all rows of ' || tab || ' (row-level security)'
                from unnest($1::text[]) as tab
                where to_regclass(tab) is not null and row_security_active(tab) and not exists (
                    select from pg_policy p
                    where p.polrelid = to_regclass(tab) and pg_get_expr(p.polqual, p.polrelid) = 'true'
                        and exists (select from unnest(p.polroles) as r (oid) where r.oid = 0 or pg_has_role(r.oid, 'member'))
                )
                order by 1 desc",
            )
            .bind(&tables)
            .bind(&rights)
            .fetch_all(&mut *conn)
            .await?;
            if read_only {
                missing.insert(
                    0,
                    "can only read: the server is a standby or its disk is full".to_owned(),
                );
            }
            Ok(missing)
        })
        .await
    }

    /// Returns how many locks the server has room for, and how many are held now.
    ///
    /// # Errors
    /// When Postgres does not reply as it should.
    pub async fn locks(&mut self) -> Result<(i64, i64), PgError> {
        self.run(async |conn| {
            let room = capacity(conn).await?.locks();
            let held = sqlx::query_scalar("-- probe.locks\nselect count(*) from pg_locks")
                .fetch_one(conn)
                .await?;
            Ok((room, held))
        })
        .await
    }

    /// Measures how far this machine's clock differs from the server's.
    ///
    /// # Errors
    /// When Postgres does not reply as it should.
    pub async fn clock_skew(&mut self) -> Result<ClockSkew, PgError> {
        self.run(clock_skew).await
    }

    /// Closes the connection.
    pub async fn close(self) {
        close_within(REPLY_TIMEOUT, self.conn).await;
    }

    async fn run<T>(
        &mut self,
        query: impl AsyncFnOnce(&mut PgConnection) -> Result<T, PgError>,
    ) -> Result<T, PgError> {
        within(REPLY_TIMEOUT, query(&mut self.conn)).await
    }
}

/// Measures how far this machine's clock differs from the server's.
///
/// # Errors
/// When Postgres does not reply as it should.
pub async fn clock_skew(conn: &mut PgConnection) -> Result<ClockSkew, PgError> {
    let began = Instant::now();
    let theirs: f64 = sqlx::query_scalar(
        "-- probe.clock
        select extract(epoch from clock_timestamp())::float8",
    )
    .fetch_one(conn)
    .await?;
    let ours = OffsetDateTime::now_utc() - OffsetDateTime::UNIX_EPOCH;
    let error_secs = began.elapsed().as_secs_f64() / 2.0;
    Ok(ClockSkew {
        ahead_secs: ours.as_seconds_f64() - error_secs - theirs,
        error_secs,
    })
}

/// Host and port, which are no secret.
fn endpoint(config: &PgConfig) -> String {
    config.options().map_or_else(
        |_| "the server".to_owned(),
        |options| format!("{}:{}", options.get_host(), options.get_port()),
    )
}

/// Why a database cannot be used, and what to do about it.
#[must_use]
pub fn diagnose(error: &PgError, config: &PgConfig) -> Diagnosis {
    let endpoint = endpoint(config);
    match error {
        PgError::Schema(schema) => diagnose_schema(*schema),
        PgError::Pooler(pooler) => Diagnosis::new(
            format!("{endpoint} is a transaction pooler ({})", pooler.evidence),
            "use the direct connection or the session pooler in DATABASE_URL (on Supabase port 5432, not 6543)",
        ),
        PgError::TimedOut(_) => NetworkFault::Silent.diagnosis(&endpoint, "DATABASE_URL", ""),
        PgError::Unavailable(cause) | PgError::Refused(cause) | PgError::Internal(cause) => {
            diagnose_client_error(cause, &endpoint).unwrap_or_else(|| undiagnosed(error))
        }
        PgError::LockLost | PgError::UnexpectedValue { .. } => undiagnosed(error),
    }
}

fn undiagnosed(error: &PgError) -> Diagnosis {
    Diagnosis::new(with_causes(error), "see what the server's own log says")
}

fn diagnose_schema(error: SchemaError) -> Diagnosis {
    let migrate = MIGRATE;
    match error {
        SchemaError::Missing { needs } => Diagnosis::new(
            format!("there is no bridge schema; version {needs} is needed"),
            migrate,
        ),
        SchemaError::Older { needs, found } => Diagnosis::new(
            format!("the bridge schema has version {found}; version {needs} is needed"),
            migrate,
        ),
        SchemaError::Newer { needs, floor, .. } => Diagnosis::new(
            format!(
                "the bridge schema is for releases that know version {floor}; this one knows {needs}"
            ),
            "deploy a later release",
        ),
        SchemaError::Changed { version } => Diagnosis::new(
            format!("migration {version} was edited after it was applied"),
            "deploy the release whose migrations were applied, or restore the file",
        ),
        SchemaError::Unfinished { version } => {
            Diagnosis::new(format!("migration {version} was not finished"), migrate)
        }
        SchemaError::Server { found } => Diagnosis::new(
            format!("the server is Postgres {found}"),
            "upgrade it to 15 or later",
        ),
    }
}

const MIGRATE: &str = "run `mahspeccy-bridge migrate`";

const WRONG_PASSWORD: &str =
    "correct user and password in DATABASE_URL (in a URL @ is %40, : is %3A, / is %2F)";

fn diagnose_client_error(error: &sqlx::Error, endpoint: &str) -> Option<Diagnosis> {
    if let sqlx::Error::Database(reply) = error {
        // The server's message names roles and databases, and never a password.
        let message = reply.message();
        let fix = match reply.code().as_deref().unwrap_or_default() {
            "28P01" => WRONG_PASSWORD,
            "28000" => {
                "correct the user in DATABASE_URL, or let it in (pg_hba.conf, network restrictions)"
            }
            "3D000" => "correct the database at the end of DATABASE_URL, or create it",
            "53300" => {
                "end what holds connections, or raise max_connections or the pooler's pool size"
            }
            "42501" => {
                "connect as the role that ran `migrate` (on Supabase postgres), or grant it this"
            }
            // No such table, no such schema.
            "42P01" | "3F000" => MIGRATE,
            "57P03" => "wait: the server is starting or stopping",
            // The code of pgbouncer's errors is always the same.
            _ if message.contains("password authentication failed") => WRONG_PASSWORD,
            _ if message
                .to_ascii_lowercase()
                .contains("tenant or user not found") =>
            {
                "through Supabase's pooler the user is postgres.<project ref>: correct DATABASE_URL"
            }
            _ => return None,
        };
        return Some(Diagnosis::new(format!("{endpoint} says: {message}"), fix));
    }
    if matches!(error, sqlx::Error::Protocol(_)) {
        return Some(Diagnosis::new(
            format!("what listens at {endpoint} does not speak Postgres"),
            "correct host and port in DATABASE_URL",
        ));
    }
    let trust = "name its root in DATABASE_URL with sslrootcert=FILE";
    if let Some(fault) = NetworkFault::of(error) {
        return Some(fault.diagnosis(endpoint, "DATABASE_URL", trust));
    }
    matches!(error, sqlx::Error::Tls(_)).then(|| {
        Diagnosis::new(
            format!("no TLS with {endpoint}: {error}"),
            "correct sslmode in DATABASE_URL",
        )
    })
}
