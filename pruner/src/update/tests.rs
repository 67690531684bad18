//! Identities that hold exactly, whatever the data: design/pruning.md, §9 of the project's notes.

use poda_formats::{MatrixForm, TensorView};

use super::*;
use crate::calibration::inputs::Source;
use crate::calibration::{Collector, Rows};

/// Numbers that look random, reproducible.
pub(super) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Statistics of `rows` correlated rows of `cols` inputs, a fifth of them kept aside.
pub(super) fn statistics(rows: usize, cols: usize, seed: u64) -> Statistics {
    let (mixed, mix) = (noise(rows * cols, seed), noise(cols * cols, seed + 1));
    let mut x = vec![0.0; rows * cols];
    for (x, mixed) in x.chunks_exact_mut(cols).zip(mixed.chunks_exact(cols)) {
        for (j, x) in x.iter_mut().enumerate() {
            *x = mixed.iter().enumerate().map(|(i, m)| m * mix[i * cols + j]).sum::<f32>() + mixed[j] + 0.3;
        }
    }
    let form = MatrixForm { parts: 1, rows: 1, cols, transposed: false };
    let mut collector = Collector::new(true);
    let aside = rows / 5;
    for (x, held_out) in [(&x[..(rows - aside) * cols], false), (&x[(rows - aside) * cols..], true)] {
        let shape = [x.len() / cols, cols];
        let source = Source::Matrix { transposed: false };
        let rows = Rows::new(&source, form, &TensorView::from_slice(&shape, x)).unwrap().unwrap();
        collector.add(&rows, None, held_out, 1);
    }
    collector.finish().unwrap()
}

/// Half of each row, alternating from row to row.
fn half([rows, cols]: [usize; 2]) -> Vec<bool> {
    (0..rows * cols).map(|i| (i / cols + i % cols).is_multiple_of(2)).collect()
}

/// `Σ δHδᵀ` on the fitted samples, with the damping that updates solve with.
fn objective(job: &Job<'_>) -> f64 {
    let statistics = job.statistics.unwrap();
    let h = least_squares::damped(statistics, 0, job.damping);
    let delta: Vec<f32> = job.dense.iter().zip(&job.weights).map(|(a, b)| a - b).collect();
    crate::calibration::squared(&delta, 1, statistics.cols, &h)
}

#[test]
fn least_squares_solves_the_normal_equations_however_much_is_kept() {
    for keep in [1_usize, 3, 6, 11] {
        let size @ [rows, cols] = [5, 12];
        let (dense, statistics) = (noise(rows * cols, 3), statistics(200, cols, 4));
        let kept: Vec<bool> = (0..rows * cols).map(|i| (i * 5 + i / cols) % cols < keep).collect();
        let mut job = Job::new(size, &dense, kept, Freedom::Row, Some(&statistics), 0.01);
        let masked = objective(&job);
        LeastSquares.update(&mut job).unwrap();
        assert!(objective(&job) <= masked);
        // The gradient vanishes on the support: (H (w − ŵ))_K = 0.
        let h = least_squares::damped(&statistics, 0, 0.01);
        for row in 0..rows {
            let delta: Vec<f64> = (0..cols)
                .map(|c| f64::from(dense[row * cols + c]) - f64::from(job.weights[row * cols + c]))
                .collect();
            let gradient = rows_times(&delta, &h, cols);
            for col in 0..cols {
                let at = row * cols + col;
                if job.kept[at] {
                    assert!(
                        gradient[col].abs() < 1e-4 * h[col * cols + col],
                        "{keep} {row} {col}: {gradient:?}"
                    );
                } else {
                    assert_eq!(job.weights[at], 0.0);
                }
            }
        }
    }
}

#[test]
fn no_update_beats_least_squares_on_the_same_mask_and_data() {
    let size @ [rows, cols] = [16, 24];
    let (dense, statistics) = (noise(rows * cols, 5), statistics(400, cols, 6));
    let start = Job::new(size, &dense, half(size), Freedom::Row, Some(&statistics), 0.01);
    for update in UPDATES {
        let mut job = Job { weights: start.weights.clone(), kept: start.kept.clone(), ..start };
        update.update(&mut job).unwrap();
        let mut fitted = Job::new(size, &dense, job.kept.clone(), Freedom::Row, Some(&statistics), 0.01);
        LeastSquares.update(&mut fitted).unwrap();
        let (best, found) = (objective(&fitted), objective(&job));
        assert!(best <= found * (1.0 + 1e-6), "{}: {found} against {best}", update.name());
        assert_eq!(
            job.kept.iter().filter(|&&k| k).count(),
            start.kept.iter().filter(|&&k| k).count(),
            "{} keeps as many",
            update.name()
        );
        let zero = job.weights.iter().zip(&job.kept).all(|(&w, &kept)| kept || w == 0.0);
        assert!(zero, "{} leaves what has gone alone", update.name());
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let size @ [rows, cols] = [40, 300];
    let dense = noise(rows * cols, 7);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let statistics = statistics(2500, cols, 8);
            let mut job = Job::new(size, &dense, half(size), Freedom::Row, Some(&statistics), 0.01);
            LeastSquares.update(&mut job).unwrap();
            (job.weights, statistics.fitted.gram)
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn greedy_elimination_is_least_squares_on_what_it_keeps() {
    let size @ [rows, cols] = [4, 16];
    let (dense, statistics) = (noise(rows * cols, 9), statistics(300, cols, 10));
    let mut job = Job::new(size, &dense, half(size), Freedom::Row, Some(&statistics), 0.01);
    ExactObs.update(&mut job).unwrap();
    let mut fitted = Job::new(size, &dense, job.kept.clone(), Freedom::Row, Some(&statistics), 0.01);
    LeastSquares.update(&mut fitted).unwrap();
    for (a, b) in job.weights.iter().zip(&fitted.weights) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn the_factor_of_the_inverse_knows_the_inverses_of_what_is_left() {
    // U_jj² = [(H_{j:,j:})⁻¹]₀₀
    let n = 9;
    let h = least_squares::damped(&statistics(100, n, 11), 0, 0.01);
    let upper = crate::solve::upper_of_inverse(&h, n).unwrap();
    for j in 0..n {
        let rest: Vec<f64> = (j..n).flat_map(|r| h[r * n + j..(r + 1) * n].to_vec()).collect();
        let inverse = crate::solve::inverse(&rest, n - j).unwrap();
        assert!((upper[j * n + j].powi(2) / inverse[0] - 1.0).abs() < 1e-8);
    }
}

#[test]
fn exchanges_end_where_no_exchange_helps() {
    let size @ [rows, cols] = [3, 21];
    let (dense, statistics) = (noise(rows * cols, 12), statistics(200, cols, 13));
    let mut job = Job::new(size, &dense, half(size), Freedom::Row, Some(&statistics), 0.01);
    let before = objective(&job);
    SparseSwaps.update(&mut job).unwrap();
    let after = objective(&job);
    assert!(after < before);
    for row in 0..rows {
        for (p, q) in (0..cols).flat_map(|p| (0..cols).map(move |q| (row * cols + p, row * cols + q))) {
            if job.kept[p] && !job.kept[q] {
                let mut kept = job.kept.clone();
                kept.swap(p, q);
                let other = Job::new(size, &dense, kept, Freedom::Row, Some(&statistics), 0.01);
                assert!(objective(&other) >= after * (1.0 - 1e-6));
            }
        }
    }
}

#[test]
fn regulation_keeps_the_mean_field_and_zero_sums_are_zero() {
    let size @ [rows, cols] = [6, 20];
    let (dense, statistics) = (noise(rows * cols, 14), statistics(100, cols, 15));
    let inputs = &statistics.fitted.absolutes;
    let field = |weights: &[f32], sign: f32| -> f64 {
        weights.iter().zip(inputs).map(|(&w, x)| f64::from((w * sign).max(0.0)) * x).sum()
    };
    let updated = |update: &dyn WeightUpdate| {
        let mut job = Job::new(size, &dense, half(size), Freedom::Row, Some(&statistics), 0.01);
        update.update(&mut job).unwrap();
        job.weights
    };
    let (whole, signed, zero) = (updated(&Regulation), updated(&SignedRegulation), updated(&ZeroSum));
    for row in (0..rows).map(|row| row * cols..(row + 1) * cols) {
        let both = |w: &[f32]| field(w, 1.0) + field(w, -1.0);
        assert!((both(&whole[row.clone()]) / both(&dense[row.clone()]) - 1.0).abs() < 1e-6);
        for sign in [1.0, -1.0] {
            assert!(
                (field(&signed[row.clone()], sign) / field(&dense[row.clone()], sign) - 1.0).abs() < 1e-6
            );
        }
        assert!(zero[row].iter().sum::<f32>().abs() < 1e-5);
    }
}

#[test]
fn masks_that_move_keep_n_of_m() {
    let size @ [rows, cols] = [4, 16];
    let (dense, statistics) = (noise(rows * cols, 16), statistics(200, cols, 17));
    let kept: Vec<bool> = (0..rows * cols).map(|i| i % 4 < 2).collect();
    for update in UPDATES {
        let mut job = Job::new(size, &dense, kept.clone(), Freedom::Group(4), Some(&statistics), 0.01);
        update.update(&mut job).unwrap();
        for group in job.kept.chunks(4) {
            assert_eq!(group.iter().filter(|&&k| k).count(), 2, "{}", update.name());
        }
        let mut blocks = Job::new(size, &dense, kept.clone(), Freedom::None, Some(&statistics), 0.01);
        match update.update(&mut blocks) {
            Ok(()) => assert_eq!(blocks.kept, kept, "{}", update.name()),
            Err(error) => assert_eq!(error, UpdateError::Blocks { update: update.name() }),
        }
    }
}
