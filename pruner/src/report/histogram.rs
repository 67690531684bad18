//! How what matters is spread: histograms of what stayed and what went.

use poda_formats::Graph;
use serde::{Deserialize, Serialize};

use crate::criterion::float_values;
use crate::dependency::{DependencyGraph, Removal};
use crate::recipe::Recipe;
use crate::unstructured::prunable_weights;

/// Bars of a histogram.
const BARS: usize = 32;

/// Numbers by size, of what stayed and of what went, in bars of one width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The layer.
    pub name: String,
    /// What the numbers are: sizes of weights, or scores of units by a criterion.
    pub of: String,
    /// Where the first bar begins and the last ends.
    pub range: [f64; 2],
    /// How many stayed, by bar.
    pub stayed: Vec<u64>,
    /// How many went, by bar.
    pub went: Vec<u64>,
}

impl Histogram {
    /// Of numbers, each with whether it stayed; `None` where none is finite.
    fn of(name: &str, of: &str, numbers: &(impl Iterator<Item = (f64, bool)> + Clone)) -> Option<Self> {
        let finite = || numbers.clone().filter(|(number, _)| number.is_finite());
        let (low, high) = finite()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (v, _)| (low.min(v), high.max(v)));
        if low > high {
            return None;
        }
        let [mut stayed, mut went] = [vec![0; BARS], vec![0; BARS]];
        let width = if high > low { (high - low) / BARS as f64 } else { 1.0 };
        for (number, stays) in finite() {
            let bar = (((number - low) / width) as usize).min(BARS - 1);
            let bars = if stays { &mut stayed } else { &mut went };
            bars[bar] += 1;
        }
        Some(Self { name: name.to_owned(), of: of.to_owned(), range: [low, high], stayed, went })
    }
}

/// The sizes of single weights, layer by layer, where some of them went and the shape stayed. Zeros of before are left out.
pub fn of_weights(before: &Graph, after: &Graph) -> Vec<Histogram> {
    let dense = |graph: &Graph, name: &str| {
        let tensor = graph.weight(graph.find(name)?)?.to_dense().ok()?;
        Some((tensor.shape().to_vec(), float_values(&tensor)?))
    };
    let of = |name: &str| {
        let ((shape, was), (now_shape, now)) = (dense(before, name)?, dense(after, name)?);
        let pairs = || was.iter().zip(&now).filter(|(was, _)| **was != 0.0);
        if shape != now_shape || pairs().all(|(_, now)| *now != 0.0) {
            return None;
        }
        let sizes = pairs().map(|(was, now)| (f64::from(was.abs()), *now != 0.0));
        Histogram::of(name, "size of the weight", &sizes)
    };
    let weights = prunable_weights(before, &Recipe::default());
    weights.into_iter().filter_map(|id| of(&before.value(id).name)).collect()
}

/// The scores of units, group by group, where some of them went.
pub fn of_units(
    dependencies: &DependencyGraph,
    removal: &Removal,
    scores: &[f64],
    criterion: &str,
) -> Vec<Histogram> {
    let changed =
        dependencies.groups().iter().filter(|group| group.units.iter().any(|&unit| removal.contains(unit)));
    changed
        .filter_map(|group| {
            let units = group.units.iter().map(|&unit| (scores[unit], !removal.contains(unit)));
            Histogram::of(&group.name, criterion, &units)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_one_bar() {
        let numbers = (0..100).map(|i| (f64::from(i) / 10.0, i >= 50)).chain([(f64::NAN, true)]);
        let found = Histogram::of("w", "size", &numbers).unwrap();
        assert_eq!(found.range, [0.0, 9.9]);
        let sum = |bars: &[u64]| bars.iter().sum::<u64>();
        assert_eq!((sum(&found.stayed), sum(&found.went)), (50, 50));
        assert!(found.went[..16].iter().all(|&n| n > 0) && sum(&found.went[17..]) == 0, "{found:?}");
        let same = Histogram::of("w", "size", &[(1.0, true), (1.0, false)].into_iter()).unwrap();
        assert_eq!((same.stayed[0], same.went[0]), (1, 1));
        assert_eq!(Histogram::of("w", "size", &std::iter::empty()), None);
    }
}
