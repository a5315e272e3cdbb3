//! Closing positions: the closing order, the deal that books the result, the events of both.
//!
//! Only this module and `balance` change a balance.

use std::time::Duration;

use crate::ctrader::wire;
use crate::sim::state::account::Position;
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use crate::sim::state::money;
use crate::sim::state::order::{ExecutionDetails, Fill, PendingFill, closing_order, new_deal};
use crate::sim::state::ratio::{Ratio, fine_f64, share};
use crate::sim::state::refusal::Refusal;
use wire::ProtoOaExecutionType as Execution;

impl Broker {
    /// Sends a closing market order: ACCEPTED now, FILLED after `delay`.
    pub(crate) fn submit_close(
        &mut self,
        account: i64,
        position_id: i64,
        volume: Option<i64>,
        id: Option<&str>,
        delay: Duration,
    ) -> Result<i64, Refusal> {
        let refuse =
            |code: &str| Refusal::order_error(code, None, Some(position_id)).account(account);
        let order_id = self.next_id(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return Err(refuse("POSITION_NOT_FOUND"));
        };
        let Some(position) = book.positions.get(&position_id) else {
            return Err(refuse("POSITION_NOT_FOUND"));
        };
        let volume = volume.unwrap_or(position.volume);
        if volume <= 0 || volume > position.volume {
            return Err(refuse("TRADING_BAD_VOLUME"));
        }
        let order = closing_order(position, order_id, volume, now_ms);
        let before = book.wire_position(position);
        book.orders.insert(order_id, order.clone());
        let details = ExecutionDetails {
            position: Some(before),
            order: Some(order),
            deal: None,
        };
        self.publish_execution(account, Execution::OrderAccepted, id, false, details);
        self.fill_after(
            delay,
            PendingFill {
                account,
                order: order_id,
                msg_id: id.map(str::to_owned),
                by_server: false,
            },
        );
        Ok(order_id)
    }

    /// Closes part or all of a position by an order, and resizes or cancels its protective order.
    pub(super) fn close_fill(
        &mut self,
        account: i64,
        mut order: wire::ProtoOaOrder,
        volume: i64,
        fill: Fill<'_>,
    ) {
        let position_id = order.position_id.unwrap_or_default();
        let Some((position, deal)) =
            self.reduce_position(account, position_id, volume, &order, fill)
        else {
            return self.reject(account, order, "NO_QUOTES", fill.msg_id);
        };
        self.book_execution(account, &mut order, volume, fill);
        let protective = position
            .protection
            .filter(|protection| *protection != order.order_id);
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        let wire_position = book.wire_position(&position);
        let details = ExecutionDetails {
            position: Some(wire_position.clone()),
            order: Some(order),
            deal: Some(deal),
        };
        self.publish_execution(account, fill.kind(), fill.msg_id, fill.by_server, details);
        if position.volume > 0 {
            self.resize_protection(account, position_id);
        } else if let Some(protective) = protective {
            self.cancel_protection(account, protective, position.symbol, wire_position);
        }
        self.after_balance(account);
    }

    /// Takes `volume` off a position and books its result. The deal has the new balance and its version.
    fn reduce_position(
        &mut self,
        account: i64,
        position_id: i64,
        volume: i64,
        order: &wire::ProtoOaOrder,
        fill: Fill<'_>,
    ) -> Option<(Position, wire::ProtoOaDeal)> {
        let now_ms = self.wall_ms();
        let deal_id = self.next_id(account);
        let book = self.accounts.get_mut(&account)?;
        let venue = self.venues.get(book.venue)?;
        let mut position = book.positions.get(&position_id)?.clone();
        let symbol = venue.symbols.get(&position.symbol)?;
        let rate = venue.rate(symbol.spec.quote, book.deposit_asset)?;
        let gross = money::gross(&position, volume, fill.price, rate, book.digits);
        let closing_side = money::commission(venue, book, symbol, volume);
        let opening_part = share(position.commission, volume, position.volume);
        let swap_part = share(position.swap, volume, position.volume);
        let converted = symbol.spec.quote != book.deposit_asset;
        let fee_rate = if converted {
            i64::from(symbol.spec.pnl_conversion_fee_rate)
        } else {
            0
        };
        let fee = -share(gross.abs(), fee_rate, 10_000);
        position.volume -= volume;
        position.commission -= opening_part;
        position.swap -= swap_part;
        position.updated_ms = now_ms;
        position.closed_ms = (position.volume == 0).then_some(now_ms);
        book.balance += gross + swap_part + opening_part + closing_side + fee;
        book.balance_version += 1;
        let mut deal = new_deal(deal_id, order, volume, fill, now_ms);
        deal.commission = Some(closing_side);
        deal.margin_rate = Some(Ratio::new(position.margin_rate_e8.into(), 100_000_000).to_f64());
        deal.base_to_usd_conversion_rate = venue.base_to_usd(symbol).map(Ratio::to_f64);
        deal.money_digits = book.object_digits();
        deal.close_position_detail = Some(wire::ProtoOaClosePositionDetail {
            entry_price: fine_f64(position.price),
            gross_profit: gross,
            swap: swap_part,
            commission: opening_part + closing_side,
            balance: book.balance,
            quote_to_deposit_conversion_rate: Some(rate.to_f64()),
            closed_volume: Some(volume),
            balance_version: Some(book.balance_version),
            money_digits: book.object_digits(),
            pnl_conversion_fee: Some(fee),
        });
        book.deals.push(deal);
        if position.volume == 0 {
            book.positions.remove(&position_id);
            book.closed.insert(position_id);
        } else {
            book.positions.insert(position_id, position.clone());
        }
        self.record(account, || JournalEvent::Deal(Box::new(deal)));
        self.record_margin(account, position_id);
        Some((position, deal))
    }

    /// Closes part or all of a position because the margin does not suffice (stop-out).
    pub fn stop_out(&mut self, account: i64, position_id: i64, volume: Option<i64>) {
        let order_id = self.next_id(account);
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        let Some(position) = book.positions.get(&position_id) else {
            return;
        };
        let symbol = self
            .venues
            .get(book.venue)
            .and_then(|venue| venue.symbols.get(&position.symbol));
        let Some(price) = symbol.and_then(|symbol| money::closing_price(symbol, position.side))
        else {
            return;
        };
        let volume = volume.unwrap_or(position.volume).min(position.volume);
        let mut order = closing_order(position, order_id, volume, now_ms);
        order.is_stop_out = Some(true);
        self.execute(
            account,
            order,
            Fill {
                price,
                msg_id: None,
                by_server: true,
                is_last: true,
            },
        );
    }
}
