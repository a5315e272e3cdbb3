//! Scripts faults: what goes wrong from now on, how often, and for how long.

use std::time::Duration;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::connection::{Close, ConnId};
use crate::sim::state::faults::{ScriptedRefusal, TokenRefreshEffect, UnauthorisedReply};
use crate::sim::state::refusal::{Refusal, RefusalMessage};
use crate::sim::state::timer::millis;

impl Broker {
    /// The next `times` requests of this payload type (`None` = any) are refused.
    pub fn refuse(&mut self, kind: Option<u32>, times: usize, refusal: Refusal) {
        if times > 0 {
            self.faults.refusals.push_back(ScriptedRefusal {
                kind,
                account: None,
                left: times,
                refusal,
            });
        }
    }

    /// The next `times` requests of this payload type for one account are refused.
    pub fn refuse_account(
        &mut self,
        account: i64,
        kind: Option<u32>,
        times: usize,
        refusal: Refusal,
    ) {
        if times > 0 {
            self.faults.refusals.push_back(ScriptedRefusal {
                kind,
                account: Some(account),
                left: times,
                refusal,
            });
        }
    }

    /// Scripted refusals that were not used up.
    pub fn refusals_left(&self) -> usize {
        self.faults.refusals.iter().map(|script| script.left).sum()
    }

    /// The reply to the next request of this payload type (`None` = any) is never sent; its effect stays.
    pub fn swallow_reply(&mut self, kind: Option<u32>) {
        self.faults.swallow.push_back(kind);
    }

    /// Replies are sent this much later; zero ends it.
    pub fn delay_replies(&mut self, delay: Duration) {
        self.faults.reply_delay = delay;
    }

    /// The reply to the next request of this payload type is sent this much later.
    pub fn delay_reply(&mut self, kind: u32, delay: Duration) {
        self.faults.late.push_back((kind, delay));
    }

    /// The next `count` replies are held and then sent in reverse order.
    pub fn reorder_replies(&mut self, count: usize) {
        self.faults.hold = count;
    }

    /// The next `count` account events are sent twice.
    pub fn duplicate_events(&mut self, count: usize) {
        self.faults.duplicate_events = count;
    }

    /// The next `count` account events are lost on every socket.
    pub fn drop_events(&mut self, count: usize) {
        self.faults.drop_events = count;
    }

    /// Every request is refused with `SERVER_IS_UNDER_MAINTENANCE` until this is set to `None`.
    pub fn maintenance(&mut self, for_how_long: Option<Duration>) {
        self.faults.maintenance_end_ms = for_how_long.map(|time| self.wall_ms() + millis(time));
    }

    /// By which message maintenance is told: 2142 with its end in seconds, or 50 with milliseconds.
    pub fn maintenance_sent_as(&mut self, message: RefusalMessage) {
        self.faults.maintenance_message = message;
    }

    /// The next `count` execution events have a type, and their orders a type and a status, that no
    /// published schema has.
    pub fn unknown_enums(&mut self, count: usize) {
        self.faults.unknown_enums = count;
    }

    /// Messages carry fields that no published schema has.
    pub fn unknown_fields(&mut self, on: bool) {
        self.faults.unknown_fields = on;
    }

    /// Every `every`th message is preceded by one of an unknown payload type.
    pub fn unknown_types(&mut self, every: Option<u64>) {
        self.faults.unknown_types_every = every;
    }

    /// The inner `payloadType` is left out; only the envelope has it.
    pub fn omit_inner_payload_type(&mut self, on: bool) {
        self.faults.omit_inner = on;
        self.rebuild_spot_prefixes();
    }

    /// Events made by hand carry the clientMsgId of a client that is not connected.
    pub fn foreign_ids(&mut self, on: bool) {
        self.faults.foreign_ids = on;
    }

    /// `ProtoOAOrderErrorEvent` comes with zero ids.
    pub fn zero_order_error_ids(&mut self, on: bool) {
        self.faults.zero_ids = on;
    }

    /// How a request for an account not authorised on the socket is refused.
    pub fn set_unauthorised_reply(&mut self, variant: UnauthorisedReply) {
        self.faults.unauthorised_reply = variant;
    }

    /// What a token refresh does to open sessions.
    pub fn set_token_refresh_effect(&mut self, variant: TokenRefreshEffect) {
        self.faults.token_refresh_effect = variant;
    }

    /// An expired token is refused with `CH_ACCESS_TOKEN_INVALID`.
    pub fn expired_as_invalid(&mut self, on: bool) {
        self.faults.expired_as_invalid = on;
    }

    /// Reconcile shows the account as it was this long ago.
    pub fn reconcile_lag(&mut self, lag: Duration) {
        self.faults.reconcile_lag = lag;
        for account in self.account_ids() {
            self.record_snapshot(account);
        }
    }

    /// Deal lists do not show a deal until this long after its execution.
    pub fn history_lag(&mut self, lag: Duration) {
        self.faults.history_lag = lag;
    }

    /// One more spot comes after an unsubscribe.
    pub fn stray_spots(&mut self, on: bool) {
        self.faults.stray_spots = on;
    }

    /// Ends one account's session on every socket (2164), the socket stays.
    pub fn drop_account(&mut self, account: i64) {
        for conn in self.sockets_of(account) {
            self.end_session(conn, account);
        }
    }

    /// Ends the application session of every socket (2148) and closes them.
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

    /// Closes every socket the way a weekend does: WebSocket code 1000, reason `Bye`.
    pub fn close_all_with_bye(&mut self) {
        for conn in self.open_connections() {
            self.close(conn, Close::Bye);
        }
    }

    /// Resets every socket (RST), with nothing said.
    pub fn reset_all(&mut self) {
        for conn in self.open_connections() {
            self.close(conn, Close::Reset);
        }
    }

    /// Resets one socket.
    pub fn reset(&mut self, conn: ConnId) {
        self.close(conn, Close::Reset);
    }

    /// The sockets open now stop being read and written, without being closed.
    pub fn half_open_all(&mut self) {
        for conn in self.open_connections() {
            self.freeze(conn);
        }
    }

    /// One socket stops being read and written, without being closed.
    pub fn half_open(&mut self, conn: ConnId) {
        self.freeze(conn);
    }
}
