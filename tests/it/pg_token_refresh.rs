//! A refresh token is sent by one worker, once; what it was exchanged for reaches the rows that had it,
//! and no row that has a newer one.

use std::time::Duration;

use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::pg::connect::Database;
use mahspeccy_bridge::pg::credentials::{self, Credentials, CredentialsUpdate};
use mahspeccy_bridge::pg::listen::{Notification, NotificationListener};
use mahspeccy_bridge::pg::token_refresh::{
    LeaseOutcome, complete, lease, mark_sent, refuse, release, release_proven_unsent,
};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::pg_support::{config, key, migrated, soon, user};

const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const MINUTE: Duration = Duration::from_mins(1);
const EXPIRES: OffsetDateTime = datetime!(2026-12-23 05:42:00 UTC);

async fn leased(conn: &mut PgConnection, worker: &str) -> LeaseOutcome {
    lease(conn, HASH, worker, MINUTE).await.expect("an answer")
}

async fn run(conn: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql)
        .execute(conn)
        .await
        .unwrap_or_else(|err| panic!("{sql}: {err}"));
}

/// The lease as if its time were over.
async fn let_run_out(conn: &mut PgConnection) {
    run(
        conn,
        "update bridge.token_refreshes set leased_until = clock_timestamp() - interval '1 ms'",
    )
    .await;
}

fn done(access: &str, refresh: &str) -> LeaseOutcome {
    LeaseOutcome::Done {
        access_token: Secret::new(access),
        refresh_token: Secret::new(refresh),
        expires_at: Some(EXPIRES),
    }
}

#[tokio::test]
async fn of_twenty_who_ask_at_once_one_is_granted() {
    let database = migrated().await;
    let pool = Database::new(&config(&database), 20).expect("a pool");
    // Free at first, and then over: both are to be had by one.
    for round in 0..2 {
        let mut asking = tokio::task::JoinSet::new();
        for number in 0..20 {
            let pool = pool.clone();
            asking.spawn(async move {
                let mut conn = pool.acquire().await.expect("a connection");
                let answer = lease(&mut conn, HASH, &format!("w{number}"), MINUTE).await;
                conn.release(answer).expect("an answer")
            });
        }
        let replies = soon("twenty replies", asking.join_all()).await;
        let granted = replies
            .iter()
            .filter(|answer| **answer == LeaseOutcome::Granted);
        assert_eq!(granted.count(), 1, "round {round}: {replies:?}");
        let busy = replies
            .iter()
            .filter(|answer| **answer == LeaseOutcome::Busy);
        assert_eq!(busy.count(), 19, "round {round}: {replies:?}");
        let_run_out(&mut database.pool().acquire().await.expect("a connection")).await;
    }
    pool.close().await;
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_over() {
    let database = migrated().await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    assert_eq!(leased(&mut conn, "a").await, LeaseOutcome::Granted);
    for worker in ["b", "a"] {
        assert_eq!(leased(&mut conn, worker).await, LeaseOutcome::Busy);
    }
    let_run_out(&mut conn).await;
    assert_eq!(leased(&mut conn, "b").await, LeaseOutcome::Granted);
    assert!(!mark_sent(&mut conn, HASH, "a").await.expect("an answer"));
    release(&mut conn, HASH, "a").await.expect("an answer");
    assert_eq!(leased(&mut conn, "a").await, LeaseOutcome::Busy);
    // Nobody took it over: it is still its own, and can be used once.
    let_run_out(&mut conn).await;
    assert!(mark_sent(&mut conn, HASH, "b").await.expect("an answer"));
    assert!(!mark_sent(&mut conn, HASH, "b").await.expect("an answer"));
    // By the server's clock.
    let short = Duration::from_millis(1);
    let other = lease(&mut conn, "other", "a", short).await.expect("one");
    assert_eq!(other, LeaseOutcome::Granted);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let other = lease(&mut conn, "other", "b", MINUTE).await.expect("one");
    assert_eq!(other, LeaseOutcome::Granted);
}

#[tokio::test]
async fn what_was_sent_is_not_sent_again() {
    let database = migrated().await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    assert_eq!(leased(&mut conn, "a").await, LeaseOutcome::Granted);
    assert!(mark_sent(&mut conn, HASH, "a").await.expect("an answer"));
    let_run_out(&mut conn).await;
    let LeaseOutcome::Sent { at } = leased(&mut conn, "b").await else {
        panic!("it was sent");
    };
    assert_eq!(leased(&mut conn, "a").await, LeaseOutcome::Sent { at });
    release(&mut conn, HASH, "b").await.expect("an answer");
    let other_time = at + Duration::from_micros(1);
    for (sent_at, released) in [(other_time, false), (at, true), (at, false)] {
        let answer = release_proven_unsent(&mut conn, HASH, sent_at).await;
        assert_eq!(answer.expect("an answer"), released);
    }
    assert_eq!(leased(&mut conn, "b").await, LeaseOutcome::Granted);
}

#[tokio::test]
async fn a_lease_is_given_back_before_and_after_it_was_used() {
    let database = migrated().await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    for sent in [false, true] {
        assert_eq!(leased(&mut conn, "a").await, LeaseOutcome::Granted);
        if sent {
            assert!(mark_sent(&mut conn, HASH, "a").await.expect("an answer"));
        }
        release(&mut conn, HASH, "a").await.expect("an answer");
    }
    assert_eq!(leased(&mut conn, "b").await, LeaseOutcome::Granted);
}

#[tokio::test]
async fn an_outcome_stays() {
    let database = migrated().await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    assert_eq!(leased(&mut conn, "a").await, LeaseOutcome::Granted);
    assert!(mark_sent(&mut conn, HASH, "a").await.expect("an answer"));
    for _ in 0..2 {
        refuse(&mut conn, HASH, "no \0 more").await.expect("stored");
    }
    let refused = LeaseOutcome::Refused {
        reason: "no \u{fffd} more".to_owned(),
    };
    for worker in ["a", "b"] {
        release(&mut conn, HASH, worker).await.expect("an answer");
        assert!(!mark_sent(&mut conn, HASH, worker).await.expect("an answer"));
        assert_eq!(leased(&mut conn, worker).await, refused);
    }

    // A pair is a fact, whatever was stored before or is stored after.
    let pair = (&Secret::new("a2"), &Secret::new("r2"));
    let rotated = complete(&mut conn, HASH, pair, Some(EXPIRES), &[]).await;
    assert_eq!(rotated.expect("done"), 0);
    refuse(&mut conn, HASH, "no more").await.expect("stored");
    release(&mut conn, HASH, "a").await.expect("an answer");
    assert_eq!(leased(&mut conn, "a").await, done("a2", "r2"));

    // The rows of both may be gone by then.
    run(&mut conn, "delete from bridge.token_refreshes").await;
    complete(&mut conn, HASH, pair, Some(EXPIRES), &[])
        .await
        .expect("done");
    assert_eq!(leased(&mut conn, "a").await, done("a2", "r2"));
    refuse(&mut conn, "other", "no more").await.expect("stored");
    let other = lease(&mut conn, "other", "a", MINUTE).await.expect("one");
    let reason = "no more".to_owned();
    assert_eq!(other, LeaseOutcome::Refused { reason });
}

#[tokio::test]
async fn what_is_old_goes_with_the_next_lease() {
    let database = migrated().await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    run(
        &mut conn,
        "insert into bridge.token_refreshes (token_hash, state, worker_id, leased_until, updated_at)
        values ('old', 'refused', '', now(), now() - interval '91 days'),
            ('young', 'refused', '', now(), now() - interval '89 days')",
    )
    .await;
    assert_eq!(leased(&mut conn, "a").await, LeaseOutcome::Granted);
    let left: Vec<String> =
        sqlx::query_scalar("select token_hash from bridge.token_refreshes order by 1 desc")
            .fetch_all(&mut *conn)
            .await
            .expect("rows");
    assert_eq!(left, ["young", HASH]);
}

/// A grant of two accounts, two other rows of the same user, and two rows of others, one of the same grant.
async fn grants(pool: &PgPool) {
    sqlx::raw_sql(
        "insert into bridge.credentials
            (user_id, account_id, is_live, is_primary, access_token, refresh_token, expires_at)
        values ('lance', 1, false, true, 'a1', 'r1', '2026-11-24 05:42Z'),
            ('lance', 2, true, false, 'a1', 'r1', null),
            ('lance', 3, true, false, 'sealed a1', 'sealed r1', null),
            ('lance', 4, true, false, 'x', 'y', null),
            ('other', 1, false, true, 'a1', 'r1', null),
            ('third', 1, false, true, 'x', 'y', null)",
    )
    .execute(pool)
    .await
    .expect("credentials");
}

fn update(id: &str, account: i64, old: &str, new: (&str, &str)) -> CredentialsUpdate {
    CredentialsUpdate {
        key: key(id, account),
        old_refresh_token: Secret::new(old),
        access_token: Secret::new(new.0),
        refresh_token: Secret::new(new.1),
    }
}

/// The rows as `user account access refresh`.
async fn rows(conn: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', user_id, account_id, access_token, refresh_token)
        from bridge.credentials order by user_id, account_id",
    )
    .fetch_all(conn)
    .await
    .expect("rows")
}

#[tokio::test]
async fn a_stored_pair_is_found_with_all_that_may_be_of_its_grant() {
    let database = migrated().await;
    grants(database.pool()).await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    let lance = credentials::load(&mut conn, &key("lance", 1)).await;
    let lance = lance.expect("an answer").expect("a row");
    let expected = Credentials {
        key: key("lance", 1),
        access_token: Secret::new("a1"),
        refresh_token: Secret::new("r1"),
        expires_at: Some(datetime!(2026-11-24 05:42 UTC)),
        updated_at: lance.updated_at,
        is_live: false,
    };
    assert_eq!(lance, expected);
    let shown = format!("{lance:?} {:?}", done("secret-a", "secret-r"));
    for secret in ["lance", "a1", "r1", "secret-a", "secret-r"] {
        assert!(!shown.contains(&format!("\"{secret}\"")), "{shown}");
    }
    let nobody = credentials::load(&mut conn, &key("lance", 5)).await;
    assert_eq!(nobody.expect("an answer"), None);

    let found = credentials::load_same_grant(&mut conn, &user("lance"), &lance.refresh_token).await;
    let found = found.expect("rows");
    let keys: Vec<(&str, i64)> = found
        .iter()
        .map(|row| (row.key.user.as_str(), row.key.account.0))
        .collect();
    assert_eq!(
        keys,
        [
            ("lance", 1),
            ("lance", 2),
            ("lance", 3),
            ("lance", 4),
            ("other", 1)
        ]
    );
    assert_eq!(found[0], lance);
    assert_eq!((found[2].is_live, found[2].expires_at), (true, None));
    let none = credentials::load_same_grant(&mut conn, &user("nobody"), &Secret::new("r0")).await;
    assert_eq!(none.expect("rows"), []);
}

#[tokio::test]
async fn a_new_pair_reaches_the_rows_that_are_named_and_still_have_the_old_one() {
    let database = migrated().await;
    grants(database.pool()).await;
    let mut conn = database.pool().acquire().await.expect("a connection");
    // Granted anew in the meantime.
    run(
        &mut conn,
        "update bridge.credentials set access_token = 'n', refresh_token = 'n' where account_id = 2",
    )
    .await;
    assert_eq!(leased(&mut conn, "a").await, LeaseOutcome::Granted);
    assert!(mark_sent(&mut conn, HASH, "a").await.expect("an answer"));
    let mut hints = NotificationListener::connect(&config(&database))
        .await
        .expect("hints");
    let pair = (&Secret::new("pair a2"), &Secret::new("pair r2"));
    let updates = [
        update("lance", 1, "r1", ("a2", "r2")),
        update("lance", 2, "r1", ("a2", "r2")),
        update("lance", 3, "sealed r1", ("sealed a2", "sealed r2")),
        update("lance", 5, "r1", ("a2", "r2")),
    ];
    let expected = [
        "lance 1 a2 r2",
        "lance 2 n n",
        "lance 3 sealed a2 sealed r2",
        "lance 4 x y",
        "other 1 a1 r1",
        "third 1 x y",
    ];
    for updated in [2, 0] {
        let rotated = complete(&mut conn, HASH, pair, Some(EXPIRES), &updates).await;
        assert_eq!(rotated.expect("done"), updated);
        assert_eq!(rows(&mut conn).await, expected);
        assert_eq!(leased(&mut conn, "b").await, done("pair a2", "pair r2"));
    }
    let hint = soon("a hint", hints.next()).await.expect("a hint");
    assert_eq!(hint, Notification::Slot(user("lance").slot()));
    let row = credentials::load(&mut conn, &key("lance", 1)).await;
    let expires_at = row.expect("an answer").expect("a row").expires_at;
    assert_eq!(expires_at, Some(EXPIRES));

    // The other user's row of the same grant takes the pair when its turn comes.
    let adopted = [update("other", 1, "r1", ("o2", "o2"))];
    let rotated = complete(&mut conn, HASH, pair, None, &adopted).await;
    assert_eq!(rotated.expect("done"), 1);
    assert_eq!(rows(&mut conn).await[4], "other 1 o2 o2");
}

#[tokio::test]
async fn a_grant_that_comes_in_the_middle_stays() {
    let database = migrated().await;
    grants(database.pool()).await;
    let mut app = database.pool().begin().await.expect("a transaction");
    sqlx::raw_sql(
        "update bridge.credentials set access_token = 'n', refresh_token = 'n'
        where user_id = 'lance' and account_id = 1",
    )
    .execute(&mut *app)
    .await
    .expect("a grant");
    let pool = database.pool().clone();
    let completing = tokio::spawn(async move {
        let mut conn = pool.acquire().await.expect("a connection");
        let updates = [1, 2].map(|account| update("lance", account, "r1", ("a2", "r2")));
        let pair = (&Secret::new("a2"), &Secret::new("r2"));
        complete(&mut conn, HASH, pair, None, &updates).await
    });
    // It waits for the row, and reads it again.
    let waiting = async {
        let sql = "select exists (select from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock')";
        while !sqlx::query_scalar::<_, bool>(sql)
            .fetch_one(database.pool())
            .await
            .expect("activity")
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the lock", waiting).await;
    app.commit().await.expect("a commit");
    let rotated = soon("the rotation", completing).await.expect("a task");
    assert_eq!(rotated.expect("done"), 1);
    let mut conn = database.pool().acquire().await.expect("a connection");
    let rows = rows(&mut conn).await;
    assert_eq!(rows[..2], ["lance 1 n n", "lance 2 a2 r2"]);
}
