//! Bars, ticks and depth: small but consistent, from the seed and the ticks that were made.

use prost::Message;

use crate::ctrader::wire;

use super::broker::{Broker, ConnId, Request};
use super::envelope::Refusal;

/// Bars a reply holds at most.
const BARS_MAX: i64 = 1_000;
/// Ticks a reply holds at most.
const TICKS_MAX: usize = 500;
/// Levels a side of the book has.
const DEPTH_LEVELS: u64 = 5;

/// Minutes of a period.
fn minutes(period: i32) -> Option<i64> {
    Some(match wire::ProtoOaTrendbarPeriod::try_from(period).ok()? {
        wire::ProtoOaTrendbarPeriod::M1 => 1,
        wire::ProtoOaTrendbarPeriod::M2 => 2,
        wire::ProtoOaTrendbarPeriod::M3 => 3,
        wire::ProtoOaTrendbarPeriod::M4 => 4,
        wire::ProtoOaTrendbarPeriod::M5 => 5,
        wire::ProtoOaTrendbarPeriod::M10 => 10,
        wire::ProtoOaTrendbarPeriod::M15 => 15,
        wire::ProtoOaTrendbarPeriod::M30 => 30,
        wire::ProtoOaTrendbarPeriod::H1 => 60,
        wire::ProtoOaTrendbarPeriod::H4 => 240,
        wire::ProtoOaTrendbarPeriod::H12 => 720,
        wire::ProtoOaTrendbarPeriod::D1 => 1_440,
        wire::ProtoOaTrendbarPeriod::W1 => 10_080,
        wire::ProtoOaTrendbarPeriod::Mn1 => 43_200,
    })
}

/// A number that depends on its inputs only (SplitMix64).
fn scatter(seed: u64, symbol: i64, minute: i64) -> u64 {
    let mut z = seed ^ symbol.cast_unsigned().rotate_left(32) ^ minute.cast_unsigned();
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Broker {
    pub(super) fn dispatch_charts(&mut self, request: &Request) -> Result<(), Refusal> {
        let account = super::dispatch::named_account(request).unwrap_or_default();
        self.need_account(request, account)?;
        let venue = self.venue_of(account)?;
        match request.kind {
            2135 => self.on_subscribe_bars(request, venue),
            2136 => self.on_unsubscribe_bars(request),
            2137 => self.on_bars(request, venue),
            2145 => self.on_ticks(request, venue),
            2156 => self.on_subscribe_depth(request, venue),
            _ => self.on_unsubscribe_depth(request),
        }
    }

    fn on_subscribe_bars(&mut self, request: &Request, venue: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaSubscribeLiveTrendbarReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.need_symbols(venue, &[body.symbol_id], "UNKNOWN_SYMBOL", account)?;
        let Some(conn) = self.conns.get_mut(&request.conn) else {
            return Ok(());
        };
        if !conn.spots.contains_key(&(account, body.symbol_id)) {
            return Err(Refusal::new("INVALID_REQUEST")
                .description("Not subscribed to spots")
                .account(account));
        }
        if !conn.bars.insert((account, body.symbol_id, body.period)) {
            return Err(Refusal::new("ALREADY_SUBSCRIBED").account(account));
        }
        self.mark_bars(request.conn, account, body.symbol_id, true);
        let reply = wire::ProtoOaSubscribeLiveTrendbarRes {
            payload_type: None,
            ctid_trader_account_id: account,
        };
        self.reply(request, 2165, &reply);
        Ok(())
    }

    fn on_unsubscribe_bars(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaUnsubscribeLiveTrendbarReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        let Some(conn) = self.conns.get_mut(&request.conn) else {
            return Ok(());
        };
        conn.bars.remove(&(account, body.symbol_id, body.period));
        let left = conn
            .bars
            .iter()
            .any(|(id, symbol, _)| (*id, *symbol) == (account, body.symbol_id));
        self.mark_bars(request.conn, account, body.symbol_id, left);
        let reply = wire::ProtoOaUnsubscribeLiveTrendbarRes {
            payload_type: None,
            ctid_trader_account_id: account,
        };
        self.reply(request, 2166, &reply);
        Ok(())
    }

    fn bar(
        &self,
        symbol: i64,
        bid: i64,
        minute: i64,
        period: Option<i32>,
    ) -> wire::ProtoOaTrendbar {
        let die = scatter(self.seed, symbol, minute);
        let unit = (bid / 20_000).max(1).cast_unsigned();
        let high = unit + die % (10 * unit);
        wire::ProtoOaTrendbar {
            volume: i64::try_from(20 + die % 400).unwrap_or_default(),
            period,
            low: Some(bid - i64::try_from(high / 2).unwrap_or_default()),
            delta_open: Some((die >> 8) % (high + 1)),
            delta_close: Some((die >> 16) % (high + 1)),
            delta_high: Some(high),
            utc_timestamp_in_minutes: u32::try_from(minute).ok(),
        }
    }

    /// The live bars of a subscriber as the tail of a spot event.
    pub(super) fn live_bars(&self, conn: ConnId, account: i64, symbol: i64) -> Vec<u8> {
        let mut tail = wire::ProtoOaSpotEvent::default();
        let venue = self
            .accounts
            .get(&account)
            .and_then(|account| self.venues.get(account.venue));
        let bid = venue
            .and_then(|venue| venue.symbols.get(&symbol))
            .and_then(|symbol| symbol.bid);
        let (Some(bid), Some(conn)) = (bid, self.conns.get(&conn)) else {
            return Vec::new();
        };
        for (id, bar, period) in &conn.bars {
            if (*id, *bar) == (account, symbol)
                && let Some(length) = minutes(*period)
            {
                let minute = self.wall_ms() / 60_000 / length * length;
                tail.trendbar
                    .push(self.bar(symbol, bid, minute, Some(*period)));
            }
        }
        // Only the bars are wanted: account and symbol stand in the front already.
        let bytes = tail.encode_to_vec();
        let zero = wire::ProtoOaSpotEvent::default().encoded_len();
        bytes.get(zero..).unwrap_or_default().to_vec()
    }

    fn on_bars(&mut self, request: &Request, venue: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaGetTrendbarsReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.need_symbols(venue, &[body.symbol_id], "SYMBOL_NOT_FOUND", account)?;
        let invalid = |code: &str| Refusal::new(code).account(account);
        let length = minutes(body.period).ok_or_else(|| invalid("INVALID_REQUEST"))?;
        let to = body
            .to_timestamp
            .unwrap_or_else(|| self.wall_ms())
            .min(self.wall_ms());
        let last = to / 60_000 / length;
        let span = body
            .from_timestamp
            .map(|from| last - from / 60_000 / length + 1);
        let wanted = body.count.map(i64::from).or(span).unwrap_or(100);
        if wanted < 0 {
            return Err(invalid("INCORRECT_BOUNDARIES"));
        }
        let symbol = self
            .venues
            .get(venue)
            .and_then(|venue| venue.symbols.get(&body.symbol_id));
        let bid = symbol
            .and_then(|symbol| symbol.bid)
            .ok_or_else(|| invalid("NO_QUOTES"))?;
        let count = wanted.min(BARS_MAX);
        let bars = (last - count + 1..=last)
            .map(|step| self.bar(body.symbol_id, bid, step * length, None));
        let reply = wire::ProtoOaGetTrendbarsRes {
            ctid_trader_account_id: account,
            period: body.period,
            trendbar: bars.collect(),
            symbol_id: Some(body.symbol_id),
            has_more: Some(wanted > count),
            ..Default::default()
        };
        self.reply(request, 2138, &reply);
        Ok(())
    }

    /// Newest first; after the first, time and price are differences.
    fn on_ticks(&mut self, request: &Request, venue: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaGetTickDataReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.need_symbols(venue, &[body.symbol_id], "SYMBOL_NOT_FOUND", account)?;
        let (from, to) = (
            body.from_timestamp.unwrap_or(0),
            body.to_timestamp.unwrap_or(i64::MAX),
        );
        if from > to {
            return Err(Refusal::new("INCORRECT_BOUNDARIES").account(account));
        }
        let Some(symbol) = self
            .venues
            .get(venue)
            .and_then(|venue| venue.symbols.get(&body.symbol_id))
        else {
            return Ok(());
        };
        let bids = body.r#type == i32::from(wire::ProtoOaQuoteType::Bid);
        let rows: Vec<(i64, i64)> = symbol
            .ticks
            .iter()
            .rev()
            .filter(|tick| (from..=to).contains(&tick.at_ms))
            .filter_map(|tick| Some((tick.at_ms, if bids { tick.bid } else { tick.ask }?)))
            .collect();
        let mut before = (0, 0);
        let mut tick_data = Vec::new();
        for (at, price) in rows.iter().copied().take(TICKS_MAX) {
            tick_data.push(wire::ProtoOaTickData {
                timestamp: at - before.0,
                tick: price - before.1,
            });
            before = (at, price);
        }
        let reply = wire::ProtoOaGetTickDataRes {
            payload_type: None,
            ctid_trader_account_id: account,
            tick_data,
            has_more: rows.len() > TICKS_MAX,
        };
        self.reply(request, 2146, &reply);
        Ok(())
    }

    fn on_subscribe_depth(&mut self, request: &Request, venue: usize) -> Result<(), Refusal> {
        let body: wire::ProtoOaSubscribeDepthQuotesReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.need_symbols(venue, &body.symbol_id, "UNKNOWN_SYMBOL", account)?;
        let reply = wire::ProtoOaSubscribeDepthQuotesRes {
            payload_type: None,
            ctid_trader_account_id: account,
        };
        self.reply(request, 2157, &reply);
        for id in body.symbol_id {
            if let Some(conn) = self.conns.get_mut(&request.conn) {
                conn.depth.insert((account, id));
            }
            let Some(event) = self.book_of(account, venue, id) else {
                continue;
            };
            self.push_to(request.conn, 2155, &event);
        }
        Ok(())
    }

    /// A few levels around the price.
    fn book_of(&self, account: i64, venue: usize, id: i64) -> Option<wire::ProtoOaDepthEvent> {
        let symbol = self.venues.get(venue)?.symbols.get(&id)?;
        let (bid, ask) = (symbol.bid?.cast_unsigned(), symbol.ask?.cast_unsigned());
        let size = symbol.spec.lot_size.cast_unsigned();
        let level = |step: u64| {
            let away = step * (bid / 50_000).max(1);
            [
                wire::ProtoOaDepthQuote {
                    id: 2 * step + 1,
                    size,
                    bid: Some(bid - away),
                    ask: None,
                },
                wire::ProtoOaDepthQuote {
                    id: 2 * step + 2,
                    size,
                    bid: None,
                    ask: Some(ask + away),
                },
            ]
        };
        Some(wire::ProtoOaDepthEvent {
            payload_type: None,
            ctid_trader_account_id: account,
            symbol_id: id.cast_unsigned(),
            new_quotes: (0..DEPTH_LEVELS).flat_map(level).collect(),
            deleted_quotes: Vec::new(),
        })
    }

    fn on_unsubscribe_depth(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaUnsubscribeDepthQuotesReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        if let Some(conn) = self.conns.get_mut(&request.conn) {
            for id in body.symbol_id {
                conn.depth.remove(&(account, id));
            }
        }
        let reply = wire::ProtoOaUnsubscribeDepthQuotesRes {
            payload_type: None,
            ctid_trader_account_id: account,
        };
        self.reply(request, 2159, &reply);
        Ok(())
    }
}
