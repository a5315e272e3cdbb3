use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::super::*;
use super::*;
use crate::amqp::AmqpSettings;
use crate::amqp::Consumer;
use crate::domain::fence::Fence;
use crate::domain::ids::{AccountId, UserId};
use crate::domain::ledger::LastSeen;
use crate::domain::row::RowContent;
use crate::domain::secret::Secret;
use crate::domain::status::{Desired, Status};
use crate::http::HealthSnapshot;
use crate::pg::connect::PgConfig;
use crate::pg::credentials::Credentials;
use crate::pg::history::Baseline;
use crate::pg::sessions::SessionRecord;
use crate::worker::handles::findings::Findings;
use crate::worker::handles::link::LinkHandle;
use crate::worker::handles::locks::Membership;

const EPOCH: i64 = 3;

/// A coordinator that holds the session's slot, and the commands that its links get. Nothing listens at its
/// database.
struct Rig {
    coordinator: Coordinator,
    links: Vec<mpsc::Receiver<LinkCommand>>,
    key: SessionKey,
}

impl Rig {
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
        let (links, inboxes): (Vec<_>, Vec<_>) = (0..2).map(|_| LinkHandle::channel()).unzip();
        let (locks, inbox) = LockHandle::channel();
        inbox.claims.send_replace(ClaimState::Held(membership));
        let coordinator = Coordinator {
            database: Database::new(&nowhere, 1).expect("a URL"),
            links: Links {
                demo: links,
                live: Vec::new(),
            },
            outbox: Arc::default(),
            wakeups: Arc::default(),
            locks,
            consumer,
            findings: Findings::channel().1,
            status: Arc::new(WorkerStatus::new(
                watch::channel(HealthSnapshot::default()).0,
            )),
            sessions_max: 10,
            token_cipher: TokenCipher::default(),
            renewals: Renewals::channel().0,
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
        }
    }

    /// The first link runs the session.
    fn running(mut self) -> Self {
        let running = RunningSession {
            slot: self.key.user.slot(),
            link: 0,
            ownership: Ownership::Owned(EPOCH),
            command: Uuid::nil(),
            token: Secret::new("token"),
            standby_ready: false,
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
            last_seen: LastSeen::default(),
        }
    }

    /// Reconciles the session, whose row is like this.
    async fn reconcile(&mut self, desired: Desired, status: Status) {
        let record = self.record(desired, status);
        self.coordinator
            .reconcile(&[record.slot], vec![record])
            .await;
    }

    /// The final status that the first link is to publish of the session, and under which fence.
    fn stopped(&mut self) -> (Fence, Status) {
        match self.links[0].try_recv() {
            Ok(LinkCommand::Stop {
                key,
                final_status: Some(StatusUpdate { fence, state }),
            }) => {
                assert_eq!(key, self.key);
                (fence, state.status)
            }
            other => panic!("a stop with a final status, not {other:?}"),
        }
    }

    /// What the coordinator itself published since the last call.
    fn published(&self) -> Vec<Status> {
        let rows = self.coordinator.outbox.take().rows;
        rows.into_iter()
            .map(|row| match row.content {
                RowContent::State(state) => state.status,
                RowContent::Full { .. } | RowContent::Heartbeat => panic!("a state"),
            })
            .collect()
    }
}

/// The user disconnects: the credentials go first, then the stop comes. A link that is busy meanwhile would publish
/// the first status after the second.
#[tokio::test]
async fn the_next_status_of_a_session_waits_for_the_final_one_of_its_link() {
    let mut rig = Rig::new().running();
    rig.reconcile(Desired::Running, Status::Live).await;
    let fence = Fence::new(&rig.key, EPOCH);
    assert_eq!(rig.stopped(), (fence, Status::Failed));
    rig.reconcile(Desired::Stopped, Status::Live).await;
    assert_eq!(
        rig.published(),
        [],
        "the link may still have its final status to publish"
    );
    let key = rig.key.clone();
    assert!(
        rig.coordinator.handle_released(&key),
        "it is reconciled then"
    );
    rig.reconcile(Desired::Stopped, Status::Failed).await;
    assert_eq!(rig.published(), [Status::Stopped]);
    assert!(!rig.coordinator.handle_released(&key), "once");
}

/// A new token belongs to another link.
#[tokio::test]
async fn a_session_starts_on_its_next_link_when_the_previous_one_has_released_it() {
    let mut rig = Rig::new().running();
    let token = (0..100)
        .map(|number| Secret::new(format!("token {number}")))
        .find(|token| rig.coordinator.links.number_of(false, token) == 1)
        .expect("there are many");
    let credentials = Credentials {
        key: rig.key.clone(),
        is_live: false,
        refresh_token: token.clone(),
        access_token: token,
        expires_at: None,
        updated_at: OffsetDateTime::UNIX_EPOCH,
    };
    let mut record = rig.record(Desired::Running, Status::Live);
    record.credentials = Some(credentials);
    let baselines = BTreeMap::from([(rig.key.clone(), rig.baseline())]);
    let ownership = Ownership::Owned(EPOCH);
    let coordinator = &mut rig.coordinator;
    coordinator
        .reconcile_session(record.clone(), ownership, &baselines)
        .await;
    coordinator
        .reconcile_session(record.clone(), ownership, &baselines)
        .await;
    assert_eq!(rig.stopped().1, Status::Pending);
    assert!(rig.links[1].is_empty(), "the first link is not done yet");
    let (key, coordinator) = (rig.key.clone(), &mut rig.coordinator);
    assert!(coordinator.handle_released(&key));
    coordinator
        .reconcile_session(record, ownership, &baselines)
        .await;
    let started = rig.links[1].try_recv();
    assert!(matches!(started, Ok(LinkCommand::Start(_))), "{started:?}");
}

#[tokio::test]
async fn a_session_that_was_released_is_not_reconciled_for_nothing() {
    let mut rig = Rig::new().running();
    rig.reconcile(Desired::Stopped, Status::Live).await;
    assert_eq!(rig.stopped().1, Status::Stopped);
    let key = rig.key.clone();
    assert!(!rig.coordinator.handle_released(&key));
    rig.reconcile(Desired::Stopped, Status::Live).await;
    assert_eq!(rig.published(), [], "it is published, and being written");
}

/// The claims were lost and are there again, under another epoch that the link has not heard of.
#[tokio::test]
async fn a_final_status_is_published_under_the_current_epoch() {
    let mut rig = Rig::new().running();
    let slot = rig.key.user.slot();
    rig.coordinator.state.held = BTreeMap::from([(slot, EPOCH + 1)]);
    rig.reconcile(Desired::Stopped, Status::Live).await;
    let fence = Fence::new(&rig.key, EPOCH + 1);
    assert_eq!(rig.stopped(), (fence, Status::Stopped));
}

#[tokio::test]
async fn a_status_that_its_row_does_not_show_is_published_again() {
    let mut rig = Rig::new();
    rig.reconcile(Desired::Stopped, Status::Live).await;
    assert_eq!(rig.published(), [Status::Stopped]);
    rig.reconcile(Desired::Stopped, Status::Live).await;
    assert_eq!(rig.published(), [], "it may be on its way");
    rig.coordinator
        .state
        .last_published
        .values_mut()
        .for_each(|published| {
            published.at = Instant::now()
                .checked_sub(Duration::from_secs(6))
                .expect("a machine that has been up for a while");
        });
    rig.reconcile(Desired::Stopped, Status::Live).await;
    assert_eq!(rig.published(), [Status::Stopped]);
}

/// Another worker publishes the statuses of a slot that was given up.
#[tokio::test]
async fn a_slot_that_is_given_up_takes_its_releasing_sessions_with_it() {
    let mut rig = Rig::new().running();
    rig.reconcile(Desired::Stopped, Status::Live).await;
    rig.coordinator.abandon_slot(rig.key.user.slot()).await;
    assert!(rig.coordinator.state.releasing.is_empty());
    assert!(rig.coordinator.state.running.is_empty());
}
