//! What the bridge asks for an account: every kind of request, and what is true of all requests of a kind.

use std::collections::BTreeSet;

use super::frame::number;
use super::throttle::{Budget, Class, Priority};
use super::wire::ProtoOaPayloadType as Type;
use crate::domain::ids::{AssetId, SymbolId};

/// What an account's own request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// Authorisation of the account.
    Authorise,
    /// Authorisation of a live account by a newer token.
    Reauthorise,
    /// Log-out of the account.
    Logout,
    /// The account entity.
    Trader,
    /// Positions and orders.
    Snapshot,
    /// Quotes of symbols.
    Subscribe(BTreeSet<SymbolId>),
    /// No more quotes of symbols.
    Unsubscribe(BTreeSet<SymbolId>),
    /// What the account's broker has.
    Broker(Need),
    /// What the session can do without: it goes on if this is refused, or not answered.
    Check(AccountCheck),
}

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

/// Whether a live account is what we take it for, and what it did before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccountCheck {
    /// Positions and orders once more, to see whether the first snapshot lagged.
    Snapshot,
    /// The server's own unrealised P&L.
    Pnl,
    /// The balance's version, which nothing else tells when an event of cash was lost.
    BalanceVersion,
    /// Deals of a time.
    Deals(Window),
    /// Cash operations of a time.
    CashFlow(Window),
}

/// A time, both ends included, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Window {
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
}

impl Ask {
    /// The payload type, the urgency and the budget of each kind of request.
    pub(super) const fn class(&self) -> Class {
        use Budget::{Common, Historical};
        use Priority::{Authorise, Broker, Check as Checking, History, Prices, Snapshot};

        #[rustfmt::skip]
        let (payload_type, priority, budget) = match self {
            Self::Authorise | Self::Reauthorise => (Type::ProtoOaAccountAuthReq, Authorise, Common),
            Self::Logout => (Type::ProtoOaAccountLogoutReq, Authorise, Common),
            Self::Trader => (Type::ProtoOaTraderReq, Snapshot, Common),
            Self::Snapshot => (Type::ProtoOaReconcileReq, Snapshot, Common),
            Self::Subscribe(_) => (Type::ProtoOaSubscribeSpotsReq, Prices, Common),
            Self::Unsubscribe(_) => (Type::ProtoOaUnsubscribeSpotsReq, Prices, Common),
            Self::Broker(Need::Assets) => (Type::ProtoOaAssetListReq, Broker, Common),
            Self::Broker(Need::SymbolList) => (Type::ProtoOaSymbolsListReq, Broker, Common),
            Self::Broker(Need::Symbols(_)) => (Type::ProtoOaSymbolByIdReq, Broker, Common),
            Self::Broker(Need::Chain(..)) => (Type::ProtoOaSymbolsForConversionReq, Broker, Common),
            Self::Check(AccountCheck::Snapshot) => (Type::ProtoOaReconcileReq, Checking, Common),
            Self::Check(AccountCheck::Pnl) => (Type::ProtoOaGetPositionUnrealizedPnlReq, Checking, Common),
            Self::Check(AccountCheck::BalanceVersion) => (Type::ProtoOaTraderReq, Checking, Common),
            Self::Check(AccountCheck::Deals(_)) => (Type::ProtoOaDealListReq, History, Historical),
            Self::Check(AccountCheck::CashFlow(_)) => (Type::ProtoOaCashFlowHistoryListReq, History, Historical),
        };
        Class {
            priority,
            payload_type: number(payload_type),
            budget,
        }
    }
}

impl AccountCheck {
    /// The time of a part of the history: it is asked for again when it is refused.
    pub(super) const fn window(&self) -> Option<Window> {
        match self {
            Self::Deals(window) | Self::CashFlow(window) => Some(*window),
            Self::Snapshot | Self::Pnl | Self::BalanceVersion => None,
        }
    }
}
