//! SparseSwaps: as long as it helps, the best exchange of a weight that stays for one that goes, from the Gram matrix.
//! <https://arxiv.org/abs/2512.10922>.
//!
//! With `c = G·δ`, where `δ` is what an output has lost, the objective `δᵀGδ` changes by
//! `2 w_p c_p + w_p² G_pp − 2 w_q c_q + w_q² G_qq − 2 w_p w_q G_pq` when `p` goes and `q` comes back.

use rayon::prelude::*;

use super::{Freedom, Job, UpdateError, WeightUpdate, least_squares::damped};
use crate::calibration::{Needs, rows_times};

/// Exchanges a row may make: more gain little.
const MOST: usize = 100;

/// Weights that come back are looked for among so many that would gain most alone.
const CANDIDATES: usize = 32;

/// Better masks, from single exchanges; weights that stay are the dense ones.
#[derive(Debug)]
pub struct SparseSwaps;

impl WeightUpdate for SparseSwaps {
    fn name(&self) -> &'static str {
        "sparse-swaps"
    }

    fn description(&self) -> &'static str {
        "exchanges weights that stay for ones that go while that lowers the error"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        let size = match job.freedom {
            Freedom::Row | Freedom::Layer => job.size[1],
            Freedom::Group(size) => size,
            Freedom::None => return Err(UpdateError::Blocks { update: self.name() }),
        };
        let statistics = job.statistics.expect("what an update needs");
        let [rows, cols] = job.size;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let per_group = rows / statistics.groups;
        let groups: Vec<Vec<f64>> =
            (0..statistics.groups).map(|group| damped(statistics, group, job.damping)).collect();
        let all = job.weights.par_chunks_mut(cols).zip(job.kept.par_chunks_mut(cols));
        all.zip(job.dense.par_chunks(cols)).enumerate().for_each(|(row, ((weights, kept), dense))| {
            let gram = &groups[row / per_group];
            improve(gram, dense, kept, size);
            weights.iter_mut().zip(dense.iter().zip(kept.iter())).for_each(|(to, (&w, &kept))| {
                *to = if kept { w } else { 0.0 };
            });
        });
        Ok(())
    }
}

/// Exchanges within each group of `size` inputs of one output.
fn improve(gram: &[f64], dense: &[f32], kept: &mut [bool], size: usize) {
    let cols = dense.len();
    let w: Vec<f64> = dense.iter().map(|&w| f64::from(w)).collect();
    let lost: Vec<f64> = w.iter().zip(kept.iter()).map(|(&w, &kept)| if kept { 0.0 } else { w }).collect();
    let mut c = rows_times(&lost, gram, cols);
    let diagonal = |i: usize| w[i] * w[i] * gram[i * cols + i];
    for _ in 0..MOST {
        // What each would change alone; what is gone cannot go.
        let goes: Vec<f64> = (0..cols)
            .map(|p| if kept[p] { 2.0 * w[p] * c[p] + diagonal(p) } else { f64::INFINITY })
            .collect();
        let comes = |q: usize| diagonal(q) - 2.0 * w[q] * c[q];
        let mut back: Vec<(f64, usize)> =
            (0..cols).filter(|&q| !kept[q] && w[q] != 0.0).map(|q| (comes(q), q)).collect();
        let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if back.len() > CANDIDATES {
            back.select_nth_unstable_by(CANDIDATES, order);
            back.truncate(CANDIDATES);
        }
        back.sort_by(order);
        let mut best = (0.0, 0, 0);
        for &(alone, q) in &back {
            // (The matrix is symmetric: row q lies together.)
            let start = q / size * size;
            let group = start..cols.min(start + size);
            let (goes, w_p, g_q) = (&goes[group.clone()], &w[group.clone()], &gram[q * cols..][group]);
            let with = |p: usize| goes[p] - 2.0 * w[q] * w_p[p] * g_q[p];
            let least = least(goes.len(), with);
            if alone + least < best.0 {
                let p = (0..goes.len()).find(|&p| with(p) == least).expect("where the least is");
                best = (alone + least, start + p, q);
            }
        }
        let (change, p, q) = best;
        // (Rounding must not turn in circles.)
        if change > -1e-9 * diagonal(q).max(f64::MIN_POSITIVE) {
            return;
        }
        (kept[p], kept[q]) = (false, true);
        for (i, c) in c.iter_mut().enumerate() {
            *c += w[p] * gram[p * cols + i] - w[q] * gram[q * cols + i];
        }
    }
}

/// The least of so many values, in several lanes at once.
#[inline(always)]
fn least(count: usize, value: impl Fn(usize) -> f64) -> f64 {
    const LANES: usize = 8;
    let less = |a: f64, b: f64| if b < a { b } else { a };
    let mut lanes = [f64::INFINITY; LANES];
    for start in (0..count / LANES).map(|block| block * LANES) {
        (0..LANES).for_each(|lane| lanes[lane] = less(lanes[lane], value(start + lane)));
    }
    (count / LANES * LANES..count).map(value).chain(lanes).fold(f64::INFINITY, less)
}
