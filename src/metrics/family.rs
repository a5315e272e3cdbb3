//! Families of series that differ in one or two labels.

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, LabelSetEncoder};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry};

/// The labels of a series: names and values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LabelSet<const N: usize>([(&'static str, &'static str); N]);

impl<const N: usize> EncodeLabelSet for LabelSet<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// Series that differ in the values of `N` labels.
#[derive(Debug, Clone)]
pub(super) struct LabelledFamily<M, const N: usize> {
    names: [&'static str; N],
    family: Family<LabelSet<N>, M>,
}

impl<M: Clone + Default, const N: usize> LabelledFamily<M, N> {
    fn new(names: [&'static str; N]) -> Self {
        Self {
            names,
            family: Family::default(),
        }
    }

    /// The series with these values, in the order of the labels' names.
    pub(super) fn with_values(&self, values: [&'static str; N]) -> M {
        let mut labels = [("", ""); N];
        for (label, pair) in labels.iter_mut().zip(self.names.into_iter().zip(values)) {
            *label = pair;
        }
        self.family.get_or_create(&LabelSet(labels)).clone()
    }
}

/// Registers families, with a series for each combination of the known values.
pub(super) struct FamilyRegistry<'a>(pub(super) &'a mut Registry);

impl FamilyRegistry<'_> {
    /// A family with one label.
    pub(super) fn one_label<M>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> LabelledFamily<M, 1>
    where
        M: Metric + Clone + Default + EncodeMetric + TypedMetric,
    {
        let family = LabelledFamily::new([label]);
        for value in values {
            drop(family.with_values([value]));
        }
        self.0.register(name, help, family.family.clone());
        family
    }

    /// A family with two labels.
    pub(super) fn two_labels<M>(
        &mut self,
        name: &str,
        help: &str,
        first: (&'static str, &[&'static str]),
        second: (&'static str, &[&'static str]),
    ) -> LabelledFamily<M, 2>
    where
        M: Metric + Clone + Default + EncodeMetric + TypedMetric,
    {
        let family = LabelledFamily::new([first.0, second.0]);
        for one in first.1 {
            for two in second.1 {
                drop(family.with_values([one, two]));
            }
        }
        self.0.register(name, help, family.family.clone());
        family
    }
}
