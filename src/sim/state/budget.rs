//! Request budgets of a connection: token buckets that refuse, and sliding windows that only count.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::payload::named;
use crate::ctrader::wire::ProtoOaPayloadType as PayloadType;
use crate::sim::world::settings::Limits;

/// Payload types that count against the historical budget.
const HISTORICAL: [PayloadType; 8] = [
    PayloadType::ProtoOaDealListReq,
    PayloadType::ProtoOaGetTrendbarsReq,
    PayloadType::ProtoOaCashFlowHistoryListReq,
    PayloadType::ProtoOaGetTickdataReq,
    PayloadType::ProtoOaOrderListReq,
    PayloadType::ProtoOaDealListByPositionIdReq,
    PayloadType::ProtoOaOrderListByPositionIdReq,
    PayloadType::ProtoOaDealOffsetListReq,
];
/// Length of the rolling history quota.
const QUOTA_WINDOW: Duration = Duration::from_mins(10);

/// Whether a request counts as historical.
fn historical(kind: u32) -> bool {
    named(kind).is_some_and(|named| HISTORICAL.contains(&named))
}

/// Tokens in millionths, so that refilling needs no floating point.
#[derive(Debug)]
struct TokenBucket {
    micro: u128,
    at: Instant,
}

impl TokenBucket {
    fn take(&mut self, per_second: u32, now: Instant) -> bool {
        let full = u128::from(per_second) * 1_000_000;
        let gained = now.saturating_duration_since(self.at).as_micros() * u128::from(per_second);
        self.micro = (self.micro + gained).min(full);
        self.at = now;
        if self.micro < 1_000_000 {
            return false;
        }
        self.micro -= 1_000_000;
        true
    }
}

/// Counts events in a sliding window of one second and remembers the most.
#[derive(Debug, Default)]
struct RateWindow {
    times: VecDeque<Instant>,
    most: usize,
}

impl RateWindow {
    fn count(&mut self, now: Instant) {
        self.times.push_back(now);
        while self
            .times
            .front()
            .is_some_and(|first| now.duration_since(*first) >= Duration::from_secs(1))
        {
            self.times.pop_front();
        }
        self.most = self.most.max(self.times.len());
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breach {
    /// The payload type is blocked for so many seconds more.
    Blocked(u64),
    /// Too often, with no block.
    Frequency,
}

/// The budgets of one connection.
#[derive(Debug)]
pub(crate) struct RequestBudget {
    requests: TokenBucket,
    history: TokenBucket,
    blocked: BTreeMap<u32, Instant>,
    quota: VecDeque<Instant>,
    all: RateWindow,
    historical: RateWindow,
    pub(crate) refused: u64,
}

impl RequestBudget {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        let full = |rate: u32| TokenBucket {
            micro: u128::from(rate) * 1_000_000,
            at: now,
        };
        Self {
            requests: full(limits.requests_per_second),
            history: full(limits.history_per_second),
            blocked: BTreeMap::new(),
            quota: VecDeque::new(),
            all: RateWindow::default(),
            historical: RateWindow::default(),
            refused: 0,
        }
    }

    /// Counts a request. Returns an error if the budget refuses it.
    pub(crate) fn charge(
        &mut self,
        kind: u32,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Breach> {
        let history = historical(kind);
        if history {
            self.historical.count(now);
        } else {
            self.all.count(now);
        }
        if limits.off {
            return Ok(());
        }
        let outcome = self.admit(kind, history, limits, now);
        if outcome.is_err() {
            self.refused += 1;
        }
        outcome
    }

    fn admit(
        &mut self,
        kind: u32,
        history: bool,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Breach> {
        if let Some(until) = self.blocked.get(&kind).copied() {
            if now < until {
                return Err(Breach::Blocked(whole_seconds(until.duration_since(now))));
            }
            self.blocked.remove(&kind);
        }
        let admitted = if history {
            self.within_quota(limits, now) && self.history.take(limits.history_per_second, now)
        } else {
            self.requests.take(limits.requests_per_second, now)
        };
        if admitted {
            return Ok(());
        }
        if limits.frequency_error {
            return Err(Breach::Frequency);
        }
        let seconds = limits.block_seconds.max(1);
        self.blocked
            .insert(kind, now + Duration::from_secs(seconds));
        Err(Breach::Blocked(seconds))
    }

    fn within_quota(&mut self, limits: &Limits, now: Instant) -> bool {
        let Some(most) = limits.history_quota else {
            return true;
        };
        while self
            .quota
            .front()
            .is_some_and(|first| now.duration_since(*first) >= QUOTA_WINDOW)
        {
            self.quota.pop_front();
        }
        if self.quota.len() >= most {
            return false;
        }
        self.quota.push_back(now);
        true
    }

    /// Returns the most non-historical requests in any one second, refused ones included.
    pub(crate) fn most_requests(&self) -> usize {
        self.all.most
    }

    /// Returns the most historical requests in any one second, refused ones included.
    pub(crate) fn most_historical(&self) -> usize {
        self.historical.most
    }
}

fn whole_seconds(left: Duration) -> u64 {
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::state::payload::number;

    #[test]
    fn the_fifty_first_request_of_a_second_is_blocked_and_others_pass() {
        let now = Instant::now();
        let limits = Limits::default();
        let mut budget = RequestBudget::new(&limits, now);
        for _ in 0..50 {
            assert_eq!(
                budget.charge(number(PayloadType::ProtoOaTraderReq), &limits, now),
                Ok(())
            );
        }
        assert_eq!(
            budget.charge(number(PayloadType::ProtoOaTraderReq), &limits, now),
            Err(Breach::Blocked(1))
        );
        let soon = now + Duration::from_millis(500);
        assert_eq!(
            budget.charge(number(PayloadType::ProtoOaTraderReq), &limits, soon),
            Err(Breach::Blocked(1))
        );
        assert_eq!(
            budget.charge(number(PayloadType::ProtoOaReconcileReq), &limits, soon),
            Ok(())
        );
        assert_eq!(
            budget.charge(
                number(PayloadType::ProtoOaTraderReq),
                &limits,
                now + Duration::from_millis(1001)
            ),
            Ok(())
        );
        assert_eq!((budget.most_requests(), budget.refused), (53, 2));
    }

    #[test]
    fn history_has_a_budget_of_its_own() {
        let now = Instant::now();
        let limits = Limits::default();
        let mut budget = RequestBudget::new(&limits, now);
        for _ in 0..5 {
            assert_eq!(
                budget.charge(number(PayloadType::ProtoOaDealListReq), &limits, now),
                Ok(())
            );
        }
        assert_eq!(
            budget.charge(
                number(PayloadType::ProtoOaCashFlowHistoryListReq),
                &limits,
                now
            ),
            Err(Breach::Blocked(1))
        );
        assert_eq!(
            budget.charge(number(PayloadType::ProtoOaTraderReq), &limits, now),
            Ok(())
        );
        assert_eq!((budget.most_historical(), budget.most_requests()), (6, 1));
    }

    #[test]
    fn a_steady_rate_below_the_limit_is_never_refused() {
        let start = Instant::now();
        let limits = Limits::default();
        let mut budget = RequestBudget::new(&limits, start);
        for step in 0..2_000 {
            let now = start + Duration::from_millis(22 * step);
            assert_eq!(
                budget.charge(number(PayloadType::ProtoOaTraderReq), &limits, now),
                Ok(())
            );
        }
        assert!(budget.most_requests() <= 46);
    }
}
