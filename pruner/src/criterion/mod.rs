//! Importance: which weights, and which units, matter least.
//!
//! A [`Criterion`] scores the elements of a weight, from what it [`Criterion::needs`] of the [`Layer`]. The score of a unit (a
//! channel, a head) is taken from its slices of every matrix that has it: in each matrix the criterion reduces the slice's scores
//! to one number, which is divided by the mean over the units of the group; the unit's score is the mean of these over the
//! matrices. Scores of different groups can thus be compared. Fang et al., "DepGraph", CVPR 2023,
//! <https://arxiv.org/abs/2301.12900>.

mod activation;
mod han;
mod lamp;
mod magnitude;
mod random;
mod ria;
mod score;
mod sparse_gpt;
mod wanda;

pub use activation::Activation;
pub use han::Han;
pub use lamp::Lamp;
pub use magnitude::{L1, L2};
pub use random::Random;
pub use ria::Ria;
pub(crate) use score::random_for;
pub use score::{float_values, unit_scores, weight_scores};
pub use sparse_gpt::SparseGptScore;
pub use wanda::Wanda;

use rand::rngs::SmallRng;

use crate::allocation::Scope;
use crate::calibration::{Needs, Statistics};

/// A weight as the matrix of a product, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Outputs and inputs.
    pub size: [usize; 2],
    /// The matrix, row by row: `[outputs, inputs]`. Of a weight that is the matrix of no product, its elements in order.
    pub weights: &'a [f32],
    /// Of its inputs; there wherever the criterion needs more than weights.
    pub statistics: Option<&'a Statistics>,
}

/// Means over the rows of data of one input.
#[derive(Debug, Clone, Copy)]
struct Input {
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
            let (absolute, square) = (moments.absolutes[input] / count, moments.squares[input] / count);
            score(w, Input { absolute, square }) as f32
        };
        self.weights.iter().enumerate().map(of_weight).collect()
    }
}

/// A way to score weights. Low scores go first.
pub trait Criterion: std::fmt::Debug + Sync {
    /// As given on the command line and in recipes.
    fn name(&self) -> &'static str;

    /// One line for help texts.
    fn description(&self) -> &'static str;

    /// What must be known of a layer.
    fn needs(&self) -> Needs {
        Needs::Weights
    }

    /// Among what scores compete where the recipe does not say.
    fn scope(&self) -> Scope {
        Scope::Layer
    }

    /// Scores of the elements of a weight, in the order of [`Layer::weights`], none negative. Whatever is random comes from
    /// `random`.
    fn elements(&self, layer: &Layer<'_>, random: &mut SmallRng) -> Vec<f32>;

    /// The score of a slice from the sum of its elements' scores.
    fn slice(&self, sum: f64, random: &mut SmallRng) -> f64;
}

/// Every criterion.
pub static CRITERIA: &[&dyn Criterion] =
    &[&L1, &L2, &Random, &Lamp, &Han, &Wanda, &Ria, &Activation, &SparseGptScore];

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
        let layer = Layer { size, weights, statistics: Some(statistics) };
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

    #[test]
    fn names_are_unique() {
        for (i, criterion) in CRITERIA.iter().enumerate() {
            assert!(!CRITERIA[..i].iter().any(|other| other.name() == criterion.name()));
            assert_eq!(find(criterion.name()).unwrap().name(), criterion.name());
        }
    }
}
