//! The schema: applies the migrations, and tells whether a database has the one this release needs.
//!
//! sqlx's table of applied migrations lives in `bridge`: Supabase's API exposes `public`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _, SqlStr};

use super::PgError;
use super::connect::{PgConfig, open, set};

/// Names with the texts of their files.
macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../migrations/", $name, ".sql")))),+]
    };
}

/// The files of `migrations/`, in their order. A new one is added here too: a test compares the two.
const FILES: [(&str, &str); 6] = files![
    "0001_create_sessions",
    "0002_create_ctrader_cache",
    "0003_create_ctrader_deals",
    "0004_create_history",
    "0005_create_workers",
    "0006_create_roles",
];

/// `migrations/`, as it was when this release was built.
///
/// `sqlx::migrate!` would do the same, but its crate of macros compiles all of sqlx a second time.
pub static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator {
    table_name: Cow::Borrowed("bridge._sqlx_migrations"),
    create_schemas: Cow::Borrowed(&[Cow::Borrowed("bridge")]),
    // A later release may have migrated already; `check` says whether this one can work with it.
    ignore_missing: true,
    migrations: FILES.map(|(name, sql)| migration(name, sql)).to_vec().into(),
    ..Migrator::DEFAULT
});

/// A migration whose file is called `NNNN_verb_noun`, with the checksum that sqlx records of it.
fn migration(name: &'static str, sql: &'static str) -> Migration {
    let (version, description) = name.split_once('_').expect("NNNN_verb_noun");
    Migration::new(
        version.parse().expect("a number"),
        description.replace('_', " ").into(),
        MigrationType::Simple,
        SqlStr::from_static(sql),
        false,
    )
}

/// The oldest server with everything the migrations use.
const SERVER_VERSION_MIN: u32 = 150_000;

/// Another migration is waited for no longer than this.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_mins(1);

/// Why the schema will not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Nothing was ever applied.
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
    /// A later release has taken away what this one uses.
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
    /// A migration stopped half-way.
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

/// The schema version this release needs.
#[must_use]
pub fn version_needed() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Applies what is missing, and answers the version the database has then. Of several at once, one
/// works and the others wait.
///
/// # Errors
/// When a migration fails, another one takes too long, or the result is not a schema to work with.
pub async fn migrate(config: &PgConfig) -> Result<i64, PgError> {
    let mut conn = open(config).await?;
    check_server(&conn)?;
    // For the wait for another migration; each file has a limit of its own for its locks.
    set(&mut conn, &[("lock_timeout", MIGRATION_LOCK_TIMEOUT)]).await?;
    MIGRATIONS.run_direct(None, &mut conn, false).await?;
    let version = check(&mut conn).await?;
    conn.close().await?;
    Ok(version)
}

/// Tells whether this release can work on the schema, and answers the version it found.
///
/// A later version passes unless it says that it does not suit this release: migrations are safe to run
/// beside the previous release, and a worker that is started again in the middle of a deployment, or
/// rolled back after one, has to work.
///
/// # Errors
/// [`PgError::Schema`] says what is wrong.
pub async fn check(conn: &mut PgConnection) -> Result<i64, PgError> {
    check_server(conn)?;
    let needs = version_needed();
    let exists: bool = sqlx::query_scalar(
        "-- schema.exists
        select to_regclass('bridge._sqlx_migrations') is not null",
    )
    .fetch_one(&mut *conn)
    .await?;
    if !exists {
        return Err(SchemaError::Missing { needs }.into());
    }
    let mut applied = BTreeMap::new();
    for row in sqlx::query(
        "-- schema.applied
        select version, success, checksum from bridge._sqlx_migrations",
    )
    .fetch_all(&mut *conn)
    .await?
    {
        let (version, success, checksum): (i64, bool, Vec<u8>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if !success {
            return Err(SchemaError::Unfinished { version }.into());
        }
        applied.insert(version, checksum);
    }
    let Some(found) = applied.keys().max().copied() else {
        return Err(SchemaError::Missing { needs }.into());
    };
    compare(&applied)?;
    if found > needs {
        let floor: i64 = sqlx::query_scalar(
            "-- schema.floor
            select version from bridge.schema_floor",
        )
        .fetch_one(conn)
        .await?;
        if floor > needs {
            return Err(SchemaError::Newer {
                needs,
                found,
                floor,
            }
            .into());
        }
    }
    Ok(found)
}

/// Whether all of this release's migrations are there, as they are here.
fn compare(applied: &BTreeMap<i64, Vec<u8>>) -> Result<(), SchemaError> {
    let mut found = 0;
    for migration in MIGRATIONS.iter() {
        let version = migration.version;
        match applied.get(&version) {
            Some(checksum) if *checksum == *migration.checksum => found = version,
            Some(_) => return Err(SchemaError::Changed { version }),
            None => {
                return Err(SchemaError::Older {
                    needs: version_needed(),
                    found,
                });
            }
        }
    }
    Ok(())
}

fn check_server(conn: &PgConnection) -> Result<(), SchemaError> {
    // A pooler may not tell; then the migrations find out.
    match conn.server_version_num() {
        Some(found) if found < SERVER_VERSION_MIN => Err(SchemaError::Server {
            found: found / 10_000,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_migrations_is_in_the_binary() {
        let mut files: Vec<_> =
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
                .expect("the directory")
                .map(|entry| {
                    entry
                        .expect("an entry")
                        .file_name()
                        .into_string()
                        .expect("UTF-8")
                })
                .filter(|name| name.split_once('.').is_some_and(|(_, kind)| kind == "sql"))
                .collect();
        files.sort();
        let known: Vec<_> = MIGRATIONS
            .iter()
            .map(|m| format!("{:04}_{}.sql", m.version, m.description.replace(' ', "_")))
            .collect();
        assert_eq!(files, known);
        let versions: Vec<_> = MIGRATIONS.iter().map(|m| m.version).collect();
        assert!(
            versions.iter().copied().eq(1..=version_needed()),
            "{versions:?}"
        );
    }

    #[test]
    fn every_migration_waits_for_its_locks_only_so_long() {
        for migration in MIGRATIONS.iter() {
            assert!(
                migration.sql.as_str().contains("set local lock_timeout"),
                "{}",
                migration.version
            );
        }
    }
}
