//! What the bridge asks of cTrader: read-only requests, each with what its answer is for.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::frame::number;
use super::throttle::Priority;
use super::wire::{
    ProtoOaAccountAuthReq, ProtoOaAccountLogoutReq, ProtoOaApplicationAuthReq, ProtoOaAssetListReq,
    ProtoOaCashFlowHistoryListReq, ProtoOaDealListReq, ProtoOaGetAccountListByAccessTokenReq,
    ProtoOaGetPositionUnrealizedPnLReq, ProtoOaPayloadType, ProtoOaReconcileReq,
    ProtoOaRefreshTokenReq, ProtoOaSubscribeSpotsReq, ProtoOaSymbolByIdReq,
    ProtoOaSymbolsForConversionReq, ProtoOaSymbolsListReq, ProtoOaTraderReq,
    ProtoOaUnsubscribeSpotsReq,
};
use crate::domain::ids::{AccountId, AssetId, SymbolId};
use crate::domain::secret::Secret;

/// Deals of one answer that we ask for; the server may give fewer, and says so.
const DEALS_MAX: i32 = 1_000;

/// What is the same for all accounts of a broker, and is asked once for all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// Names of assets.
    Assets,
    /// Names and assets of symbols.
    SymbolList,
    /// Digits and lot sizes.
    Symbols(BTreeSet<SymbolId>),
    /// The symbols that lead from one asset to another.
    Chain(AssetId, AssetId),
}

/// What an account's own request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Authorise,
    Logout,
    Trader,
    Reconcile,
    Subscribe(BTreeSet<SymbolId>),
    Unsubscribe(BTreeSet<SymbolId>),
    Broker(Need),
    /// Authorisation of a live account by a newer token.
    Reauthorise,
    /// Positions and orders once more, to see whether the snapshot lagged.
    Verify,
    /// The server's own unrealised P&L.
    Audit,
    /// The balance's version, which nothing else tells when an event of cash was lost.
    Recheck,
    /// Deals of a time.
    Deals(Window),
    /// Cash operations of a time.
    Cash(Window),
}

/// A time, both ends included, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Window {
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
}

/// Whom an answer concerns.
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
    /// A new pair of tokens. It has no deadline: an answer that comes late still counts.
    Refresh { ticket: u64 },
}

/// A request before it has an id.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) purpose: Purpose,
    pub(super) payload_type: u32,
    pub(super) payload: Bytes,
    pub(super) priority: Priority,
    /// How often it was refused and asked again.
    pub(super) tries: u32,
}

impl Request {
    /// The payload type of its answer: the one after its own, for all that the bridge asks.
    pub(super) const fn answer_type(&self) -> u32 {
        self.payload_type + 1
    }
}

fn request(
    purpose: Purpose,
    payload_type: ProtoOaPayloadType,
    priority: Priority,
    message: &impl Message,
) -> Request {
    Request {
        purpose,
        payload_type: number(payload_type),
        payload: message.encode_to_vec().into(),
        priority,
        tries: 0,
    }
}

/// Authorises the application.
pub(super) fn application_auth(client_id: &str, client_secret: &Secret) -> Request {
    request(
        Purpose::Application,
        ProtoOaPayloadType::ProtoOaApplicationAuthReq,
        Priority::Authorise,
        &ProtoOaApplicationAuthReq {
            client_id: client_id.to_owned(),
            client_secret: client_secret.expose().to_owned(),
            ..Default::default()
        },
    )
}

/// Asks which accounts a token covers.
pub(super) fn accounts_of_token(ticket: u64, token: &Secret) -> Request {
    request(
        Purpose::Token { ticket },
        ProtoOaPayloadType::ProtoOaGetAccountsByAccessTokenReq,
        Priority::Authorise,
        &ProtoOaGetAccountListByAccessTokenReq {
            access_token: token.expose().to_owned(),
            ..Default::default()
        },
    )
}

/// Spends a refresh token.
pub(super) fn refresh(ticket: u64, refresh_token: &Secret) -> Request {
    request(
        Purpose::Refresh { ticket },
        ProtoOaPayloadType::ProtoOaRefreshTokenReq,
        Priority::Authorise,
        &ProtoOaRefreshTokenReq {
            refresh_token: refresh_token.expose().to_owned(),
            ..Default::default()
        },
    )
}

#[expect(clippy::too_many_lines, reason = "one arm a question")]
/// A request of one account's session. `token` is needed to authorise alone.
pub(super) fn of_account(account: AccountId, generation: u64, ask: Ask, token: &Secret) -> Request {
    use ProtoOaPayloadType as Type;
    let ctid_trader_account_id = account.0;
    let symbols = |ids: &BTreeSet<SymbolId>| ids.iter().map(|id| id.0).collect();
    let (payload_type, priority, payload) = match &ask {
        Ask::Authorise | Ask::Reauthorise => (
            Type::ProtoOaAccountAuthReq,
            Priority::Authorise,
            ProtoOaAccountAuthReq {
                ctid_trader_account_id,
                access_token: token.expose().to_owned(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Logout => (
            Type::ProtoOaAccountLogoutReq,
            Priority::Authorise,
            ProtoOaAccountLogoutReq {
                ctid_trader_account_id,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Trader | Ask::Recheck => (
            Type::ProtoOaTraderReq,
            if ask == Ask::Recheck {
                Priority::Check
            } else {
                Priority::Snapshot
            },
            ProtoOaTraderReq {
                ctid_trader_account_id,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Reconcile | Ask::Verify => (
            Type::ProtoOaReconcileReq,
            if ask == Ask::Verify {
                Priority::Check
            } else {
                Priority::Snapshot
            },
            ProtoOaReconcileReq {
                ctid_trader_account_id,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Subscribe(ids) => (
            Type::ProtoOaSubscribeSpotsReq,
            Priority::Prices,
            ProtoOaSubscribeSpotsReq {
                ctid_trader_account_id,
                symbol_id: symbols(ids),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Unsubscribe(ids) => (
            Type::ProtoOaUnsubscribeSpotsReq,
            Priority::Prices,
            ProtoOaUnsubscribeSpotsReq {
                ctid_trader_account_id,
                symbol_id: symbols(ids),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Broker(Need::Assets) => (
            Type::ProtoOaAssetListReq,
            Priority::Broker,
            ProtoOaAssetListReq {
                ctid_trader_account_id,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Broker(Need::SymbolList) => (
            Type::ProtoOaSymbolsListReq,
            Priority::Broker,
            ProtoOaSymbolsListReq {
                ctid_trader_account_id,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Broker(Need::Symbols(ids)) => (
            Type::ProtoOaSymbolByIdReq,
            Priority::Broker,
            ProtoOaSymbolByIdReq {
                ctid_trader_account_id,
                symbol_id: symbols(ids),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Broker(Need::Chain(from, to)) => (
            Type::ProtoOaSymbolsForConversionReq,
            Priority::Broker,
            ProtoOaSymbolsForConversionReq {
                ctid_trader_account_id,
                first_asset_id: from.0,
                last_asset_id: to.0,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Audit => (
            Type::ProtoOaGetPositionUnrealizedPnlReq,
            Priority::Check,
            ProtoOaGetPositionUnrealizedPnLReq {
                ctid_trader_account_id,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Deals(window) => (
            Type::ProtoOaDealListReq,
            Priority::History,
            ProtoOaDealListReq {
                ctid_trader_account_id,
                from_timestamp: Some(window.from_ms),
                to_timestamp: Some(window.to_ms),
                max_rows: Some(DEALS_MAX),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        Ask::Cash(window) => (
            Type::ProtoOaCashFlowHistoryListReq,
            Priority::History,
            ProtoOaCashFlowHistoryListReq {
                ctid_trader_account_id,
                from_timestamp: window.from_ms,
                to_timestamp: window.to_ms,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
    };
    Request {
        purpose: Purpose::Account {
            account,
            generation,
            ask,
        },
        payload_type: number(payload_type),
        payload: payload.into(),
        priority,
        tries: 0,
    }
}
