//! What a test observes: rows, events, deals, and what was sent.

use std::time::{Duration, Instant};

use mahspeccy_bridge::ctrader::connection::{ConnectionError, Down, Event, HistoryReport};
use mahspeccy_bridge::domain::deal::{Deal, Source};
use mahspeccy_bridge::domain::ids::AccountId;
use mahspeccy_bridge::domain::row::AccountRow;

use super::{Pair, wall_start};

impl Pair {
    /// The row of a live account.
    pub(crate) fn row(&mut self, account: i64) -> Option<AccountRow> {
        self.take_row(account, true)
    }

    /// The row of a live account, if it changed or `always`.
    pub(crate) fn take_row(&mut self, account: i64, always: bool) -> Option<AccountRow> {
        let start = self.start;
        let wall = |at: Instant| wall_start() + (at - start);
        self.client.take_row(AccountId(account), always, wall)
    }

    /// Whether a session follows the stream, as far as its events tell.
    pub(crate) fn is_live(&self, account: i64) -> bool {
        self.live.contains(&account)
    }

    /// The equity in the row, as it is printed.
    pub(crate) fn equity(&mut self, account: i64) -> Option<String> {
        let row = self.row(account).expect("the session is live");
        row.equity.map(|equity| equity.to_string())
    }

    /// Why a session ended, each time it did.
    pub(crate) fn downs(&self, account: i64) -> Vec<Down> {
        let events = self.events.iter().filter_map(|(_, event)| {
            if let Event::Down(of, down) = event {
                (of.0 == account).then(|| down.clone())
            } else {
                None
            }
        });
        events.collect()
    }

    /// How often a session went live.
    pub(crate) fn lives(&self, account: i64) -> usize {
        let live = Event::Live(AccountId(account));
        self.events
            .iter()
            .filter(|(_, event)| *event == live)
            .count()
    }

    /// Why the connection is of no more use.
    pub(crate) fn failure(&self) -> Option<ConnectionError> {
        self.events.iter().find_map(|(_, event)| {
            if let Event::Failed(error) = event {
                Some(error.clone())
            } else {
                None
            }
        })
    }

    /// When the socket was suspect (`false`) and when it was trusted again (`true`).
    pub(crate) fn suspicions(&self) -> Vec<(Duration, bool)> {
        let events = self.events.iter().filter_map(|(at, event)| {
            if let Event::Following(following) = event {
                Some((*at, *following))
            } else {
                None
            }
        });
        events.collect()
    }

    /// Deals of an account as events reported them.
    pub(crate) fn deals(&self, account: i64) -> Vec<&Deal> {
        let events = self.events.iter().filter_map(|(_, event)| {
            if let Event::Deal(of, Source::Event, deal) = event {
                (of.0 == account).then_some(deal.as_ref())
            } else {
                None
            }
        });
        events.collect()
    }

    /// The history requests that are complete.
    pub(crate) fn reports(&self, account: i64) -> Vec<HistoryReport> {
        let events = self.events.iter().filter_map(|(_, event)| {
            if let Event::History(of, report) = event {
                (of.0 == account).then_some(*report)
            } else {
                None
            }
        });
        events.collect()
    }

    /// Ids of all deals that were reported, by an event or by the history, sorted.
    pub(crate) fn deal_ids(&self, account: i64) -> Vec<i64> {
        let deals = self.events.iter().filter_map(|(_, event)| {
            if let Event::Deal(of, _, deal) = event {
                (of.0 == account).then_some(deal.deal_id.0)
            } else {
                None
            }
        });
        let mut ids: Vec<i64> = deals.collect();
        ids.sort_unstable();
        ids
    }

    /// How often we sent a payload type.
    pub(crate) fn sent_of(&self, kind: u32) -> usize {
        self.sent.iter().filter(|(_, of)| *of == kind).count()
    }
}
