//! Spot subscriptions and their fast path: the front of a spot event is kept, only its back is written.

use bytes::BytesMut;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::connection::ConnId;
use crate::sim::state::envelope;
use crate::sim::state::refusal::Refusal;
use crate::sim::state::request::Request;
use crate::sim::state::subscriber::SpotSubscriber;

impl Broker {
    pub(super) fn on_subscribe_spots(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaSubscribeSpotsReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.require_account(request, account)?;
        let venue = self.venue_of(account)?;
        self.require_symbols(venue, &body.symbol_id, "UNKNOWN_SYMBOL", account)?;
        let with_time = body.subscribe_to_spot_timestamp.unwrap_or(false);
        let Some(conn) = self.conns.get_mut(&request.conn) else {
            return Ok(());
        };
        let fresh: Vec<i64> = body
            .symbol_id
            .iter()
            .copied()
            .filter(|id| !conn.spots.contains_key(&(account, *id)))
            .collect();
        let doubled = fresh.len() < body.symbol_id.len();
        for id in &fresh {
            conn.spots.insert((account, *id), with_time);
        }
        for id in &fresh {
            let prefix = envelope::spot_prefix(account, *id, self.faults.omit_inner);
            let subscriber = SpotSubscriber {
                conn: request.conn,
                account,
                timestamps: with_time,
                prefix,
            };
            self.spot_subscribers
                .entry((venue, *id))
                .or_default()
                .push(subscriber);
        }
        if doubled {
            let refusal = Refusal::new("ALREADY_SUBSCRIBED").account(account);
            let frame = refusal.frame(request.id.as_deref(), None, self.frame_options());
            self.send(request.conn, frame);
        } else {
            let reply = wire::ProtoOaSubscribeSpotsRes {
                payload_type: None,
                ctid_trader_account_id: account,
            };
            self.reply(request, PayloadType::ProtoOaSubscribeSpotsRes, &reply);
        }
        for id in fresh {
            self.send_initial_spot(request.conn, account, venue, id, with_time);
        }
        Ok(())
    }

    /// The one event with both sides that follows a subscription, even when the market stands still.
    fn send_initial_spot(
        &mut self,
        conn: ConnId,
        account: i64,
        venue: usize,
        symbol: i64,
        with_time: bool,
    ) {
        let timestamp = with_time.then(|| self.wall_ms());
        let Some(symbol) = self
            .venues
            .get(venue)
            .and_then(|venue| venue.symbols.get(&symbol))
        else {
            return;
        };
        if symbol.bid.is_none() && symbol.ask.is_none() {
            return;
        }
        let spot = wire::ProtoOaSpotEvent {
            ctid_trader_account_id: account,
            symbol_id: symbol.spec.id,
            bid: symbol.bid.map(i64::cast_unsigned),
            ask: symbol.ask.map(i64::cast_unsigned),
            session_close: symbol.bid.map(i64::cast_unsigned),
            timestamp,
            ..Default::default()
        };
        self.stats.spots += 1;
        self.push_to(conn, PayloadType::ProtoOaSpotEvent, &spot);
    }

    pub(super) fn on_unsubscribe_spots(&mut self, request: &Request) -> Result<(), Refusal> {
        let body: wire::ProtoOaUnsubscribeSpotsReq = request.parse()?;
        let account = body.ctid_trader_account_id;
        self.require_account(request, account)?;
        let venue = self.venue_of(account)?;
        for symbol in &body.symbol_id {
            let Some(conn) = self.conns.get_mut(&request.conn) else {
                return Ok(());
            };
            conn.spots.remove(&(account, *symbol));
            self.remove_subscriber(request.conn, account, *symbol);
        }
        let reply = wire::ProtoOaUnsubscribeSpotsRes {
            payload_type: None,
            ctid_trader_account_id: account,
        };
        self.reply(request, PayloadType::ProtoOaUnsubscribeSpotsRes, &reply);
        if self.faults.stray_spots {
            for symbol in body.symbol_id {
                self.send_initial_spot(request.conn, account, venue, symbol, false);
            }
        }
        Ok(())
    }

    pub(super) fn remove_subscriber(&mut self, conn: ConnId, account: i64, symbol: i64) {
        let Some(venue) = self.accounts.get(&account).map(|account| account.venue) else {
            return;
        };
        if let Some(list) = self.spot_subscribers.get_mut(&(venue, symbol)) {
            list.retain(|subscriber| subscriber.conn != conn || subscriber.account != account);
        }
    }

    pub(crate) fn rebuild_spot_prefixes(&mut self) {
        let omit = self.faults.omit_inner;
        for ((_, symbol), list) in &mut self.spot_subscribers {
            for subscriber in list {
                subscriber.prefix = envelope::spot_prefix(subscriber.account, *symbol, omit);
            }
        }
    }

    /// Sends the sides that changed to everyone who subscribed.
    pub(super) fn broadcast_spot(
        &mut self,
        venue: usize,
        symbol: i64,
        bid: Option<i64>,
        ask: Option<i64>,
        at_ms: i64,
    ) {
        let Some(list) = self.spot_subscribers.remove(&(venue, symbol)) else {
            return;
        };
        let (mut plain, mut timed) = (Vec::with_capacity(16), Vec::with_capacity(24));
        envelope::spot_suffix(bid, ask, None, &mut plain);
        envelope::spot_suffix(bid, ask, Some(at_ms), &mut timed);
        if self.scratch.capacity() < 256 {
            self.scratch = BytesMut::with_capacity(64 * 1024);
        }
        for subscriber in &list {
            let suffix = if subscriber.timestamps {
                &timed
            } else {
                &plain
            };
            let frame = envelope::spot_frame(&subscriber.prefix, suffix, &mut self.scratch);
            self.stats.spots += 1;
            self.send(subscriber.conn, frame);
        }
        self.spot_subscribers.insert((venue, symbol), list);
    }
}
