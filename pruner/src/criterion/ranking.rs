//! From scores of units in several places to one score each, comparable between groups.

use serde::{Deserialize, Serialize};

use crate::dependency::{DependencyGraph, UnitId};

/// Scores of some units in one place: a matrix, or wherever a criterion looks.
pub type Part = Vec<(UnitId, f64)>;

/// How scores in one place are made comparable with those in others: over the units of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalize {
    /// As the criterion is meant.
    #[default]
    Auto,
    /// They are as they are.
    None,
    /// Divided by their mean. Fang et al., CVPR 2023.
    Mean,
    /// Divided by their Euclidean norm. Molchanov et al., ICLR 2017.
    L2,
    /// Less their mean, divided by their standard deviation. An et al., AAAI 2024.
    Standard,
}

/// How the scores of a unit in several places become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Aggregate {
    #[default]
    Mean,
    Max,
    Sum,
}

/// How units are ranked by their scores in several places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ranking {
    pub normalize: Normalize,
    pub aggregate: Aggregate,
}

impl Normalize {
    /// What to take off, and to divide by.
    fn of(self, scores: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
        let count = scores.clone().count().max(1) as f64;
        let mean = scores.clone().sum::<f64>() / count;
        let positive = |scale: f64| if scale > 0.0 { scale } else { 1.0 };
        match self {
            Self::Auto | Self::None => (0.0, 1.0),
            Self::Mean => (0.0, positive(mean)),
            Self::L2 => (0.0, positive(scores.map(|v| v * v).sum::<f64>().sqrt())),
            Self::Standard => {
                (mean, positive((scores.map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt()))
            }
        }
    }

    /// Makes the scores of the weights of a layer comparable with those of others. `Standard` is not for these.
    pub(crate) fn scale(self, scores: &mut [f32]) {
        let finite = scores.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v));
        let (_, scale) = self.of(finite);
        scores.iter_mut().for_each(|v| *v = (f64::from(*v) / scale) as f32);
    }
}

impl Ranking {
    /// One score for each unit; NaN for one that no part knows.
    pub fn rank(self, dependencies: &DependencyGraph, parts: &[Part]) -> Vec<f64> {
        let mut group_of = vec![usize::MAX; dependencies.unit_count()];
        for (index, group) in dependencies.groups().iter().enumerate() {
            group.units.iter().for_each(|&unit| group_of[unit] = index);
        }
        let mut all = vec![f64::NAN; dependencies.unit_count()];
        let mut seen = vec![0_u32; dependencies.unit_count()];
        for part in parts {
            let mut of_groups: Vec<Vec<(UnitId, f64)>> = vec![Vec::new(); dependencies.groups().len()];
            part.iter().for_each(|&(unit, score)| of_groups[group_of[unit]].push((unit, score)));
            for scores in of_groups.iter().filter(|scores| !scores.is_empty()) {
                let (less, scale) = self.normalize.of(scores.iter().map(|(_, score)| *score));
                for &(unit, score) in scores {
                    let score = (score - less) / scale;
                    all[unit] = match (seen[unit], self.aggregate) {
                        (0, _) => score,
                        (_, Aggregate::Mean | Aggregate::Sum) => all[unit] + score,
                        (_, Aggregate::Max) => all[unit].max(score),
                    };
                    seen[unit] += 1;
                }
            }
        }
        if self.aggregate == Aggregate::Mean {
            all.iter_mut().zip(seen).for_each(|(score, seen)| *score /= f64::from(seen.max(1)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_put_together_as_asked() {
        let graph = crate::calibration::testing::perceptron();
        let settings = crate::settings::Settings::find(&graph, &crate::settings::Shapes::new());
        let dependencies = DependencyGraph::new(&graph, settings.facts());
        // The last unit is seen nowhere.
        let parts = [vec![(0, 1.0), (1, 2.0), (2, 4.0)], vec![(0, 5.0), (1, 1.0)]];
        for (aggregate, expected) in [
            (Aggregate::Mean, [3.0, 1.5, 4.0]),
            (Aggregate::Max, [5.0, 2.0, 4.0]),
            (Aggregate::Sum, [6.0, 3.0, 4.0]),
        ] {
            let ranking = Ranking { normalize: Normalize::None, aggregate };
            let found = ranking.rank(&dependencies, &parts);
            assert_eq!(found[..3], expected, "{aggregate:?}");
            assert!(found[3].is_nan());
        }
    }

    #[test]
    fn scores_are_made_comparable_as_defined() {
        let scores = [1.0, 2.0, 2.0, 3.0];
        let of = |normalize: Normalize| {
            let (less, scale) = normalize.of(scores.iter().copied());
            scores.map(|v| (v - less) / scale)
        };
        assert_eq!(of(Normalize::None), scores);
        assert_eq!(of(Normalize::Mean), [0.5, 1.0, 1.0, 1.5]);
        let norm = 18.0_f64.sqrt();
        assert_eq!(of(Normalize::L2), scores.map(|v| v / norm));
        let deviation = 0.5_f64.sqrt();
        assert_eq!(of(Normalize::Standard), scores.map(|v| (v - 2.0) / deviation));
        // What is all zero stays so.
        assert_eq!(Normalize::L2.of([0.0; 3].into_iter()), (0.0, 1.0));
    }
}
