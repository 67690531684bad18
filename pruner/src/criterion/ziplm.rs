//! ZipLM: optimal brain surgery on whole structures. Kurtic, Frantar and Alistarh, NeurIPS 2023,
//! <https://arxiv.org/abs/2302.04089>.

use super::{Criterion, Layer, OfMatrices, OfUnits, Side};
use crate::allocation::Scope;
use crate::calibration::Needs;
use crate::{solve, update};

/// `Σ_i W_iS ([H⁻¹]_SS)⁻¹ W_iSᵀ` of the inputs `S` that a unit is, with `H = XᵀX + λI` of the layer that reads it: what its
/// outputs lose when the other inputs make up for the unit. Units go one at a time, and `W` and `H⁻¹` follow; a unit's score is what
/// has been lost once it went.
#[derive(Debug)]
pub struct ZipLm;

/// The share of the mean that is added to the diagonal.
const DAMPING: f64 = 0.01;

impl Criterion for ZipLm {
    fn name(&self) -> &'static str {
        "ziplm"
    }

    fn description(&self) -> &'static str {
        "what layers that read a unit lose when their other inputs make up for it"
    }

    fn scope(&self) -> Scope {
        Scope::Layer
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Matrices(self))
    }
}

impl OfMatrices for ZipLm {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn side(&self) -> Side {
        Side::Inputs
    }

    fn sets(&self, layer: &Layer<'_>, sets: &[Vec<usize>]) -> Vec<f64> {
        let statistics = layer.statistics.expect("what a criterion needs");
        let [rows, cols] = layer.size;
        let per_group = rows / statistics.groups.max(1);
        let mut scores = vec![0.0; sets.len()];
        for group in 0..statistics.groups {
            let from = &layer.weights[group * per_group * cols..][..per_group * cols];
            let weights: Vec<f64> = from.iter().map(|&w| f64::from(w)).collect();
            // (With the diagonal added, rounding alone can leave it without an inverse: then all inputs count alike.)
            let inverse =
                solve::inverse(&update::damped(statistics, group, DAMPING), cols).unwrap_or_else(|| {
                    let mut one = vec![0.0; cols * cols];
                    one.iter_mut().step_by(cols + 1).for_each(|v| *v = 1.0);
                    one
                });
            let mut surgery = Surgery { weights, inverse, cols };
            surgery.order(sets).into_iter().for_each(|(set, lost)| scores[set] += lost);
        }
        scores
    }
}

/// A layer from which inputs go, and what stays makes up for them.
struct Surgery {
    /// `[outputs, cols]`
    weights: Vec<f64>,
    /// `H⁻¹`, `[cols, cols]`
    inverse: Vec<f64>,
    cols: usize,
}

impl Surgery {
    /// Takes out all sets, the one that costs least first; gives each with what is lost once it is gone.
    fn order(&mut self, sets: &[Vec<usize>]) -> Vec<(usize, f64)> {
        use rayon::prelude::*;
        let mut left: Vec<usize> = (0..sets.len()).collect();
        let (mut order, mut lost) = (Vec::new(), 0.0);
        while !left.is_empty() {
            let costs: Vec<f64> = left.par_iter().map(|&set| self.cost(&sets[set])).collect();
            let cheapest = costs.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
            let at = cheapest.expect("some are left");
            let set = left.remove(at);
            lost += costs[at].max(0.0);
            order.push((set, lost));
            self.remove(&sets[set]);
        }
        order
    }

    /// `([H⁻¹]_SS)⁻¹`
    fn block(&self, set: &[usize]) -> Option<Vec<f64>> {
        let at = |&row: &usize| set.iter().map(move |&col| self.inverse[row * self.cols + col]);
        solve::inverse(&set.iter().flat_map(at).collect::<Vec<_>>(), set.len())
    }

    /// `Σ W_iS ([H⁻¹]_SS)⁻¹ W_iSᵀ` over outputs.
    fn cost(&self, set: &[usize]) -> f64 {
        let Some(block) = self.block(set) else { return 0.0 };
        let n = set.len();
        let of_row = |row: &[f64]| -> f64 {
            let product = |a: usize| (0..n).map(|b| block[a * n + b] * row[set[b]]).sum::<f64>();
            (0..n).map(|a| row[set[a]] * product(a)).sum()
        };
        self.weights.chunks_exact(self.cols).map(of_row).sum()
    }

    /// `W −= W_S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S:`, and the same of `H⁻¹` itself.
    fn remove(&mut self, set: &[usize]) {
        use rayon::prelude::*;
        let (n, cols) = (set.len(), self.cols);
        if let Some(block) = self.block(set) {
            let rows: Vec<f64> =
                set.iter().flat_map(|&row| self.inverse[row * cols..][..cols].to_vec()).collect();
            let mut factor = vec![0.0; n * cols];
            for (a, factor) in factor.chunks_exact_mut(cols).enumerate() {
                for (b, row) in rows.chunks_exact(cols).enumerate() {
                    factor.iter_mut().zip(row).for_each(|(to, v)| *to += block[a * n + b] * v);
                }
            }
            let eliminate = |row: &mut [f64]| {
                let of: Vec<f64> = set.iter().map(|&col| row[col]).collect();
                for (scale, factor) in of.iter().zip(factor.chunks_exact(cols)) {
                    row.iter_mut().zip(factor).for_each(|(to, v)| *to -= scale * v);
                }
            };
            self.weights.par_chunks_exact_mut(cols).for_each(eliminate);
            self.inverse.par_chunks_exact_mut(cols).for_each(eliminate);
        }
        for &col in set {
            self.weights.iter_mut().skip(col).step_by(cols).for_each(|w| *w = 0.0);
            // What is gone stays apart from what is left.
            (0..cols).for_each(|at| {
                self.inverse[col * cols + at] = 0.0;
                self.inverse[at * cols + col] = 0.0;
            });
        }
    }
}
