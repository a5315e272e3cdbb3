//! Sessions that stream and write nothing: of slots that another worker is about to hand over, and of slots
//! whose claim is in doubt. Deals that come meanwhile are held back, and written once the slot is ours.

use std::time::{Duration, Instant};

use super::{Fence, Roster, Stage};
use crate::ctrader::connection::Connection;
use crate::domain::deal::{Deal, Source};
use crate::domain::ids::{AccountId, SessionKey};

/// A live account without quotes is as good as it gets after that.
const VALUED_WITHIN: Duration = Duration::from_secs(3);

/// Deals of one session that are held back; history has those beyond it.
const HELD_MAX: usize = 1_000;

/// A deal that was held back, and who may write it now.
#[derive(Debug)]
pub(in crate::worker) struct Held {
    pub(in crate::worker) fence: Fence,
    pub(in crate::worker) source: Source,
    pub(in crate::worker) deal: Deal,
}

impl Roster {
    /// Nothing is written any more until a session is started anew: the claims are in doubt.
    pub(in crate::worker) fn suspend(&mut self) {
        for entry in self.entries.values_mut() {
            entry.assignment.standby = true;
        }
        self.says.clear();
    }

    /// Holds a deal back for those who stand by.
    pub(in crate::worker) fn hold_deal(&mut self, account: AccountId, source: Source, deal: &Deal) {
        for (_, entry) in self.sharing(account) {
            if !entry.assignment.standby || !matches!(entry.stage, Stage::Opening | Stage::Live) {
                continue;
            }
            if entry.held.len() < HELD_MAX {
                entry.held.push((source, deal.clone()));
            } else {
                entry.lost_deal = true;
            }
        }
    }

    /// The session writes from now on: what was held back, and what history knows beside it.
    pub(super) fn release(
        &mut self,
        key: &SessionKey,
        link: Option<&mut Connection>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let fence = entry.assignment.fence.clone();
        let held = std::mem::take(&mut entry.held);
        self.released
            .extend(held.into_iter().map(|(source, deal)| Held {
                fence: fence.clone(),
                source,
                deal,
            }));
        if entry.stage == Stage::Live
            && let Some(link) = link
        {
            self.look_back(key.account, link, now);
        }
    }

    /// Deals that may be written now.
    pub(in crate::worker) fn take_released(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.released)
    }

    /// Sessions that stand by and are as far as they get, each told once: live with figures, or failed.
    pub(in crate::worker) fn take_settled(
        &mut self,
        link: Option<&Connection>,
        now: Instant,
    ) -> Vec<SessionKey> {
        if !self.unsettled {
            return Vec::new();
        }
        self.unsettled = false;
        let mut settled = Vec::new();
        for (key, entry) in &mut self.entries {
            if !entry.assignment.standby || entry.settled {
                continue;
            }
            entry.settled = match entry.stage {
                Stage::Waiting(_) => true,
                Stage::Live => {
                    entry.live_at.is_none_or(|at| at + VALUED_WITHIN <= now)
                        || link.is_some_and(|link| link.is_valued(key.account))
                }
                Stage::Ready | Stage::Verifying | Stage::Opening => false,
            };
            if entry.settled {
                settled.push(key.clone());
            } else {
                self.unsettled = true;
            }
        }
        settled
    }

    /// Whether sessions that stand by may have settled.
    pub(in crate::worker) const fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// When the next session that stands by settles without quotes.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        if !self.unsettled {
            return None;
        }
        self.entries
            .values()
            .filter(|entry| {
                entry.assignment.standby && !entry.settled && entry.stage == Stage::Live
            })
            .filter_map(|entry| Some(entry.live_at? + VALUED_WITHIN))
            .min()
    }
}
