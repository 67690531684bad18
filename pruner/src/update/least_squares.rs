//! Exact least squares on the support: of all weights that are zero where the mask says so, those whose outputs are nearest
//! to the dense ones on the data.
//!
//! For an output with weights `w`, kept inputs `K`, and `H = XᵀX + λI`: `H_KK ŵ_K = (H w)_K`, so that `λ` draws towards the dense
//! weights. Where fewer have gone than stay, the same from the inverse: `ŵ_K = w_K − H⁻¹_KP (H⁻¹_PP)⁻¹ w_P`, which is Optimal
//! Brain Surgeon's for a group. Hassibi & Stork, NIPS 1992; for layers Frantar & Alistarh, NeurIPS 2022,
//! <https://arxiv.org/abs/2208.11580>.

use rayon::prelude::*;

use super::{Job, UpdateError, WeightUpdate};
use crate::calibration::{Needs, Statistics, rows_times};
use crate::solve::{self, Factor};

/// The weights that fit the dense outputs best.
#[derive(Debug)]
pub struct LeastSquares;

impl WeightUpdate for LeastSquares {
    fn name(&self) -> &'static str {
        "least-squares"
    }

    fn description(&self) -> &'static str {
        "the weights that come nearest to the dense outputs on the data"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        let statistics = job.statistics.expect("what an update needs");
        let [rows, cols] = job.size;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let per_group = rows / statistics.groups;
        let all = job.weights.par_chunks_mut(per_group * cols).zip(job.dense.par_chunks(per_group * cols));
        let all = all.zip(job.kept.par_chunks(per_group * cols)).enumerate();
        let damping = job.damping;
        all.try_for_each(|(group, ((weights, dense), kept))| {
            let error = |row| UpdateError::Singular { row: group * per_group + row, damping };
            // Inputs that hardly vary leave rounding of either sign: more damping, which then changes next to nothing.
            let stronger = (0..=MOST_HUNDREDFOLDS).map(|times| damping * 100.0_f64.powi(times));
            let mut result = Ok(());
            for damping in stronger {
                result = of_group(statistics, group, damping, dense, kept, weights).map_err(error);
                if result.is_ok() {
                    break;
                }
            }
            result
        })
    }
}

/// How often damping is made a hundredfold where it is too little for equations to have a solution.
const MOST_HUNDREDFOLDS: i32 = 5;

/// The Gram matrix of a group with the share `damping` of its mean diagonal added to it.
pub(crate) fn damped(statistics: &Statistics, group: usize, damping: f64) -> Vec<f64> {
    let cols = statistics.cols;
    let mut h = statistics.fitted.gram[group * cols * cols..][..cols * cols].to_vec();
    let mean = (0..cols).map(|i| h[i * cols + i]).sum::<f64>() / cols as f64;
    // Of inputs that never vary the mean is rounding, or nothing.
    let greatest = h.iter().fold(0.0_f64, |greatest, value| greatest.max(value.abs()));
    let ridge = match mean.max(greatest / cols as f64) {
        0.0 => 1.0,
        scale => damping * scale,
    };
    (0..cols).for_each(|i| h[i * cols + i] += ridge);
    h
}

/// Rows of one group; the number of one without a solution.
fn of_group(
    statistics: &Statistics,
    group: usize,
    damping: f64,
    dense: &[f32],
    kept: &[bool],
    weights: &mut [f32],
) -> Result<(), usize> {
    let cols = statistics.cols;
    // Of an output that keeps all its weights, or none, there is nothing to fit.
    if kept.chunks_exact(cols).all(|row| row.iter().all(|&kept| kept == row[0])) {
        return Ok(());
    }
    let h = damped(statistics, group, damping);
    let count = |kept: &[bool]| kept.iter().filter(|&&k| k).count();
    let by_inverse = |kept: &[bool]| count(kept) * 2 > cols;
    let inverse = if kept.chunks_exact(cols).any(by_inverse) {
        Some(solve::inverse(&h, cols).ok_or(0_usize)?)
    } else {
        None
    };
    let rows = weights.par_chunks_exact_mut(cols).zip(dense.par_chunks_exact(cols));
    let rows = rows.zip(kept.par_chunks_exact(cols)).enumerate();
    rows.try_for_each_init(Factor::default, |factor, (row, ((weights, dense), kept))| {
        let inverse = inverse.as_ref().filter(|_| by_inverse(kept));
        // What is solved for, and the matrix of the equations.
        let (matrix, wanted) = if let Some(inverse) = inverse { (inverse, false) } else { (&h, true) };
        let places: Vec<usize> = (0..cols).filter(|&col| kept[col] == wanted).collect();
        let dense: Vec<f64> = dense.iter().map(|&w| f64::from(w)).collect();
        let right: Vec<f64> = match inverse {
            Some(_) => places.iter().map(|&p| dense[p]).collect(),
            None => {
                let all = rows_times(&dense, &h, cols);
                places.iter().map(|&k| all[k]).collect()
            }
        };
        let solution = factor.solve(matrix, cols, &places, right).ok_or(row)?;
        match inverse {
            None => places.iter().zip(&solution).for_each(|(&k, &w)| weights[k] = w as f32),
            Some(inverse) => {
                for col in (0..cols).filter(|&col| kept[col]) {
                    let row = &inverse[col * cols..][..cols];
                    let change: f64 = places.iter().zip(&solution).map(|(&p, y)| row[p] * y).sum();
                    weights[col] = (dense[col] - change) as f32;
                }
            }
        }
        Ok(())
    })
}
