//! The link: packets on their way, and what the weather does to them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mahspeccy_bridge::ctrader::wire;
use prost::Message;

use super::events::Events;

/// A seeded chance (SplitMix64): no more than a test needs.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Everything follows from the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0 … `end` − 1.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True so often out of a thousand times.
    pub(crate) fn per_mille(&mut self, times: u64) -> bool {
        self.below(1_000) < times
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let index = usize::try_from(self.below(of.len() as u64)).expect("it fits");
        of[index]
    }
}

/// How the link treats its packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// One way.
    pub(crate) latency: Duration,
    /// Up to that much more.
    pub(crate) jitter: Duration,
    /// Frames lost, out of a thousand. TCP loses none: this is for proving that nothing breaks.
    pub(crate) lost: u64,
    /// Frames that come twice, out of a thousand.
    pub(crate) doubled: u64,
    /// Frames that others overtake, out of a thousand.
    pub(crate) overtaken: u64,
    /// Moments whose events come late, out of a thousand: see `events` for these three.
    pub(crate) late: u64,
    /// Moments whose events come again, out of a thousand.
    pub(crate) again: u64,
    /// By up to so much.
    pub(crate) late_by: Duration,
    /// Events with a new balance that never come, out of a thousand.
    pub(crate) missed: u64,
}

impl Weather {
    /// A network as TCP shows it: late, and nothing worse.
    pub(crate) const GOOD: Self = Self {
        latency: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        lost: 0,
        doubled: 0,
        overtaken: 0,
        late: 0,
        again: 0,
        late_by: Duration::from_millis(300),
        missed: 0,
    };
}

/// What happens to one frame of the server.
#[derive(Debug, Clone)]
pub(crate) enum Tamper {
    /// It does not arrive.
    Lose,
    /// Its body is this.
    Body(Bytes),
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To us.
    In,
    /// To the server.
    Out,
}

/// What is on its way.
#[derive(Debug, Clone)]
pub(super) enum Packet {
    Frame(Bytes),
    Ping,
    Pong,
    Closed,
}

/// Both directions.
pub(crate) struct Link {
    /// What happens to what is put on it from now on.
    pub(crate) weather: Weather,
    /// What happens to the next frame to us of a payload type, in this order.
    pub(crate) tampers: Vec<(u32, Tamper)>,
    chance: Chance,
    events: Events,
    flying: BTreeMap<(Instant, u64), (Way, Packet)>,
    last: [Option<Instant>; 2],
    count: u64,
    frozen: bool,
}

impl Link {
    pub(super) fn new(seed: u64, start: Instant) -> Self {
        Self {
            weather: Weather::GOOD,
            tampers: Vec::new(),
            chance: Chance::new(seed),
            events: Events::new(start),
            flying: BTreeMap::new(),
            last: [None; 2],
            count: 0,
            frozen: false,
        }
    }

    pub(super) fn transmit(&mut self, way: Way, packet: Packet, now: Instant) {
        if self.frozen {
            return;
        }
        let packet = match packet {
            Packet::Frame(bytes) if way == Way::In => match self.tampered(bytes) {
                Some(bytes) => Packet::Frame(bytes),
                None => return,
            },
            other @ (Packet::Frame(_) | Packet::Ping | Packet::Pong | Packet::Closed) => other,
        };
        if self.chance.per_mille(self.weather.lost) {
            return;
        }
        if self.chance.per_mille(self.weather.doubled) {
            self.put(way, packet.clone(), now);
        }
        self.put(way, packet, now);
    }

    fn put(&mut self, way: Way, packet: Packet, now: Instant) {
        let jitter = u64::try_from(self.weather.jitter.as_micros()).unwrap_or(0);
        let late = Duration::from_micros(self.chance.below(jitter + 1));
        let mut at = now + self.weather.latency + late;
        if let (Way::In, Packet::Frame(bytes)) = (way, &packet) {
            let usual = self.last[1].map_or(at, |last| last.max(at));
            let weather = self.weather;
            let events = &mut self.events;
            let arrival = events.arrival(bytes, (now, usual), &weather, &mut self.chance);
            if let Some(arrival) = arrival {
                if !arrival.apart {
                    self.last[1] = Some(usual);
                }
                for at in arrival.times {
                    self.fly(at, way, packet.clone());
                }
                return;
            }
        }
        if self.chance.per_mille(self.weather.overtaken) {
            at += self.weather.latency * 3;
        } else {
            let last = &mut self.last[usize::from(way == Way::In)];
            at = last.map_or(at, |last| last.max(at));
            *last = Some(at);
        }
        self.fly(at, way, packet);
    }

    fn fly(&mut self, at: Instant, way: Way, packet: Packet) {
        self.count += 1;
        self.flying.insert((at, self.count), (way, packet));
    }

    fn tampered(&mut self, bytes: Bytes) -> Option<Bytes> {
        if self.tampers.is_empty() {
            return Some(bytes);
        }
        let mut envelope = wire::ProtoMessage::decode(bytes.clone()).ok()?;
        let index = self
            .tampers
            .iter()
            .position(|(kind, _)| *kind == envelope.payload_type);
        match index.map(|index| self.tampers.remove(index).1) {
            None => Some(bytes),
            Some(Tamper::Lose) => None,
            Some(Tamper::Body(body)) => {
                envelope.payload = Some(body);
                Some(envelope.encode_to_vec().into())
            }
        }
    }

    /// What has arrived by now, one at a time.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Way, Packet)> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// How many events never came.
    pub(crate) fn missed(&self) -> u64 {
        self.events.missed
    }

    /// Whether nothing is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.flying.is_empty()
    }

    /// Both directions stop, without the socket closing.
    pub(super) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// The socket is gone, and all that was on it.
    pub(super) fn cut(&mut self) {
        self.flying.clear();
        self.last = [None; 2];
        self.events.forget();
        self.frozen = false;
    }
}
