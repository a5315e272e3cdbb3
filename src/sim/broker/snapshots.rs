//! What an account looks like now: the trader, open positions and orders, the server's own profit figures.

use std::time::Duration;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::account::PastSnapshot;
use crate::sim::state::broker::Broker;
use crate::sim::state::refusal::Refusal;
use crate::sim::state::request::Request;

impl Broker {
    pub(super) fn on_trader(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaTraderReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        self.require_account(request, id)?;
        let Some(trader) = self.wire_trader(id) else {
            return Ok(());
        };
        let reply = wire::ProtoOaTraderRes {
            payload_type: None,
            ctid_trader_account_id: id,
            trader,
        };
        self.reply(request, PayloadType::ProtoOaTraderRes, &reply);
        Ok(())
    }

    pub(crate) fn wire_trader(&self, id: i64) -> Option<wire::ProtoOaTrader> {
        let account = self.accounts.get(&id)?;
        Some(account.trader(&self.venues.get(account.venue)?.title))
    }

    pub(super) fn on_reconcile(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaReconcileReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        self.require_account(request, id)?;
        let protective = wire::ProtoOaOrderType::StopLossTakeProfit as i32;
        let market = wire::ProtoOaOrderType::Market as i32;
        let with_protection = body.return_protection_orders.unwrap_or(false);
        let lag = self.faults.reconcile_lag;
        let seen = self.now.checked_sub(lag).filter(|_| lag > Duration::ZERO);
        let Some(account) = self.accounts.get(&id) else {
            return Ok(());
        };
        let past = seen.and_then(|seen| {
            let before = account
                .past_snapshots
                .iter()
                .rev()
                .find(|past| past.since <= seen);
            before.or(account.past_snapshots.front())
        });
        let (positions, orders) = match past {
            Some(past) => (&past.positions, &past.orders),
            None => (&account.positions, &account.orders),
        };
        let positions = positions.values();
        let orders = orders.values().filter(|order| {
            order.order_type != market && (with_protection || order.order_type != protective)
        });
        let reply = wire::ProtoOaReconcileRes {
            payload_type: None,
            ctid_trader_account_id: id,
            position: positions
                .map(|position| account.wire_position(position))
                .collect(),
            order: orders.cloned().collect(),
        };
        self.reply(request, PayloadType::ProtoOaReconcileRes, &reply);
        Ok(())
    }

    /// Remembers how an account is now, for a reconcile that lags.
    pub(crate) fn record_snapshot(&mut self, account: i64) {
        let lag = self.faults.reconcile_lag;
        let now = self.now;
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        if lag.is_zero() {
            book.past_snapshots.clear();
            return;
        }
        let past = PastSnapshot {
            since: now,
            positions: book.positions.clone(),
            orders: book.orders.clone(),
        };
        book.past_snapshots.push_back(past);
        // The one that was true when the oldest lag began is still needed.
        while book
            .past_snapshots
            .get(1)
            .is_some_and(|next| next.since + lag <= now)
        {
            book.past_snapshots.pop_front();
        }
    }

    pub(super) fn on_unrealized_pnl(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaGetPositionUnrealizedPnLReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        self.require_account(request, id)?;
        let Some(truth) = self.truth(id) else {
            return Ok(());
        };
        // What has no price yet has no profit either: nothing is said of it.
        let rows = truth
            .positions
            .iter()
            .filter(|position| position.priced)
            .map(|position| wire::ProtoOaPositionUnrealizedPnL {
                position_id: position.id,
                gross_unrealized_pn_l: position.gross,
                net_unrealized_pn_l: position.net,
            });
        let reply = wire::ProtoOaGetPositionUnrealizedPnLRes {
            payload_type: None,
            ctid_trader_account_id: id,
            position_unrealized_pn_l: rows.collect(),
            money_digits: truth.money_digits,
        };
        self.reply(
            request,
            PayloadType::ProtoOaGetPositionUnrealizedPnlRes,
            &reply,
        );
        Ok(())
    }
}
