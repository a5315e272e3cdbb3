//! The roles for workers and for the app's edge function: what each may do, and what happens where they
//! cannot be made.

use mahspeccy_bridge::pg::schema::MIGRATIONS;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::pg_support::{migrated, supabase_roles};
use crate::support::postgres::TestDatabase;

/// Runs a statement with a role's rights, in a transaction that is rolled back.
async fn may(database: &TestDatabase, role: &str, sql: &'static str) -> bool {
    let mut tx = database.pool().begin().await.expect("a transaction");
    become_role(&mut tx, role).await;
    let done = tx.execute(sql).await;
    tx.rollback().await.expect("a rollback");
    match done {
        Ok(_) => true,
        Err(err) => {
            let code = err
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code);
            assert_eq!(code.as_deref(), Some("42501"), "{sql}: {err}");
            false
        }
    }
}

async fn become_role(conn: &mut PgConnection, role: &str) {
    conn.execute(AssertSqlSafe(format!("set local role {role}")))
        .await
        .unwrap_or_else(|err| panic!("role {role}: {err}"));
}

#[tokio::test]
async fn a_worker_may_do_its_work_and_no_more() {
    let database = migrated().await;
    for sql in [
        "select version from bridge._sqlx_migrations union all select version from bridge.schema_floor",
        "update bridge.slots set epoch = epoch + 1 where slot = 1",
        "select 1 from bridge.slots where slot = 1 for share",
        "insert into bridge.sessions (user_id, account_id, desired, command_id, command_issued_at, status)
            values ('u', 1, 'running', gen_random_uuid(), now(), 'pending')",
        "delete from bridge.sessions",
        "update bridge.credentials set access_token = 'a', refresh_token = 'r', expires_at = now()",
        "delete from bridge.token_refreshes",
        "insert into public.ctrader_cache (user_key, account_id, status, epoch, seq)
            values ('x', 1, 'live', 1, 1)",
        "delete from public.ctrader_cache",
        "select bridge.slot_of('u')",
    ] {
        assert!(may(&database, "bridge_worker", sql).await, "{sql}");
    }
    for sql in [
        "insert into bridge.credentials (user_id, account_id, is_live, access_token, refresh_token)
            values ('u', 1, false, 'a', 'r')",
        "update bridge.credentials set user_id = 'other'",
        "update bridge.credentials set is_primary = false",
        "delete from bridge.credentials",
        "delete from bridge.slots",
        "insert into bridge.slots (slot) values (5000)",
        "delete from bridge.history",
        "delete from public.ctrader_deals",
        "update bridge.schema_floor set version = 1",
        "delete from bridge._sqlx_migrations",
        "select state_hash from bridge.oauth_states",
        "select bridge.grant_roles()",
        "create table bridge.more (x int)",
        "create table public.more (x int)",
        "truncate public.ctrader_cache",
        "create policy mine on public.ctrader_cache using (true)",
    ] {
        assert!(!may(&database, "bridge_worker", sql).await, "{sql}");
    }
}

#[tokio::test]
async fn the_app_stores_tokens_and_never_reads_one() {
    let database = migrated().await;
    for sql in [
        "insert into bridge.credentials (user_id, account_id, is_live, is_primary, access_token, refresh_token)
            values ('u', 1, false, true, 'a', 'r')
            on conflict (user_id, account_id) do nothing",
        "update bridge.credentials set access_token = 'b', refresh_token = 's' where user_id = 'u'",
        "select user_id, account_id, is_live, is_primary, expires_at, updated_at from bridge.credentials",
        "delete from bridge.credentials where user_id = 'u'",
        "insert into bridge.oauth_states (state_hash, user_id, expires_at) values ('h', 'u', now())",
        "delete from bridge.oauth_states where state_hash = 'h' returning user_id",
        "select status from bridge.sessions",
        "select worker_id from bridge.slots",
        "select balance from public.ctrader_cache",
        "select bridge.slot_of('u')",
    ] {
        assert!(may(&database, "bridge_app", sql).await, "{sql}");
    }
    for sql in [
        "select access_token from bridge.credentials",
        "select refresh_token from bridge.credentials",
        "select * from bridge.credentials",
        "delete from bridge.credentials where refresh_token = 'r'",
        "insert into bridge.credentials (user_id, account_id, is_live, access_token, refresh_token)
            values ('u', 1, false, 'a', 'r') returning access_token",
        "select 1 from bridge.token_refreshes",
        "update bridge.sessions set desired = 'stopped'",
        "insert into bridge.user_commands values ('u', 'stop', gen_random_uuid(), now())",
        "update bridge.slots set epoch = 0",
        "update public.ctrader_cache set balance = 1",
        "delete from public.ctrader_cache",
        "select 1 from public.ctrader_deals",
        "select bridge.grant_roles()",
    ] {
        assert!(!may(&database, "bridge_app", sql).await, "{sql}");
    }
}

#[tokio::test]
async fn the_app_reads_every_row_and_a_user_still_their_own() {
    let database = migrated().await;
    let mut tx = database.pool().begin().await.expect("a transaction");
    tx.execute(
        "insert into public.ctrader_cache (user_key, account_id, status, epoch, seq)
            values ('a', 1, 'live', 1, 1), ('b', 2, 'live', 1, 1)",
    )
    .await
    .expect("rows");
    for role in ["bridge_app", "bridge_worker"] {
        become_role(&mut tx, role).await;
        let rows: i64 = sqlx::query_scalar("select count(*) from public.ctrader_cache")
            .fetch_one(&mut *tx)
            .await
            .expect("a count");
        assert_eq!(rows, 2, "{role}");
        tx.execute("reset role").await.expect("back");
    }
}

#[tokio::test]
async fn a_forgotten_grant_is_forgotten_where_it_was_renewed_too() {
    let database = migrated().await;
    let mut tx = database.pool().begin().await.expect("a transaction");
    tx.execute(
        "insert into bridge.credentials (user_id, account_id, is_live, is_primary, access_token, refresh_token)
            values ('u', 1, false, true, 'a1', 'r1'), ('u', 2, true, false, 'a1', 'r1'),
                ('v', 3, true, true, 'a2', 'r2');
        insert into bridge.token_refreshes
            (token_hash, state, worker_id, leased_until, access_token, refresh_token)
            values ('h1', 'done', '', now(), 'a1', 'r1'), ('h2', 'done', '', now(), 'a2', 'r2')",
    )
    .await
    .expect("grants");
    become_role(&mut tx, "bridge_app").await;
    tx.execute("delete from bridge.credentials where user_id = 'u'")
        .await
        .expect("the user goes");
    tx.execute("reset role").await.expect("back");
    let left: Vec<String> = sqlx::query_scalar("select token_hash from bridge.token_refreshes")
        .fetch_all(&mut *tx)
        .await
        .expect("what is left");
    assert_eq!(left, ["h2"]);
}

#[tokio::test]
async fn every_function_has_its_search_path_pinned() {
    let database = migrated().await;
    let loose: Vec<String> = sqlx::query_scalar(
        "select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in ('bridge'::regnamespace, 'public'::regnamespace)
            and not coalesce(p.proconfig @> array['search_path=\"\"'], false)",
    )
    .fetch_all(database.pool())
    .await
    .expect("functions");
    assert!(loose.is_empty(), "{loose:?}");
    let definer: Vec<String> = sqlx::query_scalar(
        "select p.proname::text from pg_proc p
        where p.prosecdef and p.pronamespace in ('bridge'::regnamespace, 'public'::regnamespace)",
    )
    .fetch_all(database.pool())
    .await
    .expect("functions");
    assert_eq!(definer, ["credentials_forget"]);
}

#[tokio::test]
async fn without_the_right_to_make_roles_the_migrations_pass_and_an_administrator_can_catch_up() {
    // Some database's migrations have made the roles, whichever test came first.
    drop(migrated().await);
    let database = TestDatabase::create().await;
    supabase_roles(database.pool()).await;
    let mut tx = database.pool().begin().await.expect("a transaction");
    // Roles belong to the whole cluster: here, and until the rollback, they have other names.
    let plain = format!("plain_{}", database.name());
    for sql in [
        format!("alter role bridge_worker rename to worker_{plain}"),
        format!("alter role bridge_app rename to app_{plain}"),
        format!("create role {plain} nologin nosuperuser nocreaterole"),
        format!("create schema bridge authorization {plain}"),
        format!("grant usage, create on schema public to {plain}"),
        format!("grant create on database {} to {plain}", database.name()),
        format!("set local role {plain}"),
    ] {
        tx.execute(AssertSqlSafe(sql.clone()))
            .await
            .unwrap_or_else(|err| panic!("{sql}: {err}"));
    }
    for migration in MIGRATIONS.iter() {
        sqlx::raw_sql(migration.sql.clone())
            .execute(&mut *tx)
            .await
            .unwrap_or_else(|err| panic!("migration {}: {err}", migration.version));
    }
    tx.execute("reset role").await.expect("an administrator");
    tx.execute("create role bridge_worker nologin")
        .await
        .expect("the role");
    become_role(&mut tx, &plain).await;
    for _ in 0..2 {
        tx.execute("select bridge.grant_roles()")
            .await
            .expect("the grants, as often as one likes");
    }
    become_role(&mut tx, "bridge_worker").await;
    tx.execute("update bridge.slots set epoch = 1; delete from public.ctrader_cache")
        .await
        .expect("the worker's work");
    tx.rollback().await.expect("a rollback");
}
