//! The order engine: accepts, fills and opens, with the events each of these sends.
//!
//! Every operation exists once and is used by requests and by hand alike. Closing is in `closing`.

use std::time::Duration;

use crate::ctrader::wire;
use wire::ProtoOaExecutionType as Execution;

use super::accounts::Position;
use super::broker::{Broker, Timer};
use super::closing::closing_order;
use super::envelope::Refusal;
use super::ledger::What;
use super::money;
use super::num::{FINE_PER_RAW, Ratio, f64_raw, raw_f64, share};
use super::order_spec::{OrderKind, OrderSpec};
use super::spec::{AccountKind, Side};

/// An enum's number that no schema has.
const UNKNOWN_ENUM: i32 = 99;

/// A market or closing order waiting for its fill.
#[derive(Clone, Debug)]
pub(super) struct Fill {
    pub(super) account: i64,
    pub(super) order: i64,
    pub(super) id: Option<String>,
    /// Whether the server does it, unasked.
    pub(super) server: bool,
}

/// How a fill is told and at what price it happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) price: i64,
    pub(super) id: Option<&'a str>,
    pub(super) server: bool,
    /// Nothing of the order is left after it.
    pub(super) last: bool,
}

impl Terms<'_> {
    /// How the fill is told.
    pub(super) fn kind(self) -> Execution {
        if self.last {
            Execution::OrderFilled
        } else {
            Execution::OrderPartialFill
        }
    }
}

/// The objects of an execution event.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) position: Option<wire::ProtoOaPosition>,
    pub(super) order: Option<wire::ProtoOaOrder>,
    pub(super) deal: Option<wire::ProtoOaDeal>,
}

/// What placing an order gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The order's id.
    pub order: i64,
    /// The position's id, allocated at once.
    pub position: i64,
}

impl Broker {
    /// Sends an execution event to every socket of the account.
    pub(super) fn execution(
        &mut self,
        account: i64,
        kind: Execution,
        id: Option<&str>,
        server: bool,
        parts: Parts,
    ) {
        let mut event = wire::ProtoOaExecutionEvent {
            ctid_trader_account_id: account,
            execution_type: kind.into(),
            position: parts.position,
            order: parts.order,
            deal: parts.deal,
            is_server_event: Some(server),
            ..Default::default()
        };
        if self.faults.unknown_enums > 0 {
            self.faults.unknown_enums -= 1;
            event.execution_type = UNKNOWN_ENUM;
            if let Some(order) = &mut event.order {
                order.order_type = UNKNOWN_ENUM;
                order.order_status = UNKNOWN_ENUM;
            }
        }
        self.publish(account, 2126, id, &event);
    }

    pub(super) fn fresh_id(&mut self, account: i64) -> i64 {
        let venue = self.accounts.get(&account).map(|account| account.venue);
        venue
            .and_then(|venue| self.venues.get_mut(venue))
            .map_or(0, super::market::Venue::next_id)
    }

    /// The price a new trade of this side would get, raw.
    pub(super) fn opening_price(&self, account: i64, symbol: i64, side: Side) -> Option<i64> {
        let venue = self.venues.get(self.accounts.get(&account)?.venue)?;
        money::closing_price(venue.symbols.get(&symbol)?, side.opposite())
    }

    /// Accepts an order; a market order is filled after `gap`, at once if it is zero.
    pub(super) fn place(
        &mut self,
        account: i64,
        spec: &OrderSpec,
        id: Option<&str>,
        gap: Duration,
    ) -> Result<Placed, Refusal> {
        let symbol = self
            .check_order(account, spec)
            .map_err(|refusal| refusal.account(account))?;
        let target = self.target_position(account, symbol, spec);
        let order_id = self.fresh_id(account);
        let position_id = match target {
            Some(position) => position,
            None => self.fresh_id(account),
        };
        let order = spec.order(order_id, symbol, position_id, self.wall_ms());
        let Some(book) = self.accounts.get_mut(&account) else {
            return Err(Refusal::new("CH_CTID_TRADER_ACCOUNT_NOT_FOUND"));
        };
        let position = match book.positions.get(&position_id) {
            Some(position) => book.wire_position(position),
            None => book.wire_unborn(&order, false),
        };
        book.orders.insert(order_id, order.clone());
        self.write(account, || What::Order(Box::new(order.clone())));
        let parts = Parts {
            position: Some(position),
            order: Some(order),
            deal: None,
        };
        self.execution(account, Execution::OrderAccepted, id, false, parts);
        if spec.kind == OrderKind::Market {
            self.fill_after(
                gap,
                Fill {
                    account,
                    order: order_id,
                    id: id.map(str::to_owned),
                    server: false,
                },
            );
        } else {
            self.rest(account, symbol, order_id, true);
        }
        Ok(Placed {
            order: order_id,
            position: position_id,
        })
    }

    pub(super) fn fill_after(&mut self, gap: Duration, fill: Fill) {
        if gap.is_zero() {
            self.fill(&fill);
        } else {
            self.later(gap, Timer::Fill(fill));
        }
    }

    /// The open position an order acts on: the one it names, or the symbol's on a netted account.
    fn target_position(&self, account: i64, symbol: i64, spec: &OrderSpec) -> Option<i64> {
        let book = self.accounts.get(&account)?;
        if let Some(named) = spec.position {
            return book.positions.contains_key(&named).then_some(named);
        }
        if book.kind == AccountKind::Hedged || spec.kind != OrderKind::Market {
            return None;
        }
        book.positions
            .values()
            .find(|position| position.symbol == symbol)
            .map(|position| position.id)
    }

    /// Ends an order with REJECTED.
    pub(super) fn reject(
        &mut self,
        account: i64,
        mut order: wire::ProtoOaOrder,
        code: &str,
        id: Option<&str>,
    ) {
        order.order_status = wire::ProtoOaOrderStatus::OrderStatusRejected.into();
        let event = wire::ProtoOaExecutionEvent {
            ctid_trader_account_id: account,
            execution_type: Execution::OrderRejected.into(),
            order: Some(order.clone()),
            error_code: Some(code.to_owned()),
            is_server_event: Some(false),
            ..Default::default()
        };
        self.end_order(account, order);
        self.publish(account, 2126, id, &event);
    }

    /// Opens a position or adds to it, then creates the protective order the levels ask for.
    pub(super) fn open_fill(
        &mut self,
        account: i64,
        mut order: wire::ProtoOaOrder,
        volume: i64,
        terms: Terms<'_>,
    ) {
        let now_ms = self.wall_ms();
        let side = Side::from_wire(order.trade_data.trade_side).unwrap_or(Side::Buy);
        let position_id = order.position_id.unwrap_or_default();
        let deal_id = self.fresh_id(account);
        self.executed(account, &mut order, volume, terms);
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let Some(venue) = self.venues.get(book.venue) else {
            return;
        };
        let symbol = order.trade_data.symbol_id;
        let opening = money::opening(venue, book, symbol, side, volume);
        let mut deal = new_deal(deal_id, &order, volume, terms, now_ms);
        deal.commission = Some(opening.commission);
        deal.margin_rate = Some(Ratio::new(opening.margin_rate_e8.into(), 100_000_000).to_f64());
        deal.base_to_usd_conversion_rate = venue
            .symbols
            .get(&symbol)
            .and_then(|symbol| venue.base_to_usd(symbol))
            .map(Ratio::to_f64);
        deal.money_digits = book.object_digits();
        let position = book
            .positions
            .entry(position_id)
            .or_insert_with(|| Position {
                id: position_id,
                symbol,
                side,
                volume: 0,
                price: 0,
                swap: 0,
                commission: 0,
                margin_rate_e8: opening.margin_rate_e8,
                margin_factor: opening.margin_factor,
                stop_loss: None,
                take_profit: None,
                trailing: order.trailing_stop_loss.unwrap_or(false),
                opened_ms: now_ms,
                updated_ms: now_ms,
                closed_ms: None,
                label: order.trade_data.label.clone(),
                comment: order.trade_data.comment.clone(),
                protection: None,
            });
        let total = position.volume + volume;
        let added = Ratio::int(terms.price * FINE_PER_RAW).times(Ratio::int(volume));
        let old = Ratio::int(position.price).times(Ratio::int(position.volume));
        position.price = old.plus(added).over(Ratio::int(total)).round();
        position.margin_rate_e8 = share(position.margin_rate_e8, position.volume, total)
            + share(opening.margin_rate_e8, volume, total);
        position.volume = total;
        position.commission += opening.commission;
        position.updated_ms = now_ms;
        let snapshot = position.clone();
        let wire_position = book.wire_position(&snapshot);
        book.deals.push(deal);
        self.write(account, || What::Deal(Box::new(deal)));
        self.write_margin(account, position_id);
        let parts = Parts {
            position: Some(wire_position),
            order: Some(order.clone()),
            deal: Some(deal),
        };
        self.execution(account, terms.kind(), terms.id, terms.server, parts);
        if terms.last {
            self.levels_after_fill(account, &order, &snapshot, terms.price);
        }
    }

    /// The protective order that follows an opening or enlarging fill.
    fn levels_after_fill(
        &mut self,
        account: i64,
        order: &wire::ProtoOaOrder,
        position: &Position,
        price: i64,
    ) {
        let away = match position.side {
            Side::Buy => 1,
            Side::Sell => -1,
        };
        let relative = |distance: Option<i64>, sign: i64| {
            distance.map(|distance| price + sign * away * distance)
        };
        let stop = order
            .stop_loss
            .map(f64_raw)
            .or_else(|| relative(order.relative_stop_loss, -1));
        let take = order
            .take_profit
            .map(f64_raw)
            .or_else(|| relative(order.relative_take_profit, 1));
        if position.protection.is_some() {
            self.resize_protection(account, position.id);
        } else if stop.is_some() || take.is_some() {
            let parts = self.protect(account, position.id, stop, take);
            self.execution(account, Execution::OrderAccepted, None, true, parts);
        }
    }

    /// Takes an order that has ended out of the book.
    pub(super) fn end_order(&mut self, account: i64, order: wire::ProtoOaOrder) {
        self.rest(account, order.trade_data.symbol_id, order.order_id, false);
        if let Some(book) = self.accounts.get_mut(&account) {
            book.orders.remove(&order.order_id);
        }
        self.write(account, || What::Order(Box::new(order)));
    }

    /// The opening deal of a planted position, so that history knows it.
    pub(super) fn record_planted(&mut self, account: i64, position: &Position) {
        let (order_id, deal_id) = (self.fresh_id(account), self.fresh_id(account));
        let mut order = closing_order(position, order_id, position.volume, position.opened_ms);
        order.closing_order = Some(false);
        order.trade_data.trade_side = position.side.wire();
        finish(
            &mut order,
            wire::ProtoOaOrderStatus::OrderStatusFilled,
            position.opened_ms,
        );
        order.executed_volume = Some(position.volume);
        order.execution_price = Some(super::num::fine_f64(position.price));
        let terms = Terms {
            price: position.price / FINE_PER_RAW,
            id: None,
            server: false,
            last: true,
        };
        let mut deal = new_deal(deal_id, &order, position.volume, terms, position.opened_ms);
        deal.commission = Some(position.commission);
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        deal.money_digits = book.object_digits();
        book.deals.push(deal);
    }
}

/// Marks an order as ended.
pub(super) fn finish(
    order: &mut wire::ProtoOaOrder,
    status: wire::ProtoOaOrderStatus,
    now_ms: i64,
) {
    order.order_status = status.into();
    order.utc_last_update_timestamp = Some(now_ms);
}

pub(super) fn new_deal(
    id: i64,
    order: &wire::ProtoOaOrder,
    volume: i64,
    terms: Terms<'_>,
    now_ms: i64,
) -> wire::ProtoOaDeal {
    let filled = if terms.last {
        wire::ProtoOaDealStatus::Filled
    } else {
        wire::ProtoOaDealStatus::PartiallyFilled
    };
    wire::ProtoOaDeal {
        deal_id: id,
        order_id: order.order_id,
        position_id: order.position_id.unwrap_or_default(),
        volume,
        filled_volume: volume,
        symbol_id: order.trade_data.symbol_id,
        create_timestamp: order.trade_data.open_timestamp.unwrap_or(now_ms),
        execution_timestamp: now_ms,
        utc_last_update_timestamp: Some(now_ms),
        execution_price: Some(raw_f64(terms.price)),
        trade_side: order.trade_data.trade_side,
        deal_status: filled.into(),
        ..Default::default()
    }
}
