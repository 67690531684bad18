//! What units are worth on samples, where layers read them.

use std::collections::BTreeMap;

use super::{Criterion, Normalize, OfUnits};
use crate::allocation::Scope;

/// A unit's activations over samples.
#[derive(Debug, Clone, Copy)]
pub struct Activity<'a> {
    /// Mean absolute value.
    pub size: f64,
    /// Standard deviation.
    pub deviation: f64,
    /// Share of zeros.
    pub zeros: f64,
    /// The mean over the unit's elements in each example.
    pub means: &'a [f32],
    /// The class of each example, where there are labels.
    pub classes: Option<&'a [i64]>,
}

/// Mean absolute activation: of a rectifier's outputs their mean. Molchanov et al., ICLR 2017, <https://arxiv.org/abs/1611.06440>.
#[derive(Debug)]
pub struct MeanActivation;

/// Standard deviation of the activations. Molchanov et al., ICLR 2017; Polyak and Wolf, IEEE Access 2015.
#[derive(Debug)]
pub struct Deviation;

/// One less the average percentage of zeros. Hu et al., "Network Trimming", 2016, <https://arxiv.org/abs/1607.03250>.
#[derive(Debug)]
pub struct Apoz;

/// Mutual information of a unit's mean activation, in 16 equal steps, and the class: `H(a) + H(y) − H(a, y)`, in nats.
/// Molchanov et al., ICLR 2017.
#[derive(Debug)]
pub struct MutualInformation;

/// Steps that an activation is quantised in.
const STEPS: usize = 16;

impl Criterion for MeanActivation {
    fn name(&self) -> &'static str {
        "mean-activation"
    }

    fn description(&self) -> &'static str {
        "mean size of a unit's activations"
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Activations { labels: false, score: |of| of.size })
    }
}

impl Criterion for Deviation {
    fn name(&self) -> &'static str {
        "deviation"
    }

    fn description(&self) -> &'static str {
        "standard deviation of a unit's activations"
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Activations { labels: false, score: |of| of.deviation })
    }
}

impl Criterion for Apoz {
    fn name(&self) -> &'static str {
        "apoz"
    }

    fn description(&self) -> &'static str {
        "share of a unit's activations that are not zero; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Activations { labels: false, score: |of| 1.0 - of.zeros })
    }

    fn normalize(&self) -> Normalize {
        Normalize::None
    }
}

impl Criterion for MutualInformation {
    fn name(&self) -> &'static str {
        "mutual-information"
    }

    fn description(&self) -> &'static str {
        "what a unit's activation says of the class; needs labels"
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Activations {
            labels: true,
            score: |of| of.classes.map_or(0.0, |classes| information(of.means, classes)),
        })
    }
}

/// Mutual information of quantised values and classes, nats.
fn information(values: &[f32], classes: &[i64]) -> f64 {
    let (low, high) =
        values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    let width = (high - low) / STEPS as f32;
    let step = |value: f32| if width > 0.0 { (((value - low) / width) as usize).min(STEPS - 1) } else { 0 };
    let pairs = || values.iter().zip(classes).map(|(&value, &class)| (step(value), class));
    let count = pairs().count() as f64;
    entropy(pairs().map(|(step, _)| (step, 0)), count) + entropy(pairs().map(|(_, class)| (0, class)), count)
        - entropy(pairs(), count)
}

fn entropy(of: impl Iterator<Item = (usize, i64)>, count: f64) -> f64 {
    let mut counts: BTreeMap<(usize, i64), f64> = BTreeMap::new();
    of.for_each(|key| *counts.entry(key).or_default() += 1.0);
    counts.values().map(|n| -n / count * (n / count).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_is_what_the_class_is_known_by() {
        let classes = [0, 0, 1, 1];
        let ln2 = 2.0_f64.ln();
        for (values, expected) in [
            // It tells the classes apart, says nothing, or is the same for all.
            ([0.0, 0.1, 5.0, 5.1], ln2),
            ([0.0, 5.0, 0.0, 5.0], 0.0),
            ([1.0; 4], 0.0),
            // One of four is misplaced: H(a) + H(y) − H(a, y) with a = (3/4, 1/4).
            ([0.0, 0.0, 0.0, 5.0], {
                let h = |p: f64| -p * p.ln();
                h(0.75) + h(0.25) + ln2 - (h(0.5) + h(0.25) + h(0.25))
            }),
        ] {
            assert!((information(&values, &classes) - expected).abs() < 1e-12, "{values:?}");
        }
    }
}
