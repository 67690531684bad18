//! Importance: which weights, and which units, matter least.
//!
//! A [`Criterion`] scores single weights ([`OfWeights`]), units such as channels and heads ([`OfUnits`]), whole residual blocks
//! ([`OfBlocks`]), or several of these; what it cannot score it refuses by `None`.
//!
//! The score of a unit is by default taken from its slices of every matrix that has it: in each matrix the criterion reduces
//! the slice's scores to one number. These, and the scores of criteria that look at units otherwise, are then made comparable
//! between groups and put together ([`Ranking`]): by default each is divided by the mean over the units of its group, and the
//! unit's score is the mean over the matrices. Fang et al., "DepGraph", CVPR 2023, <https://arxiv.org/abs/2301.12900>.

mod activation;
mod activity;
mod batch_norm;
mod block_influence;
mod flap;
mod fpgm;
mod gradient;
mod han;
mod lamp;
mod magnitude;
mod obd;
mod obert;
mod oracle;
mod random;
mod ranking;
mod ria;
mod score;
mod sparse_gpt;
mod taylor;
mod wanda;
mod ziplm;

pub use crate::gates::Gate;
pub use activation::Activation;
pub use activity::{Activity, Apoz, Deviation, MeanActivation, MutualInformation};
pub use batch_norm::BatchNormScale;
pub use block_influence::BlockInfluence;
pub use flap::Flap;
pub use fpgm::Fpgm;
pub use gradient::{Gradient, Snip};
pub use han::Han;
pub use lamp::Lamp;
pub use magnitude::{L1, L2};
pub use obd::Obd;
pub use obert::Obert;
pub use oracle::Oracle;
pub use random::Random;
pub use ranking::{Aggregate, Normalize, Part, Ranking};
pub use ria::Ria;
pub use score::{float_values, weight_scores};
pub(crate) use score::{matrix_parts, random_for, slice_parts};
pub use sparse_gpt::SparseGptScore;
pub use taylor::{Taylor2016, TaylorFo, TaylorSigned};
pub use wanda::Wanda;
pub use ziplm::ZipLm;

use rand::rngs::SmallRng;

use crate::allocation::Scope;
use crate::calibration::{Needs, Statistics};
use crate::gradients::objective::Against;
use crate::gradients::saliency::{Gradients, WeightGradients};
use crate::recipe::Granularity;

/// A weight as the matrix of a product, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Outputs and inputs.
    pub size: [usize; 2],
    /// The matrix, row by row: `[outputs, inputs]`. Of a weight that is the matrix of no product, its elements in order.
    pub weights: &'a [f32],
    /// Of its inputs; there wherever the criterion needs more than weights.
    pub statistics: Option<&'a Statistics>,
    /// Of the loss, in the order of the weights; there wherever the criterion asks for some.
    pub gradients: Option<&'a WeightGradients>,
}

/// Means over the rows of data of one input.
#[derive(Debug, Clone, Copy)]
struct Input {
    mean: f64,
    absolute: f64,
    square: f64,
}

impl Layer<'_> {
    /// Weights with inputs of their own.
    fn groups(&self) -> usize {
        self.statistics.map_or(1, |statistics| statistics.groups)
    }

    /// The group that a row belongs to.
    fn group(&self, row: usize) -> usize {
        self.statistics.map_or(0, |statistics| statistics.group(row, self.size[0]))
    }

    /// What is known of the loss's gradients.
    ///
    /// # Panics
    /// When there is nothing.
    fn gradients(&self) -> &WeightGradients {
        self.gradients.expect("what a criterion asked for")
    }

    /// A score for each weight from its value and its input.
    ///
    /// # Panics
    /// When there are no statistics of inputs.
    fn by_input(&self, score: impl Fn(f32, Input) -> f64) -> Vec<f32> {
        let moments = &self.statistics.expect("what a criterion needs").fitted;
        let cols = self.size[1].max(1);
        let count = moments.rows.max(1) as f64;
        let of_weight = |(at, &w): (usize, &f32)| {
            let input = self.group(at / cols) * cols + at % cols;
            let [mean, absolute, square] =
                [&moments.sums, &moments.absolutes, &moments.squares].map(|sums| sums[input] / count);
            score(w, Input { mean, absolute, square }) as f32
        };
        self.weights.iter().enumerate().map(of_weight).collect()
    }
}

/// A way to tell what matters least. Low scores go first.
pub trait Criterion: std::fmt::Debug + Sync {
    /// As given on the command line and in recipes.
    fn name(&self) -> &'static str;

    /// One line for help texts.
    fn description(&self) -> &'static str;

    /// Among what scores compete where the recipe does not say.
    fn scope(&self) -> Scope {
        Scope::Layer
    }

    /// How it scores single weights, and from these blocks of weights and N of M.
    fn of_weights(&self) -> Option<&dyn OfWeights> {
        None
    }

    /// How it scores units: channels, heads, hidden units.
    fn of_units(&self) -> Option<OfUnits<'_>> {
        self.of_weights().map(OfUnits::Weights)
    }

    /// How it scores whole residual blocks.
    fn of_blocks(&self) -> Option<OfBlocks> {
        None
    }

    /// How it makes the scores of units comparable where the recipe does not say.
    fn normalize(&self) -> Normalize {
        Normalize::Mean
    }
}

impl dyn Criterion + '_ {
    /// Whether it must see samples to score what is removed at a time.
    pub fn needs_samples(&self, granularity: Granularity) -> bool {
        let of_weights = |of: &dyn OfWeights| of.needs() > Needs::Weights || of.gradients().is_some();
        match granularity {
            Granularity::Unstructured | Granularity::Pattern(_) => self.of_weights().is_some_and(of_weights),
            Granularity::Channel => self.of_units().is_some_and(|of| match of {
                OfUnits::Weights(of) => of_weights(of),
                OfUnits::Matrices(of) => of.needs() > Needs::Weights,
                OfUnits::Scales => false,
                OfUnits::Activations { .. } | OfUnits::Gates { .. } | OfUnits::Ablation => true,
            }),
            Granularity::Depth => self.of_blocks().is_some(),
        }
    }

    /// Whether it scores what is removed at a time.
    pub fn scores(&self, granularity: Granularity) -> bool {
        match granularity {
            Granularity::Unstructured | Granularity::Pattern(_) => self.of_weights().is_some(),
            Granularity::Channel => self.of_units().is_some(),
            Granularity::Depth => self.of_blocks().is_some(),
        }
    }
}

/// Scores of single weights.
pub trait OfWeights: std::fmt::Debug + Sync {
    /// What must be known of what a layer is fed.
    fn needs(&self) -> Needs {
        Needs::Weights
    }

    /// What must be known of the loss.
    fn gradients(&self) -> Option<Gradients> {
        None
    }

    /// Scores of the elements of a weight, in the order of [`Layer::weights`], none negative. Whatever is random comes from
    /// `random`.
    fn elements(&self, layer: &Layer<'_>, random: &mut SmallRng) -> Vec<f32>;

    /// The score of a slice from the sum of its elements' scores.
    fn slice(&self, sum: f64, _random: &mut SmallRng) -> f64 {
        sum
    }
}

/// How units are scored.
#[derive(Debug, Clone, Copy)]
pub enum OfUnits<'a> {
    /// By the scores of their weights, added up slice by slice.
    Weights(&'a dyn OfWeights),
    /// From their slices as such, in each matrix that has them on one side.
    Matrices(&'a dyn OfMatrices),
    /// By what they are worth on samples where layers read them.
    #[allow(missing_docs)]
    Activations { labels: bool, score: fn(&Activity<'_>) -> f64 },
    /// By the gradient of the loss with respect to a gate on each.
    #[allow(missing_docs)]
    Gates { against: Against, score: fn(&Gate) -> f64 },
    /// By the scales of the norms that they pass.
    Scales,
    /// By what becomes of the loss without each.
    Ablation,
}

/// How whole blocks `x + f(x)` are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfBlocks {
    /// By what becomes of the loss without each.
    Ablation,
    /// By how little `x + f(x)` is like `x`.
    Likeness,
}

/// A side of a matrix `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Units are sets of rows: the matrix makes them.
    Outputs,
    /// Units are sets of columns: the matrix reads them.
    Inputs,
}

/// Scores of units from whole slices of a matrix.
pub trait OfMatrices: std::fmt::Debug + Sync {
    /// What must be known of what a layer is fed.
    fn needs(&self) -> Needs {
        Needs::Weights
    }

    /// On which side of a matrix units are scored.
    fn side(&self) -> Side;

    /// A score for each set of rows or columns, by the side.
    fn sets(&self, layer: &Layer<'_>, sets: &[Vec<usize>]) -> Vec<f64>;
}

/// Every criterion.
pub static CRITERIA: &[&dyn Criterion] = &[
    &L1,
    &L2,
    &Random,
    &Lamp,
    &Han,
    &Wanda,
    &Ria,
    &Activation,
    &SparseGptScore,
    &Gradient,
    &Snip,
    &TaylorFo,
    &Obd,
    &Obert,
    &Taylor2016,
    &TaylorSigned,
    &MeanActivation,
    &Deviation,
    &Apoz,
    &MutualInformation,
    &Fpgm,
    &BatchNormScale,
    &Flap,
    &ZipLm,
    &Oracle,
    &BlockInfluence,
];

/// The criterion with this name.
pub fn find(name: &str) -> Option<&'static dyn Criterion> {
    CRITERIA.iter().copied().find(|criterion| criterion.name() == name)
}

#[cfg(test)]
mod tests {
    use poda_formats::{MatrixForm, TensorView};

    use super::*;
    use crate::calibration::inputs::Source;
    use crate::calibration::{Collector, Rows};

    /// Statistics of `x` `[rows, cols]`.
    fn statistics(x: &[f32], cols: usize) -> Statistics {
        let form = MatrixForm { parts: 1, rows: 1, cols, transposed: false };
        let (shape, source) = ([x.len() / cols, cols], Source::Matrix { transposed: false });
        let rows = Rows::new(&source, form, &TensorView::from_slice(&shape, x)).unwrap().unwrap();
        let mut collector = Collector::new(true);
        collector.add(&rows, None, false, 1);
        collector.finish().unwrap()
    }

    fn scores(
        criterion: &dyn Criterion,
        size: [usize; 2],
        weights: &[f32],
        statistics: &Statistics,
    ) -> Vec<f32> {
        let layer = Layer { size, weights, statistics: Some(statistics), gradients: None };
        let criterion = criterion.of_weights().expect("one that scores weights");
        criterion.elements(&layer, &mut random_for(0, poda_formats::ValueId(0)))
    }

    #[test]
    fn with_inputs_that_are_not_correlated_wanda_sparsegpt_and_obs_rank_alike() {
        // Each row of inputs has one that is not zero, so that the Gram matrix is diagonal.
        let (cols, weights) = (6, [0.5, -0.4, 0.3, 0.9, -0.2, 0.7, 0.1, 0.8, -0.6, 0.35, 0.45, -0.55]);
        let x: Vec<f32> =
            (0..cols * cols).map(|i| if i / cols == i % cols { 1.0 + (i % 5) as f32 } else { 0.0 }).collect();
        let statistics = statistics(&x, cols);
        let obs: Vec<f32> = {
            let inverse = crate::solve::inverse(&crate::update::damped(&statistics, 0, 0.01), cols).unwrap();
            weights.iter().enumerate().map(|(at, w)| w * w / inverse[at % cols * (cols + 1)] as f32).collect()
        };
        let ranks = |scores: &[f32]| {
            let mut order: Vec<usize> = (0..cols).collect();
            order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            order
        };
        let [wanda, gpt] =
            [&Wanda as &dyn Criterion, &SparseGptScore].map(|c| scores(c, [2, cols], &weights, &statistics));
        for row in 0..2 {
            let of = |scores: &[f32]| ranks(&scores[row * cols..(row + 1) * cols]);
            assert_eq!(of(&wanda), of(&obs));
            assert_eq!(of(&gpt), of(&obs));
        }
    }

    #[test]
    fn scores_are_as_defined() {
        let (x, weights) = ([1.0, -2.0, 3.0, 2.0], [1.0, -3.0, 0.0, 2.0]);
        let statistics = statistics(&x, 2);
        let of = |criterion: &dyn Criterion| scores(criterion, [2, 2], &weights, &statistics);
        let close = |found: Vec<f32>, wanted: [f32; 4]| {
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {wanted:?}");
        };
        let (a, b) = (5.0_f32.sqrt(), 2.0);
        close(of(&Wanda), [a, 3.0 * b, 0.0, 2.0 * b]);
        close(of(&Activation), [2.0, 6.0, 0.0, 4.0]);
        // Rows sum to 4 and 2, columns to 1 and 5.
        close(of(&Ria), [1.25 * a.sqrt(), 3.0 * 0.45 * b.sqrt(), 0.0, 2.0 * 0.7 * b.sqrt()]);
        close(of(&Lamp), [1.0 / 14.0, 1.0, 0.0, 4.0 / 13.0]);
        close(of(&Han), [1.0, 3.0, 0.0, 2.0].map(|w| w / 3.5_f32.sqrt()));
    }

    /// Numbers that look random.
    fn values(len: usize, seed: f32) -> Vec<f32> {
        (0..len).map(|i| ((i as f32 + seed) * 12.9898).sin()).collect()
    }

    #[test]
    fn filters_are_compared_with_all_others() {
        let weights = values(12, 1.0);
        let layer = Layer { size: [4, 3], weights: &weights, statistics: None, gradients: None };
        // Two units of two rows, and as many of one.
        for sets in [vec![vec![0, 1], vec![2, 3]], vec![vec![0], vec![1], vec![2], vec![3]]] {
            let of = |set: &[usize]| -> Vec<f32> {
                set.iter().flat_map(|&row| weights[row * 3..][..3].to_vec()).collect()
            };
            let distance = |a: &[usize], b: &[usize]| {
                of(a).iter().zip(of(b)).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
            };
            for (set, found) in sets.iter().zip(Fpgm.sets(&layer, &sets)) {
                let expected: f64 = sets.iter().map(|other| distance(set, other)).sum();
                assert!((found - expected).abs() < 1e-9, "{found} {expected}");
            }
        }
    }

    #[test]
    fn fluctuation_is_variance_times_the_weights_that_read() {
        let (x, weights) = (values(40, 2.0), values(12, 1.0));
        let statistics = statistics(&x, 4);
        let layer = Layer { size: [3, 4], weights: &weights, statistics: Some(&statistics), gradients: None };
        let sets = [vec![0, 2], vec![1], vec![3]];
        for (set, found) in sets.iter().zip(Flap.sets(&layer, &sets)) {
            let of_col = |&col: &usize| {
                let values: Vec<f64> = x.iter().skip(col).step_by(4).map(|&v| f64::from(v)).collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
                variance * weights.iter().skip(col).step_by(4).map(|&w| f64::from(w).powi(2)).sum::<f64>()
            };
            let expected: f64 = set.iter().map(of_col).sum();
            assert!((found - expected).abs() < 1e-5 * expected, "{found} {expected}");
        }
    }

    #[test]
    fn structures_that_go_one_by_one_cost_what_they_do_together() {
        let (cols, x, weights) = (6, values(120, 3.0), values(18, 5.0));
        let statistics = statistics(&x, cols);
        let layer =
            Layer { size: [3, cols], weights: &weights, statistics: Some(&statistics), gradients: None };
        let sets = [vec![0, 3], vec![1, 5], vec![2, 4]];
        let scores = ZipLm.sets(&layer, &sets);
        let inverse = crate::solve::inverse(&crate::update::damped(&statistics, 0, 0.01), cols).unwrap();
        // W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ of all that are gone.
        let loss = |gone: &[usize]| -> f64 {
            let block: Vec<f64> = gone
                .iter()
                .flat_map(|&a| gone.iter().map(move |&b| (a, b)))
                .map(|(a, b)| inverse[a * cols + b])
                .collect();
            let block = crate::solve::inverse(&block, gone.len()).unwrap();
            let of_row = |row: &[f32]| -> f64 {
                let pairs = (0..gone.len()).flat_map(|a| (0..gone.len()).map(move |b| (a, b)));
                pairs.map(|(a, b)| f64::from(row[gone[a]] * row[gone[b]]) * block[a * gone.len() + b]).sum()
            };
            weights.chunks_exact(cols).map(of_row).sum()
        };
        let mut order: Vec<usize> = (0..3).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        // The first costs least of all alone.
        assert!(sets.iter().all(|set| loss(&sets[order[0]]) <= loss(set)));
        let mut gone = Vec::new();
        for set in order {
            gone.extend(&sets[set]);
            let expected = loss(&gone);
            assert!((scores[set] - expected).abs() < 1e-6 * expected, "{} {expected}", scores[set]);
        }
    }

    #[test]
    fn every_criterion_scores_something_and_says_what_it_needs() {
        let granularities =
            ["unstructured", "block:4x1", "channel", "depth"].map(|name| name.parse().unwrap());
        for criterion in CRITERIA {
            assert!(granularities.iter().any(|&granularity| criterion.scores(granularity)), "{criterion:?}");
            for granularity in granularities {
                assert!(
                    criterion.scores(granularity) || !criterion.needs_samples(granularity),
                    "{criterion:?}"
                );
            }
        }
    }

    #[test]
    fn names_are_unique() {
        for (i, criterion) in CRITERIA.iter().enumerate() {
            assert!(!CRITERIA[..i].iter().any(|other| other.name() == criterion.name()));
            assert_eq!(find(criterion.name()).unwrap().name(), criterion.name());
        }
    }
}
