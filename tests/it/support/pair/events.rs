//! When events come that do not come in order: late, again, or never.
//!
//! What a server with several threads might do, and no more than ordered events can
//! tolerate. Events come late, or a second time. What was sent within one millisecond has one
//! timestamp: it stays together, and comes again together. Executions (2126) have versions and
//! timestamps, and may come in any order. A margin (2141) and a trailing stop (2107) have no order
//! but that of the wire: they keep their place among the events of their position. So do bonuses
//! and updates of the trader (2123), which has the bonus too, among themselves. The end of a session (2147, 2164) comes after all of its events. Replies and quotes
//! keep the order in which they were sent, and late events may come behind them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mahspeccy_bridge::ctrader::wire;
use prost::Message;

use super::link::{Chance, Weather};

/// What has an order of its own: a position of an account, or the account's bonus.
type OrderKey = (i64, Option<i64>);

/// An event as far as its order goes.
struct Kind {
    order_keys: Vec<OrderKey>,
    /// It has no order of its own, and keeps its place.
    keeps: bool,
    /// It ends a session.
    ends: bool,
    /// A new version of the balance, whose absence shows with the next.
    counted: bool,
}

/// When the events of one order key came last.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// Of all of them.
    latest: Instant,
    /// Of those that keep their place.
    floor: Instant,
}

/// What happens to the events of one millisecond.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at_ms: u128,
    late: Duration,
    again: Option<Duration>,
    /// When the one before came, and when it came again.
    before: [Instant; 2],
}

/// The order of events on a link.
#[derive(Debug)]
pub(super) struct Events {
    start: Instant,
    moment: Option<Moment>,
    lines: BTreeMap<OrderKey, Line>,
    /// Events that never came.
    pub(super) missed: u64,
}

/// When an event comes, how often it does, and whether it is out of its order.
pub(super) struct Arrival {
    pub(super) times: Vec<Instant>,
    pub(super) apart: bool,
}

impl Events {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            moment: None,
            lines: BTreeMap::new(),
            missed: 0,
        }
    }

    /// The socket is gone, and the order of what was on it.
    pub(super) fn forget(&mut self) {
        self.moment = None;
        self.lines.clear();
    }

    /// When a frame comes that would come at `usual`; `None` if it is no event that has an order.
    pub(super) fn arrival(
        &mut self,
        frame: &[u8],
        (now, usual): (Instant, Instant),
        weather: &Weather,
        chance: &mut Chance,
    ) -> Option<Arrival> {
        if weather.late == 0 && weather.again == 0 && weather.missed == 0 {
            return None;
        }
        let kind = kind(&wire::ProtoMessage::decode(frame).ok()?)?;
        if kind.counted && chance.per_mille(weather.missed) {
            self.missed += 1;
            return Some(Arrival {
                times: Vec::new(),
                apart: true,
            });
        }
        if kind.ends {
            let latest = self.lines.values().map(|line| line.latest).max();
            let at = latest.map_or(usual, |latest| latest.max(usual));
            return Some(Arrival {
                times: vec![at],
                apart: at > usual,
            });
        }
        let mut moment = self.moment_of(now, weather, chance);
        let first = self.arrival_time(&kind, (usual + moment.late).max(moment.before[0]));
        moment.before[0] = first;
        let mut times = vec![first];
        if let Some(again) = moment.again {
            let second = self.arrival_time(&kind, (first + again).max(moment.before[1]));
            moment.before[1] = second;
            times.push(second);
        }
        self.moment = Some(moment);
        Some(Arrival {
            apart: first > usual,
            times,
        })
    }

    fn moment_of(&mut self, now: Instant, weather: &Weather, chance: &mut Chance) -> Moment {
        let at_ms = (now - self.start).as_millis();
        if let Some(moment) = self.moment.filter(|moment| moment.at_ms == at_ms) {
            return moment;
        }
        let span = u64::try_from(weather.late_by.as_micros()).unwrap_or(0);
        let mut some = || Duration::from_micros(chance.below(span) + 1);
        let (late, again) = (some(), some());
        Moment {
            at_ms,
            late: if chance.per_mille(weather.late) {
                late
            } else {
                Duration::ZERO
            },
            again: chance.per_mille(weather.again).then_some(again),
            before: [now; 2],
        }
    }

    /// When it arrives among the events of the same position or bonus.
    fn arrival_time(&mut self, kind: &Kind, wanted: Instant) -> Instant {
        let mut at = wanted;
        for order_key in &kind.order_keys {
            if let Some(line) = self.lines.get(order_key) {
                at = at.max(if kind.keeps { line.latest } else { line.floor });
            }
        }
        for order_key in &kind.order_keys {
            let line = self.lines.entry(*order_key).or_insert(Line {
                latest: at,
                floor: self.start,
            });
            line.latest = line.latest.max(at);
            if kind.keeps {
                line.floor = at;
            }
        }
        at
    }
}

/// What an event is about; `None` for replies, quotes and all else.
fn kind(message: &wire::ProtoMessage) -> Option<Kind> {
    let body = message.payload.clone().unwrap_or_default();
    let mut kind = Kind {
        order_keys: Vec::new(),
        keeps: true,
        ends: false,
        counted: false,
    };
    match message.payload_type {
        2126 => {
            let event = wire::ProtoOaExecutionEvent::decode(body).ok()?;
            let account = event.ctid_trader_account_id;
            let position = event.position.as_ref().map(|held| held.position_id);
            let deal = event.deal.as_ref();
            let closes = deal.is_some_and(|deal| deal.close_position_detail.is_some());
            kind.counted = closes || event.deposit_withdraw.is_some();
            kind.keeps = event.bonus_deposit_withdraw.is_some();
            if kind.keeps || position.is_some() {
                kind.order_keys.push((account, position));
            }
        }
        2123 => {
            let event = wire::ProtoOaTraderUpdatedEvent::decode(body).ok()?;
            kind.order_keys.push((event.ctid_trader_account_id, None));
        }
        2141 => {
            let event = wire::ProtoOaMarginChangedEvent::decode(body).ok()?;
            let position = event.position_id.cast_signed();
            kind.order_keys
                .push((event.ctid_trader_account_id, Some(position)));
        }
        2107 => {
            let event = wire::ProtoOaTrailingSlChangedEvent::decode(body).ok()?;
            let position = event.position_id;
            kind.order_keys
                .push((event.ctid_trader_account_id, Some(position)));
        }
        2147 | 2164 => kind.ends = true,
        _ => return None,
    }
    Some(kind)
}
