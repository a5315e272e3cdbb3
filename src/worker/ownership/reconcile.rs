//! Makes sessions agree with their rows: what begins, what ends, and what is said of those that no link
//! carries. Of a slot that another worker still has, they begin standing by.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Coordinator, Running, SWEEPS_PER_FULL_LOOK};
use crate::domain::fence::Fence;
use crate::domain::ids::{SessionKey, Slot};
use crate::domain::row::{RowContent, SessionState};
use crate::domain::status::{Desired, Status};
use crate::pg::PgError;
use crate::pg::credentials::Credentials;
use crate::pg::history::{self, Baseline};
use crate::pg::sessions::SessionRecord;
use crate::worker::credentials::refresher::{RefreshRequest, Why, ends_soon};
use crate::worker::link::LinkCommand;
use crate::worker::link::roster::Assignment;
use crate::worker::ownership::lock_keeper::ClaimState;

/// How long what was said may take until its row says so.
const COUNTS_WITHIN: Duration = Duration::from_secs(5);

/// What was said of a session that no link carries.
#[derive(Debug)]
pub(super) struct Said {
    epoch: i64,
    /// After which command.
    command: Uuid,
    state: SessionState,
    at: Instant,
}

impl Said {
    /// Whether it is the same, and the row says so or soon will.
    fn counts(&self, now: &Self, status: Status) -> bool {
        (self.epoch, self.command, &self.state) == (now.epoch, now.command, &now.state)
            && (status == self.state.status || self.at.elapsed() < COUNTS_WITHIN)
    }
}

/// By what right a session runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// The slot is ours, by this epoch.
    Claim(i64),
    /// Another worker's, which is about to hand it over.
    Offer,
}

impl Right {
    pub(super) const fn epoch(self) -> i64 {
        match self {
            Self::Claim(epoch) => epoch,
            Self::Offer => Fence::UNCLAIMED_EPOCH,
        }
    }
}

impl Coordinator {
    /// Makes the sessions of these slots agree with their rows.
    pub(super) async fn agree(&mut self, slots: &[Slot], records: Vec<SessionRecord>) {
        let looked_at: BTreeSet<Slot> = slots.iter().copied().collect();
        let recorded: BTreeSet<SessionKey> =
            records.iter().map(|record| record.key.clone()).collect();
        let vanished: Vec<SessionKey> = self
            .state
            .running
            .iter()
            .filter(|(key, running)| looked_at.contains(&running.slot) && !recorded.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in vanished {
            let epoch = self.state.held.get(&key.user.slot()).copied();
            let words = epoch.map(|epoch| (epoch, SessionState::of(Status::Stopped)));
            self.stop(&key, words).await;
        }
        let baselines = match self.baselines(&records).await {
            Ok(baselines) => {
                self.note_opened(slots);
                baselines
            }
            Err(error) => {
                // The sessions that would begin do so with the next look; the others are seen to now.
                warn!(error = %error, "what is known of sessions cannot be read");
                self.state.sweeps = SWEEPS_PER_FULL_LOOK - 1;
                BTreeMap::new()
            }
        };
        for record in records {
            let right = if let Some(epoch) = self.state.held.get(&record.slot) {
                Right::Claim(*epoch)
            } else if self.state.warm.contains_key(&record.slot) {
                Right::Offer
            } else {
                continue;
            };
            self.agree_on(record, right, &baselines).await;
        }
        self.tell_sessions();
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
        right: Right,
        baselines: &BTreeMap<SessionKey, Baseline>,
    ) {
        let key = record.key.clone();
        if let Some(asked) = self.state.leaving.get_mut(&key) {
            *asked = true;
            return;
        }
        match (record.desired, &record.credentials) {
            // What is to be said of it is its owner's to say.
            (Desired::Stopped, _) | (_, None) if right == Right::Offer => {
                self.stop(&key, None).await;
            }
            (Desired::Stopped, _) => {
                let running = self.state.running.contains_key(&key);
                if running || record.status != Status::Stopped {
                    self.say(&record, right, SessionState::of(Status::Stopped))
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
                    right,
                    SessionState::of(Status::Failed).because(reason),
                )
                .await;
            }
            (Desired::Running, Some(credentials)) => {
                let credentials = credentials.clone();
                self.renew_ahead(&key, &credentials);
                self.start(&record, right, &credentials, baselines.get(&key))
                    .await;
            }
        }
    }

    /// Has a token renewed that ends soon.
    fn renew_ahead(&self, key: &SessionKey, credentials: &Credentials) {
        if ends_soon(credentials.expires_at) {
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
        right: Right,
        credentials: &Credentials,
        baseline: Option<&Baseline>,
    ) {
        // A look may take longer than the server waits for a silent keeper, which has let go of all then.
        if !self.is_current() {
            return;
        }
        let key = record.key.clone();
        let token = match self.token_cipher.open(&key.user, &credentials.access_token) {
            Ok(token) => token,
            Err(unusable) => {
                let failed = SessionState::of(Status::Failed).because(unusable.to_string());
                self.say(record, right, failed.on(!credentials.is_live))
                    .await;
                return;
            }
        };
        let link = self.links.of(credentials.is_live, &token);
        let running = Running {
            slot: record.slot,
            link,
            right,
            command: record.command_id,
            token: token.clone(),
            settled: false,
        };
        match self.state.running.get(&key) {
            Some(known) if known.is_as(&running) => return,
            Some(known) if known.link != link => {
                // It begins anew on the other link with the next look, which learns what is known.
                let pending = (right.epoch(), SessionState::of(Status::Pending));
                self.stop(&key, (right != Right::Offer).then_some(pending))
                    .await;
                self.hints.slot(record.slot);
                return;
            }
            // What a session that begins must know could not be read.
            None if baseline.is_none() => return,
            Some(_) | None => {}
        }
        self.state.said.remove(&key);
        let fence = Fence::new(&key, right.epoch());
        let assignment = Assignment {
            fence,
            is_demo: !credentials.is_live,
            token,
            through_ms: baseline.and_then(|known| known.through).map(milliseconds),
            known: baseline
                .map(|baseline| baseline.known.clone())
                .unwrap_or_default(),
            standby: right == Right::Offer,
        };
        if self
            .tell(link, LinkCommand::Start(Box::new(assignment)))
            .await
        {
            let (id, user, epoch) = (record.command_id, &key.user, right.epoch());
            info!(%id, ?user, account = %key.account, slot = %record.slot, epoch, "session begins");
            self.state.running.insert(key, running);
        }
    }

    /// Whether the lock connection is still the one under whose claims this worker runs sessions.
    fn is_current(&self) -> bool {
        match &*self.claim_state.borrow() {
            ClaimState::Held(membership) => self.state.membership == Some(*membership),
            ClaimState::Lost { .. } => false,
        }
    }

    /// Lets a session go, saying this of it under this epoch if it is ours to say; whether there was one.
    ///
    /// Whatever is to be said or done of it next waits until the link has let go of it: the last words of
    /// a link that is busy would come later, and count.
    pub(super) async fn stop(
        &mut self,
        key: &SessionKey,
        words: Option<(i64, SessionState)>,
    ) -> bool {
        let Some(running) = self.state.running.remove(key) else {
            return false;
        };
        let speaks = words.is_some();
        let words = words.map(|(epoch, state)| (Fence::new(key, epoch), state));
        let told = self
            .tell(running.link, LinkCommand::Stop(key.clone(), words))
            .await;
        if told && speaks {
            self.state.leaving.insert(key.clone(), false);
        }
        told
    }

    /// A link has let go of a session, and has nothing more to say of it; answers whether it is to be
    /// looked at.
    pub(super) fn has_left(&mut self, key: &SessionKey) -> bool {
        self.state.leaving.remove(key) == Some(true)
    }

    pub(super) async fn tell(&self, link: usize, command: LinkCommand) -> bool {
        match self.links.all().get(link) {
            // It is gone only when the worker stops.
            Some(link) => link.send(command).await.is_ok(),
            None => false,
        }
    }

    /// Says a state of a session that no link shall carry: once, and again if its row says something else
    /// after a while.
    async fn say(&mut self, record: &SessionRecord, right: Right, state: SessionState) {
        let epoch = match right {
            Right::Claim(epoch) => epoch,
            Right::Offer => return,
        };
        let saying = Said {
            epoch,
            command: record.command_id,
            state: state.clone(),
            at: Instant::now(),
        };
        let said = self.state.said.get(&record.key);
        if said.is_some_and(|said| said.counts(&saying, record.status)) {
            return;
        }
        // If a link has it, the link says it: after the last of what it has to say itself.
        if !self.stop(&record.key, Some((epoch, state.clone()))).await {
            let fence = Fence::new(&record.key, epoch);
            self.outbox.put(&fence, RowContent::State(state));
            self.outbox.wake();
        }
        self.state.said.insert(record.key.clone(), saying);
    }
}

fn milliseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
