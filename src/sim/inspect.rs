//! What a test may look at: connections, requests, subscriptions, and the truth about accounts.

use std::time::Instant;

use crate::ctrader::wire;

use super::broker::{Broker, ConnId, Seen, Stats};
use super::money;
use super::num::fine_f64;
use super::spec::{Environment, Side};

/// The truth about one position.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionTruth {
    /// Its id.
    pub id: i64,
    /// Symbol id.
    pub symbol_id: i64,
    /// Symbol name.
    pub symbol: String,
    /// Direction.
    pub side: Side,
    /// 1/100 unit.
    pub volume: i64,
    /// Entry price.
    pub price: f64,
    /// Gross unrealised profit; 0 while a price is missing.
    pub gross: i64,
    /// Whether no price is missing.
    pub priced: bool,
    /// Gross + swap + commission.
    pub net: i64,
    /// Swap so far.
    pub swap: i64,
    /// Commission so far.
    pub commission: i64,
    /// Margin it ties up.
    pub used_margin: i64,
    /// Stop loss, raw.
    pub stop_loss: Option<i64>,
    /// Take profit, raw.
    pub take_profit: Option<i64>,
}

/// The truth about one account, by the simulator's own arithmetic, in the account's smallest unit.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountTruth {
    /// Cash.
    pub balance: i64,
    /// Its version.
    pub balance_version: i64,
    /// Decimals of every amount here.
    pub money_digits: u32,
    /// Bonus that counts towards equity.
    pub active_bonus: i64,
    /// Σ gross.
    pub gross: i64,
    /// Σ net.
    pub net: i64,
    /// Balance + Σ net + active bonus.
    pub equity: i64,
    /// Margin tied up.
    pub used_margin: i64,
    /// Equity − used margin.
    pub free_margin: i64,
    /// Equity / used margin, per cent; `None` without margin.
    pub margin_level: Option<f64>,
    /// Open positions by id.
    pub positions: Vec<PositionTruth>,
    /// Ids of pending orders (without protective ones).
    pub pending: Vec<i64>,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct ConnView {
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

/// Inspection.
impl Broker {
    /// An account's truth now.
    pub fn truth(&self, account: i64) -> Option<AccountTruth> {
        let account = self.accounts.get(&account)?;
        let venue = self.venues.get(account.venue)?;
        let positions: Vec<PositionTruth> = account
            .positions
            .values()
            .map(|position| {
                let floating = money::floating(venue, account, position);
                let gross = floating.unwrap_or_default();
                PositionTruth {
                    id: position.id,
                    symbol_id: position.symbol,
                    symbol: venue
                        .symbols
                        .get(&position.symbol)
                        .map(|s| s.spec.name.clone())
                        .unwrap_or_default(),
                    side: position.side,
                    volume: position.volume,
                    price: fine_f64(position.price),
                    gross,
                    priced: floating.is_some(),
                    net: gross + position.swap + position.commission,
                    swap: position.swap,
                    commission: position.commission,
                    used_margin: account.used_margin(position),
                    stop_loss: position.stop_loss,
                    take_profit: position.take_profit,
                }
            })
            .collect();
        let gross = positions.iter().map(|position| position.gross).sum();
        let net = positions.iter().map(|position| position.net).sum();
        let active_bonus = money::active_bonus(account, net);
        let equity = account.balance + net + active_bonus;
        let used_margin = money::total_margin(account);
        let level = (used_margin > 0)
            .then(|| super::num::Ratio::new(i128::from(equity) * 100, used_margin.into()));
        Some(AccountTruth {
            balance: account.balance,
            balance_version: account.balance_version,
            money_digits: account.digits,
            active_bonus,
            gross,
            net,
            equity,
            used_margin,
            free_margin: equity - used_margin,
            margin_level: level.map(super::num::Ratio::to_f64),
            positions,
            pending: account
                .orders
                .values()
                .filter(|order| matches!(order.order_type, 2 | 3 | 6))
                .map(|order| order.order_id)
                .collect(),
        })
    }

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
    pub fn connections(&self) -> Vec<ConnView> {
        self.conns
            .iter()
            .map(|(id, conn)| ConnView {
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
        self.seen
            .iter()
            .rev()
            .take_while(|seen| seen.at >= since)
            .filter(|seen| seen.kind == kind)
            .count()
    }

    /// Requests of a payload type since the start (of those remembered).
    pub fn requests_of(&self, kind: u32) -> usize {
        self.seen.iter().filter(|seen| seen.kind == kind).count()
    }

    /// The requests remembered, oldest first.
    pub fn requests_seen(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter()
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
