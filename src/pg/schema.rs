//! The schema: applies the migrations, and checks whether a database has the version that this release needs.
//!
//! sqlx's table of applied migrations lives in `bridge`: Supabase's API exposes `public`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, SqlStr};

use super::connect::{PgConfig, open, set};
use super::error::{PgError, SchemaError};
use super::from_row::from_row;

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
    // A later release may have migrated already; `check` decides whether this one can work with it.
    ignore_missing: true,
    migrations: FILES
        .map(|(name, sql)| migration(name, sql))
        .to_vec()
        .into(),
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

/// A row of `bridge._sqlx_migrations`.
struct AppliedMigration {
    version: i64,
    success: bool,
    checksum: Vec<u8>,
}

from_row!(AppliedMigration {
    version,
    success,
    checksum
});

/// The schema version that this release needs.
#[must_use]
pub fn version_needed() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Applies the migrations that are missing, and returns the version that the database has then. If several run at once,
/// one works and the others wait.
///
/// # Errors
/// When a migration fails, somebody else's takes too long, or this release cannot work with the result.
pub async fn migrate(config: &PgConfig) -> Result<i64, PgError> {
    let mut conn = open(config).await?;
    check_server(&conn)?;
    // This limits the wait for another migration; each file has a limit of its own for its locks.
    set(&mut conn, &[("lock_timeout", MIGRATION_LOCK_TIMEOUT)]).await?;
    MIGRATIONS.run_direct(None, &mut conn, false).await?;
    let version = check(&mut conn).await?;
    conn.close().await?;
    Ok(version)
}

/// Checks that this release can work with the schema, and returns the version.
///
/// A later version passes unless its floor excludes this release: migrations are safe to run beside the previous release,
/// and a worker that is restarted in the middle of a deployment, or rolled back after one, has to work.
///
/// # Errors
/// [`PgError::Schema`] when this release cannot work with the schema.
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
    let rows: Vec<AppliedMigration> = sqlx::query_as(
        "-- schema.applied
        select version, success, checksum from bridge._sqlx_migrations",
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut applied = BTreeMap::new();
    for row in rows {
        if !row.success {
            let version = row.version;
            return Err(SchemaError::Unfinished { version }.into());
        }
        applied.insert(row.version, row.checksum);
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

/// Checks that all migrations of this release are applied, and unchanged.
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
    // A pooler may not report it; then the migrations fail.
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
