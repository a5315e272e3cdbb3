//! Families of metrics with one or two labels, and the words that are used in more than one place.

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, LabelSetEncoder};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry};

/// Names and values of a series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Set<const N: usize>([(&'static str, &'static str); N]);

impl<const N: usize> EncodeLabelSet for Set<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// Series by the value of one label.
#[derive(Debug, Clone)]
pub(super) struct Labelled<M> {
    name: &'static str,
    family: Family<Set<1>, M>,
}

impl<M: Clone + Default> Labelled<M> {
    pub(super) fn of(&self, value: &'static str) -> M {
        self.family
            .get_or_create(&Set([(self.name, value)]))
            .clone()
    }
}

/// Series by the values of two labels.
#[derive(Debug, Clone)]
pub(super) struct Pairs<M> {
    names: [&'static str; 2],
    family: Family<Set<2>, M>,
}

impl<M: Clone + Default> Pairs<M> {
    pub(super) fn of(&self, first: &'static str, second: &'static str) -> M {
        let [one, two] = self.names;
        self.family
            .get_or_create(&Set([(one, first), (two, second)]))
            .clone()
    }
}

/// Registers families, with a series for each value that is known.
pub(super) struct Labels<'a>(pub(super) &'a mut Registry);

impl Labels<'_> {
    pub(super) fn one<M>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> Labelled<M>
    where
        M: Metric + Clone + Default + EncodeMetric + TypedMetric,
    {
        let labelled = Labelled {
            name: label,
            family: Family::default(),
        };
        for value in values {
            drop(labelled.of(value));
        }
        self.0.register(name, help, labelled.family.clone());
        labelled
    }

    pub(super) fn two<M>(
        &mut self,
        name: &str,
        help: &str,
        first: (&'static str, &[&'static str]),
        second: (&'static str, &[&'static str]),
    ) -> Pairs<M>
    where
        M: Metric + Clone + Default + EncodeMetric + TypedMetric,
    {
        let pairs = Pairs {
            names: [first.0, second.0],
            family: Family::default(),
        };
        for one in first.1 {
            for two in second.1 {
                drop(pairs.of(one, two));
            }
        }
        self.0.register(name, help, pairs.family.clone());
        pairs
    }
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
    pub(super) const ALL: [Self; 5] = [
        Self::Renewed,
        Self::Adopted,
        Self::Refused,
        Self::Lost,
        Self::Deferred,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Adopted => "adopted",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Deferred => "deferred",
        }
    }
}

/// How a connection to cTrader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Connected, the application authorised.
    Up,
    /// Not connected though there are sessions for it.
    Down,
    /// Not connected, and nothing needs it.
    Idle,
}

impl LinkState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Idle];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Idle => "idle",
        }
    }
}

/// What a round did to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRows {
    /// Their content was written.
    pub changed: u64,
    /// They were said to be still so.
    pub heartbeat: u64,
    /// The fence refused them.
    pub fenced: u64,
}

impl CacheRows {
    pub(super) const KINDS: [&'static str; 3] = ["changed", "heartbeat", "fenced"];

    pub(super) const fn counts(self) -> [u64; 3] {
        [self.changed, self.heartbeat, self.fenced]
    }
}
