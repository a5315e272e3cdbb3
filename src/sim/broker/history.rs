//! Deals and cash flow of the past, in chunks.

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::payload::named;
use crate::sim::state::refusal::Refusal;
use crate::sim::state::request::Request;
use crate::sim::state::timer::millis;

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
    pub(crate) fn new(from: Option<i64>, to: Option<i64>) -> Result<Self, Refusal> {
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
        let account = request.account().unwrap_or_default();
        self.require_account(request, account)?;
        let outcome = match named(request.payload_type) {
            Some(PayloadType::ProtoOaDealListReq) => self.on_deal_list(request),
            _ => self.on_cash_flow(request),
        };
        outcome.map_err(|refusal| refusal.account(account))
    }

    /// Sorts rows by time and cuts them to the chunk; whether there were more.
    pub(crate) fn page<T>(
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

    fn deals_in(&self, account: i64, range: Range) -> Vec<wire::ProtoOaDeal> {
        let visible = self.wall_ms() - millis(self.faults.history_lag);
        let Some(book) = self.accounts.get(&account) else {
            return Vec::new();
        };
        book.deals
            .iter()
            .filter(|deal| {
                range.holds(deal.execution_timestamp) && deal.execution_timestamp <= visible
            })
            .copied()
            .collect()
    }

    fn on_deal_list(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaDealListReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let range = Range::new(body.from_timestamp, body.to_timestamp)?;
        let rows = self.deals_in(account, range);
        let (deal, has_more) = self.page(rows, body.max_rows, |deal| deal.execution_timestamp);
        let reply = wire::ProtoOaDealListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            deal,
            has_more,
        };
        self.reply(request, PayloadType::ProtoOaDealListRes, &reply);
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
        self.reply(request, PayloadType::ProtoOaCashFlowHistoryListRes, &reply);
        Ok(())
    }
}
