//! What comes in: the envelope, maintenance and budgets, and which handler serves which payload type.

use std::time::Instant;

use bytes::Bytes;
use prost::Message;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::budget::Breach;
use crate::sim::state::connection::ConnId;
use crate::sim::state::envelope::MAX_FRAME;
use crate::sim::state::payload::{HEARTBEAT_EVENT, named};
use crate::sim::state::refusal::{Refusal, RefusalMessage};
use crate::sim::state::request::{Request, RequestRecord};

/// Requests remembered for inspection; older ones are forgotten.
const REQUEST_LOG_MAX: usize = 200_000;

impl Broker {
    /// A message came in: one bare `ProtoMessage`.
    pub fn handle_message(&mut self, conn: ConnId, bytes: Bytes, now: Instant) {
        self.advance(now);
        let Some(socket) = self.conns.get_mut(&conn) else {
            return;
        };
        if socket.frozen {
            return;
        }
        socket.last_in = now;
        if bytes.len() > MAX_FRAME {
            let frame = Refusal::new("FRAME_TOO_LONG").frame(None, None, self.frame_options());
            return self.send(conn, frame);
        }
        let Ok(message) = wire::ProtoMessage::decode(bytes) else {
            let frame = Refusal::new("INVALID_REQUEST").sent_as(RefusalMessage::CommonError);
            let frame =
                frame
                    .description("Malformed ProtoMessage")
                    .frame(None, None, self.frame_options());
            return self.send(conn, frame);
        };
        if message.payload_type == HEARTBEAT_EVENT {
            self.stats.heartbeats += 1;
            return;
        }
        let request = Request {
            conn,
            payload_type: message.payload_type,
            id: message.client_msg_id,
            body: message.payload.unwrap_or_default(),
        };
        self.handle_request(&request);
    }

    fn handle_request(&mut self, request: &Request) {
        let account = request.account();
        self.log_request(request, account.unwrap_or_default());
        let outcome = match self.admit(request, account) {
            Ok(()) => self.dispatch(request),
            Err(refusal) => Err(refusal),
        };
        if let Err(mut refusal) = outcome {
            let details = refusal.details();
            if self.faults.zero_ids && details.message == RefusalMessage::OrderError {
                details.order = Some(0);
                details.position = Some(0);
            }
            let frame = refusal.frame(request.id.as_deref(), account, self.frame_options());
            self.reply_frame(request, frame);
        }
    }

    fn log_request(&mut self, request: &Request, account: i64) {
        self.stats.requests += 1;
        if let Some(socket) = self.conns.get_mut(&request.conn) {
            socket.requests += 1;
        }
        if self.request_log.len() == REQUEST_LOG_MAX {
            self.request_log.pop_front();
        }
        self.request_log.push_back(RequestRecord {
            conn: request.conn,
            payload_type: request.payload_type,
            account,
            at: self.now,
        });
    }

    /// Maintenance, scripted refusals and budgets, before anything else looks at the request.
    fn admit(&mut self, request: &Request, account: Option<i64>) -> Result<(), Refusal> {
        if let Some(end) = self.faults.maintenance_end_ms {
            let refusal = Refusal::new("SERVER_IS_UNDER_MAINTENANCE");
            let mut refusal = refusal.sent_as(self.faults.maintenance_message);
            refusal.details().maintenance_end_ms = Some(end);
            return Err(refusal);
        }
        let limits = self.settings.limits;
        let now = self.now;
        let charged = match self.conns.get_mut(&request.conn) {
            Some(socket) => socket.budget.charge(request.payload_type, &limits, now),
            None => Ok(()),
        };
        if let Some(refusal) = self.faults.refuse(request.payload_type, account) {
            return Err(refusal);
        }
        charged.map_err(|breach| {
            self.stats.rate_refusals += 1;
            match breach {
                Breach::Blocked(seconds) => {
                    Refusal::new("BLOCKED_PAYLOAD_TYPE").retry_after(seconds)
                }
                Breach::Frequency => Refusal::new("REQUEST_FREQUENCY_EXCEEDED")
                    .description("You have reached the rate limit of requests"),
            }
        })
    }

    fn dispatch(&mut self, request: &Request) -> Result<(), Refusal> {
        match named(request.payload_type) {
            Some(PayloadType::ProtoOaApplicationAuthReq) => self.on_application_auth(request),
            Some(PayloadType::ProtoOaAccountAuthReq) => self.on_account_auth(request),
            Some(PayloadType::ProtoOaVersionReq) => self.on_version(request),
            Some(PayloadType::ProtoOaNewOrderReq) => self.on_new_order(request),
            Some(PayloadType::ProtoOaCancelOrderReq) => self.on_cancel_order(request),
            Some(PayloadType::ProtoOaClosePositionReq) => self.on_close_position(request),
            Some(PayloadType::ProtoOaTraderReq) => self.on_trader(request),
            Some(PayloadType::ProtoOaReconcileReq) => self.on_reconcile(request),
            Some(PayloadType::ProtoOaSubscribeSpotsReq) => self.on_subscribe_spots(request),
            Some(PayloadType::ProtoOaUnsubscribeSpotsReq) => self.on_unsubscribe_spots(request),
            Some(PayloadType::ProtoOaGetAccountsByAccessTokenReq) => self.on_account_list(request),
            Some(PayloadType::ProtoOaAccountLogoutReq) => self.on_logout(request),
            Some(PayloadType::ProtoOaRefreshTokenReq) => self.on_refresh(request),
            Some(PayloadType::ProtoOaGetPositionUnrealizedPnlReq) => {
                self.on_unrealized_pnl(request)
            }
            Some(
                PayloadType::ProtoOaAssetListReq
                | PayloadType::ProtoOaSymbolsListReq
                | PayloadType::ProtoOaSymbolByIdReq
                | PayloadType::ProtoOaSymbolsForConversionReq,
            ) => self.dispatch_static(request),
            Some(PayloadType::ProtoOaDealListReq | PayloadType::ProtoOaCashFlowHistoryListReq) => {
                self.dispatch_history(request)
            }
            _ => {
                self.require_app(request)?;
                Err(Refusal::new("UNSUPPORTED_MESSAGE").description("Unsupported message"))
            }
        }
    }
}
