use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::super::*;
use super::*;
use crate::amqp::AmqpSettings;
use crate::amqp::consumer::Consumer;
use crate::domain::fence::Fence;
use crate::domain::ids::{AccountId, UserId};
use crate::domain::ledger::LastSeen;
use crate::domain::row::RowContent;
use crate::domain::status::{Desired, Status};
use crate::http::HealthSnapshot;
use crate::pg::connect::PgConfig;
use crate::pg::history::Baseline;
use crate::pg::sessions::{Credentials, SessionRecord};

const EPOCH: i64 = 3;

/// A coordinator that holds the session's slot, and what its links are told. Nothing listens at its database.
struct Bench {
    coordinator: Coordinator,
    links: Vec<mpsc::Receiver<LinkCommand>>,
    key: SessionKey,
    _refresher: mpsc::Receiver<RefreshRequest>,
}

impl Bench {
    fn new() -> Self {
        let nowhere = PgConfig::new(Secret::new("postgres://127.0.0.1:1/none"), "test");
        let settings = AmqpSettings {
            url: Secret::new("amqp://127.0.0.1:1"),
            connection_name: "test".to_owned(),
        };
        let (_, consumer) = Consumer::new(settings, async |_| Ok(()));
        let membership = Membership {
            generation: 1,
            number: 1,
            suspended: false,
        };
        let key = SessionKey {
            user: UserId::new("u").expect("valid"),
            account: AccountId(1),
        };
        let (links, inboxes): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(8)).unzip();
        let (refresher, wanted) = mpsc::channel(8);
        let coordinator = Coordinator {
            database: Database::new(&nowhere, 1).expect("a URL"),
            links: Links {
                demo: links,
                live: Vec::new(),
            },
            outbox: Arc::default(),
            hints: Arc::default(),
            claims: mpsc::channel(8).0,
            claim_state: watch::channel(ClaimState::Held(membership)).1,
            able: watch::channel(true).1,
            consumer,
            findings: mpsc::channel(8).1,
            status: Arc::new(WorkerStatus::new(
                watch::channel(HealthSnapshot::default()).0,
            )),
            sessions_max: 10,
            token_cipher: TokenCipher::default(),
            refresher,
            state: State {
                membership: Some(membership),
                held: BTreeMap::from([(key.user.slot(), EPOCH)]),
                ..State::default()
            },
        };
        Self {
            coordinator,
            links: inboxes,
            key,
            _refresher: wanted,
        }
    }

    /// The first link carries the session.
    fn carried(mut self) -> Self {
        let running = Running {
            slot: self.key.user.slot(),
            link: 0,
            right: Right::Claim(EPOCH),
            command: Uuid::nil(),
            token: Secret::new("token"),
            settled: false,
        };
        let running = BTreeMap::from([(self.key.clone(), running)]);
        self.coordinator.state.running = running;
        self
    }

    fn record(&self, desired: Desired, status: Status) -> SessionRecord {
        SessionRecord {
            slot: self.key.user.slot(),
            key: self.key.clone(),
            desired,
            status,
            command_id: Uuid::nil(),
            command_issued_at: OffsetDateTime::UNIX_EPOCH,
            credentials: None,
        }
    }

    fn baseline(&self) -> Baseline {
        Baseline {
            key: self.key.clone(),
            through: None,
            known: LastSeen::default(),
        }
    }

    /// A look that finds the session so.
    async fn look(&mut self, desired: Desired, status: Status) {
        let record = self.record(desired, status);
        self.coordinator.agree(&[record.slot], vec![record]).await;
    }

    /// What the first link is told to say of the session, and under which epoch.
    fn stopped(&mut self) -> (Fence, Status) {
        match self.links[0].try_recv() {
            Ok(LinkCommand::Stop(key, Some((fence, state)))) => {
                assert_eq!(key, self.key);
                (fence, state.status)
            }
            other => panic!("a stop with words, not {other:?}"),
        }
    }

    /// What the coordinator itself said since it was last asked.
    fn said(&self) -> Vec<Status> {
        let rows = self.coordinator.outbox.take().rows;
        rows.into_iter()
            .map(|row| match row.content {
                RowContent::State(state) => state.status,
                RowContent::Full { .. } | RowContent::Heartbeat => panic!("a state"),
            })
            .collect()
    }
}

/// The user disconnects: the credentials go first, then the stop comes. A link that is busy meanwhile would say
/// the first after the second.
#[tokio::test]
async fn the_next_word_of_a_session_waits_for_the_last_one_of_its_link() {
    let mut bench = Bench::new().carried();
    bench.look(Desired::Running, Status::Live).await;
    let fence = Fence::new(&bench.key, EPOCH);
    assert_eq!(bench.stopped(), (fence, Status::Failed));
    bench.look(Desired::Stopped, Status::Live).await;
    assert_eq!(bench.said(), [], "the link may still have its word to say");
    let key = bench.key.clone();
    assert!(bench.coordinator.has_left(&key), "it is looked at then");
    bench.look(Desired::Stopped, Status::Failed).await;
    assert_eq!(bench.said(), [Status::Stopped]);
    assert!(!bench.coordinator.has_left(&key), "once");
}

/// A new token belongs to another link.
#[tokio::test]
async fn a_session_begins_on_its_next_link_when_the_one_before_has_let_go() {
    let mut bench = Bench::new().carried();
    let token = (0..100)
        .map(|number| Secret::new(format!("token {number}")))
        .find(|token| bench.coordinator.links.of(false, token) == 1)
        .expect("there are many");
    let credentials = Credentials {
        is_live: false,
        refresh_token: token.clone(),
        access_token: token,
        expires_at: None,
        updated_at: OffsetDateTime::UNIX_EPOCH,
    };
    let mut record = bench.record(Desired::Running, Status::Live);
    record.credentials = Some(credentials);
    let baselines = BTreeMap::from([(bench.key.clone(), bench.baseline())]);
    let right = Right::Claim(EPOCH);
    let coordinator = &mut bench.coordinator;
    coordinator
        .agree_on(record.clone(), right, &baselines)
        .await;
    coordinator
        .agree_on(record.clone(), right, &baselines)
        .await;
    assert_eq!(bench.stopped().1, Status::Pending);
    assert!(bench.links[1].is_empty(), "the first link is not done yet");
    let (key, coordinator) = (bench.key.clone(), &mut bench.coordinator);
    assert!(coordinator.has_left(&key));
    coordinator.agree_on(record, right, &baselines).await;
    let begins = bench.links[1].try_recv();
    assert!(matches!(begins, Ok(LinkCommand::Start(_))), "{begins:?}");
}

#[tokio::test]
async fn a_session_that_left_is_not_looked_at_for_nothing() {
    let mut bench = Bench::new().carried();
    bench.look(Desired::Stopped, Status::Live).await;
    assert_eq!(bench.stopped().1, Status::Stopped);
    let key = bench.key.clone();
    assert!(!bench.coordinator.has_left(&key));
    bench.look(Desired::Stopped, Status::Live).await;
    assert_eq!(bench.said(), [], "it is said, and being written");
}

/// The claims were lost and are there again, under another epoch that the link has not heard of.
#[tokio::test]
async fn last_words_are_said_under_the_epoch_of_today() {
    let mut bench = Bench::new().carried();
    let slot = bench.key.user.slot();
    bench.coordinator.state.held = BTreeMap::from([(slot, EPOCH + 1)]);
    bench.look(Desired::Stopped, Status::Live).await;
    let fence = Fence::new(&bench.key, EPOCH + 1);
    assert_eq!(bench.stopped(), (fence, Status::Stopped));
}

#[tokio::test]
async fn what_was_said_and_does_not_count_is_said_again() {
    let mut bench = Bench::new();
    bench.look(Desired::Stopped, Status::Live).await;
    assert_eq!(bench.said(), [Status::Stopped]);
    bench.look(Desired::Stopped, Status::Live).await;
    assert_eq!(bench.said(), [], "it may be on its way");
    bench.coordinator.state.said.values_mut().for_each(|said| {
        said.at = Instant::now()
            .checked_sub(Duration::from_secs(6))
            .expect("a machine that has been up for a while");
    });
    bench.look(Desired::Stopped, Status::Live).await;
    assert_eq!(bench.said(), [Status::Stopped]);
}

/// Of a slot that goes, another worker says what is to be said.
#[tokio::test]
async fn a_slot_that_goes_takes_with_it_who_is_leaving() {
    let mut bench = Bench::new().carried();
    bench.look(Desired::Stopped, Status::Live).await;
    bench.coordinator.give_up(bench.key.user.slot()).await;
    assert!(bench.coordinator.state.leaving.is_empty());
    assert!(bench.coordinator.state.running.is_empty());
}
