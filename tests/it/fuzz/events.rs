//! What a server may send unasked: every event that the bridge reads, its fields bent by the script.

use mahspeccy_bridge::ctrader::frame::{HEARTBEAT_EVENT, number};
use mahspeccy_bridge::ctrader::wire::{
    ProtoOaAccountDisconnectEvent, ProtoOaAccountsTokenInvalidatedEvent,
    ProtoOaBonusDepositWithdraw, ProtoOaClientDisconnectEvent, ProtoOaClosePositionDetail,
    ProtoOaDeal, ProtoOaDepositWithdraw, ProtoOaExecutionEvent, ProtoOaMarginChangedEvent,
    ProtoOaOrder, ProtoOaPayloadType as Type, ProtoOaPosition, ProtoOaSpotEvent,
    ProtoOaSymbolChangedEvent, ProtoOaTradeData, ProtoOaTraderUpdatedEvent,
    ProtoOaTrailingSlChangedEvent,
};
use prost::Message;

use super::broker::{ACCOUNTS, SYMBOLS, trader};
use super::script::Script;

/// An event: its payload type and its body.
pub(crate) fn event(script: &mut Script<'_>) -> (u32, Vec<u8>) {
    let kind = script.below(16);
    let account = {
        let usual = i64::from(1 + script.below(ACCOUNTS));
        script.number(usual)
    };
    match kind {
        0..=3 => spot_of(script, account),
        4..=8 => {
            let event = execution(script, account);
            (number(Type::ProtoOaExecutionEvent), event.encode_to_vec())
        }
        9 => {
            let event = ProtoOaMarginChangedEvent {
                ctid_trader_account_id: account,
                position_id: script.unsigned(1),
                used_margin: script.unsigned(5_000),
                money_digits: digits(script),
                ..Default::default()
            };
            (
                number(Type::ProtoOaMarginChangedEvent),
                event.encode_to_vec(),
            )
        }
        10 => {
            let event = ProtoOaTrailingSlChangedEvent {
                ctid_trader_account_id: account,
                position_id: script.number(1),
                stop_price: script.double(1.05),
                ..Default::default()
            };
            let payload_type = number(Type::ProtoOaTrailingSlChangedEvent);
            (payload_type, event.encode_to_vec())
        }
        11 => {
            let event = ProtoOaTraderUpdatedEvent {
                ctid_trader_account_id: account,
                trader: trader(script),
                ..Default::default()
            };
            (
                number(Type::ProtoOaTraderUpdateEvent),
                event.encode_to_vec(),
            )
        }
        12 => {
            let event = ProtoOaSymbolChangedEvent {
                ctid_trader_account_id: account,
                symbol_id: (0..script.below(4)).map(|_| symbol_id(script)).collect(),
                ..Default::default()
            };
            (
                number(Type::ProtoOaSymbolChangedEvent),
                event.encode_to_vec(),
            )
        }
        13 => {
            let event = ProtoOaAccountDisconnectEvent {
                ctid_trader_account_id: account,
                ..Default::default()
            };
            let payload_type = number(Type::ProtoOaAccountDisconnectEvent);
            (payload_type, event.encode_to_vec())
        }
        14 => {
            let event = ProtoOaAccountsTokenInvalidatedEvent {
                ctid_trader_account_ids: vec![account, script.number(2), account],
                ..Default::default()
            };
            let payload_type = number(Type::ProtoOaAccountsTokenInvalidatedEvent);
            (payload_type, event.encode_to_vec())
        }
        _ if script.byte() < 0xf0 => (HEARTBEAT_EVENT, Vec::new()),
        _ => {
            let event = ProtoOaClientDisconnectEvent {
                reason: Some(script.text("maintenance")),
                ..Default::default()
            };
            let payload_type = number(Type::ProtoOaClientDisconnectEvent);
            (payload_type, event.encode_to_vec())
        }
    }
}

fn spot_of(script: &mut Script<'_>, account: i64) -> (u32, Vec<u8>) {
    let symbol = symbol_id(script);
    spot(script, account, symbol)
}

/// A quote of a symbol.
pub(crate) fn spot(script: &mut Script<'_>, account: i64, symbol: i64) -> (u32, Vec<u8>) {
    let (bid, ask) = (script.unsigned(108_500), script.unsigned(108_510));
    let event = ProtoOaSpotEvent {
        ctid_trader_account_id: account,
        symbol_id: symbol,
        bid: script.maybe(bid),
        ask: script.maybe(ask),
        ..Default::default()
    };
    (number(Type::ProtoOaSpotEvent), event.encode_to_vec())
}

fn symbol_id(script: &mut Script<'_>) -> i64 {
    let usual = i64::from(1 + script.below(SYMBOLS));
    script.number(usual)
}

fn digits(script: &mut Script<'_>) -> Option<u32> {
    match script.byte() {
        0..=0x9f => None,
        byte => Some(u32::from(byte % 18)),
    }
}

fn execution(script: &mut Script<'_>, account: i64) -> ProtoOaExecutionEvent {
    let parts = script.byte();
    let part = |bit: u8| parts & bit != 0;
    ProtoOaExecutionEvent {
        ctid_trader_account_id: account,
        execution_type: script.short(3),
        position: part(1).then(|| position(script)),
        order: part(2).then(|| order(script)),
        deal: part(4).then(|| deal(script)),
        deposit_withdraw: part(8).then(|| cash(script)),
        bonus_deposit_withdraw: part(16).then(|| ProtoOaBonusDepositWithdraw {
            manager_bonus: script.number(500),
            ib_bonus: script.number(0),
            money_digits: digits(script),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn trade(script: &mut Script<'_>) -> ProtoOaTradeData {
    ProtoOaTradeData {
        symbol_id: symbol_id(script),
        volume: script.number(100_000),
        trade_side: script.short(1),
        open_timestamp: Some(script.number(1_750_000_000_000)),
        label: Some(script.text("a label")),
        comment: Some(script.text("")),
        ..Default::default()
    }
}

/// A position.
pub(crate) fn position(script: &mut Script<'_>) -> ProtoOaPosition {
    let id = i64::from(1 + script.below(4));
    let price = script.double(1.08123);
    ProtoOaPosition {
        position_id: script.number(id),
        trade_data: trade(script),
        position_status: script.short(1),
        swap: script.number(-12),
        price: script.maybe(price),
        stop_loss: Some(script.double(1.0)),
        take_profit: Some(script.double(1.2)),
        utc_last_update_timestamp: Some(script.number(1_750_000_000_000)),
        commission: Some(script.number(-30)),
        used_margin: Some(script.unsigned(10_000)),
        money_digits: digits(script),
        ..Default::default()
    }
}

/// An order.
pub(crate) fn order(script: &mut Script<'_>) -> ProtoOaOrder {
    let id = i64::from(1 + script.below(4));
    ProtoOaOrder {
        order_id: script.number(id),
        trade_data: trade(script),
        order_type: script.short(2),
        order_status: script.short(1),
        expiration_timestamp: Some(script.number(1_760_000_000_000)),
        utc_last_update_timestamp: Some(script.number(1_750_000_000_000)),
        limit_price: Some(script.double(1.07)),
        stop_price: Some(script.double(1.09)),
        stop_loss: Some(script.double(1.0)),
        take_profit: Some(script.double(1.2)),
        position_id: Some(script.number(1)),
        ..Default::default()
    }
}

/// A deal, closing or not.
pub(crate) fn deal(script: &mut Script<'_>) -> ProtoOaDeal {
    let id = i64::from(script.byte());
    let closes = script.byte() >= 0x80;
    ProtoOaDeal {
        deal_id: script.number(1 + id),
        order_id: script.number(1),
        position_id: script.number(1),
        volume: script.number(100_000),
        filled_volume: script.number(100_000),
        symbol_id: symbol_id(script),
        create_timestamp: script.number(1_750_000_000_000),
        execution_timestamp: script.number(1_750_000_000_000),
        execution_price: Some(script.double(1.0812)),
        trade_side: script.short(1),
        deal_status: script.short(2),
        commission: Some(script.number(-30)),
        close_position_detail: closes.then(|| ProtoOaClosePositionDetail {
            entry_price: script.double(1.08),
            gross_profit: script.number(500),
            swap: script.number(-5),
            commission: script.number(-60),
            balance: script.number(1_000_500),
            closed_volume: Some(script.number(100_000)),
            balance_version: Some(script.number(8)),
            money_digits: digits(script),
            ..Default::default()
        }),
        money_digits: digits(script),
        ..Default::default()
    }
}

/// A deposit or a withdrawal.
pub(crate) fn cash(script: &mut Script<'_>) -> ProtoOaDepositWithdraw {
    ProtoOaDepositWithdraw {
        operation_type: script.short(0),
        balance_history_id: script.number(1),
        balance: script.number(1_010_000),
        delta: script.number(10_000),
        change_balance_timestamp: script.number(1_750_000_000_000),
        balance_version: Some(script.number(9)),
        money_digits: digits(script),
        ..Default::default()
    }
}
