//! What comes in on a connection: responses to our requests, and events.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use prost::Message;

use super::event::{ConnectionError, Down};
use super::state::{Connection, Pending};
use super::stats::RequestOutcome;
use crate::ctrader::ask::{Ask, Need};
use crate::ctrader::convert::Malformed;
use crate::ctrader::error::Refusal;
use crate::ctrader::frame::{self, ERROR_RES, Frame, HEARTBEAT_EVENT};
use crate::ctrader::request::{Purpose, Request};
use crate::ctrader::session::{Phase, Session, WireEvent};
use crate::ctrader::wire::{
    ProtoErrorRes, ProtoOaAccountDisconnectEvent, ProtoOaAccountsTokenInvalidatedEvent,
    ProtoOaAssetListRes, ProtoOaClientDisconnectEvent, ProtoOaErrorRes, ProtoOaExecutionEvent,
    ProtoOaMarginChangedEvent, ProtoOaPayloadType as Type, ProtoOaReconcileRes, ProtoOaSpotEvent,
    ProtoOaSymbolByIdRes, ProtoOaSymbolChangedEvent, ProtoOaSymbolsForConversionRes,
    ProtoOaSymbolsListRes, ProtoOaTraderRes, ProtoOaTraderUpdatedEvent,
    ProtoOaTrailingSlChangedEvent,
};
use crate::domain::ids::{AccountId, SymbolId};

/// Why a session ends whose response could not be read.
const UNREADABLE_RESPONSE: Malformed = Malformed::Unreadable("an answer");

/// The account that an event concerns: the same field in all of them.
#[derive(Clone, PartialEq, Message)]
struct Concerned {
    #[prost(int64, optional, tag = "2")]
    account: Option<i64>,
}

impl Connection {
    pub(super) fn handle_frame(&mut self, frame: &Frame, now: Instant) {
        let own = frame
            .client_msg_id
            .as_deref()
            .and_then(|tag| self.ids.number(tag));
        // An id alone makes no response: an event may have the id of the client that caused it.
        let is_reply_to = |pending: &Pending| {
            frame.payload_type == ERROR_RES
                || frame.payload_type == frame::number(Type::ProtoOaErrorRes)
                || frame.payload_type == pending.request.response_type()
        };
        let own = own.filter(|id| self.pending.get(id).is_some_and(is_reply_to));
        let answered = own.and_then(|id| self.pending.remove(&id));
        match (answered, frame.payload_type) {
            (answered, ERROR_RES) => match ProtoErrorRes::decode(frame.payload.clone()) {
                Ok(error) => self.handle_error(
                    answered,
                    Refusal {
                        code: error.error_code,
                        description: error.description,
                        retry_after: None,
                        maintenance_end_ms: error.maintenance_end_timestamp.and_then(milliseconds),
                    },
                    now,
                ),
                Err(_) => self.skipped += 1,
            },
            (answered, t) if t == frame::number(Type::ProtoOaErrorRes) => {
                match ProtoOaErrorRes::decode(frame.payload.clone()) {
                    Ok(error) => self.handle_error(
                        answered,
                        Refusal {
                            code: error.error_code,
                            description: error.description,
                            retry_after: error.retry_after.map(Duration::from_secs),
                            maintenance_end_ms: error
                                .maintenance_end_timestamp
                                .and_then(|at| milliseconds(at.unsigned_abs())),
                        },
                        now,
                    ),
                    Err(_) => self.skipped += 1,
                }
            }
            (Some(pending), _) => {
                self.stats.count_request(RequestOutcome::Answered);
                self.blocks.remove(&pending.request.class.payload_type);
                self.handle_response(pending.request, frame, now);
            }
            (None, HEARTBEAT_EVENT) => {}
            (None, _) => self.handle_unsolicited(frame, now),
        }
    }

    /// Handles the response to a request of ours.
    fn handle_response(&mut self, request: Request, frame: &Frame, now: Instant) {
        match request.purpose {
            Purpose::Application => self.handle_application_authorised(),
            Purpose::Token { ticket } => self.handle_token_verified(ticket, frame),
            Purpose::Refresh { ticket } => self.handle_refreshed(ticket, frame),
            Purpose::Account {
                account,
                generation,
                ask,
            } => {
                if let Ask::Broker(need) = ask {
                    // Good for all accounts of the broker, even when the one that asked has left.
                    let current = self.is_current(account, generation);
                    if !self.handle_catalog(account, &need, frame, now) {
                        self.forget_need(&need);
                        if current {
                            self.end(account, UNREADABLE_RESPONSE.into(), now);
                        }
                    }
                } else if self.is_current(account, generation) {
                    self.handle_account_response(account, ask, frame, now);
                }
            }
        }
    }

    fn handle_account_response(
        &mut self,
        account: AccountId,
        ask: Ask,
        frame: &Frame,
        now: Instant,
    ) {
        let handled = match ask {
            Ask::Authorise => {
                self.handle_account_authorised(account);
                Ok(())
            }
            Ask::Reauthorise => {
                self.handle_reauthorised(account, now);
                Ok(())
            }
            // Accepted. The session ends with its own event, or right here should that not come.
            Ask::Logout => {
                self.end(account, Down::LoggedOut, now);
                Ok(())
            }
            Ask::Trader => self.handle_trader(account, frame, now),
            Ask::Snapshot => self.handle_snapshot(account, frame, now),
            Ask::Subscribe(symbols) => {
                if let Some(session) = self.sessions.get_mut(account) {
                    session.handle_subscribed(&symbols);
                }
                self.advance(account, now);
                Ok(())
            }
            Ask::Unsubscribe(symbols) => {
                self.handle_unsubscribed(account, &symbols, now);
                Ok(())
            }
            // The caller handles it, whether or not the session is still there.
            Ask::Broker(_) => Ok(()),
            Ask::Check(check) => self.handle_check(account, check, frame, now),
        };
        if let Err(malformed) = handled {
            self.end(account, malformed.into(), now);
        }
    }

    fn handle_trader(
        &mut self,
        account: AccountId,
        frame: &Frame,
        now: Instant,
    ) -> Result<(), Malformed> {
        let response = self.read_response::<ProtoOaTraderRes>(frame)?;
        if let Some(session) = self.sessions.get_mut(account) {
            session.handle_trader(response.trader, now)?;
        }
        self.advance(account, now);
        Ok(())
    }

    fn handle_snapshot(
        &mut self,
        account: AccountId,
        frame: &Frame,
        now: Instant,
    ) -> Result<(), Malformed> {
        let response = self.read_response::<ProtoOaReconcileRes>(frame)?;
        if let Some(session) = self.sessions.get_mut(account) {
            session.handle_snapshot(response, now)?;
        }
        self.advance(account, now);
        Ok(())
    }

    pub(super) fn handle_reauthorised(&mut self, account: AccountId, now: Instant) {
        if let Some(session) = self.active_mut(account) {
            session.handle_reauthorised(now);
        }
        self.advance(account, now);
    }

    pub(super) fn handle_unsubscribed(
        &mut self,
        account: AccountId,
        symbols: &BTreeSet<SymbolId>,
        now: Instant,
    ) {
        if let Some(session) = self.sessions.get_mut(account) {
            session.handle_unsubscribed(symbols);
        }
        self.advance(account, now);
    }

    /// Returns whether the response could be read.
    fn handle_catalog(
        &mut self,
        account: AccountId,
        need: &Need,
        frame: &Frame,
        now: Instant,
    ) -> bool {
        // The response is from the asking account's broker, and an account has one broker for ever.
        let Some(broker) = self.sessions.get(account).and_then(Session::broker) else {
            return true;
        };
        match need {
            Need::Assets => {
                let Some(response) = self.read::<ProtoOaAssetListRes>(frame) else {
                    return false;
                };
                self.catalogs
                    .entry(broker.clone())
                    .or_default()
                    .set_assets(response.asset);
            }
            Need::SymbolList => {
                let Some(response) = self.read::<ProtoOaSymbolsListRes>(frame) else {
                    return false;
                };
                self.catalogs
                    .entry(broker.clone())
                    .or_default()
                    .set_list(response.symbol);
            }
            Need::Symbols(asked) => {
                let Some(response) = self.read::<ProtoOaSymbolByIdRes>(frame) else {
                    return false;
                };
                self.catalogs
                    .entry(broker.clone())
                    .or_default()
                    .set_symbols(asked, &response.symbol);
            }
            Need::Chain(from, to) => {
                let Some(response) = self.read::<ProtoOaSymbolsForConversionRes>(frame) else {
                    return false;
                };
                self.catalogs.entry(broker.clone()).or_default().set_chain(
                    *from,
                    *to,
                    &response.symbol,
                );
            }
        }
        self.advance_all_of(&broker, now);
        true
    }

    /// An event, or a response that nobody waits for any more.
    fn handle_unsolicited(&mut self, frame: &Frame, now: Instant) {
        let payload_type = i32::try_from(frame.payload_type).unwrap_or_default();
        let kind = Type::try_from(payload_type);
        self.stats.count_event(kind.ok());
        match kind {
            Ok(Type::ProtoOaSpotEvent) => {
                if let Some(spot) = self.read::<ProtoOaSpotEvent>(frame) {
                    self.handle_spot(&spot, now);
                }
            }
            Ok(Type::ProtoOaExecutionEvent) => {
                if let Some(event) = self.read_event::<ProtoOaExecutionEvent>(frame, now) {
                    let account = AccountId(event.ctid_trader_account_id);
                    self.handle_event(account, WireEvent::Execution(Box::new(event)), now);
                }
            }
            Ok(Type::ProtoOaTraderUpdateEvent) => {
                if let Some(event) = self.read_event::<ProtoOaTraderUpdatedEvent>(frame, now) {
                    let account = AccountId(event.ctid_trader_account_id);
                    self.handle_event(account, WireEvent::Trader(Box::new(event.trader)), now);
                }
            }
            Ok(Type::ProtoOaMarginChangedEvent) => {
                if let Some(event) = self.read_event::<ProtoOaMarginChangedEvent>(frame, now) {
                    self.handle_event(
                        AccountId(event.ctid_trader_account_id),
                        WireEvent::Margin(event),
                        now,
                    );
                }
            }
            Ok(Type::ProtoOaTrailingSlChangedEvent) => {
                if let Some(event) = self.read_event::<ProtoOaTrailingSlChangedEvent>(frame, now) {
                    self.handle_event(
                        AccountId(event.ctid_trader_account_id),
                        WireEvent::TrailingStop(event),
                        now,
                    );
                }
            }
            Ok(Type::ProtoOaSymbolChangedEvent) => {
                if let Some(event) = self.read_event::<ProtoOaSymbolChangedEvent>(frame, now) {
                    self.handle_symbol_changed(&event, now);
                }
            }
            Ok(Type::ProtoOaAccountDisconnectEvent) => {
                if let Some(event) = self.read_event::<ProtoOaAccountDisconnectEvent>(frame, now) {
                    self.handle_ended(AccountId(event.ctid_trader_account_id), Down::Dropped, now);
                }
            }
            Ok(Type::ProtoOaAccountsTokenInvalidatedEvent) => {
                if let Some(event) = self.read::<ProtoOaAccountsTokenInvalidatedEvent>(frame) {
                    for account in event.ctid_trader_account_ids {
                        self.handle_ended(AccountId(account), Down::TokenInvalidated, now);
                    }
                }
            }
            Ok(Type::ProtoOaClientDisconnectEvent) => {
                let reason = self
                    .read::<ProtoOaClientDisconnectEvent>(frame)
                    .and_then(|event| event.reason);
                self.fail(ConnectionError::Disconnected { reason });
            }
            // Margin calls, depth, order errors of other clients, late responses: nothing of the
            // account's state. Unknown types must be ignored.
            _ => self.skipped += 1,
        }
    }

    fn handle_spot(&mut self, spot: &ProtoOaSpotEvent, now: Instant) {
        let account = AccountId(spot.ctid_trader_account_id);
        let Some(session) = self.sessions.get_quoted(account) else {
            return;
        };
        session.handle_spot(spot, now);
        if session.phase == Phase::AwaitingQuotes {
            self.advance(account, now);
        }
    }

    fn handle_event(&mut self, account: AccountId, event: WireEvent, now: Instant) {
        let Some(session) = self.sessions.get_mut(account) else {
            return;
        };
        match session.handle_event(event, now) {
            Ok(()) => self.advance(account, now),
            Err(malformed) => self.end(account, malformed.into(), now),
        }
    }

    fn handle_symbol_changed(&mut self, event: &ProtoOaSymbolChangedEvent, now: Instant) {
        let account = AccountId(event.ctid_trader_account_id);
        let Some(broker) = self.sessions.get(account).and_then(Session::broker) else {
            return;
        };
        for symbol in &event.symbol_id {
            self.catalogs
                .entry(broker.clone())
                .or_default()
                .forget_symbol(SymbolId(*symbol));
        }
        self.advance_all_of(&broker, now);
    }

    /// The server ended a session of the account.
    fn handle_ended(&mut self, account: AccountId, down: Down, now: Instant) {
        match self.sessions.get(account).map(|session| session.phase) {
            // Its authorisation is not answered, so this can only be about the session before it: a second
            // message follows a log-out, or an invalidated token.
            None | Some(Phase::Authorising) => {}
            Some(Phase::Closing) => self.end(account, Down::LoggedOut, now),
            Some(Phase::Loading | Phase::AwaitingQuotes | Phase::Live) => {
                self.end(account, down, now);
            }
        }
    }

    /// An event that cannot be read may have changed the account in ways nobody knows: only a new
    /// snapshot helps, of this account if its id can be made out, else of all.
    fn read_event<M: Message + Default>(&mut self, frame: &Frame, now: Instant) -> Option<M> {
        let event = self.read(frame);
        if event.is_none() {
            let mut concerned = Concerned::default();
            // What was read before the damage stays.
            let _ = concerned.merge(frame.payload.clone());
            match concerned.account {
                Some(id) => self.end(AccountId(id), Malformed::Unreadable("an event").into(), now),
                None => self.fail(ConnectionError::Malformed),
            }
        }
        event
    }

    /// Returns the response in a frame; one that cannot be read ends the session.
    pub(super) fn read_response<M: Message + Default>(
        &mut self,
        frame: &Frame,
    ) -> Result<M, Malformed> {
        self.read(frame).ok_or(UNREADABLE_RESPONSE)
    }

    pub(super) fn read<M: Message + Default>(&mut self, frame: &Frame) -> Option<M> {
        let message = M::decode(frame.payload.clone()).ok();
        self.skipped += u64::from(message.is_none());
        message
    }
}

/// A time in seconds or milliseconds, as milliseconds: the two error messages differ.
fn milliseconds(at: u64) -> Option<i64> {
    const ABOVE_IS_MILLISECONDS: u64 = 100_000_000_000;
    let ms = if at > ABOVE_IS_MILLISECONDS {
        at
    } else {
        at.checked_mul(1_000)?
    };
    i64::try_from(ms).ok()
}
