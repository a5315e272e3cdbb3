//! Reference data of a broker: assets, symbols, conversion chains.

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::payload::named;
use crate::sim::state::refusal::Refusal;
use crate::sim::state::request::Request;
use crate::sim::state::venue::{Symbol, Venue};
use crate::sim::world::spec::Commission;

/// What `ProtoOAVersionRes` says.
const VERSION: &str = "91";

impl Broker {
    pub(super) fn on_version(&mut self, request: &Request) -> Result<(), Refusal> {
        self.require_app(request)?;
        let reply = wire::ProtoOaVersionRes {
            payload_type: None,
            version: VERSION.to_owned(),
        };
        self.reply(request, PayloadType::ProtoOaVersionRes, &reply);
        Ok(())
    }

    pub(super) fn dispatch_static(&mut self, request: &Request) -> Result<(), Refusal> {
        let account = request.account().unwrap_or_default();
        self.require_account(request, account)?;
        let index = self.venue_of(account)?;
        match named(request.payload_type) {
            Some(PayloadType::ProtoOaAssetListReq) => self.on_assets(request, account, index),
            Some(PayloadType::ProtoOaSymbolsListReq) => self.on_symbols(request, account, index),
            Some(PayloadType::ProtoOaSymbolByIdReq) => self.on_symbol_by_id(request, index),
            _ => self.on_conversion(request, index),
        }
    }

    pub(crate) fn venue(&self, index: usize) -> Result<&Venue, Refusal> {
        self.venues
            .get(index)
            .ok_or_else(|| Refusal::new("CH_SERVER_NOT_REACHABLE"))
    }

    fn on_assets(&mut self, request: &Request, account: i64, index: usize) -> Result<(), Refusal> {
        let assets = self
            .venue(index)?
            .assets
            .iter()
            .map(|asset| wire::ProtoOaAsset {
                asset_id: asset.id,
                name: asset.name.clone(),
                display_name: Some(asset.name.clone()),
                digits: Some(asset.digits),
            });
        let reply = wire::ProtoOaAssetListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            asset: assets.collect(),
        };
        self.reply(request, PayloadType::ProtoOaAssetListRes, &reply);
        Ok(())
    }

    fn on_symbols(&mut self, request: &Request, account: i64, index: usize) -> Result<(), Refusal> {
        let reply = wire::ProtoOaSymbolsListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            symbol: self.venue(index)?.symbols.values().map(light).collect(),
            archived_symbol: Vec::new(),
        };
        self.reply(request, PayloadType::ProtoOaSymbolsListRes, &reply);
        Ok(())
    }

    fn on_symbol_by_id(&mut self, request: &Request, index: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaSymbolByIdReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.require_symbols(index, &body.symbol_id, "SYMBOL_NOT_FOUND", account)?;
        let venue = self.venue(index)?;
        let symbol = body
            .symbol_id
            .iter()
            .filter_map(|id| venue.symbols.get(id))
            .map(full)
            .collect();
        let reply = wire::ProtoOaSymbolByIdRes {
            payload_type: None,
            ctid_trader_account_id: account,
            symbol,
            archived_symbol: Vec::new(),
        };
        self.reply(request, PayloadType::ProtoOaSymbolByIdRes, &reply);
        Ok(())
    }

    fn on_conversion(&mut self, request: &Request, index: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaSymbolsForConversionReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let venue = self.venue(index)?;
        let chain = venue
            .chain(body.first_asset_id, body.last_asset_id)
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| {
                Refusal::new("SYMBOL_NOT_FOUND")
                    .description("No conversion chain")
                    .account(account)
            })?;
        let reply = wire::ProtoOaSymbolsForConversionRes {
            payload_type: None,
            ctid_trader_account_id: account,
            symbol: chain
                .iter()
                .filter_map(|id| venue.symbols.get(id))
                .map(light)
                .collect(),
        };
        self.reply(request, PayloadType::ProtoOaSymbolsForConversionRes, &reply);
        Ok(())
    }
}

/// A symbol without lot size and digits.
fn light(symbol: &Symbol) -> wire::ProtoOaLightSymbol {
    wire::ProtoOaLightSymbol {
        symbol_id: symbol.spec.id,
        symbol_name: Some(symbol.spec.name.clone()),
        enabled: Some(true),
        base_asset_id: Some(symbol.spec.base),
        quote_asset_id: Some(symbol.spec.quote),
        symbol_category_id: Some(symbol.spec.category),
        description: Some(format!("{} (simulated)", symbol.spec.name)),
        sorting_number: None,
    }
}

pub(crate) fn full(symbol: &Symbol) -> wire::ProtoOaSymbol {
    let spec = &symbol.spec;
    let (kind, rate) = match spec.commission {
        Commission::Free => (wire::ProtoOaCommissionType::UsdPerLot, 0),
        Commission::UsdPerMillionUsd(rate) => (wire::ProtoOaCommissionType::UsdPerMillionUsd, rate),
        Commission::UsdPerLot(rate) => (wire::ProtoOaCommissionType::UsdPerLot, rate),
        Commission::PercentageOfValue(rate) => {
            (wire::ProtoOaCommissionType::PercentageOfValue, rate)
        }
        Commission::QuotePerLot(rate) => (wire::ProtoOaCommissionType::QuoteCcyPerLot, rate),
    };
    wire::ProtoOaSymbol {
        symbol_id: spec.id,
        digits: spec.digits,
        pip_position: spec.pip_position,
        enable_short_selling: Some(true),
        swap_rollover3_days: Some(wire::ProtoOaDayOfWeek::Wednesday.into()),
        swap_long: Some(spec.swap_long),
        swap_short: Some(spec.swap_short),
        max_volume: Some(spec.max_volume),
        min_volume: Some(spec.min_volume),
        step_volume: Some(spec.step_volume),
        schedule: vec![wire::ProtoOaInterval {
            start_second: 79_200,
            end_second: 597_600,
        }],
        commission_type: Some(kind.into()),
        schedule_time_zone: Some("UTC".to_owned()),
        lot_size: Some(spec.lot_size),
        precise_trading_commission_rate: Some(rate),
        precise_min_commission: Some(0),
        pnl_conversion_fee_rate: Some(spec.pnl_conversion_fee_rate),
        leverage_id: spec.leverage_id,
        ..Default::default()
    }
}
