//! Sessions on standby: they stream and write nothing, because another worker is about to hand their slot over, or
//! because it is in doubt whether their slot is still ours. Their deals are deferred, and written once it is.

use std::time::{Duration, Instant};

use super::Roster;
use super::output::DeferredDeal;
use super::session::{Stage, UserSession};
use crate::ctrader::connection::Connection;
use crate::domain::deal::{Deal, Source};
use crate::domain::ids::{AccountId, SessionKey};

/// How long a live account on standby may lack quotes before it counts as ready all the same.
const VALUATION_TIMEOUT: Duration = Duration::from_secs(3);

/// The most deals that are deferred for one session. History has those beyond it.
const DEFERRED_DEALS_MAX: usize = 1_000;

impl Roster {
    /// Puts all sessions on standby: the claims are in doubt. Each is promoted by the next start of it.
    pub(in crate::worker) fn suspend(&mut self) {
        for session in self.sessions_mut() {
            session.assignment.standby = true;
        }
        self.status_updates.clear();
    }

    /// Defers a deal for the sessions of its account that are on standby.
    pub(in crate::worker) fn defer_deal(
        &mut self,
        account: AccountId,
        source: Source,
        deal: &Deal,
    ) {
        for session in self.sharing(account) {
            if !session.assignment.standby || !session.uses_stream() {
                continue;
            }
            if session.deferred_deals.len() < DEFERRED_DEALS_MAX {
                session.deferred_deals.push((source, deal.clone()));
            } else {
                session.lost_deal = true;
            }
        }
    }

    /// The session writes from now on: releases its deferred deals, and requests its history.
    pub(super) fn promote(
        &mut self,
        key: &SessionKey,
        connection: Option<&mut Connection>,
        now: Instant,
    ) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let fence = session.assignment.fence.clone();
        let is_live = session.stage == Stage::Live;
        let deferred = std::mem::take(&mut session.deferred_deals);
        self.deferred_deals
            .extend(deferred.into_iter().map(|(source, deal)| DeferredDeal {
                fence: fence.clone(),
                source,
                deal,
            }));
        if is_live && let Some(connection) = connection {
            self.request_history(key.account, connection, now);
        }
    }

    /// Returns the deferred deals of the sessions that were promoted since the last call.
    pub(in crate::worker) fn take_deferred_deals(&mut self) -> Vec<DeferredDeal> {
        std::mem::take(&mut self.deferred_deals)
    }

    /// Returns the sessions on standby that have become ready to be promoted: live with figures, or failed. Each is
    /// returned once.
    pub(in crate::worker) fn take_standby_ready(
        &mut self,
        connection: Option<&Connection>,
        now: Instant,
    ) -> Vec<SessionKey> {
        if !self.standby_pending {
            return Vec::new();
        }
        let mut is_pending = false;
        let mut ready = Vec::new();
        for session in self.sessions_mut() {
            if !session.assignment.standby || session.standby_ready {
                continue;
            }
            session.standby_ready = match session.stage {
                Stage::Waiting(_) => true,
                Stage::Live => {
                    valuation_deadline(session).is_none_or(|deadline| deadline <= now)
                        || connection
                            .is_some_and(|connection| connection.is_valued(session.key().account))
                }
                Stage::Ready | Stage::Verifying | Stage::Opening => false,
            };
            if session.standby_ready {
                ready.push(session.key().clone());
            } else {
                is_pending = true;
            }
        }
        self.standby_pending = is_pending;
        ready
    }

    /// Whether sessions on standby may have become ready.
    pub(in crate::worker) const fn has_pending_standby(&self) -> bool {
        self.standby_pending
    }

    /// When the next session on standby becomes ready without quotes.
    pub(super) fn standby_deadline(&self) -> Option<Instant> {
        if !self.standby_pending {
            return None;
        }
        self.sessions()
            .filter(|session| {
                session.assignment.standby && !session.standby_ready && session.stage == Stage::Live
            })
            .filter_map(valuation_deadline)
            .min()
    }
}

/// Until when a session that is live waits for quotes.
fn valuation_deadline(session: &UserSession) -> Option<Instant> {
    Some(session.live_since? + VALUATION_TIMEOUT)
}
