//! The responses of a server: the one that the request asks for, its fields bent by the script.

use mahspeccy_bridge::ctrader::frame::number;
use mahspeccy_bridge::ctrader::wire::{
    ProtoMessage, ProtoOaAsset, ProtoOaAssetListRes, ProtoOaCashFlowHistoryListRes,
    ProtoOaCtidTraderAccount, ProtoOaDealListRes, ProtoOaErrorRes,
    ProtoOaGetAccountListByAccessTokenRes, ProtoOaGetPositionUnrealizedPnLRes, ProtoOaLightSymbol,
    ProtoOaPayloadType as Type, ProtoOaPositionUnrealizedPnL, ProtoOaReconcileRes,
    ProtoOaRefreshTokenRes, ProtoOaSymbol, ProtoOaSymbolByIdReq, ProtoOaSymbolByIdRes,
    ProtoOaSymbolsForConversionReq, ProtoOaSymbolsForConversionRes, ProtoOaSymbolsListRes,
    ProtoOaTrader, ProtoOaTraderRes,
};
use prost::Message;

use super::events::{cash, deal, order, position};
use super::script::Script;

/// Accounts 1 to 3 are opened; events may speak of others.
pub(crate) const ACCOUNTS: u8 = 3;
/// Symbols 1 to 6 are listed.
pub(crate) const SYMBOLS: u8 = 6;
/// Assets 1 to 4 are.
const ASSETS: u8 = 4;

const CODES: &[&str] = &[
    "BLOCKED_PAYLOAD_TYPE",
    "REQUEST_FREQUENCY_EXCEEDED",
    "ALREADY_LOGGED_IN",
    "ALREADY_SUBSCRIBED",
    "INVALID_REQUEST",
    "SYMBOL_NOT_FOUND",
    "CH_ACCESS_TOKEN_INVALID",
    "CH_CLIENT_NOT_AUTHENTICATED",
    "CH_CLIENT_AUTH_FAILURE",
    "ACCOUNT_NOT_AUTHORIZED",
    "RET_NO_SUCH_LOGIN",
    "CANT_ROUTE_REQUEST",
    "INCORRECT_BOUNDARIES",
    "MARKET_CLOSED",
    "TIMEOUT_ERROR",
    "CONNECTIONS_LIMIT_EXCEEDED",
];

/// The response to a request: its payload type and its body.
pub(crate) fn answer(script: &mut Script<'_>, request: &ProtoMessage) -> (u32, Vec<u8>) {
    // All that the bridge asks is answered by the payload type after it.
    let payload_type = request.payload_type + 1;
    let asked = request.payload.clone().unwrap_or_default();
    let i = i32::try_from(request.payload_type).unwrap_or_default();
    let body = if i == Type::ProtoOaTraderReq as i32 {
        let trader = trader(script);
        ProtoOaTraderRes {
            trader,
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaReconcileReq as i32 {
        ProtoOaReconcileRes {
            position: (0..script.below(4)).map(|_| position(script)).collect(),
            order: (0..script.below(3)).map(|_| order(script)).collect(),
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaAssetListReq as i32 {
        ProtoOaAssetListRes {
            asset: (1..=ASSETS).map(|id| asset(script, id)).collect(),
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaSymbolsListReq as i32 {
        ProtoOaSymbolsListRes {
            symbol: (1..=SYMBOLS).map(|id| listed(script, id)).collect(),
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaSymbolByIdReq as i32 {
        let asked = ProtoOaSymbolByIdReq::decode(asked).expect("ours is well-formed");
        ProtoOaSymbolByIdRes {
            symbol: asked.symbol_id.iter().map(|id| full(script, *id)).collect(),
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaSymbolsForConversionReq as i32 {
        let asked = ProtoOaSymbolsForConversionReq::decode(asked).expect("ours is well-formed");
        ProtoOaSymbolsForConversionRes {
            symbol: chain(script, asked.first_asset_id, asked.last_asset_id),
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaGetAccountsByAccessTokenReq as i32 {
        ProtoOaGetAccountListByAccessTokenRes {
            ctid_trader_account: (0..script.below(4)).map(|id| covered(script, id)).collect(),
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaDealListReq as i32 {
        ProtoOaDealListRes {
            deal: (0..script.below(5)).map(|_| deal(script)).collect(),
            has_more: script.byte() >= 0xc0,
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaCashFlowHistoryListReq as i32 {
        ProtoOaCashFlowHistoryListRes {
            deposit_withdraw: (0..script.below(5)).map(|_| cash(script)).collect(),
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaGetPositionUnrealizedPnlReq as i32 {
        ProtoOaGetPositionUnrealizedPnLRes {
            position_unrealized_pn_l: (0..script.below(4)).map(|_| valued(script)).collect(),
            money_digits: u32::from(script.below(10)),
            ..Default::default()
        }
        .encode_to_vec()
    } else if i == Type::ProtoOaRefreshTokenReq as i32 {
        ProtoOaRefreshTokenRes {
            access_token: script.text("access"),
            refresh_token: script.text("refresh"),
            expires_in: script.number(2_628_000),
            ..Default::default()
        }
        .encode_to_vec()
    } else {
        // The responses to authorisations, log-outs and subscriptions have no more fields.
        Vec::new()
    };
    (payload_type, body)
}

fn valued(script: &mut Script<'_>) -> ProtoOaPositionUnrealizedPnL {
    let usual = i64::from(1 + script.below(4));
    ProtoOaPositionUnrealizedPnL {
        position_id: script.number(usual),
        gross_unrealized_pn_l: script.number(1_000),
        net_unrealized_pn_l: script.number(900),
    }
}

/// A refusal of any request.
pub(crate) fn refusal(script: &mut Script<'_>) -> (u32, Vec<u8>) {
    let usual = script.one(CODES).unwrap_or_default();
    let error = ProtoOaErrorRes {
        ctid_trader_account_id: Some(script.number(1)),
        error_code: script.text(usual),
        description: Some(script.text("Trading account is not authorized")),
        maintenance_end_timestamp: Some(script.number(1_750_000_000_000)),
        retry_after: (script.byte() >= 0xc0).then(|| script.unsigned(3)),
        ..Default::default()
    };
    // The other error message has its first fields at the same numbers but for the account.
    let payload_type = if script.byte() >= 0xf0 {
        mahspeccy_bridge::ctrader::frame::ERROR_RES
    } else {
        number(Type::ProtoOaErrorRes)
    };
    (payload_type, error.encode_to_vec())
}

/// The account entity.
pub(crate) fn trader(script: &mut Script<'_>) -> ProtoOaTrader {
    let digits = script.number(2);
    ProtoOaTrader {
        ctid_trader_account_id: 1,
        balance: script.number(1_000_000),
        balance_version: Some(script.number(7)),
        manager_bonus: Some(script.number(0)),
        ib_bonus: Some(script.number(0)),
        deposit_asset_id: script.number(1),
        total_margin_calculation_type: Some(script.short(0)),
        trader_login: Some(script.number(77)),
        broker_name: Some(script.text("Alpha")),
        money_digits: script.maybe(u32::try_from(digits.rem_euclid(18)).unwrap_or_default()),
        ..Default::default()
    }
}

fn asset(script: &mut Script<'_>, id: u8) -> ProtoOaAsset {
    ProtoOaAsset {
        asset_id: script.number(i64::from(id)),
        name: script.text("EUR"),
        ..Default::default()
    }
}

fn listed(script: &mut Script<'_>, id: u8) -> ProtoOaLightSymbol {
    ProtoOaLightSymbol {
        symbol_id: script.number(i64::from(id)),
        symbol_name: Some(script.text("EURUSD")),
        base_asset_id: Some(script.number(i64::from(1 + id % ASSETS))),
        quote_asset_id: Some(script.number(i64::from(1 + (id + 1) % ASSETS))),
        ..Default::default()
    }
}

fn full(script: &mut Script<'_>, id: i64) -> ProtoOaSymbol {
    ProtoOaSymbol {
        symbol_id: script.number(id),
        digits: script.short(5),
        lot_size: script.maybe(10_000_000).map(|size| script.number(size)),
        ..Default::default()
    }
}

/// Up to four steps by way of other assets, usually one that leads there.
fn chain(script: &mut Script<'_>, from: i64, to: i64) -> Vec<ProtoOaLightSymbol> {
    let mut ways: Vec<i64> = vec![from];
    ways.extend((0..script.below(4)).map(|_| i64::from(1 + script.below(ASSETS))));
    ways.push(to);
    ways.windows(2)
        .filter_map(|way| {
            let [base, quote] = way else { return None };
            let turned = script.byte() >= 0x80;
            let (base, quote) = if turned {
                (*quote, *base)
            } else {
                (*base, *quote)
            };
            Some(ProtoOaLightSymbol {
                symbol_id: script.number(1 + base.wrapping_add(quote).rem_euclid(12)),
                base_asset_id: script.maybe(base),
                quote_asset_id: script.maybe(quote),
                ..Default::default()
            })
        })
        .collect()
}

fn covered(script: &mut Script<'_>, id: u8) -> ProtoOaCtidTraderAccount {
    ProtoOaCtidTraderAccount {
        ctid_trader_account_id: script.unsigned(u64::from(id + 1)),
        ..Default::default()
    }
}
