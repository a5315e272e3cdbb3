//! Makes what this worker runs agree with what the tables want: level-triggered. A hint, a new
//! claim or the sweep only say where to look; the rows say what is to be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::hints::{HintBox, Look};
use super::keeper::{ClaimRequest, ClaimState};
use super::link::LinkCommand;
use super::links::Links;
use super::outbox::{Fence, Outbox};
use super::refresher::{RefreshRequest, Why};
use super::roster::Assignment;
use super::status::WorkerStatus;
use super::tokens::TokenKey;
use super::writer::Finding;
use crate::domain::ids::{SessionKey, Slot};
use crate::domain::row::{RowContent, SessionState};
use crate::domain::secret::Secret;
use crate::domain::status::{Desired, Status};
use crate::pg::PgError;
use crate::pg::connect::Database;
use crate::pg::history::{self, Baseline};
use crate::pg::sessions::{self, Credentials, SessionRecord};

/// How often slots with work and without an owner are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// Every how many sweeps the sessions of the held slots are read again, should a hint be lost.
const SWEEPS_PER_FULL_LOOK: u32 = 5;

/// A slot without work is kept that long: its last rows must be written under its epoch, and
/// whoever stops often starts again.
const IDLE_SLOT_AFTER: Duration = Duration::from_secs(10);

/// A session that a link carries.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    link: usize,
    epoch: i64,
    command: Uuid,
    token: Secret,
}

/// What the coordinator is made of.
pub(super) struct Coordinator {
    pub(super) database: Database,
    pub(super) links: Links,
    pub(super) outbox: Arc<Outbox>,
    pub(super) hints: Arc<HintBox>,
    pub(super) claims: mpsc::Sender<ClaimRequest>,
    pub(super) claim_state: watch::Receiver<ClaimState>,
    pub(super) findings: mpsc::Receiver<Finding>,
    pub(super) status: Arc<WorkerStatus>,
    pub(super) sessions_max: usize,
    pub(super) token_key: TokenKey,
    /// A full one loses nothing: a token that ends soon is asked for again with the next look.
    pub(super) refresher: mpsc::Sender<RefreshRequest>,
    pub(super) state: State,
}

/// A token is renewed that long before it ends.
const RENEW_AHEAD: Duration = Duration::from_hours(24);

/// How long the keeper may take for a claim, once it holds a connection.
const CLAIM_WITHIN: Duration = Duration::from_secs(5);

/// What the coordinator knows of its own doings.
#[derive(Debug, Default)]
pub(super) struct State {
    held: BTreeMap<Slot, i64>,
    running: BTreeMap<SessionKey, Running>,
    /// What was said last of sessions that no link carries.
    said: BTreeMap<SessionKey, (i64, Uuid, SessionState)>,
    idle_since: BTreeMap<Slot, Instant>,
    sweeps: u32,
}

impl Coordinator {
    /// Runs until `stop`. The sessions go on: it is the caller's to drain the links.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut claim_state = self.claim_state.clone();
        claim_state.mark_changed();
        loop {
            self.status.beat();
            let look = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = claim_state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Claims do not outlive their connection. The keeper has told the links; what was
                    // started since is told here.
                    self.state.forget();
                    for link in self.links.all() {
                        // It is gone only when the worker stops.
                        let _ = link.send(LinkCommand::ReleaseAll).await;
                    }
                    self.status.set_sessions(0);
                    Look { all: true, slots: BTreeSet::new() }
                }
                Some(finding) = self.findings.recv() => {
                    self.handle_finding(finding).await;
                    continue;
                }
                () = self.hints.wait() => self.hints.take(),
                _ = sweep.tick() => {
                    self.state.sweeps += 1;
                    let all = self.state.sweeps.is_multiple_of(SWEEPS_PER_FULL_LOOK);
                    Look { all, slots: BTreeSet::new() }
                }
            };
            if !matches!(*claim_state.borrow(), ClaimState::Held(_)) {
                continue;
            }
            match self.converge(look).await {
                Ok(()) => self.status.set_database_trouble(None),
                Err(error) => {
                    warn!(error = %error, "cannot read what is wanted");
                    self.status.set_database_trouble(Some(error.to_string()));
                    // The sweep comes by again; nothing is forgotten, since it looks at all then.
                    self.state.sweeps = SWEEPS_PER_FULL_LOOK - 1;
                }
            }
        }
    }

    /// Claims what has work and no owner, and makes the sessions of the slots looked at agree.
    async fn converge(&mut self, mut look: Look) -> Result<(), PgError> {
        let active: BTreeMap<Slot, usize> = self
            .database
            .run(async |conn| sessions::active_slots(conn).await)
            .await?
            .into_iter()
            .map(|(slot, sessions)| (slot, usize::try_from(sessions).unwrap_or(0)))
            .collect();
        for slot in self.claim(&active).await {
            look.slots.insert(slot);
        }
        let held: Vec<(Slot, i64)> = self
            .state
            .held
            .iter()
            .filter(|(slot, _)| look.all || look.slots.contains(slot))
            .map(|(slot, epoch)| (*slot, *epoch))
            .collect();
        if !held.is_empty() {
            let slots: Vec<Slot> = held.iter().map(|(slot, _)| *slot).collect();
            let records = self
                .database
                .run(async |conn| {
                    sessions::resolve_primary(conn, &held).await?;
                    sessions::load(conn, &slots).await
                })
                .await?;
            self.agree(&slots, records).await;
        }
        self.release_idle(&active).await;
        Ok(())
    }

    async fn claim(&mut self, active: &BTreeMap<Slot, usize>) -> Vec<Slot> {
        let mut room = self.sessions_max.saturating_sub(self.state.running.len());
        let mut wanted = Vec::new();
        for (slot, sessions) in active {
            if self.state.held.contains_key(slot) {
                continue;
            }
            // A slot with more sessions than fit is still taken by a worker that has none.
            if *sessions > room && !(self.state.running.is_empty() && wanted.is_empty()) {
                continue;
            }
            room = room.saturating_sub(*sessions);
            wanted.push(*slot);
        }
        if wanted.is_empty() {
            return wanted;
        }
        let (answer, answered) = oneshot::channel();
        if self
            .claims
            .send(ClaimRequest::Acquire(wanted, answer))
            .await
            .is_err()
        {
            return Vec::new();
        }
        // No answer: the keeper lost its connection, and says so by its state; what it should
        // claim after all it lets go again.
        let claimed = timeout(CLAIM_WITHIN, answered)
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default();
        if !claimed.is_empty() {
            info!(slots = claimed.len(), "slots claimed");
        }
        self.state.held.extend(claimed.iter().copied());
        claimed.into_iter().map(|(slot, _)| slot).collect()
    }

    async fn release_idle(&mut self, active: &BTreeMap<Slot, usize>) {
        let busy: BTreeSet<Slot> = self
            .state
            .running
            .keys()
            .map(|key| key.user.slot())
            .collect();
        let state = &mut self.state;
        state
            .idle_since
            .retain(|slot, _| !active.contains_key(slot) && !busy.contains(slot));
        let now = Instant::now();
        let mut idle = Vec::new();
        for slot in state.held.keys() {
            if active.contains_key(slot) || busy.contains(slot) {
                continue;
            }
            if *state.idle_since.entry(*slot).or_insert(now) + IDLE_SLOT_AFTER <= now {
                idle.push(*slot);
            }
        }
        for slot in &idle {
            state.held.remove(slot);
            state.idle_since.remove(slot);
            state.said.retain(|key, _| key.user.slot() != *slot);
        }
        if !idle.is_empty() {
            debug!(slots = idle.len(), "idle slots released");
            // The keeper is gone only when the claims are lost, and then nothing is to release.
            let _ = self.claims.send(ClaimRequest::Release(idle)).await;
        }
    }

    /// Makes the sessions of these slots agree with their rows.
    async fn agree(&mut self, slots: &[Slot], records: Vec<SessionRecord>) {
        let looked_at: BTreeSet<Slot> = slots.iter().copied().collect();
        let recorded: BTreeSet<SessionKey> =
            records.iter().map(|record| record.key.clone()).collect();
        let vanished: Vec<SessionKey> = self
            .state
            .running
            .keys()
            .filter(|key| looked_at.contains(&key.user.slot()) && !recorded.contains(key))
            .cloned()
            .collect();
        for key in vanished {
            self.stop(&key, SessionState::of(Status::Stopped)).await;
        }
        let baselines = match self.baselines(&records).await {
            Ok(baselines) => baselines,
            Err(error) => {
                // The sessions that would begin do so with the next look; the others are seen to now.
                warn!(error = %error, "what is known of sessions cannot be read");
                self.state.sweeps = SWEEPS_PER_FULL_LOOK - 1;
                BTreeMap::new()
            }
        };
        for record in records {
            let Some(epoch) = self.state.held.get(&record.slot).copied() else {
                continue;
            };
            self.agree_on(record, epoch, &baselines).await;
        }
        self.status.set_sessions(self.state.running.len());
    }

    /// What is known of the sessions that are to begin.
    async fn baselines(
        &self,
        records: &[SessionRecord],
    ) -> Result<BTreeMap<SessionKey, Baseline>, PgError> {
        let beginning: Vec<SessionKey> = records
            .iter()
            .filter(|record| {
                record.desired == Desired::Running
                    && record.credentials.is_some()
                    && !self.state.running.contains_key(&record.key)
            })
            .map(|record| record.key.clone())
            .collect();
        if beginning.is_empty() {
            return Ok(BTreeMap::new());
        }
        let known = self
            .database
            .run(async |conn| history::baselines(conn, &beginning).await)
            .await?;
        Ok(known
            .into_iter()
            .map(|baseline| (baseline.key.clone(), baseline))
            .collect())
    }

    async fn agree_on(
        &mut self,
        record: SessionRecord,
        epoch: i64,
        baselines: &BTreeMap<SessionKey, Baseline>,
    ) {
        let key = record.key.clone();
        match (record.desired, &record.credentials) {
            (Desired::Stopped, _) => {
                let running = self.state.running.contains_key(&key);
                if running || record.status != Status::Stopped {
                    self.say(&record, epoch, SessionState::of(Status::Stopped))
                        .await;
                }
            }
            (Desired::Running, None) => {
                let reason = if key.account == SessionKey::PRIMARY {
                    "no cTrader account is connected: connect cTrader first"
                } else {
                    "this cTrader account is not connected: connect cTrader first"
                };
                self.say(
                    &record,
                    epoch,
                    SessionState::of(Status::Failed).because(reason),
                )
                .await;
            }
            (Desired::Running, Some(credentials)) => {
                let credentials = credentials.clone();
                self.renew_ahead(&key, &credentials);
                self.start(&record, epoch, &credentials, baselines.get(&key))
                    .await;
            }
        }
    }

    /// Has a token renewed that ends soon.
    fn renew_ahead(&self, key: &SessionKey, credentials: &Credentials) {
        let soon = OffsetDateTime::now_utc() + RENEW_AHEAD;
        if credentials.expires_at.is_some_and(|ends| ends <= soon) {
            let request = RefreshRequest {
                key: key.clone(),
                why: Why::EndsSoon,
            };
            // See the field.
            let _ = self.refresher.try_send(request);
        }
    }

    async fn start(
        &mut self,
        record: &SessionRecord,
        epoch: i64,
        credentials: &Credentials,
        baseline: Option<&Baseline>,
    ) {
        let key = record.key.clone();
        let token = match self.token_key.open(&key.user, &credentials.access_token) {
            Ok(token) => token,
            Err(unusable) => {
                let failed = SessionState::of(Status::Failed).because(unusable.to_string());
                self.say(record, epoch, failed.on(!credentials.is_live))
                    .await;
                return;
            }
        };
        let link = self.links.of(credentials.is_live, &token);
        let running = Running {
            link,
            epoch,
            command: record.command_id,
            token: token.clone(),
        };
        match self.state.running.get(&key) {
            Some(known) if *known == running => return,
            Some(known) if known.link != link => {
                // It begins anew on the other link with the next look, which learns what is known.
                self.stop(&key, SessionState::of(Status::Pending)).await;
                self.hints.slot(record.slot);
                return;
            }
            // What a session that begins must know could not be read.
            None if baseline.is_none() => return,
            Some(_) | None => {}
        }
        self.state.said.remove(&key);
        let fence = Fence {
            key: key.clone(),
            slot: record.slot,
            epoch,
        };
        let assignment = Assignment {
            fence,
            is_demo: !credentials.is_live,
            token,
            through_ms: baseline.and_then(|known| known.through).map(milliseconds),
            known: baseline
                .map(|baseline| baseline.known.clone())
                .unwrap_or_default(),
        };
        if self
            .tell(link, LinkCommand::Start(Box::new(assignment)))
            .await
        {
            self.state.running.insert(key, running);
        }
    }

    /// Lets a session go; whether there was one.
    async fn stop(&mut self, key: &SessionKey, state: SessionState) -> bool {
        match self.state.running.remove(key) {
            Some(running) => {
                self.tell(running.link, LinkCommand::Stop(key.clone(), state))
                    .await
            }
            None => false,
        }
    }

    async fn tell(&self, link: usize, command: LinkCommand) -> bool {
        match self.links.all().get(link) {
            // It is gone only when the worker stops.
            Some(link) => link.send(command).await.is_ok(),
            None => false,
        }
    }

    /// Says a state of a session that no link shall carry, once.
    async fn say(&mut self, record: &SessionRecord, epoch: i64, state: SessionState) {
        let saying = (epoch, record.command_id, state);
        if self.state.said.get(&record.key) == Some(&saying) {
            return;
        }
        // If a link has it, the link says it: after the last of what it has to say itself.
        if !self.stop(&record.key, saying.2.clone()).await {
            let fence = Fence {
                key: record.key.clone(),
                slot: record.slot,
                epoch,
            };
            self.outbox.put(&fence, RowContent::State(saying.2.clone()));
            self.outbox.wake();
        }
        self.state.said.insert(record.key.clone(), saying);
    }

    async fn handle_finding(&mut self, finding: Finding) {
        match finding {
            Finding::Fenced(rows) => {
                let fenced = rows.into_iter().filter(|(key, epoch)| {
                    self.state
                        .running
                        .get(key)
                        .is_some_and(|running| running.epoch == *epoch)
                });
                let slots: BTreeSet<Slot> = fenced.map(|(key, _)| key.user.slot()).collect();
                for slot in &slots {
                    self.give_up(*slot).await;
                }
                if !slots.is_empty() {
                    // What is still wanted of us comes back with a new claim and a new epoch.
                    let _ = self
                        .claims
                        .send(ClaimRequest::Release(slots.into_iter().collect()))
                        .await;
                }
            }
            Finding::Missing(keys) => {
                // Somebody deleted a row: another command than the one that runs makes the next look
                // tell the link again, which writes it anew; or lets go of it.
                for key in keys {
                    if let Some(running) = self.state.running.get_mut(&key) {
                        running.command = Uuid::nil();
                    }
                    self.state.said.remove(&key);
                    self.hints.slot(key.user.slot());
                }
            }
        }
        self.status.set_sessions(self.state.running.len());
    }

    /// Lets all sessions of a slot go.
    async fn give_up(&mut self, slot: Slot) {
        self.state.held.remove(&slot);
        let keys: Vec<SessionKey> = self
            .state
            .running
            .keys()
            .filter(|key| key.user.slot() == slot)
            .cloned()
            .collect();
        for key in keys {
            self.stop(&key, SessionState::of(Status::Pending)).await;
        }
    }
}

fn milliseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

impl State {
    /// The claims are lost, and everything with them.
    fn forget(&mut self) {
        *self = Self::default();
    }
}
