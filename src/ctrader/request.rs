//! Requests: read-only ones, each with what its response is for.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::ask::{AccountCheck, Ask, Need};
use super::frame::number;
use super::throttle::{Budget, Class, Priority};
use super::wire::{
    ProtoOaAccountAuthReq, ProtoOaAccountLogoutReq, ProtoOaApplicationAuthReq, ProtoOaAssetListReq,
    ProtoOaCashFlowHistoryListReq, ProtoOaDealListReq, ProtoOaGetAccountListByAccessTokenReq,
    ProtoOaGetPositionUnrealizedPnLReq, ProtoOaPayloadType as Type, ProtoOaReconcileReq,
    ProtoOaRefreshTokenReq, ProtoOaSubscribeSpotsReq, ProtoOaSymbolByIdReq,
    ProtoOaSymbolsForConversionReq, ProtoOaSymbolsListReq, ProtoOaTraderReq,
    ProtoOaUnsubscribeSpotsReq,
};
use crate::domain::ids::{AccountId, SymbolId};
use crate::domain::secret::Secret;

/// Deals of one response that we ask for; the server may send fewer, and tells that there are more.
const DEALS_MAX: i32 = 1_000;

/// Whom a response concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The application itself.
    Application,
    /// One session of an account: `generation` tells it from an earlier one of the same account.
    Account {
        account: AccountId,
        generation: u64,
        ask: Ask,
    },
    /// Which accounts a token covers.
    Token { ticket: u64 },
    /// A new pair of tokens. It has no deadline: a response that comes late still counts.
    Refresh { ticket: u64 },
}

/// A request before it has an id.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) purpose: Purpose,
    pub(super) class: Class,
    pub(super) payload: Bytes,
    /// How often it was refused and asked again.
    pub(super) tries: u32,
}

impl Request {
    /// The payload type of its response: the one after its own, for all that the bridge asks.
    pub(super) const fn response_type(&self) -> u32 {
        self.class.payload_type + 1
    }

    /// Whether it is about an account.
    pub(super) fn concerns(&self, account: AccountId) -> bool {
        matches!(&self.purpose, Purpose::Account { account: of, .. } if *of == account)
    }

    /// Whether it is of no use without the account's session. A log-out is.
    pub(super) fn needs_session_of(&self, account: AccountId) -> bool {
        matches!(&self.purpose, Purpose::Account { account: of, ask, .. }
            if *of == account && *ask != Ask::Logout)
    }
}

/// A request of no account.
fn common(purpose: Purpose, payload_type: Type, message: &impl Message) -> Request {
    Request {
        purpose,
        class: Class {
            priority: Priority::Authorise,
            payload_type: number(payload_type),
            budget: Budget::Common,
        },
        payload: message.encode_to_vec().into(),
        tries: 0,
    }
}

/// Authorises the application.
pub(super) fn application_auth(client_id: &str, client_secret: &Secret) -> Request {
    common(
        Purpose::Application,
        Type::ProtoOaApplicationAuthReq,
        &ProtoOaApplicationAuthReq {
            client_id: client_id.to_owned(),
            client_secret: client_secret.expose().to_owned(),
            ..Default::default()
        },
    )
}

/// Asks which accounts a token covers.
pub(super) fn accounts_of_token(ticket: u64, token: &Secret) -> Request {
    common(
        Purpose::Token { ticket },
        Type::ProtoOaGetAccountsByAccessTokenReq,
        &ProtoOaGetAccountListByAccessTokenReq {
            access_token: token.expose().to_owned(),
            ..Default::default()
        },
    )
}

/// Spends a refresh token.
pub(super) fn refresh(ticket: u64, refresh_token: &Secret) -> Request {
    common(
        Purpose::Refresh { ticket },
        Type::ProtoOaRefreshTokenReq,
        &ProtoOaRefreshTokenReq {
            refresh_token: refresh_token.expose().to_owned(),
            ..Default::default()
        },
    )
}

/// A request of one account's session. `token` is needed to authorise alone.
pub(super) fn of_account(account: AccountId, generation: u64, ask: Ask, token: &Secret) -> Request {
    let class = ask.class();
    let payload = payload(account, &ask, token);
    Request {
        purpose: Purpose::Account {
            account,
            generation,
            ask,
        },
        class,
        payload: payload.into(),
        tries: 0,
    }
}

fn payload(account: AccountId, ask: &Ask, token: &Secret) -> Vec<u8> {
    let ctid_trader_account_id = account.0;
    let symbols = |ids: &BTreeSet<SymbolId>| ids.iter().map(|id| id.0).collect();
    match ask {
        Ask::Authorise | Ask::Reauthorise => ProtoOaAccountAuthReq {
            ctid_trader_account_id,
            access_token: token.expose().to_owned(),
            ..Default::default()
        }
        .encode_to_vec(),
        Ask::Logout => ProtoOaAccountLogoutReq {
            ctid_trader_account_id,
            ..Default::default()
        }
        .encode_to_vec(),
        Ask::Trader | Ask::Check(AccountCheck::BalanceVersion) => ProtoOaTraderReq {
            ctid_trader_account_id,
            ..Default::default()
        }
        .encode_to_vec(),
        Ask::Snapshot | Ask::Check(AccountCheck::Snapshot) => ProtoOaReconcileReq {
            ctid_trader_account_id,
            ..Default::default()
        }
        .encode_to_vec(),
        Ask::Subscribe(ids) => ProtoOaSubscribeSpotsReq {
            ctid_trader_account_id,
            symbol_id: symbols(ids),
            ..Default::default()
        }
        .encode_to_vec(),
        Ask::Unsubscribe(ids) => ProtoOaUnsubscribeSpotsReq {
            ctid_trader_account_id,
            symbol_id: symbols(ids),
            ..Default::default()
        }
        .encode_to_vec(),
        Ask::Broker(need) => need_payload(ctid_trader_account_id, need),
        Ask::Check(AccountCheck::Pnl) => ProtoOaGetPositionUnrealizedPnLReq {
            ctid_trader_account_id,
            ..Default::default()
        }
        .encode_to_vec(),
        Ask::Check(AccountCheck::Deals(window)) => ProtoOaDealListReq {
            ctid_trader_account_id,
            from_timestamp: Some(window.from_ms),
            to_timestamp: Some(window.to_ms),
            max_rows: Some(DEALS_MAX),
            ..Default::default()
        }
        .encode_to_vec(),
        Ask::Check(AccountCheck::CashFlow(window)) => ProtoOaCashFlowHistoryListReq {
            ctid_trader_account_id,
            from_timestamp: window.from_ms,
            to_timestamp: window.to_ms,
            ..Default::default()
        }
        .encode_to_vec(),
    }
}

fn need_payload(ctid_trader_account_id: i64, need: &Need) -> Vec<u8> {
    match need {
        Need::Assets => ProtoOaAssetListReq {
            ctid_trader_account_id,
            ..Default::default()
        }
        .encode_to_vec(),
        Need::SymbolList => ProtoOaSymbolsListReq {
            ctid_trader_account_id,
            ..Default::default()
        }
        .encode_to_vec(),
        Need::Symbols(ids) => ProtoOaSymbolByIdReq {
            ctid_trader_account_id,
            symbol_id: ids.iter().map(|id| id.0).collect(),
            ..Default::default()
        }
        .encode_to_vec(),
        Need::Chain(from, to) => ProtoOaSymbolsForConversionReq {
            ctid_trader_account_id,
            first_asset_id: from.0,
            last_asset_id: to.0,
            ..Default::default()
        }
        .encode_to_vec(),
    }
}
