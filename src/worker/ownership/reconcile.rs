//! Reconciles sessions with their rows: which start, which stop, and what status is published of those that no
//! link runs. In a slot that another worker still owns, they start on standby.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use time::OffsetDateTime;
use tracing::{info, warn};

use super::state::{Ownership, PublishedStatus, RunningSession};
use super::{Coordinator, SWEEPS_PER_FULL_RELOAD};
use crate::domain::fence::Fence;
use crate::domain::ids::{SessionKey, Slot};
use crate::domain::row::{RowContent, SessionState};
use crate::domain::status::{Desired, Status};
use crate::pg::PgError;
use crate::pg::credentials::Credentials;
use crate::pg::history::{self, Baseline};
use crate::pg::sessions::SessionRecord;
use crate::worker::handles::link::{Assignment, LinkCommand, StatusUpdate};
use crate::worker::handles::locks::ClaimState;
use crate::worker::handles::renewals::{RenewalReason, expires_soon};

impl Coordinator {
    /// Reconciles the sessions of these slots with their rows.
    pub(super) async fn reconcile(&mut self, slots: &[Slot], records: Vec<SessionRecord>) {
        let covered: BTreeSet<Slot> = slots.iter().copied().collect();
        let recorded: BTreeSet<SessionKey> =
            records.iter().map(|record| record.key.clone()).collect();
        let vanished: Vec<SessionKey> = self
            .state
            .running
            .iter()
            .filter(|(key, running)| covered.contains(&running.slot) && !recorded.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in vanished {
            let epoch = self.state.held.get(&key.user.slot()).copied();
            let stopped = epoch.map(|epoch| (epoch, SessionState::of(Status::Stopped)));
            self.stop(&key, stopped).await;
        }
        let baselines = match self.baselines(&records).await {
            Ok(baselines) => {
                self.mark_opened(slots);
                baselines
            }
            Err(error) => {
                // The sessions that would start do so with the next full reload; the others are reconciled now.
                warn!(error = %error, "the baselines of sessions cannot be read");
                self.state.sweeps = SWEEPS_PER_FULL_RELOAD - 1;
                BTreeMap::new()
            }
        };
        for record in records {
            let ownership = if let Some(epoch) = self.state.held.get(&record.slot) {
                Ownership::Owned(*epoch)
            } else if self.state.incoming.contains_key(&record.slot) {
                Ownership::Incoming
            } else {
                continue;
            };
            self.reconcile_session(record, ownership, &baselines).await;
        }
        self.report_session_count();
    }

    /// What is known of the sessions that are to start.
    async fn baselines(
        &self,
        records: &[SessionRecord],
    ) -> Result<BTreeMap<SessionKey, Baseline>, PgError> {
        let starting: Vec<SessionKey> = records
            .iter()
            .filter(|record| {
                record.desired == Desired::Running
                    && record.credentials.is_some()
                    && !self.state.running.contains_key(&record.key)
            })
            .map(|record| record.key.clone())
            .collect();
        if starting.is_empty() {
            return Ok(BTreeMap::new());
        }
        let known = self
            .database
            .run(async |conn| history::baselines(conn, &starting).await)
            .await?;
        Ok(known
            .into_iter()
            .map(|baseline| (baseline.key.clone(), baseline))
            .collect())
    }

    async fn reconcile_session(
        &mut self,
        record: SessionRecord,
        ownership: Ownership,
        baselines: &BTreeMap<SessionKey, Baseline>,
    ) {
        let key = record.key.clone();
        if let Some(reconcile_again) = self.state.releasing.get_mut(&key) {
            *reconcile_again = true;
            return;
        }
        match (record.desired, &record.credentials) {
            // Its owner writes its row.
            (Desired::Stopped, _) | (_, None) if ownership == Ownership::Incoming => {
                self.stop(&key, None).await;
            }
            (Desired::Stopped, _) => {
                let running = self.state.running.contains_key(&key);
                if running || record.status != Status::Stopped {
                    self.publish_status(&record, ownership, SessionState::of(Status::Stopped))
                        .await;
                }
            }
            (Desired::Running, None) => {
                let reason = if key.account == SessionKey::PRIMARY {
                    "no cTrader account is connected: connect cTrader first"
                } else {
                    "this cTrader account is not connected: connect cTrader first"
                };
                self.publish_status(
                    &record,
                    ownership,
                    SessionState::of(Status::Failed).with_reason(reason),
                )
                .await;
            }
            (Desired::Running, Some(credentials)) => {
                let credentials = credentials.clone();
                self.renew_ahead(&key, &credentials);
                self.start(&record, ownership, &credentials, baselines.get(&key))
                    .await;
            }
        }
    }

    /// Requests the renewal of a token that expires soon.
    fn renew_ahead(&self, key: &SessionKey, credentials: &Credentials) {
        if expires_soon(credentials.expires_at) {
            self.renewals
                .request(key.clone(), RenewalReason::ExpiresSoon);
        }
    }

    async fn start(
        &mut self,
        record: &SessionRecord,
        ownership: Ownership,
        credentials: &Credentials,
        baseline: Option<&Baseline>,
    ) {
        // Reading may take longer than the server waits for a silent lock keeper, which has given up all by then.
        if !self.is_current() {
            return;
        }
        let key = record.key.clone();
        let token = match self.token_cipher.open(&key.user, &credentials.access_token) {
            Ok(token) => token,
            Err(unusable) => {
                let failed = SessionState::of(Status::Failed).with_reason(unusable.to_string());
                self.publish_status(
                    record,
                    ownership,
                    failed.in_environment(!credentials.is_live),
                )
                .await;
                return;
            }
        };
        let link = self.links.number_of(credentials.is_live, &token);
        let running = RunningSession {
            slot: record.slot,
            link,
            ownership,
            command: record.command_id,
            token: token.clone(),
            standby_ready: false,
        };
        match self.state.running.get(&key) {
            Some(known) if known.is_same(&running) => return,
            Some(known) if known.link != link => {
                // It starts anew on the other link with the next pass, which reads its baseline.
                let pending = (ownership.epoch(), SessionState::of(Status::Pending));
                self.stop(&key, (ownership != Ownership::Incoming).then_some(pending))
                    .await;
                self.wakeups.wake_slot(record.slot);
                return;
            }
            // Its baseline could not be read.
            None if baseline.is_none() => return,
            Some(_) | None => {}
        }
        self.state.last_published.remove(&key);
        let fence = Fence::new(&key, ownership.epoch());
        let assignment = Assignment {
            fence,
            is_demo: !credentials.is_live,
            token,
            through_ms: baseline.and_then(|known| known.through).map(milliseconds),
            known: baseline
                .map(|baseline| baseline.last_seen.clone())
                .unwrap_or_default(),
            standby: ownership == Ownership::Incoming,
        };
        if self
            .send(link, LinkCommand::Start(Box::new(assignment)))
            .await
        {
            let (id, user, epoch) = (record.command_id, &key.user, ownership.epoch());
            info!(%id, ?user, account = %key.account, slot = %record.slot, epoch, "session begins");
            self.state.running.insert(key, running);
        }
    }

    /// Whether the lock connection is still the one under whose claims this worker runs sessions.
    fn is_current(&self) -> bool {
        match &*self.locks.claims.borrow() {
            ClaimState::Held(membership) => self.state.membership == Some(*membership),
            ClaimState::Lost { .. } => false,
        }
    }

    /// Stops a session; `final_status`: what its link publishes last, under this epoch, if the row is ours to
    /// write. Returns whether it ran.
    ///
    /// Nothing else is done about the session until its link confirms that it released it: what a busy link
    /// publishes later would count.
    pub(super) async fn stop(
        &mut self,
        key: &SessionKey,
        final_status: Option<(i64, SessionState)>,
    ) -> bool {
        let Some(running) = self.state.running.remove(key) else {
            return false;
        };
        let confirms = final_status.is_some();
        let final_status = final_status.map(|(epoch, state)| StatusUpdate {
            fence: Fence::new(key, epoch),
            state,
        });
        let stop = LinkCommand::Stop {
            key: key.clone(),
            final_status,
        };
        let sent = self.send(running.link, stop).await;
        if sent && confirms {
            self.state.releasing.insert(key.clone(), false);
        }
        sent
    }

    /// A link has released a session and writes nothing more of it. Returns whether it is to be reconciled.
    pub(super) fn handle_released(&mut self, key: &SessionKey) -> bool {
        self.state.releasing.remove(key) == Some(true)
    }

    async fn send(&self, link: usize, command: LinkCommand) -> bool {
        match self.links.get(link) {
            Some(link) => link.send(command).await,
            None => false,
        }
    }

    /// Publishes the status of a session that no link shall run: once, and again if its row shows another one
    /// after a while.
    async fn publish_status(
        &mut self,
        record: &SessionRecord,
        ownership: Ownership,
        state: SessionState,
    ) {
        let Ownership::Owned(epoch) = ownership else {
            return;
        };
        let now = PublishedStatus {
            epoch,
            command: record.command_id,
            state: state.clone(),
            at: Instant::now(),
        };
        let last = self.state.last_published.get(&record.key);
        if last.is_some_and(|last| last.covers(&now, record.status)) {
            return;
        }
        // If a link runs it, the link publishes the status, after everything else that it has to write.
        if !self.stop(&record.key, Some((epoch, state.clone()))).await {
            let fence = Fence::new(&record.key, epoch);
            self.outbox.put(&fence, RowContent::State(state));
            self.outbox.wake();
        }
        self.state.last_published.insert(record.key.clone(), now);
    }
}

fn milliseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
