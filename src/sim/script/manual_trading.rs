//! Trades as a person at a terminal makes them, outside any API client.
//!
//! Their events come at once, unless [`Settings::manual_fill_delay`](crate::sim::Settings::manual_fill_delay) says otherwise.

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::journal::JournalEvent;
use crate::sim::state::money;
use crate::sim::state::order::PlacedOrder;
use crate::sim::state::ratio::raw_f64;
use crate::sim::state::refusal::Refusal;
use crate::sim::world::order_spec::{OrderAmendment, OrderSpec};
use crate::sim::world::spec::Side;

impl Broker {
    /// Opens at the market; the position's id.
    ///
    /// # Errors
    /// The refusal a client would have got.
    pub fn open_market(
        &mut self,
        account: i64,
        symbol: &str,
        side: Side,
        volume: i64,
    ) -> Result<i64, Refusal> {
        self.place_order(account, &OrderSpec::market(symbol, side, volume))
            .map(|placed| placed.position)
    }

    /// Places any order.
    ///
    /// # Errors
    /// The refusal a client would have got.
    pub fn place_order(&mut self, account: i64, order: &OrderSpec) -> Result<PlacedOrder, Refusal> {
        let id = self.manual_msg_id();
        self.place(
            account,
            order,
            id.as_deref(),
            self.settings().manual_fill_delay,
        )
    }

    /// Closes part (`Some(volume)`) or all of a position.
    ///
    /// # Errors
    /// The refusal a client would have got.
    pub fn close_position(
        &mut self,
        account: i64,
        position: i64,
        volume: Option<i64>,
    ) -> Result<i64, Refusal> {
        let id = self.manual_msg_id();
        let delay = self.settings().manual_fill_delay;
        self.submit_close(account, position, volume, id.as_deref(), delay)
    }

    /// Replaces a position's levels, raw; `None` removes one.
    ///
    /// # Errors
    /// The refusal a client would have got.
    pub fn amend_levels(
        &mut self,
        account: i64,
        position: i64,
        stop_loss: Option<i64>,
        take_profit: Option<i64>,
    ) -> Result<(), Refusal> {
        let id = self.manual_msg_id();
        self.set_levels(
            account,
            position,
            (stop_loss, take_profit),
            false,
            id.as_deref(),
        )
    }

    /// Changes a pending order.
    ///
    /// # Errors
    /// The refusal a client would have got.
    pub fn amend_order(
        &mut self,
        account: i64,
        order: i64,
        change: OrderAmendment,
    ) -> Result<(), Refusal> {
        let id = self.manual_msg_id();
        self.change_order(account, order, change, id.as_deref())
    }

    /// Cancels a pending order.
    ///
    /// # Errors
    /// The refusal a client would have got.
    pub fn cancel_order(&mut self, account: i64, order: i64) -> Result<(), Refusal> {
        let id = self.manual_msg_id();
        self.drop_order(account, order, false, id.as_deref())
    }

    /// A pending order's time is over.
    ///
    /// # Errors
    /// If there is no such order.
    pub fn expire_order(&mut self, account: i64, order: i64) -> Result<(), Refusal> {
        self.drop_order(account, order, true, None)
    }

    /// A trailing stop moves: 2107 only; no update timestamp advances.
    pub fn trail_stop(&mut self, account: i64, position_id: i64, stop: i64) {
        let now_ms = self.wall_ms();
        let Some(book) = self.accounts.get_mut(&account) else {
            return;
        };
        let Some(position) = book.positions.get_mut(&position_id) else {
            return;
        };
        position.stop_loss = Some(stop);
        position.trailing = true;
        let take = position.take_profit;
        let order_id = position.protection.unwrap_or_default();
        if let Some(order) = book.orders.get_mut(&order_id) {
            order.stop_price = Some(raw_f64(stop));
        }
        self.record(account, || {
            JournalEvent::Levels(position_id, Some(stop), take)
        });
        let event = wire::ProtoOaTrailingSlChangedEvent {
            payload_type: None,
            ctid_trader_account_id: account,
            position_id,
            order_id,
            stop_price: raw_f64(stop),
            utc_last_update_timestamp: now_ms,
        };
        self.publish(
            account,
            PayloadType::ProtoOaTrailingSlChangedEvent,
            None,
            &event,
        );
    }

    /// A position's stop loss or take profit is hit at the price of now: one FILLED by the server.
    pub fn hit_protection(&mut self, account: i64, position_id: i64) {
        let Some(book) = self.accounts.get(&account) else {
            return;
        };
        let Some(position) = book.positions.get(&position_id) else {
            return;
        };
        let Some(order) = position.protection else {
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
        self.trigger(account, order, price, price);
    }
}
