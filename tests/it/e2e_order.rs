//! Commands that arrive late, twice, or in any order at all.

use mahspeccy_bridge::sim::Simulator;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::support::fleet::{Fleet, Worker};

/// A command: its kind, its account, seconds after the first, and its id's number.
type Sent = (&'static str, Option<i64>, i64, u128);

async fn send(
    fleet: &Fleet,
    worker: &Worker,
    user: &str,
    at: OffsetDateTime,
    sent: Sent,
) -> String {
    let (command, account, seconds, number) = sent;
    // Ids are of the user too, but for the last digits, which order them.
    let user_bits = user
        .bytes()
        .fold(0_u128, |bits, byte| bits << 8 | u128::from(byte));
    let id = Uuid::from_u128((user_bits << 32) | number);
    let issued_at = at + time::Duration::seconds(seconds);
    fleet
        .command_at(command, user, json!(account), issued_at, id)
        .await;
    worker.outcome(id).await
}

async fn desired(fleet: &Fleet, user: &str) -> Vec<(i64, String)> {
    sqlx::query_as(
        "select account_id, desired from bridge.sessions where user_id = $1 order by account_id",
    )
    .bind(user)
    .fetch_all(fleet.db.pool())
    .await
    .expect("the sessions can be read")
}

/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

#[tokio::test]
async fn the_latest_of_three_commands_decides_in_every_order_and_however_often() {
    let mut fleet = Fleet::new(Simulator::builder()).await;
    let worker = fleet.worker().await;
    let at = OffsetDateTime::now_utc();
    // The last of each three decides; in the last two, by its id alone.
    let cases: [([Sent; 3], &str); 5] = [
        (
            [
                ("start", Some(5), 0, 9),
                ("stop", Some(5), 1, 5),
                ("start", Some(5), 2, 1),
            ],
            "running",
        ),
        (
            [
                ("start", Some(5), 0, 9),
                ("start", Some(5), 1, 5),
                ("stop", None, 2, 1),
            ],
            "stopped",
        ),
        (
            [
                ("stop", None, 0, 9),
                ("stop", Some(5), 1, 5),
                ("start", Some(5), 2, 1),
            ],
            "running",
        ),
        (
            [
                ("start", Some(5), 0, 1),
                ("stop", Some(5), 0, 2),
                ("start", Some(5), 0, 3),
            ],
            "running",
        ),
        (
            [
                ("stop", Some(5), 0, 1),
                ("start", Some(5), 0, 2),
                ("stop", None, 0, 3),
            ],
            "stopped",
        ),
    ];
    for (case, (commands, expected)) in cases.into_iter().enumerate() {
        for (number, order) in ORDERS.into_iter().enumerate() {
            let user = format!("u{case}{number}");
            for at_index in order {
                send(&fleet, &worker, &user, at, commands[at_index]).await;
            }
            let found = desired(&fleet, &user).await;
            // A start that is older than a stop of everything need not leave a row.
            let never = found.is_empty() && expected == "stopped";
            assert!(
                never || found == [(5, expected.to_owned())],
                "{case} {order:?}: {found:?}"
            );
            for command in commands {
                let outcome = published_again(&fleet, &worker, &user, at, command).await;
                assert_ne!(outcome, "applied", "{case} {order:?} {command:?}");
            }
            assert_eq!(desired(&fleet, &user).await, found, "{case} {order:?}");
        }
    }
    worker.drain().await;
}

/// The same bytes once more; the outcome of the second delivery.
async fn published_again(
    fleet: &Fleet,
    worker: &Worker,
    user: &str,
    at: OffsetDateTime,
    sent: Sent,
) -> String {
    let before = commands_logged(worker);
    send(fleet, worker, user, at, sent).await;
    super::support::wait::eventually(
        "the second delivery to be applied",
        super::support::fleet::DEADLINE,
        async || (commands_logged(worker).len() > before.len()).then_some(()),
    )
    .await;
    commands_logged(worker).pop().expect("there is one more")
}

/// The outcomes of all commands so far.
fn commands_logged(worker: &Worker) -> Vec<String> {
    worker
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["message"] == "command")
        .map(|line| line["outcome"].as_str().unwrap_or_default().to_owned())
        .collect()
}
