//! What a test may look at: connections, requests, subscriptions, deals, the journal.

use std::time::Instant;

use crate::ctrader::wire;
use crate::sim::state::broker::Broker;
use crate::sim::state::connection::ConnId;
use crate::sim::state::journal::JournalEntry;
use crate::sim::state::request::RequestRecord;
use crate::sim::state::stats::Stats;
use crate::sim::world::spec::Environment;

/// One connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its number.
    pub id: ConnId,
    /// Which listener it came through.
    pub environment: Environment,
    /// The authenticated application.
    pub app: Option<String>,
    /// Accounts authorised on it.
    pub accounts: Vec<i64>,
    /// (account, symbol id) subscriptions.
    pub spots: Vec<(i64, i64)>,
    /// Requests received.
    pub requests: u64,
    /// The most non-historical requests in any second.
    pub most_requests_per_second: usize,
    /// The most historical requests in any second.
    pub most_history_per_second: usize,
    /// Requests refused for their rate.
    pub rate_refusals: u64,
}

impl Broker {
    /// Ids of all accounts.
    pub fn account_ids(&self) -> Vec<i64> {
        self.accounts.keys().copied().collect()
    }

    /// Every deal of an account, oldest first, as it was on the wire.
    pub fn deals(&self, account: i64) -> Vec<wire::ProtoOaDeal> {
        self.accounts
            .get(&account)
            .map(|account| account.deals.clone())
            .unwrap_or_default()
    }

    /// Every balance operation of an account, oldest first, as it was on the wire.
    pub fn cash_flow(&self, account: i64) -> Vec<wire::ProtoOaDepositWithdraw> {
        self.accounts
            .get(&account)
            .map(|account| account.cash.clone())
            .unwrap_or_default()
    }

    /// Open connections.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.conns
            .iter()
            .map(|(id, conn)| ConnectionInfo {
                id: *id,
                environment: conn.environment,
                app: conn.app.clone(),
                accounts: conn.accounts.keys().copied().collect(),
                spots: conn.spots.keys().copied().collect(),
                requests: conn.requests,
                most_requests_per_second: conn.budget.most_requests(),
                most_history_per_second: conn.budget.most_historical(),
                rate_refusals: conn.budget.refused,
            })
            .collect()
    }

    /// Sockets on which an account is authorised now.
    pub fn authorised_on(&self, account: i64) -> Vec<ConnId> {
        self.sockets_of(account)
    }

    /// Requests of a payload type since `since`.
    pub fn requests_since(&self, kind: u32, since: Instant) -> usize {
        self.request_log
            .iter()
            .rev()
            .take_while(|seen| seen.at >= since)
            .filter(|seen| seen.payload_type == kind)
            .count()
    }

    /// Requests of a payload type since the start (of those remembered).
    pub fn requests_of(&self, kind: u32) -> usize {
        self.request_log
            .iter()
            .filter(|seen| seen.payload_type == kind)
            .count()
    }

    /// The requests remembered, oldest first.
    pub fn requests_seen(&self) -> impl Iterator<Item = &RequestRecord> {
        self.request_log.iter()
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Writes down what happens from now on. Nothing is forgotten: this is for short histories.
    pub fn keep_journal(&mut self) {
        self.journal.get_or_insert_default();
    }

    /// What happened since [`Self::keep_journal`].
    pub fn journal(&self) -> &[JournalEntry] {
        self.journal.as_deref().unwrap_or_default()
    }
}
