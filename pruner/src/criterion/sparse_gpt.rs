//! SparseGPT's score: what is lost if a weight goes and those to its right make up for it. Frantar & Alistarh, ICML 2023,
//! <https://arxiv.org/abs/2301.00774>.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::calibration::Needs;
use crate::{solve, update};

/// `w_j² / U_jj²`, where `U` is the upper Cholesky factor of `(XᵀX + λI)⁻¹`.
#[derive(Debug)]
pub struct SparseGptScore;

/// The share of the mean that is added to the diagonal.
const DAMPING: f64 = 0.01;

impl Criterion for SparseGptScore {
    fn name(&self) -> &'static str {
        "sparsegpt"
    }

    fn description(&self) -> &'static str {
        "what is lost when the weights to the right make up for a weight"
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for SparseGptScore {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        let statistics = layer.statistics.expect("what a criterion needs");
        let [rows, cols] = layer.size;
        let diagonal = |group: usize| {
            let upper = solve::upper_of_inverse(&update::damped(statistics, group, DAMPING), cols);
            // (With the diagonal added, rounding alone can leave it without a factor: then all inputs count alike.)
            upper
                .map_or_else(|| vec![1.0; cols], |u| (0..cols).map(|i| u[i * cols + i]).collect::<Vec<f64>>())
        };
        let diagonals: Vec<Vec<f64>> = (0..statistics.groups).map(diagonal).collect();
        let score = |(at, &w): (usize, &f32)| {
            (f64::from(w) / diagonals[statistics.group(at / cols, rows)][at % cols]).powi(2) as f32
        };
        layer.weights.iter().enumerate().map(score).collect()
    }
}
