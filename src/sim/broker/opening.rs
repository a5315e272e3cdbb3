//! Opening fills: the position, its deal, and the protective order that the levels ask for.

use crate::ctrader::wire;
use crate::sim::state::account::Position;
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use crate::sim::state::money;
use crate::sim::state::order::{ExecutionDetails, Fill, new_deal};
use crate::sim::state::ratio::{FINE_PER_RAW, Ratio, f64_raw, share};
use crate::sim::world::spec::Side;
use wire::ProtoOaExecutionType as Execution;

impl Broker {
    /// Opens a position or adds to it, then creates the protective order the levels ask for.
    pub(super) fn open_fill(
        &mut self,
        account: i64,
        mut order: wire::ProtoOaOrder,
        volume: i64,
        fill: Fill<'_>,
    ) {
        let now_ms = self.wall_ms();
        let side = Side::from_wire(order.trade_data.trade_side).unwrap_or(Side::Buy);
        let position_id = order.position_id.unwrap_or_default();
        let deal_id = self.next_id(account);
        self.book_execution(account, &mut order, volume, fill);
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let Some(venue) = self.venues.get(book.venue) else {
            return;
        };
        let symbol = order.trade_data.symbol_id;
        let opening = money::opening(venue, book, symbol, side, volume);
        let mut deal = new_deal(deal_id, &order, volume, fill, now_ms);
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
        let added = Ratio::int(fill.price * FINE_PER_RAW).times(Ratio::int(volume));
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
        self.record(account, || JournalEvent::Deal(Box::new(deal)));
        self.record_margin(account, position_id);
        let details = ExecutionDetails {
            position: Some(wire_position),
            order: Some(order.clone()),
            deal: Some(deal),
        };
        self.publish_execution(account, fill.kind(), fill.msg_id, fill.by_server, details);
        if fill.is_last {
            self.levels_after_fill(account, &order, &snapshot, fill.price);
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
            let details = self.protect(account, position.id, stop, take);
            self.publish_execution(account, Execution::OrderAccepted, None, true, details);
        }
    }
}
