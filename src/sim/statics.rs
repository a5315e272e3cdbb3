//! Static data of a broker and the estimates made from it: assets, symbols, chains, leverage, margins.

use crate::ctrader::wire;

use super::broker::{Broker, Request};
use super::envelope::Refusal;
use super::market::{Symbol, Venue};
use super::money;
use super::spec::{Commission, Side};

/// What `ProtoOAVersionRes` says.
const VERSION: &str = "91";

const CATEGORIES: [(i64, &str); 4] = [(1, "Forex"), (2, "Metals"), (3, "Indices"), (4, "Crypto")];

impl Broker {
    pub(super) fn on_version(&mut self, request: &Request) -> Result<(), Refusal> {
        self.need_app(request)?;
        let reply = wire::ProtoOaVersionRes {
            payload_type: None,
            version: VERSION.to_owned(),
        };
        self.reply(request, 2105, &reply);
        Ok(())
    }

    pub(super) fn dispatch_static(&mut self, request: &Request) -> Result<(), Refusal> {
        let account = super::dispatch::named_account(request).unwrap_or_default();
        self.need_account(request, account)?;
        let index = self.venue_of(account)?;
        match request.kind {
            2112 => self.on_assets(request, account, index),
            2114 => self.on_symbols(request, account, index),
            2116 => self.on_symbol_by_id(request, index),
            2118 => self.on_conversion(request, index),
            2139 => self.on_expected_margin(request, index),
            2153 => {
                self.on_asset_classes(request, account);
                Ok(())
            }
            2160 => {
                self.on_categories(request, account);
                Ok(())
            }
            _ => self.on_leverage(request, index),
        }
    }

    fn venue(&self, index: usize) -> Result<&Venue, Refusal> {
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
        self.reply(request, 2113, &reply);
        Ok(())
    }

    fn on_symbols(&mut self, request: &Request, account: i64, index: usize) -> Result<(), Refusal> {
        let reply = wire::ProtoOaSymbolsListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            symbol: self.venue(index)?.symbols.values().map(light).collect(),
            archived_symbol: Vec::new(),
        };
        self.reply(request, 2115, &reply);
        Ok(())
    }

    fn on_symbol_by_id(&mut self, request: &Request, index: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaSymbolByIdReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.need_symbols(index, &body.symbol_id, "SYMBOL_NOT_FOUND", account)?;
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
        self.reply(request, 2117, &reply);
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
        self.reply(request, 2119, &reply);
        Ok(())
    }

    fn on_expected_margin(&mut self, request: &Request, index: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaExpectedMarginReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        self.need_symbols(index, &[body.symbol_id], "SYMBOL_NOT_FOUND", id)?;
        let venue = self.venue(index)?;
        let Some(account) = self.accounts.get(&id) else {
            return Ok(());
        };
        let margin = |side: Side, volume: i64| {
            let opening = money::opening(venue, account, body.symbol_id, side, volume);
            money::used_margin(
                volume,
                opening.margin_rate_e8,
                opening.margin_factor,
                account.digits,
            )
        };
        let rows = body
            .volume
            .iter()
            .map(|volume| wire::ProtoOaExpectedMargin {
                volume: *volume,
                buy_margin: margin(Side::Buy, *volume),
                sell_margin: margin(Side::Sell, *volume),
            });
        let reply = wire::ProtoOaExpectedMarginRes {
            payload_type: None,
            ctid_trader_account_id: id,
            margin: rows.collect(),
            money_digits: account.object_digits(),
        };
        self.reply(request, 2140, &reply);
        Ok(())
    }

    fn on_asset_classes(&mut self, request: &Request, account: i64) {
        let class = |(id, name): (i64, &str)| wire::ProtoOaAssetClass {
            id: Some(id),
            name: Some(name.to_owned()),
            sorting_number: None,
        };
        let reply = wire::ProtoOaAssetClassListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            asset_class: CATEGORIES.into_iter().map(class).collect(),
        };
        self.reply(request, 2154, &reply);
    }

    fn on_categories(&mut self, request: &Request, account: i64) {
        let category = |(id, name): (i64, &str)| wire::ProtoOaSymbolCategory {
            id,
            asset_class_id: id,
            name: name.to_owned(),
            sorting_number: None,
        };
        let reply = wire::ProtoOaSymbolCategoryListRes {
            payload_type: None,
            ctid_trader_account_id: account,
            symbol_category: CATEGORIES.into_iter().map(category).collect(),
        };
        self.reply(request, 2161, &reply);
    }

    fn on_leverage(&mut self, request: &Request, index: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaGetDynamicLeverageByIdReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        let table = self
            .venue(index)?
            .leverages
            .iter()
            .find(|table| table.id == body.leverage_id);
        let table = table.ok_or_else(|| Refusal::new("ENTITY_NOT_FOUND").account(id))?;
        let tier = |(volume, leverage): &(i64, i32)| wire::ProtoOaDynamicLeverageTier {
            volume: *volume,
            leverage: *leverage,
        };
        let leverage = wire::ProtoOaDynamicLeverage {
            leverage_id: table.id,
            tiers: table.tiers.iter().map(tier).collect(),
        };
        let reply = wire::ProtoOaGetDynamicLeverageByIdRes {
            payload_type: None,
            ctid_trader_account_id: id,
            leverage,
        };
        self.reply(request, 2178, &reply);
        Ok(())
    }

    pub(super) fn on_unrealized_pnl(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaGetPositionUnrealizedPnLReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        self.need_account(request, id)?;
        let Some(truth) = self.truth(id) else {
            return Ok(());
        };
        // What has no price yet has no profit either: nothing is said of it.
        let rows = truth
            .positions
            .iter()
            .filter(|position| position.priced)
            .map(|position| wire::ProtoOaPositionUnrealizedPnL {
                position_id: position.id,
                gross_unrealized_pn_l: position.gross,
                net_unrealized_pn_l: position.net,
            });
        let reply = wire::ProtoOaGetPositionUnrealizedPnLRes {
            payload_type: None,
            ctid_trader_account_id: id,
            position_unrealized_pn_l: rows.collect(),
            money_digits: truth.money_digits,
        };
        self.reply(request, 2188, &reply);
        Ok(())
    }

    pub(super) fn on_margin_call_list(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaMarginCallListReq = request.parse()?;
        self.need_account(request, body.ctid_trader_account_id)?;
        let Some(account) = self.accounts.get(&body.ctid_trader_account_id) else {
            return Ok(());
        };
        let reply = wire::ProtoOaMarginCallListRes {
            payload_type: None,
            margin_call: account.margin_calls.clone(),
        };
        self.reply(request, 2168, &reply);
        Ok(())
    }

    pub(super) fn on_margin_call_update(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaMarginCallUpdateReq = request.parse()?;
        let id = body.ctid_trader_account_id;
        self.need_account(request, id)?;
        let now_ms = self.wall_ms();
        let Some(account) = self.accounts.get_mut(&id) else {
            return Ok(());
        };
        let kind = body.margin_call.margin_call_type;
        let Some(call) = account
            .margin_calls
            .iter_mut()
            .find(|call| call.margin_call_type == kind)
        else {
            return Err(Refusal::new("ENTITY_NOT_FOUND").account(id));
        };
        call.margin_level_threshold = body.margin_call.margin_level_threshold;
        call.utc_last_update_timestamp = Some(now_ms);
        let margin_call = *call;
        self.reply(request, 2170, &wire::ProtoOaMarginCallUpdateRes::default());
        let event = wire::ProtoOaMarginCallUpdateEvent {
            payload_type: None,
            ctid_trader_account_id: id,
            margin_call,
        };
        self.publish(id, 2171, None, &event);
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

fn full(symbol: &Symbol) -> wire::ProtoOaSymbol {
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
