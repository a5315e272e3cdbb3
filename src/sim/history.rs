//! Deals, orders and cash flow of the past, in chunks.

use crate::ctrader::wire;

use super::broker::{Broker, Request};
use super::envelope::Refusal;
use super::faults::millis;

/// The largest timestamp a range may have.
const TIME_MAX: i64 = 2_147_483_646_000;
/// The widest cash flow range: one week.
const WEEK_MS: i64 = 604_800_000;

/// A time range, both ends included.
#[derive(Clone, Copy, Debug)]
struct Range {
    from: i64,
    to: i64,
}

impl Range {
    fn new(from: Option<i64>, to: Option<i64>) -> Result<Self, Refusal> {
        let range = Self {
            from: from.unwrap_or(0),
            to: to.unwrap_or(TIME_MAX),
        };
        if range.from < 0 || range.to > TIME_MAX || range.from > range.to {
            return Err(
                Refusal::new("INCORRECT_BOUNDARIES").description("Incorrect time boundaries")
            );
        }
        Ok(range)
    }

    fn holds(self, at: i64) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

impl Broker {
    pub(super) fn dispatch_history(&mut self, request: &Request) -> Result<(), Refusal> {
        let account = super::dispatch::named_account(request).unwrap_or_default();
        self.need_account(request, account)?;
        let outcome = match request.kind {
            2133 => self.on_deal_list(request),
            2143 => self.on_cash_flow(request),
            2175 => self.on_order_list(request),
            2179 => self.on_deals_of_position(request),
            2181 => self.on_order_details(request),
            2183 => self.on_orders_of_position(request),
            _ => self.on_deal_offsets(request),
        };
        outcome.map_err(|refusal| refusal.account(account))
    }

    /// Sorts rows by time and cuts them to the chunk; whether there were more.
    fn page<T>(
        &self,
        mut rows: Vec<T>,
        most: Option<i32>,
        time: impl Fn(&T) -> i64,
    ) -> (Vec<T>, bool) {
        rows.sort_by_key(|row| time(row));
        if self.settings().newest_first {
            rows.reverse();
        }
        let asked = most
            .and_then(|most| usize::try_from(most).ok())
            .filter(|most| *most > 0);
        let chunk = self
            .settings()
            .history_chunk
            .min(asked.unwrap_or(usize::MAX));
        let more = rows.len() > chunk;
        rows.truncate(chunk);
        (rows, more)
    }

    fn deals_in(
        &self,
        account: i64,
        range: Range,
        wanted: impl Fn(&wire::ProtoOaDeal) -> bool,
    ) -> Vec<wire::ProtoOaDeal> {
        let visible = self.wall_ms() - millis(self.faults.history_lag);
        let Some(book) = self.accounts.get(&account) else {
            return Vec::new();
        };
        book.deals
            .iter()
            .filter(|deal| {
                range.holds(deal.execution_timestamp) && deal.execution_timestamp <= visible
            })
            .filter(|deal| wanted(deal))
            .copied()
            .collect()
    }

    fn orders_in(
        &self,
        account: i64,
        range: Range,
        wanted: impl Fn(&wire::ProtoOaOrder) -> bool,
    ) -> Vec<wire::ProtoOaOrder> {
        let Some(book) = self.accounts.get(&account) else {
            return Vec::new();
        };
        book.ended
            .iter()
            .chain(book.orders.values())
            .filter(|order| range.holds(updated(order)) && wanted(order))
            .cloned()
            .collect()
    }

    fn on_deal_list(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaDealListReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let range = Range::new(body.from_timestamp, body.to_timestamp)?;
        let rows = self.deals_in(account, range, |_| true);
        let (deal, has_more) = self.page(rows, body.max_rows, |deal| deal.execution_timestamp);
        let reply = wire::ProtoOaDealListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            deal,
            has_more,
        };
        self.reply(request, 2134, &reply);
        Ok(())
    }

    fn on_deals_of_position(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaDealListByPositionIdReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let range = Range::new(body.from_timestamp, body.to_timestamp)?;
        let rows = self.deals_in(account, range, |deal| deal.position_id == body.position_id);
        let (deal, has_more) = self.page(rows, None, |deal| deal.execution_timestamp);
        let reply = wire::ProtoOaDealListByPositionIdRes {
            payload_type: None,
            ctid_trader_account_id: account,
            deal,
            has_more,
        };
        self.reply(request, 2180, &reply);
        Ok(())
    }

    fn on_order_list(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaOrderListReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let range = Range::new(body.from_timestamp, body.to_timestamp)?;
        let (order, has_more) = self.page(self.orders_in(account, range, |_| true), None, updated);
        let reply = wire::ProtoOaOrderListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            order,
            has_more,
        };
        self.reply(request, 2176, &reply);
        Ok(())
    }

    /// Newest first, whatever the other lists do.
    fn on_orders_of_position(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaOrderListByPositionIdReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let range = Range::new(body.from_timestamp, body.to_timestamp)?;
        let mut order = self.orders_in(account, range, |order| {
            order.position_id == Some(body.position_id)
        });
        order.sort_by_key(|order| std::cmp::Reverse(updated(order)));
        let has_more = order.len() > self.settings().history_chunk;
        order.truncate(self.settings().history_chunk);
        let reply = wire::ProtoOaOrderListByPositionIdRes {
            payload_type: None,
            ctid_trader_account_id: account,
            order,
            has_more,
        };
        self.reply(request, 2184, &reply);
        Ok(())
    }

    fn on_order_details(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaOrderDetailsReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let all = Range {
            from: 0,
            to: TIME_MAX,
        };
        let found = self
            .orders_in(account, all, |order| order.order_id == body.order_id)
            .pop();
        let order = found.ok_or_else(|| Refusal::new("ORDER_NOT_FOUND"))?;
        let deal = self.deals_in(account, all, |deal| deal.order_id == body.order_id);
        let reply = wire::ProtoOaOrderDetailsRes {
            payload_type: None,
            ctid_trader_account_id: account,
            order,
            deal,
        };
        self.reply(request, 2182, &reply);
        Ok(())
    }

    /// Which deals a deal closed, or by which it was closed: the other deals of its position.
    fn on_deal_offsets(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaDealOffsetListReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let all = Range {
            from: 0,
            to: TIME_MAX,
        };
        let deal = self
            .deals_in(account, all, |deal| deal.deal_id == body.deal_id)
            .pop();
        let deal = deal.ok_or_else(|| Refusal::new("ENTITY_NOT_FOUND"))?;
        let closing = deal.close_position_detail.is_some();
        let others = self.deals_in(account, all, |other| {
            other.position_id == deal.position_id
                && other.close_position_detail.is_some() != closing
        });
        let offset = |other: &wire::ProtoOaDeal| wire::ProtoOaDealOffset {
            deal_id: other.deal_id,
            volume: other.filled_volume.min(deal.filled_volume),
            execution_timestamp: Some(other.execution_timestamp),
            execution_price: other.execution_price,
        };
        let rows = others.iter().map(offset).collect();
        let (offset_by, offsetting) = if closing {
            (Vec::new(), rows)
        } else {
            (rows, Vec::new())
        };
        let reply = wire::ProtoOaDealOffsetListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            offset_by,
            offsetting,
        };
        self.reply(request, 2186, &reply);
        Ok(())
    }

    fn on_cash_flow(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaCashFlowHistoryListReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let range = Range::new(Some(body.from_timestamp), Some(body.to_timestamp))?;
        if range.to - range.from > WEEK_MS {
            return Err(Refusal::new("INCORRECT_BOUNDARIES")
                .description("The range is wider than one week"));
        }
        let Some(book) = self.accounts.get(&account) else {
            return Ok(());
        };
        let rows = book
            .cash
            .iter()
            .filter(|flow| range.holds(flow.change_balance_timestamp));
        let reply = wire::ProtoOaCashFlowHistoryListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            deposit_withdraw: rows.cloned().collect(),
        };
        self.reply(request, 2144, &reply);
        Ok(())
    }
}

fn updated(order: &wire::ProtoOaOrder) -> i64 {
    order.utc_last_update_timestamp.unwrap_or_default()
}
