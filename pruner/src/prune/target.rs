//! What a layer's weights are fitted to: outputs of the dense model, though the layer meets the inputs that the pruned one brings.
//!
//! With inputs `X` of the pruned model and `Z` of the dense one, weights `w` of an output are drawn to those whose outputs on `X`
//! are nearest to `Zw`: `(XᵀX + λI) w* = XᵀZ w + λ w`. Whatever is then fitted to `Xw*` on a support is fitted to `Zw` on it,
//! because the equations are the same. So layers make up for what the layers before them lost.
//! Asymmetric reconstruction: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017,
//! <https://arxiv.org/abs/1707.06168>.
//!
//! How far to go towards `w*` is told by the samples that were kept aside: as far as the error on them falls.

use rayon::prelude::*;

use crate::calibration::{Statistics, inner, rows_times, rows_times_transposed};
use crate::solve;
use crate::update::damped;

/// What less of the outputs squared is rounding.
const NOTHING: f64 = 1e-7;

/// Rows that one thread takes at a time.
const CHUNK: usize = 64;

/// The weights that `weights`, `[outputs, inputs]`, should be on the inputs of the pruned model; `None` where the statistics do not
/// know the dense one, or nothing is to be gained.
pub(super) fn target(statistics: &Statistics, weights: &[f32], damping: f64) -> Option<Vec<f32>> {
    let (groups, cols) = (statistics.groups, statistics.cols);
    let cross = &statistics.fitted.dense.as_ref()?.cross;
    if cols == 0 || weights.is_empty() {
        return None;
    }
    let square = cols * cols;
    let mut aim = vec![0.0_f32; weights.len()];
    let per_group = weights.len() / groups;
    let all = aim.par_chunks_mut(per_group).zip(weights.par_chunks(per_group)).enumerate();
    let solved: Option<()> = all
        .map(|(group, (aim, weights))| {
            let h = damped(statistics, group, damping);
            let ridge = h[0] - statistics.fitted.gram[group * square];
            let (inverse, cross) = (solve::inverse(&h, cols)?, &cross[group * square..][..square]);
            let chunks = aim.par_chunks_mut(CHUNK * cols).zip(weights.par_chunks(CHUNK * cols));
            chunks.for_each(|(aim, weights)| {
                let weights: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
                let mut right = rows_times_transposed(&weights, cross, cols);
                right.iter_mut().zip(&weights).for_each(|(right, w)| *right += ridge * w);
                let solution = rows_times(&right, &inverse, cols);
                aim.iter_mut().zip(&solution).for_each(|(aim, &w)| *aim = w as f32);
            });
            Some(())
        })
        .collect();
    solved?;
    let step: Vec<f32> = aim.iter().zip(weights).map(|(aim, w)| aim - w).collect();
    let length = match &statistics.held_out.dense {
        Some(dense) if statistics.held_out.rows > 0 => {
            let gram = &statistics.held_out.gram;
            let (along, all) =
                (inner(&step, &step, groups, cols, gram), inner(weights, weights, groups, cols, &dense.gram));
            let gain =
                inner(&step, weights, groups, cols, &dense.cross) - inner(&step, weights, groups, cols, gram);
            let length = if along > 0.0 { (gain / along).clamp(0.0, 1.0) } else { 0.0 };
            if gain * length > NOTHING * all { length } else { 0.0 }
        }
        _ => 1.0,
    };
    (length > 0.0).then(|| weights.iter().zip(&step).map(|(w, step)| w + length as f32 * step).collect())
}

/// How far the outputs of `weights` in the pruned model are from those of `dense` in the dense one, squared, as a share of the
/// outputs squared, on samples that were kept aside. `None` where the statistics do not tell.
pub(super) fn error(statistics: &Statistics, dense: &[f32], weights: &[f32]) -> Option<f64> {
    let Statistics { groups, cols, ref held_out, .. } = *statistics;
    let twin = held_out.dense.as_ref().filter(|_| held_out.rows > 0)?;
    let all = inner(dense, dense, groups, cols, &twin.gram);
    let apart = inner(weights, weights, groups, cols, &held_out.gram)
        - 2.0 * inner(weights, dense, groups, cols, &twin.cross)
        + all;
    Some(if all > 0.0 { apart.max(0.0) / all } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::calibration::inputs::Source;
    use crate::calibration::{Collector, Rows};
    use poda_formats::{MatrixForm, Tensor};

    const COLS: usize = 6;

    /// Rows of a dense model, and of one whose inputs lost their last column and are noisy.
    fn both(rows: usize, seed: u64) -> [Vec<f32>; 2] {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut dense = vec![0.0_f32; rows * COLS];
        for row in dense.chunks_mut(COLS) {
            let shared: f32 = random.random_range(-1.0..1.0);
            row.iter_mut().for_each(|v| *v = shared + random.random_range(-0.5..0.5));
        }
        let mut pruned = dense.clone();
        for row in pruned.chunks_mut(COLS) {
            row.iter_mut().for_each(|v| *v += random.random_range(-0.2..0.2));
            row[COLS - 1] = 0.0;
        }
        [pruned, dense]
    }

    fn statistics(held_out: bool) -> Statistics {
        let form = MatrixForm { parts: 1, rows: 3, cols: COLS, transposed: false };
        let mut collector = Collector::new(true);
        for (aside, seed) in [(false, 1), (true, 2)] {
            let tensors = both(400, seed).map(|x| Tensor::from_slice(&[400, COLS], &x));
            let views = tensors.each_ref().map(Tensor::view);
            let [x, z] = views
                .each_ref()
                .map(|view| Rows::new(&Source::Matrix { transposed: false }, form, view).unwrap().unwrap());
            if !aside || held_out {
                collector.add(&x, Some(&z), aside, 1);
            }
        }
        collector.finish().unwrap()
    }

    /// Squared differences of `x·w` and `z·v`, as a share of `z·v`, by a loop.
    fn by_loop(x: &[f32], w: &[f32], z: &[f32], v: &[f32]) -> f64 {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let (mut apart, mut all) = (0.0, 0.0);
        for (x, z) in x.chunks(COLS).zip(z.chunks(COLS)) {
            for (w, v) in w.chunks(COLS).zip(v.chunks(COLS)) {
                apart += (dot(x, w) - dot(z, v)).powi(2);
                all += dot(z, v).powi(2);
            }
        }
        apart / all
    }

    #[test]
    fn the_target_does_better_on_rows_kept_aside_and_the_error_is_that_of_a_loop() {
        let weights: Vec<f32> = (0..3 * COLS).map(|i| ((i * 7 % 5) as f32) - 1.5).collect();
        let statistics = statistics(true);
        let aim = target(&statistics, &weights, 0.01).unwrap();
        let [x, z] = both(400, 2);
        let [before, after] = [&weights, &aim].map(|w| by_loop(&x, w, &z, &weights));
        assert!(after < 0.5 * before, "{before} {after}");
        for (w, expected) in [(&weights, before), (&aim, after)] {
            let found = error(&statistics, &weights, w).unwrap();
            assert!((found - expected).abs() < 1e-5 * before, "{found} {expected}");
        }
    }

    /// On the same inputs in both models there is nothing to gain; without rows kept aside the whole way is gone.
    #[test]
    fn nothing_is_gained_where_both_models_bring_the_same() {
        let weights = [1.0_f32, -2.0, 0.5, 0.0, 3.0, 1.0];
        let form = MatrixForm { parts: 1, rows: 1, cols: COLS, transposed: false };
        let [_, z] = both(400, 1);
        let tensor = Tensor::from_slice(&[400, COLS], &z);
        let view = tensor.view();
        let rows = || Rows::new(&Source::Matrix { transposed: false }, form, &view).unwrap().unwrap();
        let mut collector = Collector::new(true);
        collector.add(&rows(), Some(&rows()), false, 1);
        collector.add(&rows(), Some(&rows()), true, 1);
        assert_eq!(target(&collector.finish().unwrap(), &weights, 0.01), None);
        let all = target(&statistics(false), &[weights, weights, weights].concat(), 0.01).unwrap();
        // Of an input that is always zero nothing is expected.
        assert!(all.iter().all(|w| w.is_finite()));
    }
}
