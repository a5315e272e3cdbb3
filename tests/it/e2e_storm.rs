//! Three hundred accounts on one connection, started at once.

use std::time::Duration;

use mahspeccy_bridge::sim::{AccountSpec, PositionSpec, Side, Simulator, raw};

use super::support::fleet::Fleet;
use super::support::wait::eventually;

const ACCOUNTS: i64 = 300;

/// Three requests an account at cTrader's fifty a second, and a third of that more.
const LIVE_WITHIN: Duration = Duration::from_millis(300 * 3 * 1_000 / 50 * 13 / 10);

#[tokio::test]
async fn a_crowd_goes_live_within_the_request_budget_and_is_never_refused() {
    let world = (1..=ACCOUNTS).fold(Simulator::builder().market_paused(), |world, id| {
        let position = PositionSpec::new(id, "USDJPY", Side::Buy, 100_000, raw("150"));
        world.account(AccountSpec::new(id).token("crowd").position(position))
    });
    let mut fleet = Fleet::new(world).await;
    sqlx::query(
        "insert into bridge.credentials (user_id, account_id, is_live, access_token, refresh_token)
         select 'user-' || n, n, false, 'crowd', 'refresh-crowd' from generate_series(1, $1) n",
    )
    .bind(ACCOUNTS)
    .execute(fleet.db.pool())
    .await
    .expect("credentials");
    sqlx::query(
        "insert into bridge.sessions (user_id, account_id, desired, command_id, command_issued_at, status)
         select 'user-' || n, n, 'running', gen_random_uuid(), now(), 'pending' from generate_series(1, $1) n",
    )
    .bind(ACCOUNTS)
    .execute(fleet.db.pool())
    .await
    .expect("sessions");
    let worker = fleet.worker().await;
    let live = async |condition: &str| -> i64 {
        let sql =
            format!("select count(*) from public.ctrader_cache where is_connected {condition}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(fleet.db.pool())
            .await
            .expect("rows")
    };
    eventually("all to be live", Duration::from_mins(2), async || {
        let live = live("and status = 'live'").await;
        if live == ACCOUNTS { Ok(()) } else { Err(live) }
    })
    .await;
    // By the clock of the rows, which a busy test does not stretch: from the first account's
    // authorisation to the last row that became live.
    let took: f64 = sqlx::query_scalar(
        "select extract(epoch from max(s.updated_at) - min(c.claimed_at))::float8
         from bridge.sessions s join bridge.slots c on c.slot = s.slot where s.status = 'live'",
    )
    .fetch_one(fleet.db.pool())
    .await
    .expect("times");
    let (most, historical, refused) = fleet.sim.with(|broker| {
        let sockets = broker.connections();
        (
            sockets[0].most_requests_per_second,
            sockets[0].most_history_per_second,
            broker.stats().rate_refusals,
        )
    });
    eprintln!("{ACCOUNTS} accounts live in {took:.2} s, at most {most} requests in a second");
    assert!(took < LIVE_WITHIN.as_secs_f64(), "{took} s");
    assert!(most <= 50 && historical <= 5, "{most} {historical}");
    assert_eq!(refused, 0);
    // The prices of the last come after everybody's snapshots.
    eventually("all to be valued", Duration::from_mins(1), async || {
        live("and equity is not null").await == ACCOUNTS
    })
    .await;
    for id in [1, 150, ACCOUNTS] {
        fleet.until_true(&format!("user-{id}"), id).await;
    }
    let refused = fleet.sim.with(|broker| broker.stats().rate_refusals);
    assert_eq!(refused, 0);
    worker.drain().await;
}
