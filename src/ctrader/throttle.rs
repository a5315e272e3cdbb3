//! The request budget of one connection: cTrader refuses above 50 requests a second, 5 of them
//! historical, whatever the number of accounts.
//!
//! A request is queued by priority and leaves when its budget allows. Payload types that the
//! server blocked wait until it takes them again; the others pass.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How urgent a request is; the earlier variant leaves first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Authorisation and log-out.
    Authorise,
    /// What all accounts of a broker need: few, and nobody goes live without.
    Broker,
    /// Balance, positions and orders.
    Snapshot,
    /// Subscriptions.
    Prices,
    /// Whether what is shown is so: second snapshots and audits.
    Check,
    /// Deals and cash flow.
    History,
}

/// What a request counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Budget {
    /// The budget of all requests.
    Common,
    /// The budget of historical requests as well (trend bars, tick data, and every list of deals, orders
    /// and cash flow).
    Historical,
}

/// What the throttle has to know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Its urgency.
    pub priority: Priority,
    /// Its payload type: the server may block one.
    pub payload_type: u32,
    /// What it counts against.
    pub budget: Budget,
}

/// cTrader refuses above that many requests in a second.
const RATE_LIMIT: u32 = 50;

/// Requests that may leave at once after a pause, as far as the limit leaves room for them: the
/// worst second has the rate and the burst but one.
const BURST_MAX: u32 = 4;

/// A bucket that gains a token each `interval` and holds at most `burst`.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    burst: u32,
    /// When the bucket was, or will be, full of its burst minus what was taken.
    full_at: Instant,
}

impl Bucket {
    fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.max(1),
            burst: burst.max(1),
            full_at: now,
        }
    }

    /// When the next token is there.
    fn ready_at(&self) -> Instant {
        self.full_at
            .checked_sub(self.interval * (self.burst - 1))
            .unwrap_or(self.full_at)
    }

    fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }
}

/// Queues requests of type `R` until they may be sent.
#[derive(Debug)]
pub struct Throttle<R> {
    all: Bucket,
    historical: Bucket,
    /// By class, each request with its number in the order of arrival: what may leave is found by
    /// comparing the heads, however many wait.
    queues: BTreeMap<Class, VecDeque<(u64, R)>>,
    pushed: u64,
    blocked: BTreeMap<u32, Instant>,
}

impl<R> Throttle<R> {
    /// Budgets of `rate` requests a second, `historical_rate` of them historical.
    #[must_use]
    pub fn new(rate: u32, historical_rate: u32, now: Instant) -> Self {
        Self {
            all: Bucket::new(
                rate,
                BURST_MAX.min((RATE_LIMIT + 1).saturating_sub(rate)),
                now,
            ),
            historical: Bucket::new(historical_rate, 1, now),
            queues: BTreeMap::new(),
            pushed: 0,
            blocked: BTreeMap::new(),
        }
    }

    /// Queues a request of that class.
    pub fn push(&mut self, class: Class, request: R) {
        self.pushed += 1;
        self.queues
            .entry(class)
            .or_default()
            .push_back((self.pushed, request));
    }

    /// Holds requests of a payload type back until then.
    pub fn block(&mut self, payload_type: u32, until: Instant) {
        let blocked = self.blocked.entry(payload_type).or_insert(until);
        *blocked = until.max(*blocked);
    }

    /// The next request that may be sent now.
    pub fn pop(&mut self, now: Instant) -> Option<R> {
        self.blocked.retain(|_, until| *until > now);
        if self.all.ready_at() > now {
            return None;
        }
        let historical_ready = self.historical.ready_at() <= now;
        let ready = self.queues.iter().filter(|(class, _)| {
            !self.blocked.contains_key(&class.payload_type)
                && (historical_ready || class.budget == Budget::Common)
        });
        let heads =
            ready.filter_map(|(class, queue)| Some((class.priority, queue.front()?.0, *class)));
        let (_, _, class) = heads.min()?;
        let queue = self.queues.get_mut(&class)?;
        let (_, request) = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&class);
        }
        self.all.take(now);
        if class.budget == Budget::Historical {
            self.historical.take(now);
        }
        Some(request)
    }

    /// When [`Throttle::pop`] may next return a request; `None` when none waits.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        let waiting = self.queues.keys().map(|class| {
            let mut at = self.all.ready_at();
            if class.budget == Budget::Historical {
                at = at.max(self.historical.ready_at());
            }
            self.blocked
                .get(&class.payload_type)
                .map_or(at, |until| at.max(*until))
        });
        waiting.min()
    }

    /// Drops waiting requests that are no longer wanted.
    pub fn retain(&mut self, mut keep: impl FnMut(&R) -> bool) {
        self.queues.retain(|_, queue| {
            queue.retain(|(_, request)| keep(request));
            !queue.is_empty()
        });
    }

    /// How many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRADER: u32 = 2121;
    const DEALS: u32 = 2133;

    fn class(priority: Priority, payload_type: u32) -> Class {
        let budget = if payload_type == DEALS {
            Budget::Historical
        } else {
            Budget::Common
        };
        Class {
            priority,
            payload_type,
            budget,
        }
    }

    fn drain(throttle: &mut Throttle<u32>, from: Instant, for_: Duration) -> Vec<(Duration, u32)> {
        let (mut now, mut sent) = (from, Vec::new());
        while now < from + for_ {
            while let Some(request) = throttle.pop(now) {
                sent.push((now - from, request));
            }
            match throttle.next_at() {
                Some(at) => now = at.max(now + Duration::from_micros(1)),
                None => break,
            }
        }
        sent
    }

    fn most_in_a_second(sent: &[(Duration, u32)]) -> usize {
        sent.iter()
            .map(|(start, _)| {
                let window = *start..*start + Duration::from_secs(1);
                sent.iter().filter(|(at, _)| window.contains(at)).count()
            })
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn no_second_has_more_than_the_limit() {
        let now = Instant::now();
        let mut throttle = Throttle::new(50, 5, now);
        for request in 0..300 {
            throttle.push(class(Priority::Snapshot, TRADER), request);
        }
        assert_eq!(
            most_in_a_second(&drain(&mut throttle, now, Duration::from_mins(1))),
            50
        );

        let mut throttle = Throttle::new(45, 4, now);
        for request in 0..300 {
            throttle.push(class(Priority::Snapshot, TRADER), request);
        }
        let sent = drain(&mut throttle, now, Duration::from_mins(1));
        assert_eq!(sent.len(), 300);
        let most = most_in_a_second(&sent);
        assert!((45..=49).contains(&most), "{most}");
        let last = sent.last().map(|(at, _)| *at).expect("some were sent");
        assert!(last <= Duration::from_millis(6_667), "{last:?}");
    }

    #[test]
    fn history_keeps_its_own_rate_and_never_holds_up_the_rest() {
        let now = Instant::now();
        let mut throttle = Throttle::new(45, 4, now);
        for request in 0..20 {
            throttle.push(class(Priority::History, DEALS), request);
        }
        for request in 100..140 {
            throttle.push(class(Priority::Prices, TRADER), request);
        }
        let sent = drain(&mut throttle, now, Duration::from_mins(1));
        let historical: Vec<_> = sent
            .iter()
            .copied()
            .filter(|(_, request)| *request < 100)
            .collect();
        assert_eq!(historical.len(), 20);
        assert!(most_in_a_second(&historical) <= 5);
        let others = sent
            .iter()
            .filter(|(_, request)| *request >= 100)
            .map(|(at, _)| *at)
            .max();
        assert!(others.expect("sent") < Duration::from_secs(1));
    }

    #[test]
    fn a_blocked_type_waits_and_the_others_pass() {
        let now = Instant::now();
        let mut throttle = Throttle::new(45, 4, now);
        throttle.block(TRADER, now + Duration::from_secs(3));
        throttle.push(class(Priority::Authorise, TRADER), 1);
        throttle.push(class(Priority::Prices, 2127), 2);
        let sent = drain(&mut throttle, now, Duration::from_secs(10));
        assert_eq!(sent, [(Duration::ZERO, 2), (Duration::from_secs(3), 1)]);
    }

    #[test]
    fn the_more_urgent_leaves_first() {
        let now = Instant::now();
        let mut throttle = Throttle::new(45, 4, now);
        throttle.push(class(Priority::Prices, 2127), 3);
        throttle.push(class(Priority::Snapshot, TRADER), 2);
        throttle.push(class(Priority::Authorise, 2102), 1);
        assert_eq!(
            [throttle.pop(now), throttle.pop(now), throttle.pop(now)],
            [Some(1), Some(2), Some(3)]
        );
        assert!(throttle.is_empty());
    }
}
