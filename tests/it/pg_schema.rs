//! The migrations: once, by one, on plain Postgres and on what Supabase makes of it; and the check that
//! a worker does before it starts.

use mahspeccy_bridge::domain::ids::UserId;
use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::pg::connect::PgConfig;
use mahspeccy_bridge::pg::error::{PgError, SchemaError};
use mahspeccy_bridge::pg::listen::{Notification, NotificationListener};
use mahspeccy_bridge::pg::schema::{MIGRATIONS, check, migrate, version_needed};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;

use crate::pg_support::{migrated, supabase_roles};
use crate::support::postgres::TestDatabase;

fn config(database: &TestDatabase) -> PgConfig {
    PgConfig::new(Secret::new(database.url()), "pg_schema")
}

async fn run(pool: &PgPool, sql: &'static str) {
    sqlx::raw_sql(sql)
        .execute(pool)
        .await
        .unwrap_or_else(|err| panic!("{sql}: {err}"));
}

async fn checked(database: &TestDatabase) -> Result<i64, SchemaError> {
    let mut conn = database.pool().acquire().await.expect("a connection");
    match check(&mut conn).await {
        Ok(version) => Ok(version),
        Err(PgError::Schema(err)) => Err(err),
        Err(err) => panic!("{err}"),
    }
}

#[tokio::test]
async fn migrations_apply_once_however_many_run_them_at_once() {
    let database = TestDatabase::create().await;
    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let config = config(&database);
        runs.spawn(async move { migrate(&config).await });
    }
    while let Some(run) = runs.join_next().await {
        assert_eq!(run.expect("a run").expect("a migration"), version_needed());
    }
    migrate(&config(&database))
        .await
        .expect("nothing is left to do");
    let (applied, slots): (i64, i64) = sqlx::query_as(
        "select (select count(*) from bridge._sqlx_migrations), (select count(*) from bridge.slots)",
    )
    .fetch_one(database.pool())
    .await
    .expect("counts");
    assert_eq!(applied, version_needed());
    assert_eq!(slots, 1024);
    let public: Vec<String> = sqlx::query_scalar(
        "select tablename::text from pg_tables where schemaname = 'public' order by 1",
    )
    .fetch_all(database.pool())
    .await
    .expect("tables");
    assert_eq!(public, ["ctrader_cache", "ctrader_deals"]);
}

#[tokio::test]
async fn slot_of_is_the_slot_of_the_user() {
    let database = migrated().await;
    for user in [
        "abc",
        "lance@lwk.space",
        "Ünïcödé@exämple.org",
        "\\x00",
        "0b0f2c52-0000-4000-8000-000000000000",
    ] {
        let (slot, key): (i32, String) = sqlx::query_as(
            "select bridge.slot_of($1), encode(sha256(convert_to($1, 'UTF8')), 'hex')",
        )
        .bind(user)
        .fetch_one(database.pool())
        .await
        .expect("a slot");
        let user = UserId::new(user).expect("a user");
        assert_eq!((slot, key), (user.slot().0, user.key()));
    }
}

#[tokio::test]
async fn a_worker_learns_which_schema_it_needs() {
    let database = TestDatabase::create().await;
    let needs = version_needed();
    assert_eq!(
        checked(&database).await,
        Err(SchemaError::Missing { needs })
    );

    migrate(&config(&database)).await.expect("a migration");
    assert_eq!(checked(&database).await, Ok(needs));

    let pool = database.pool();
    // A later release has migrated: it tells which releases it still suits.
    run(
        pool,
        "insert into bridge._sqlx_migrations (version, description, success, checksum, execution_time)
        values (9000, 'later', true, '', 0)",
    )
    .await;
    assert_eq!(checked(&database).await, Ok(9000));
    migrate(&config(&database))
        .await
        .expect("nothing to do for the earlier release");
    run(pool, "update bridge.schema_floor set version = 9000").await;
    let newer = SchemaError::Newer {
        needs,
        found: 9000,
        floor: 9000,
    };
    assert_eq!(checked(&database).await, Err(newer));
    run(
        pool,
        "delete from bridge._sqlx_migrations where version = 9000",
    )
    .await;

    run(
        pool,
        "update bridge._sqlx_migrations set success = false where version = 2",
    )
    .await;
    assert_eq!(
        checked(&database).await,
        Err(SchemaError::Unfinished { version: 2 })
    );
    run(
        pool,
        "update bridge._sqlx_migrations set success = true, checksum = '' where version = 2",
    )
    .await;
    assert_eq!(
        checked(&database).await,
        Err(SchemaError::Changed { version: 2 })
    );
    let refused = migrate(&config(&database)).await;
    assert!(
        matches!(
            refused,
            Err(PgError::Schema(SchemaError::Changed { version: 2 }))
        ),
        "{refused:?}"
    );
    run(
        pool,
        "delete from bridge._sqlx_migrations where version = 2",
    )
    .await;
    assert_eq!(
        checked(&database).await,
        Err(SchemaError::Older { needs, found: 1 })
    );
}

#[tokio::test]
async fn migrations_run_where_supabase_has_no_roles() {
    let database = TestDatabase::create().await;
    supabase_roles(database.pool()).await;
    let mut tx = database.pool().begin().await.expect("a transaction");
    // Roles belong to the whole cluster: here, and until the rollback, they have other names.
    for role in ["anon", "authenticated", "service_role"] {
        let away = format!(
            "alter role {role} rename to gone_{role}_{}",
            database.name()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(away))
            .execute(&mut *tx)
            .await
            .expect("a rename");
    }
    sqlx::raw_sql("create schema bridge")
        .execute(&mut *tx)
        .await
        .expect("a schema");
    for migration in MIGRATIONS.iter() {
        sqlx::raw_sql(migration.sql.clone())
            .execute(&mut *tx)
            .await
            .unwrap_or_else(|err| panic!("migration {}: {err}", migration.version));
    }
    let (policies, secured): (i64, i64) = sqlx::query_as(
        "select (select count(*) from pg_policies where tablename like 'ctrader%'
                and not roles <@ array['bridge_worker', 'bridge_app']::name[]),
            (select count(*) from pg_class where relname in ('ctrader_cache', 'ctrader_deals')
                and relrowsecurity)",
    )
    .fetch_one(&mut *tx)
    .await
    .expect("policies");
    assert_eq!(
        (policies, secured),
        (0, 2),
        "without a policy nobody but the owner and the service reads"
    );
    tx.rollback().await.expect("a rollback");
}

/// A database as Supabase hands it out: its roles, its default privileges, its publication.
async fn supabase() -> TestDatabase {
    let database = TestDatabase::create().await;
    supabase_roles(database.pool()).await;
    run(
        database.pool(),
        "alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
        alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
        grant usage on schema public to anon, authenticated, service_role;
        create publication supabase_realtime;",
    )
    .await;
    migrate(&config(&database)).await.expect("a migration");
    database
}

/// Acts as PostgREST does for a request, in a transaction that is rolled back.
async fn as_role(
    database: &TestDatabase,
    role: &'static str,
    claims: &str,
    sql: &'static str,
) -> Result<Vec<i64>, String> {
    let mut tx = database.pool().begin().await.expect("a transaction");
    sqlx::query("select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)")
        .bind(role)
        .bind(claims)
        .execute(&mut *tx)
        .await
        .expect("a role");
    let rows = sqlx::query_scalar(sql).fetch_all(&mut *tx).await;
    tx.rollback().await.expect("a rollback");
    rows.map_err(|err| {
        let code = err
            .as_database_error()
            .and_then(|err| err.code().map(|code| code.to_string()));
        code.unwrap_or_else(|| err.to_string())
    })
}

async fn fill(conn: &mut PgConnection) {
    for (account, user) in [
        "lance@lwk.space",
        "0b0f2c52-0000-4000-8000-000000000000",
        "other@lwk.space",
    ]
    .into_iter()
    .enumerate()
    {
        let key = UserId::new(user).expect("a user").key();
        let account = i64::try_from(account).expect("small") + 1;
        sqlx::query(
            "insert into public.ctrader_cache (user_key, account_id, status, epoch, seq)
            values ($1, $2, 'live', 1, 1)",
        )
        .bind(&key)
        .bind(account)
        .execute(&mut *conn)
        .await
        .expect("a row");
        sqlx::query(
            "insert into public.ctrader_deals (user_key, account_id, deal_id, order_id, position_id,
                symbol_id, side, status, volume, filled_volume, executed_at)
            values ($1, $2, 1, 1, 1, 1, 'BUY', 'FILLED', 1, 1, now())",
        )
        .bind(&key)
        .bind(account)
        .execute(&mut *conn)
        .await
        .expect("a row");
    }
}

const READ_CACHE: &str = "select account_id from public.ctrader_cache order by 1";
const READ_DEALS: &str = "select account_id from public.ctrader_deals order by 1";
const DENIED: &str = "42501";

#[tokio::test]
async fn a_signed_in_user_reads_their_own_rows_and_nothing_else() {
    let database = supabase().await;
    fill(&mut database.pool().acquire().await.expect("a connection")).await;
    let uuid = r#"{"sub":"0b0f2c52-0000-4000-8000-000000000000","role":"authenticated"}"#;
    let both = r#"{"sub":"0b0f2c52-0000-4000-8000-000000000000","email":"lance@lwk.space"}"#;
    let nobody = r#"{"sub":"x","email":""}"#;
    for sql in [READ_CACHE, READ_DEALS] {
        for (claims, expected) in [
            (uuid, vec![2]),
            (both, vec![1, 2]),
            (nobody, vec![]),
            ("", vec![]),
            ("{}", vec![]),
        ] {
            assert_eq!(
                as_role(&database, "authenticated", claims, sql).await,
                Ok(expected),
                "{claims}"
            );
        }
        assert_eq!(
            as_role(&database, "anon", both, sql).await,
            Err(DENIED.to_owned())
        );
    }
    for role in ["anon", "authenticated"] {
        for sql in [
            "update public.ctrader_cache set balance = 1 returning account_id",
            "delete from public.ctrader_cache returning account_id",
            "insert into public.ctrader_cache (user_key, account_id, status, epoch, seq)
                values ('x', 1, 'live', 1, 1) returning account_id",
            "delete from public.ctrader_deals returning account_id",
            "select account_id from bridge.sessions",
            "select account_id from bridge.credentials",
            "select epoch from bridge.slots",
            "select account_id from bridge.history",
            "delete from bridge.history returning account_id",
            "select 1::bigint from bridge.token_refreshes",
            "select version from bridge._sqlx_migrations",
            "select bridge.slot_of('x')::bigint",
        ] {
            assert_eq!(
                as_role(&database, role, both, sql).await,
                Err(DENIED.to_owned()),
                "{role}: {sql}"
            );
        }
    }
}

#[tokio::test]
async fn the_service_writes_credentials_reads_the_rest_and_sees_no_refresh() {
    let database = supabase().await;
    let inserted =
        "insert into bridge.credentials (user_id, account_id, is_live, access_token, refresh_token)
        values ('lance@lwk.space', 5150705, false, 'a', 'r') returning account_id";
    assert_eq!(
        as_role(&database, "service_role", "", inserted).await,
        Ok(vec![5_150_705])
    );
    for sql in [
        "select account_id from bridge.sessions",
        READ_CACHE,
        READ_DEALS,
        "select account_id from bridge.history",
        "delete from bridge.history returning account_id",
    ] {
        assert_eq!(
            as_role(&database, "service_role", "", sql).await,
            Ok(vec![])
        );
    }
    for sql in [
        "insert into bridge.history values ('u', 1, now()) returning account_id",
        "update bridge.history set through = now() returning account_id",
        "select 1::bigint from bridge.token_refreshes",
        "delete from bridge.token_refreshes returning 1::bigint",
    ] {
        assert_eq!(
            as_role(&database, "service_role", "", sql).await,
            Err(DENIED.to_owned()),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn the_policy_uses_the_key() {
    let database = supabase().await;
    fill(&mut database.pool().acquire().await.expect("a connection")).await;
    let mut tx = database.pool().begin().await.expect("a transaction");
    sqlx::raw_sql(
        "set local enable_seqscan = off; set local role authenticated;
        set local request.jwt.claims = '{\"sub\":\"x\"}'",
    )
    .execute(&mut *tx)
    .await
    .expect("a role");
    let plan: Vec<String> = sqlx::query_scalar("explain select * from public.ctrader_deals")
        .fetch_all(&mut *tx)
        .await
        .expect("a plan");
    let plan = plan.join("\n");
    assert!(plan.contains("Index Cond: (user_key = ANY"), "{plan}");
}

#[tokio::test]
async fn the_public_tables_are_in_supabases_publication() {
    let database = supabase().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select schemaname || '.' || tablename from pg_publication_tables
        where pubname = 'supabase_realtime' order by 1",
    )
    .fetch_all(database.pool())
    .await
    .expect("a publication");
    assert_eq!(tables, ["public.ctrader_cache", "public.ctrader_deals"]);
}

#[tokio::test]
async fn a_user_has_one_primary_account_at_most() {
    let database = migrated().await;
    let insert =
        "insert into bridge.credentials (user_id, account_id, is_live, access_token, refresh_token)
        values ('u', (select count(*) + 1 from bridge.credentials), false, 'a', 'r')";
    run(database.pool(), insert).await;
    let second = sqlx::raw_sql(insert)
        .execute(database.pool())
        .await
        .expect_err("a second primary");
    assert!(
        second
            .as_database_error()
            .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
    );
}

#[tokio::test]
async fn a_change_of_credentials_is_stamped_and_hinted() {
    let database = migrated().await;
    let mut hints = NotificationListener::connect(&config(&database))
        .await
        .expect("a listener");
    let slot = |user: &str| UserId::new(user).expect("a user").slot();
    for (sql, users) in [
        (
            "insert into bridge.credentials values ('u', 1, false, true, 'a', 'r', null, '2026-01-01')",
            vec!["u"],
        ),
        (
            "update bridge.credentials set access_token = 'b'",
            vec!["u"],
        ),
        (
            "update bridge.credentials set user_id = 'v'",
            vec!["u", "v"],
        ),
        ("delete from bridge.credentials", vec!["v"]),
    ] {
        sqlx::raw_sql(sql)
            .execute(database.pool())
            .await
            .expect("a change");
        for user in users {
            let hint = tokio::time::timeout(std::time::Duration::from_secs(10), hints.next()).await;
            assert_eq!(
                hint.expect("in time").expect("a hint"),
                Notification::Slot(slot(user)),
                "{sql}"
            );
        }
        if sql.starts_with("update") {
            let recent: bool =
                sqlx::query_scalar("select updated_at > '2026-02-01' from bridge.credentials")
                    .fetch_one(database.pool())
                    .await
                    .expect("a stamp");
            assert!(recent);
        }
    }
}
