//! Many accounts and several workers: who has what, and how old rows become meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mahspeccy_bridge::sim::{AccountSpec, Builder, PositionSpec, Side, Simulator, raw};
use sqlx::PgPool;
use tokio_util::task::AbortOnDropHandle;

use super::fleet::{Fleet, Worker};
use super::wait::eventually;

/// How long a whole crowd may take.
pub(crate) const LONG: Duration = Duration::from_mins(2);

/// Accounts 1 to `count`, a user and a position each.
pub(crate) fn world(count: i64) -> Builder {
    (1..=count).fold(
        Simulator::builder().seed(4).ticks_per_second(0.5),
        |world, id| {
            let position = PositionSpec::new(id, "EURUSD", Side::Buy, 1_000_000, raw("1.08000"));
            let account = AccountSpec::new(id)
                .token(&token(id))
                .balance(1_000_000)
                .position(position);
            world.account(account)
        },
    )
}

pub(crate) fn user(id: i64) -> String {
    format!("user-{id}@example.org")
}

fn token(id: i64) -> String {
    format!("token-{id}")
}

/// What the app and its commands have left in the tables.
pub(crate) async fn want_all(fleet: &Fleet, ids: std::ops::RangeInclusive<i64>) {
    for sql in [
        "insert into bridge.credentials (user_id, account_id, is_live, access_token, refresh_token)
         select 'user-' || n || '@example.org', n, false, 'token-' || n, 'refresh-' || n
         from generate_series($1, $2) n",
        "insert into bridge.sessions (user_id, account_id, desired, command_id, command_issued_at, status)
         select 'user-' || n || '@example.org', n, 'running', gen_random_uuid(), now(), 'pending'
         from generate_series($1, $2) n",
    ] {
        sqlx::query(sql)
            .bind(ids.start())
            .bind(ids.end())
            .execute(fleet.db.pool())
            .await
            .expect("they are wanted");
    }
}

/// Waits until this many rows are live.
pub(crate) async fn until_all_live(fleet: &Fleet, count: i64) {
    eventually("all to be live", LONG, async || {
        let live: i64 = sqlx::query_scalar(
            "select count(*) from public.ctrader_cache c
             join bridge.sessions s
                on c.user_key = encode(sha256(convert_to(s.user_id, 'UTF8')), 'hex') and c.account_id = s.account_id
             join bridge.slots l on l.slot = s.slot and l.epoch = c.epoch and l.worker_id is not null
             where c.is_connected and c.status = 'live' and s.status = 'live'
                and c.updated_at > clock_timestamp() - interval '3 s'",
        )
        .fetch_one(fleet.db.pool())
        .await
        .expect("rows");
        if live == count { Ok(()) } else { Err(live) }
    })
    .await;
}

/// How many live sessions each worker has.
pub(crate) async fn spread(fleet: &Fleet) -> BTreeMap<String, i64> {
    sqlx::query_as::<_, (String, i64)>(
        "select coalesce(l.worker_id, ''), count(*) from bridge.sessions s
         join bridge.slots l on l.slot = s.slot where s.desired = 'running' group by 1",
    )
    .fetch_all(fleet.db.pool())
    .await
    .expect("sessions")
    .into_iter()
    .collect()
}

/// Waits until this worker has this many sessions, which is all of them.
pub(crate) async fn until_all_at(fleet: &Fleet, worker: &Worker, count: i64) {
    eventually("one worker to have all", LONG, async || {
        let spread = spread(fleet).await;
        if spread.get(&worker.id) == Some(&count) {
            Ok(())
        } else {
            Err(spread)
        }
    })
    .await;
}

/// Waits until each of the workers has its share, give or take some, and nothing is on its way.
pub(crate) async fn until_shared(fleet: &Fleet, workers: &[&Worker], give_or_take: i64) {
    eventually("each to have its share", LONG, async || {
        let spread = spread(fleet).await;
        let total: i64 = spread.values().sum();
        let share = total / i64::try_from(workers.len()).expect("a few");
        let fair = workers.iter().all(|worker| {
            let sessions = spread.get(&worker.id).copied().unwrap_or(0);
            (sessions - share).abs() <= give_or_take
        });
        let moving: i64 = sqlx::query_scalar(
            "select count(*) from bridge.handovers h
             join bridge.slots s on s.slot = h.slot and s.epoch = h.epoch",
        )
        .fetch_one(fleet.db.pool())
        .await
        .expect("hand-overs");
        if fair && moving == 0 {
            Ok(())
        } else {
            Err((spread, moving))
        }
    })
    .await;
}

/// The epoch and the owner of each slot that has sessions.
pub(crate) async fn slots(fleet: &Fleet) -> BTreeMap<i32, (i64, String)> {
    sqlx::query_as::<_, (i32, i64, Option<String>)>(
        "select slot, epoch, worker_id from bridge.slots
         where slot in (select slot from bridge.sessions) order by slot",
    )
    .fetch_all(fleet.db.pool())
    .await
    .expect("slots")
    .into_iter()
    .map(|(slot, epoch, owner)| (slot, (epoch, owner.unwrap_or_default())))
    .collect()
}

/// The accounts of each slot.
pub(crate) async fn accounts(fleet: &Fleet) -> BTreeMap<i32, Vec<i64>> {
    let mut accounts: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("select slot, account_id from bridge.sessions order by 1, 2")
            .fetch_all(fleet.db.pool())
            .await
            .expect("sessions");
    for (slot, account) in rows {
        accounts.entry(slot).or_default().push(account);
    }
    accounts
}

/// Waits until a worker has no slot any more.
pub(crate) async fn until_without(fleet: &Fleet, worker: &Worker) {
    eventually("all its slots to be others'", LONG, async || {
        let left = slots(fleet)
            .await
            .into_values()
            .filter(|(_, owner)| *owner == worker.id)
            .count();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

/// Each account is on exactly one connection, once what is under way is done.
pub(crate) async fn until_on_one_connection_each(fleet: &Fleet, count: i64) {
    eventually("each account to be on one connection", LONG, async || {
        let odd: Vec<(i64, usize)> = fleet.sim.with(|broker| {
            (1..=count)
                .map(|id| (id, broker.authorised_on(id).len()))
                .filter(|(_, connections)| *connections != 1)
                .collect()
        });
        if odd.is_empty() { Ok(()) } else { Err(odd) }
    })
    .await;
}

/// Watches rows, by the clock that writes them.
pub(crate) struct RowWatch {
    seen: Arc<Mutex<Seen>>,
    _task: AbortOnDropHandle<()>,
}

/// What was seen of rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The oldest that any row was, in seconds, and of which account.
    pub(crate) oldest: f64,
    pub(crate) oldest_account: i64,
    /// Accounts whose row was seen not connected.
    pub(crate) disconnected: Vec<i64>,
    /// How often the rows were read.
    pub(crate) reads: u32,
}

impl RowWatch {
    /// Watches the rows of these accounts, until it is dropped.
    pub(crate) fn start(pool: &PgPool, accounts: Vec<i64>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (noted, pool) = (Arc::clone(&seen), pool.clone());
        let task = tokio::spawn(async move {
            let mut rounds = tokio::time::interval(Duration::from_millis(50));
            loop {
                rounds.tick().await;
                let rows: Result<Vec<(i64, f64, bool)>, _> = sqlx::query_as(
                    "select account_id, extract(epoch from statement_timestamp() - updated_at)::float8,
                        is_connected from public.ctrader_cache where account_id = any ($1)",
                )
                .bind(&accounts)
                .fetch_all(&pool)
                .await;
                // The server may be away for the sake of the test.
                let Ok(rows) = rows else { continue };
                let mut seen = noted.lock().expect("nobody panics");
                seen.reads += 1;
                for (account, age, connected) in rows {
                    if age > seen.oldest {
                        (seen.oldest, seen.oldest_account) = (age, account);
                    }
                    if !connected && !seen.disconnected.contains(&account) {
                        seen.disconnected.push(account);
                    }
                }
            }
        });
        Self {
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What was seen until now.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().expect("nobody panics").clone()
    }
}
