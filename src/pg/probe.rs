//! Asks a database, without changing anything, whether a worker could work on it, and says in an
//! operator's words why not.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use time::OffsetDateTime;

use super::PgError;
use super::claims::capacity;
use super::connect::{PgConfig, open, within};
use super::schema::SchemaError;
use crate::failure::network::NetworkFault;
use crate::failure::{Diagnosis, with_causes};

/// One statement of a probe. The server of a check may be in any state.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Commands are ordered by the app's clock and tokens end by ours: more than this shows.
pub const SKEW_SECS_MAX: f64 = 5.0;

/// What a worker does to which table.
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

/// A connection to ask with.
#[derive(Debug)]
pub struct Probe {
    conn: PgConnection,
    place: String,
}

/// How this machine's clock stands to the server's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Skew {
    /// How far this machine is ahead, seconds.
    pub ahead_secs: f64,
    /// How far that may be wrong.
    pub error_secs: f64,
}

impl Skew {
    /// Whether it is more than the measurement may be wrong, and more than does not matter.
    #[must_use]
    pub fn is_wrong(self) -> bool {
        self.ahead_secs.abs() > SKEW_SECS_MAX + self.error_secs
    }
}

impl Probe {
    /// Connects.
    ///
    /// # Errors
    /// When that fails; see [`diagnose`].
    pub async fn connect(config: &PgConfig) -> Result<Self, PgError> {
        Ok(Self {
            conn: open(config).await?,
            place: place(config),
        })
    }

    /// What it is connected to, in a few words.
    ///
    /// # Errors
    /// When Postgres does not answer as it should.
    pub async fn server(&mut self) -> Result<String, PgError> {
        let place = self.place.clone();
        self.ask(async |conn| {
            let row = sqlx::query(
                "-- probe.server
                select current_setting('server_version'), current_user::text, current_database()::text",
            )
            .fetch_one(conn)
            .await?;
            let (version, user, database): (String, String, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let version = version.split(' ').next().unwrap_or_default();
            Ok(format!("{version} at {place}, {database} as {user}"))
        })
        .await
    }

    /// Which version of the schema it has.
    ///
    /// # Errors
    /// When that is none to work with.
    pub async fn schema(&mut self) -> Result<i64, PgError> {
        self.ask(async |conn| super::schema::check(conn).await)
            .await
    }

    /// What a worker must be allowed and is not, a clause each.
    ///
    /// # Errors
    /// When Postgres does not answer as it should.
    pub async fn missing_rights(&mut self) -> Result<Vec<String>, PgError> {
        let (tables, rights): (Vec<&str>, Vec<&str>) = RIGHTS.into_iter().unzip();
        self.ask(async |conn| {
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

    /// Locks that the server's one table has room for, and how many it holds now.
    ///
    /// # Errors
    /// When Postgres does not answer as it should.
    pub async fn locks(&mut self) -> Result<(i64, i64), PgError> {
        self.ask(async |conn| {
            let room = capacity(conn).await?.locks();
            let held = sqlx::query_scalar("-- probe.locks\nselect count(*) from pg_locks")
                .fetch_one(conn)
                .await?;
            Ok((room, held))
        })
        .await
    }

    /// How this machine's clock stands to the server's.
    ///
    /// # Errors
    /// When Postgres does not answer as it should.
    pub async fn skew(&mut self) -> Result<Skew, PgError> {
        self.ask(skew).await
    }

    /// Says farewell.
    pub async fn close(self) {
        // Whether it is heard changes nothing.
        let _ = tokio::time::timeout(REPLY_TIMEOUT, self.conn.close()).await;
    }

    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, PgError>,
    ) -> Result<T, PgError> {
        within(REPLY_TIMEOUT, question(&mut self.conn)).await
    }
}

/// How this machine's clock stands to the server's.
///
/// # Errors
/// When Postgres does not answer as it should.
pub async fn skew(conn: &mut PgConnection) -> Result<Skew, PgError> {
    let began = Instant::now();
    let theirs: f64 = sqlx::query_scalar(
        "-- probe.clock
        select extract(epoch from clock_timestamp())::float8",
    )
    .fetch_one(conn)
    .await?;
    let ours = OffsetDateTime::now_utc() - OffsetDateTime::UNIX_EPOCH;
    let error_secs = began.elapsed().as_secs_f64() / 2.0;
    Ok(Skew {
        ahead_secs: ours.as_seconds_f64() - error_secs - theirs,
        error_secs,
    })
}

/// Host and port, which are no secret.
fn place(config: &PgConfig) -> String {
    config.options().map_or_else(
        |_| "the server".to_owned(),
        |options| format!("{}:{}", options.get_host(), options.get_port()),
    )
}

/// Why a database cannot be used, and what to do about it.
#[must_use]
pub fn diagnose(error: &PgError, config: &PgConfig) -> Diagnosis {
    let place = place(config);
    match error {
        PgError::Schema(schema) => of_schema(*schema),
        PgError::Pooler(pooler) => Diagnosis::new(
            format!("{place} is a transaction pooler ({})", pooler.evidence),
            "use the direct connection or the session pooler in DATABASE_URL (on Supabase port 5432, not 6543)",
        ),
        PgError::TimedOut(_) => NetworkFault::Silent.diagnosis(&place, "DATABASE_URL", ""),
        PgError::Unavailable(cause) | PgError::Refused(cause) | PgError::Internal(cause) => {
            of_client(cause, &place).unwrap_or_else(|| unknown(error))
        }
        PgError::LockLost | PgError::Foreign { .. } => unknown(error),
    }
}

fn unknown(error: &PgError) -> Diagnosis {
    Diagnosis::new(with_causes(error), "see what the server's own log says")
}

fn of_schema(error: SchemaError) -> Diagnosis {
    let migrate = "run `mahspeccy-bridge migrate`";
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

const WRONG_PASSWORD: &str =
    "correct user and password in DATABASE_URL (in a URL @ is %40, : is %3A, / is %2F)";

fn of_client(error: &sqlx::Error, place: &str) -> Option<Diagnosis> {
    if let sqlx::Error::Database(answer) = error {
        // The server's words name roles and databases, and never a password.
        let said = answer.message();
        let fix = match answer.code().as_deref().unwrap_or_default() {
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
            "57P03" => "wait: the server is starting or stopping",
            // pgbouncer's code says nothing.
            _ if said.contains("password authentication failed") => WRONG_PASSWORD,
            _ if said
                .to_ascii_lowercase()
                .contains("tenant or user not found") =>
            {
                "through Supabase's pooler the user is postgres.<project ref>: correct DATABASE_URL"
            }
            _ => return None,
        };
        return Some(Diagnosis::new(format!("{place} says: {said}"), fix));
    }
    if matches!(error, sqlx::Error::Protocol(_)) {
        return Some(Diagnosis::new(
            format!("what listens at {place} does not speak Postgres"),
            "correct host and port in DATABASE_URL",
        ));
    }
    let trust = "name its root in DATABASE_URL with sslrootcert=FILE";
    if let Some(fault) = NetworkFault::of(error) {
        return Some(fault.diagnosis(place, "DATABASE_URL", trust));
    }
    matches!(error, sqlx::Error::Tls(_)).then(|| {
        Diagnosis::new(
            format!("no TLS with {place}: {error}"),
            "correct sslmode in DATABASE_URL",
        )
    })
}
