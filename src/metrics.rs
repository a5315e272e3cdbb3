//! What is counted, for `GET /metrics`. Names and labels are the contract's.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds of the drift's buckets, in units of the account's currency: a cent, a few, and what is wrong.
const DRIFT_BUCKETS: [f64; 7] = [0.0, 0.01, 0.05, 0.1, 1.0, 10.0, 100.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// What became of a token that was to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// A new pair is stored.
    Renewed,
    /// The pair that another worker got is stored.
    Adopted,
    /// cTrader refused it.
    Refused,
    /// No answer is known.
    Lost,
    /// It could not be tried now.
    Deferred,
}

impl RefreshOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Adopted => "adopted",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Deferred => "deferred",
        }
    }
}

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    deals: Family<SourceLabel, Counter>,
    drift: Histogram,
    refreshes: Family<OutcomeLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("bridge");
        let deals = Family::<SourceLabel, Counter>::default();
        registry.register(
            "deals",
            "Deals stored, by how they came to be known",
            deals.clone(),
        );
        let drift = Histogram::new(DRIFT_BUCKETS);
        registry.register(
            "pnl_drift",
            "Difference of our unrealised P&L to the server's, an account at a time, in its currency",
            drift.clone(),
        );
        let refreshes = Family::<OutcomeLabel, Counter>::default();
        registry.register(
            "token_refresh",
            "Tokens renewed, by outcome",
            refreshes.clone(),
        );
        Self {
            registry,
            deals,
            drift,
            refreshes,
        }
    }
}

impl Metrics {
    /// Deals were stored that events told of, and deals that only the history did.
    pub fn deals_stored(&self, from_events: u64, from_gaps: u64) {
        for (source, deals) in [("event", from_events), ("gap", from_gaps)] {
            self.deals
                .get_or_create(&SourceLabel { source })
                .inc_by(deals);
        }
    }

    /// An account's P&L was compared with the server's.
    pub fn audited(&self, drift: f64) {
        self.drift.observe(drift);
    }

    /// A token was to be renewed.
    pub fn refreshed(&self, outcome: RefreshOutcome) {
        let outcome = outcome.as_str();
        self.refreshes
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
    }

    /// All of it as Prometheus text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_has_the_contracts_names() {
        let metrics = Metrics::default();
        metrics.deals_stored(3, 1);
        metrics.audited(0.02);
        metrics.refreshed(RefreshOutcome::Renewed);
        let text = metrics.render();
        for line in [
            "bridge_deals_total{source=\"event\"} 3",
            "bridge_deals_total{source=\"gap\"} 1",
            "bridge_pnl_drift_count 1",
            "bridge_token_refresh_total{outcome=\"renewed\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
