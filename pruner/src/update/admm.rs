//! ADMM: weights that fit the outputs and weights that obey the mask are drawn to each other, while the sparsity grows.
//! Boža, <https://arxiv.org/abs/2401.02938>; with a penalty that grows while the mask moves, ALPS: Meng et al., NeurIPS 2024,
//! <https://arxiv.org/abs/2406.07831>.
//!
//! With inputs scaled to norm 1, `ρ`: `W ← (H + ρI)⁻¹ (H W₀ + ρ (Z − U))`, `Z ←` the largest of `W + U`, `U ← U + W − Z`.

use rayon::prelude::*;

use super::{Freedom, Job, UpdateError, WeightUpdate, least_squares::damped};
use crate::calibration::{Needs, rows_times};
use crate::solve;
use crate::unstructured::lowest;

/// Rounds, and those in which the sparsity grows to what is asked for.
const ROUNDS: usize = 20;
const GROWING: usize = 15;

/// The mask and the weights that ADMM ends with, at ρ = 1.
#[derive(Debug)]
pub struct Admm;

/// With a penalty that grows: it settles where the fixed one may not.
#[derive(Debug)]
pub struct Alps;

impl WeightUpdate for Admm {
    fn name(&self) -> &'static str {
        "admm"
    }

    fn description(&self) -> &'static str {
        "draws fitted and masked weights to each other in 20 rounds; chooses the mask anew"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        rounds(job, self.name(), 1.0)
    }
}

impl WeightUpdate for Alps {
    fn name(&self) -> &'static str {
        "alps"
    }

    fn description(&self) -> &'static str {
        "as admm, with a penalty that grows"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        rounds(job, self.name(), 1.2)
    }
}

fn rounds(job: &mut Job<'_>, update: &'static str, growth: f64) -> Result<(), UpdateError> {
    if job.freedom == Freedom::None {
        return Err(UpdateError::Blocks { update });
    }
    let statistics = job.statistics.expect("what an update needs");
    let [rows, cols] = job.size;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let (per_group, damping, freedom) = (rows / statistics.groups, job.damping, job.freedom);
    let groups = job.weights.par_chunks_mut(per_group * cols).zip(job.kept.par_chunks_mut(per_group * cols));
    let groups = groups.zip(job.dense.par_chunks(per_group * cols)).enumerate();
    groups.try_for_each(|(group, ((weights, kept), dense))| {
        let mut h = damped(statistics, group, damping);
        let norms: Vec<f64> = (0..cols).map(|i| h[i * cols + i].sqrt()).collect();
        (0..cols * cols).for_each(|at| h[at] /= norms[at / cols] * norms[at % cols]);
        let start: Vec<f64> =
            dense.iter().enumerate().map(|(at, &w)| f64::from(w) * norms[at % cols]).collect();
        let target = times(&start, &h, cols);
        let inverse_for = |rho: f64| {
            let mut shifted = h.clone();
            (0..cols).for_each(|i| shifted[i * cols + i] += rho);
            solve::inverse(&shifted, cols).ok_or(UpdateError::Singular { row: group * per_group, damping })
        };
        let mut rho = 1.0;
        let mut inverse = inverse_for(rho)?;
        let (mut w, mut u) = (start, vec![0.0; dense.len()]);
        let asked: Vec<bool> = kept.to_vec();
        let mut z;
        let mut round = 0;
        loop {
            round += 1;
            let reached = (round as f64 / GROWING as f64).min(1.0);
            let share = 1.0 - (1.0 - reached).powi(3);
            let sum: Vec<f64> = w.iter().zip(&u).map(|(w, u)| w + u).collect();
            choose(&sum, &asked, kept, cols, share, freedom);
            z = sum;
            z.iter_mut().zip(kept.iter()).filter(|(_, kept)| !**kept).for_each(|(z, _)| *z = 0.0);
            if round == ROUNDS {
                break;
            }
            u.iter_mut().zip(w.iter().zip(&z)).for_each(|(u, (w, z))| *u += w - z);
            if growth > 1.0 && round > GROWING / 2 {
                rho *= growth;
                // The dual is scaled with the penalty.
                u.iter_mut().for_each(|u| *u /= growth);
                inverse = inverse_for(rho)?;
            }
            let right: Vec<f64> =
                target.iter().zip(z.iter().zip(&u)).map(|(t, (z, u))| t + rho * (z - u)).collect();
            w = times(&right, &inverse, cols);
        }
        for (at, to) in weights.iter_mut().enumerate() {
            *to = (z[at] / norms[at % cols]) as f32;
        }
        Ok(())
    })
}

/// `rows · square`, shared out by rows.
fn times(rows: &[f64], square: &[f64], cols: usize) -> Vec<f64> {
    rows.par_chunks(64 * cols).flat_map_iter(|rows| rows_times(rows, square, cols)).collect()
}

/// Keeps the largest: `share` of as many as `asked` does without go.
fn choose(values: &[f64], asked: &[bool], kept: &mut [bool], cols: usize, share: f64, freedom: Freedom) {
    let size = match freedom {
        Freedom::Layer | Freedom::None => values.len(),
        Freedom::Row => cols,
        Freedom::Group(size) => size,
    };
    // A group does not reach over the end of its row.
    let row = if freedom == Freedom::Layer { values.len() } else { cols };
    let rows = values.chunks(row).zip(asked.chunks(row)).zip(kept.chunks_mut(row));
    rows.for_each(|((values, asked), kept)| {
        let parts = values.chunks(size).zip(asked.chunks(size)).zip(kept.chunks_mut(size));
        parts.for_each(|((values, asked), kept)| {
            let gone = asked.iter().filter(|&&k| !k).count() as f64;
            let scores: Vec<f32> = values.iter().map(|v| v.abs() as f32).collect();
            let marks = lowest(&scores, gone * share / values.len().max(1) as f64);
            kept.iter_mut().zip(marks).for_each(|(kept, gone)| *kept = !gone);
        });
    });
}
