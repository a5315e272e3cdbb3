//! Scripts faults: what goes wrong from now on, how often, and for how long.

use std::time::Duration;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::connection::{Close, ConnId};
use crate::sim::state::faults::{ScriptedRefusal, TokenRefreshEffect, UnauthorisedReply};
use crate::sim::state::refusal::{Refusal, RefusalMessage};
use crate::sim::state::timer::millis;

impl Broker {
    /// Refuses the next `times` requests of a payload type (`None` = any).
    pub fn refuse(&mut self, payload_type: Option<u32>, times: usize, refusal: Refusal) {
        if times > 0 {
            self.faults.refusals.push_back(ScriptedRefusal {
                payload_type,
                account: None,
                left: times,
                refusal,
            });
        }
    }

    /// Refuses the next `times` requests of a payload type (`None` = any) for one account.
    pub fn refuse_account(
        &mut self,
        account: i64,
        payload_type: Option<u32>,
        times: usize,
        refusal: Refusal,
    ) {
        if times > 0 {
            self.faults.refusals.push_back(ScriptedRefusal {
                payload_type,
                account: Some(account),
                left: times,
                refusal,
            });
        }
    }

    /// Returns how many scripted refusals are left.
    pub fn refusals_left(&self) -> usize {
        self.faults.refusals.iter().map(|script| script.left).sum()
    }

    /// Never sends the reply to the next request of a payload type (`None` = any). The request takes effect.
    pub fn swallow_reply(&mut self, payload_type: Option<u32>) {
        self.faults.swallow.push_back(payload_type);
    }

    /// Sends replies this much later. Zero ends it.
    pub fn delay_replies(&mut self, delay: Duration) {
        self.faults.reply_delay = delay;
    }

    /// Sends the reply to the next request of a payload type this much later.
    pub fn delay_reply(&mut self, payload_type: u32, delay: Duration) {
        self.faults.late.push_back((payload_type, delay));
    }

    /// Holds the next `count` replies and then sends them in reverse order.
    pub fn reorder_replies(&mut self, count: usize) {
        self.faults.hold = count;
    }

    /// Sends the next `count` account events twice.
    pub fn duplicate_events(&mut self, count: usize) {
        self.faults.duplicate_events = count;
    }

    /// Drops the next `count` account events on every connection.
    pub fn drop_events(&mut self, count: usize) {
        self.faults.drop_events = count;
    }

    /// Refuses every request with `SERVER_IS_UNDER_MAINTENANCE`, until this is set to `None`. `for_how_long`
    /// only sets the announced end.
    pub fn maintenance(&mut self, for_how_long: Option<Duration>) {
        self.faults.maintenance_end_ms = for_how_long.map(|time| self.wall_ms() + millis(time));
    }

    /// Sets the message that announces maintenance: `ProtoOAErrorRes` with its end in seconds, or
    /// `ProtoErrorRes` with milliseconds.
    pub fn maintenance_sent_as(&mut self, message: RefusalMessage) {
        self.faults.maintenance_message = message;
    }

    /// Sends the next `count` execution events with an execution type, an order type and an order status
    /// that no published schema has.
    pub fn unknown_enums(&mut self, count: usize) {
        self.faults.unknown_enums = count;
    }

    /// Adds fields that no published schema has to every message.
    pub fn unknown_fields(&mut self, on: bool) {
        self.faults.unknown_fields = on;
    }

    /// Sends a message of an unknown payload type before every `every`th message.
    pub fn unknown_types(&mut self, every: Option<u64>) {
        self.faults.unknown_types_every = every;
    }

    /// Leaves out the inner `payloadType`; only the envelope has it.
    pub fn omit_inner_payload_type(&mut self, on: bool) {
        self.faults.omit_inner = on;
        self.rebuild_spot_prefixes();
    }

    /// Gives events of manual trades the clientMsgId of a client that is not connected.
    pub fn foreign_ids(&mut self, on: bool) {
        self.faults.foreign_ids = on;
    }

    /// Sends `ProtoOAOrderErrorEvent` with zero ids.
    pub fn zero_order_error_ids(&mut self, on: bool) {
        self.faults.zero_ids = on;
    }

    /// Sets how a request for an account that is not authorised on the connection is refused.
    pub fn set_unauthorised_reply(&mut self, variant: UnauthorisedReply) {
        self.faults.unauthorised_reply = variant;
    }

    /// Sets what a token refresh does to open sessions.
    pub fn set_token_refresh_effect(&mut self, variant: TokenRefreshEffect) {
        self.faults.token_refresh_effect = variant;
    }

    /// Refuses an expired token with `CH_ACCESS_TOKEN_INVALID`.
    pub fn expired_as_invalid(&mut self, on: bool) {
        self.faults.expired_as_invalid = on;
    }

    /// Sends snapshots as the account was this long ago.
    pub fn reconcile_lag(&mut self, lag: Duration) {
        self.faults.reconcile_lag = lag;
        for account in self.account_ids() {
            self.record_snapshot(account);
        }
    }

    /// Leaves a deal out of deal lists until this long after its execution.
    pub fn history_lag(&mut self, lag: Duration) {
        self.faults.history_lag = lag;
    }

    /// Sends one more spot event after an unsubscribe.
    pub fn stray_spots(&mut self, on: bool) {
        self.faults.stray_spots = on;
    }

    /// Ends the sessions of an account on every connection. The connections stay.
    pub fn drop_account(&mut self, account: i64) {
        for conn in self.connections_of(account) {
            self.end_session(conn, account);
        }
    }

    /// Ends the application session of every connection (`ProtoOAClientDisconnectEvent`) and closes it.
    pub fn block_app(&mut self, reason: &str) {
        let body = wire::ProtoOaClientDisconnectEvent {
            payload_type: None,
            reason: Some(reason.to_owned()),
        };
        for conn in self.open_connections() {
            self.push_to(conn, PayloadType::ProtoOaClientDisconnectEvent, &body);
            self.close(conn, Close::Normal);
        }
    }

    /// Closes every connection as the real server does at weekends: WebSocket code 1000, reason `Bye`.
    pub fn close_all_with_bye(&mut self) {
        for conn in self.open_connections() {
            self.close(conn, Close::Bye);
        }
    }

    /// Resets every connection (TCP RST), without a message.
    pub fn reset_all(&mut self) {
        for conn in self.open_connections() {
            self.close(conn, Close::Reset);
        }
    }

    /// Resets one connection.
    pub fn reset(&mut self, conn: ConnId) {
        self.close(conn, Close::Reset);
    }

    /// Stops reading and writing every open connection without closing it.
    pub fn half_open_all(&mut self) {
        for conn in self.open_connections() {
            self.freeze(conn);
        }
    }

    /// Stops reading and writing one connection without closing it.
    pub fn half_open(&mut self, conn: ConnId) {
        self.freeze(conn);
    }
}
