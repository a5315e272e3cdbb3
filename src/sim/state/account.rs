//! An account's books, and how they look on the wire.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::ctrader::wire::{
    self, ProtoOaAccountType as AccountType, ProtoOaNotificationType as Notification,
    ProtoOaTotalMarginCalculationType as MarginRule,
};
use crate::sim::world::spec::{AccountKind, Environment, MarginType, Side};

use super::ratio::{Ratio, fine_f64, raw_f64};

/// An open position.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) id: i64,
    pub(crate) symbol: i64,
    pub(crate) side: Side,
    /// 1/100 unit.
    pub(crate) volume: i64,
    /// Entry price, 10^-10.
    pub(crate) price: i64,
    pub(crate) swap: i64,
    pub(crate) commission: i64,
    /// Base → deposit at opening, ×10^8.
    pub(crate) margin_rate_e8: i64,
    /// Margin per unit of value: 1 / leverage, or the tiers' mix.
    pub(crate) margin_factor: Ratio,
    pub(crate) stop_loss: Option<i64>,
    pub(crate) take_profit: Option<i64>,
    pub(crate) trailing: bool,
    pub(crate) opened_ms: i64,
    pub(crate) updated_ms: i64,
    pub(crate) closed_ms: Option<i64>,
    pub(crate) label: Option<String>,
    pub(crate) comment: Option<String>,
    /// Its protective order.
    pub(crate) protection: Option<i64>,
}

/// Positions and orders as they were from a time on.
#[derive(Clone, Debug)]
pub(crate) struct PastSnapshot {
    pub(crate) since: Instant,
    pub(crate) positions: BTreeMap<i64, Position>,
    pub(crate) orders: BTreeMap<i64, wire::ProtoOaOrder>,
}

/// An account.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of an account, as its spec has them"
)]
pub(crate) struct Account {
    pub(crate) id: i64,
    pub(crate) venue: usize,
    pub(crate) environment: Environment,
    pub(crate) login: i64,
    pub(crate) deposit_asset: i64,
    pub(crate) digits: u32,
    pub(crate) send_digits: bool,
    pub(crate) send_object_digits: bool,
    pub(crate) position_digits: u32,
    pub(crate) kind: AccountKind,
    pub(crate) margin_type: MarginType,
    pub(crate) leverage: u32,
    pub(crate) access_rights: i32,
    pub(crate) disabled: bool,
    pub(crate) balance: i64,
    pub(crate) balance_version: i64,
    pub(crate) manager_bonus: i64,
    pub(crate) ib_bonus: i64,
    /// Part of the balance.
    pub(crate) nonwithdrawable_bonus: i64,
    pub(crate) stop_out_level: Option<i64>,
    pub(crate) fair_stop_out: bool,
    pub(crate) positions: BTreeMap<i64, Position>,
    /// Ids of positions that have ended.
    pub(crate) closed: BTreeSet<i64>,
    /// Working and protective orders.
    pub(crate) orders: BTreeMap<i64, wire::ProtoOaOrder>,
    pub(crate) deals: Vec<wire::ProtoOaDeal>,
    pub(crate) cash: Vec<wire::ProtoOaDepositWithdraw>,
    /// How positions and orders were after each event, while reconcile lags.
    pub(crate) past_snapshots: VecDeque<PastSnapshot>,
    pub(crate) margin_calls: Vec<wire::ProtoOaMarginCall>,
    pub(crate) margin_called: BTreeMap<i32, Instant>,
    pub(crate) activity: Option<Duration>,
    pub(crate) next_activity: Option<Instant>,
    pub(crate) registered_ms: i64,
}

impl Account {
    /// `moneyDigits` of every object but the trader and positions.
    pub(crate) fn object_digits(&self) -> Option<u32> {
        self.send_object_digits.then_some(self.digits)
    }

    pub(crate) fn last_closing_ms(&self) -> Option<i64> {
        let closing = self
            .deals
            .iter()
            .rev()
            .find(|deal| deal.close_position_detail.is_some());
        closing.map(|deal| deal.execution_timestamp)
    }

    pub(crate) fn trader(&self, broker_name: &str) -> wire::ProtoOaTrader {
        wire::ProtoOaTrader {
            ctid_trader_account_id: self.id,
            balance: self.balance,
            balance_version: Some(self.balance_version),
            manager_bonus: Some(self.manager_bonus),
            ib_bonus: Some(self.ib_bonus),
            non_withdrawable_bonus: Some(self.nonwithdrawable_bonus),
            access_rights: Some(self.access_rights),
            deposit_asset_id: self.deposit_asset,
            swap_free: Some(false),
            leverage_in_cents: Some(self.leverage * 100),
            total_margin_calculation_type: Some(match self.margin_type {
                MarginType::Max => MarginRule::Max.into(),
                MarginType::Sum => MarginRule::Sum.into(),
                MarginType::Net => MarginRule::Net.into(),
            }),
            max_leverage: Some(self.leverage * 100),
            trader_login: Some(self.login),
            account_type: Some(match self.kind {
                AccountKind::Hedged => AccountType::Hedged.into(),
                AccountKind::Netted => AccountType::Netted.into(),
            }),
            broker_name: Some(broker_name.to_lowercase()),
            registration_timestamp: Some(self.registered_ms),
            is_limited_risk: Some(false),
            money_digits: self.send_digits.then_some(self.digits),
            fair_stop_out: Some(self.fair_stop_out),
            ..Default::default()
        }
    }

    /// A position as it stands: OPEN, or CLOSED once nothing is left of it.
    pub(crate) fn wire_position(&self, position: &Position) -> wire::ProtoOaPosition {
        let scale = 10_i64.pow(self.position_digits - self.digits);
        let open = position.volume > 0;
        let status = if open {
            wire::ProtoOaPositionStatus::PositionStatusOpen
        } else {
            wire::ProtoOaPositionStatus::PositionStatusClosed
        };
        wire::ProtoOaPosition {
            position_id: position.id,
            trade_data: wire::ProtoOaTradeData {
                symbol_id: position.symbol,
                volume: position.volume,
                trade_side: position.side.wire(),
                open_timestamp: Some(position.opened_ms),
                label: position.label.clone(),
                comment: position.comment.clone(),
                guaranteed_stop_loss: Some(false),
                measurement_units: None,
                close_timestamp: position.closed_ms.map(i64::cast_unsigned),
            },
            position_status: status.into(),
            swap: position.swap * scale,
            price: Some(fine_f64(position.price)),
            stop_loss: position.stop_loss.map(raw_f64),
            take_profit: position.take_profit.map(raw_f64),
            utc_last_update_timestamp: Some(position.updated_ms),
            commission: Some(position.commission * scale),
            margin_rate: Some(Ratio::new(position.margin_rate_e8.into(), 100_000_000).to_f64()),
            mirroring_commission: Some(0),
            guaranteed_stop_loss: Some(false),
            used_margin: Some(self.used_margin(position).cast_unsigned() * scale.cast_unsigned()),
            money_digits: self.send_object_digits.then_some(self.position_digits),
            trailing_stop_loss: position.trailing.then_some(true),
            stop_loss_trigger_method: None,
        }
    }

    /// A position that an order will open: status CREATED, or CLOSED if the order was cancelled.
    pub(crate) fn wire_created_position(
        &self,
        order: &wire::ProtoOaOrder,
        closed: bool,
    ) -> wire::ProtoOaPosition {
        let status = if closed {
            wire::ProtoOaPositionStatus::PositionStatusClosed
        } else {
            wire::ProtoOaPositionStatus::PositionStatusCreated
        };
        wire::ProtoOaPosition {
            position_id: order.position_id.unwrap_or_default(),
            trade_data: wire::ProtoOaTradeData {
                symbol_id: order.trade_data.symbol_id,
                volume: 0,
                trade_side: order.trade_data.trade_side,
                open_timestamp: order.trade_data.open_timestamp,
                label: order.trade_data.label.clone(),
                comment: order.trade_data.comment.clone(),
                ..Default::default()
            },
            position_status: status.into(),
            swap: 0,
            utc_last_update_timestamp: order.utc_last_update_timestamp,
            commission: Some(0),
            used_margin: Some(0),
            money_digits: self.send_object_digits.then_some(self.position_digits),
            ..Default::default()
        }
    }
}

/// The three thresholds every account has.
pub(crate) fn default_margin_calls(now_ms: i64) -> Vec<wire::ProtoOaMarginCall> {
    [
        (Notification::MarginLevelThreshold1, 100.0),
        (Notification::MarginLevelThreshold2, 70.0),
        (Notification::MarginLevelThreshold3, 50.0),
    ]
    .into_iter()
    .map(|(kind, threshold)| wire::ProtoOaMarginCall {
        margin_call_type: kind.into(),
        margin_level_threshold: threshold,
        utc_last_update_timestamp: Some(now_ms),
    })
    .collect()
}
