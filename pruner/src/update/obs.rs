//! Optimal Brain Surgeon, exactly and greedily: of each output the weight whose loss can best be made up for goes, the others make
//! up for it, and so on. Hassibi & Stork, NIPS 1992; for layers Frantar & Alistarh, NeurIPS 2022,
//! <https://arxiv.org/abs/2208.11580>.
//!
//! Score `w_p² / (2 [H⁻¹]_pp)`; then `w ← w − w_p / [H⁻¹]_pp · H⁻¹_:p`, and `H⁻¹` loses row and column `p`.

use rayon::prelude::*;

use super::{Freedom, Job, UpdateError, WeightUpdate, least_squares::damped};
use crate::calibration::Needs;
use crate::solve;

/// The mask and the weights of greedy elimination.
#[derive(Debug)]
pub struct ExactObs;

impl WeightUpdate for ExactObs {
    fn name(&self) -> &'static str {
        "exact-obs"
    }

    fn description(&self) -> &'static str {
        "one weight of an output goes at a time, and the others make up for it; chooses the mask anew (slow)"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        let group_size = match job.freedom {
            Freedom::Row | Freedom::Layer => job.size[1],
            Freedom::Group(size) => size,
            Freedom::None => return Err(UpdateError::Blocks { update: self.name() }),
        };
        let statistics = job.statistics.expect("what an update needs");
        let [rows, cols] = job.size;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let (per_group, damping) = (rows / statistics.groups, job.damping);
        for group in 0..statistics.groups {
            let h = damped(statistics, group, damping);
            let singular = UpdateError::Singular { row: group * per_group, damping };
            let inverse = solve::inverse(&h, cols).ok_or(singular)?;
            let range = group * per_group * cols..(group + 1) * per_group * cols;
            let rows = job.weights[range.clone()].par_chunks_mut(cols);
            let rows =
                rows.zip(job.kept[range.clone()].par_chunks_mut(cols)).zip(job.dense[range].par_chunks(cols));
            rows.for_each(|((weights, kept), dense)| eliminate(&inverse, dense, weights, kept, group_size));
        }
        Ok(())
    }
}

/// Takes as many weights of an output as are gone now, from each group of `size` inputs.
fn eliminate(inverse: &[f64], dense: &[f32], weights: &mut [f32], kept: &mut [bool], size: usize) {
    let cols = dense.len();
    let mut left: Vec<usize> = kept.chunks(size).map(|group| group.iter().filter(|&&k| !k).count()).collect();
    let (mut h, mut w) = (inverse.to_vec(), dense.iter().map(|&w| f64::from(w)).collect::<Vec<_>>());
    kept.fill(true);
    for _ in 0..left.iter().sum::<usize>() {
        let score = |p: &usize| w[*p] * w[*p] / h[p * cols + p];
        let open = (0..cols).filter(|&p| kept[p] && left[p / size] > 0);
        let Some(p) = open.min_by(|a, b| score(a).total_cmp(&score(b))) else { break };
        (kept[p], left[p / size]) = (false, left[p / size] - 1);
        let row = h[p * cols..][..cols].to_vec();
        let (pivot, factor) = (row[p], w[p] / row[p]);
        w.iter_mut().zip(&row).for_each(|(w, h)| *w -= factor * h);
        for i in (0..cols).filter(|&i| kept[i]) {
            let factor = row[i] / pivot;
            h[i * cols..][..cols].iter_mut().zip(&row).for_each(|(h, r)| *h -= factor * r);
        }
    }
    weights.iter_mut().zip(w.iter().zip(kept.iter())).for_each(|(to, (&w, &kept))| {
        *to = if kept { w as f32 } else { 0.0 };
    });
}
