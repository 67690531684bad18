//! Every kernel on weights stored in blocks and as N:M, against the loop that is the specification.

use poda_formats::{DenseMatrix, Matrix, Pattern, ValueType, Values};
use proptest::prelude::*;

use super::{Activation, Epilogue, Layout, Problem, WeightMatrix, X, all};
use crate::packing::{ConvGeometry, im2col};
use crate::threads::Threads;
use crate::tune::PackedWeight;

fn hash(i: usize) -> u64 {
    let i = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (i ^ (i >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// In -1..1, not 0.
fn value(i: usize) -> f32 {
    ((hash(i) % 2000) as f32 - 999.5) / 1000.0
}

/// Which blocks, or of N:M which elements of a group, are kept.
#[derive(Debug, Clone, Copy)]
enum Mask {
    None,
    All,
    /// Of 1000 blocks; N:M keeps N of M wherever they fall.
    Uniform(u32),
    /// Every third strip of 16 rows.
    EmptyStrips,
    /// The last column only.
    Edge,
}

/// A matrix that keeps to the pattern, stored by it and its values as `to`, what it stands for, and for each element whether
/// it is stored.
fn weight([m, k]: [usize; 2], pattern: Pattern, mask: Mask, to: ValueType) -> (Matrix, Vec<f32>, Vec<bool>) {
    let [a, b] = pattern.numbers();
    let kept = |row: usize, col: usize| {
        // Of a group the N elements that follow a place which depends on the group.
        let (unit, inside) = match pattern {
            Pattern::Block { .. } => (row / a * 1009 + col / b, true),
            Pattern::NofM { .. } => {
                (row * 1009 + col / b, (col % b + hash(row * 1009 + col / b) as usize) % b < a)
            }
        };
        inside
            && match mask {
                Mask::None => false,
                Mask::All => true,
                Mask::Uniform(kept) => hash(unit + 7) % 1000 < kept.into(),
                Mask::EmptyStrips => row / 16 % 3 == 1,
                Mask::Edge => col / b == (k - 1) / b,
            }
    };
    let dense: Vec<f32> = (0..m * k).map(|i| if kept(i / k, i % k) { value(i) } else { 0.0 }).collect();
    let values = Values::round(&dense, [m, k], to).expect("finite values");
    let rounded = DenseMatrix::new(m, k, values).expect("of m rows and k columns");
    let dense = rounded.to_tensor().unwrap().as_slice::<f32>().unwrap().to_vec();
    let matrix = rounded.to_csr().by_pattern(pattern).expect("keeps to the pattern");
    let mut stored = vec![false; m * k];
    matrix.for_each(|row, col, _| stored[row * k + col] = true);
    (matrix, dense, stored)
}

/// `[m, n]` in f64: a stored element counts, also if it is zero.
fn reference([m, k]: [usize; 2], n: usize, w: &[f32], stored: &[bool], x: &[f32]) -> Vec<f64> {
    let mut y = vec![0.0; m * n];
    for row in 0..m {
        for i in (0..k).filter(|i| stored[row * k + i]) {
            for col in 0..n {
                y[row * n + col] += f64::from(w[row * k + i]) * f64::from(x[i * n + col]);
            }
        }
    }
    y
}

fn transposed(values: &[f32], [rows, cols]: [usize; 2]) -> Vec<f32> {
    (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// Runs every kernel of every instruction set, dense ones but where `x` is not finite.
fn check(
    shape: [usize; 2],
    n: usize,
    pattern: Pattern,
    mask: Mask,
    bad: Option<(usize, f32)>,
    threads: usize,
) {
    check_values(shape, n, pattern, mask, ValueType::F32, bad, threads);
}

fn check_values(
    shape: [usize; 2],
    n: usize,
    pattern: Pattern,
    mask: Mask,
    to: ValueType,
    bad: Option<(usize, f32)>,
    threads: usize,
) {
    let [m, k] = shape;
    if matches!(mask, Mask::Edge) && k == 0 {
        return;
    }
    let (matrix, w, stored) = weight(shape, pattern, mask, to);
    // [k, n]
    let mut x: Vec<f32> = (0..k * n).map(|i| value(i + 3)).collect();
    if let Some((at, bad)) = bad {
        x[at % (k * n)] = bad;
    }
    let bias: Vec<f32> = (0..m).map(|i| value(i + 7)).collect();
    let residual: Vec<f32> = (0..m * n).map(|i| value(i + 9)).collect();
    let sums = reference(shape, n, &w, &stored, &x);
    let expected = |row: usize, col: usize| {
        (sums[row * n + col] + f64::from(bias[row]) + f64::from(residual[row * n + col])) as f32
    };
    let weight = WeightMatrix::from(matrix);
    let threads = Threads::new(threads).unwrap();
    for [x_layout, y_layout] in
        [[Layout::TokenMajor; 2], [Layout::FeatureMajor; 2], [Layout::FeatureMajor, Layout::TokenMajor]]
    {
        for planned in [n, 1, 64] {
            let problem = Problem::matrix(planned, x_layout, y_layout);
            for kernel in all().filter(|kernel| kernel.takes(&weight, &problem)) {
                if bad.is_some() && kernel.dense {
                    continue;
                }
                let params = kernel.guess(&weight, &problem, &threads);
                let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
                let x = if x_layout == Layout::FeatureMajor { x.clone() } else { transposed(&x, [k, n]) };
                let token = y_layout == Layout::TokenMajor;
                let residual = if token { transposed(&residual, [m, n]) } else { residual.clone() };
                let epilogue =
                    Epilogue { bias: Some(&bias), residual: Some(&residual), activation: Activation::None };
                let mut y = vec![f32::NAN; m * n];
                let x = X::Matrix { data: &x, layout: x_layout };
                packed.run(n, x, &mut y, y_layout, &epilogue, &threads);
                for row in 0..m {
                    for col in 0..n {
                        let y = y[if token { col * m + row } else { row * n + col }];
                        let expected = expected(row, col);
                        let tolerance = 1e-5 * (k as f32).sqrt().max(1.0);
                        let same = y.is_nan() && expected.is_nan() || y == expected;
                        assert!(
                            same || (y - expected).abs() <= tolerance,
                            "{}: y[{row}, {col}] = {y}, expected {expected}: {pattern} {mask:?} of [{m}, {k}] × {n}, \
                             {x_layout:?} to {y_layout:?}, planned {planned}, bad {bad:?}",
                            kernel.name,
                        );
                    }
                }
            }
        }
    }
}

fn patterns() -> Vec<Pattern> {
    let all = [
        "block:4x1",
        "block:8x1",
        "block:16x1",
        "block:1x4",
        "block:2x1",
        "block:1x8",
        "block:4x4",
        "block:3x2",
        "block:24x5",
        "block:2x4",
        "nm:2:4",
        "nm:1:4",
        "nm:3:4",
        "nm:1:2",
        "nm:4:8",
        "nm:2:8",
        "nm:5:16",
        "nm:3:7",
        "nm:9:16",
    ];
    all.iter().map(|pattern| pattern.parse().unwrap()).collect()
}

const MASKS: [Mask; 5] = [Mask::None, Mask::All, Mask::Uniform(300), Mask::EmptyStrips, Mask::Edge];

#[test]
fn shapes_that_blocks_and_lanes_do_not_divide() {
    for (i, m) in [0, 1, 3, 4, 7, 9, 15, 17, 63, 65].into_iter().enumerate() {
        for (j, k) in [0, 1, 3, 5, 15, 17, 64, 131].into_iter().enumerate() {
            for (l, pattern) in patterns().into_iter().enumerate() {
                let n = [1, 2, 4, 5, 9, 17, 33][(i + j + l) % 7];
                check([m, k], n, pattern, MASKS[(i + 2 * j + l) % 5], None, 1);
            }
        }
    }
}

#[test]
fn any_number_of_columns() {
    for n in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 24, 31, 47, 48, 49, 64, 65, 129] {
        for pattern in patterns() {
            check([37, 90], n, pattern, Mask::Uniform(400), None, 1);
        }
    }
}

#[test]
fn threads_share_the_work() {
    for pattern in patterns() {
        for n in [2, 40] {
            check([400, 515], n, pattern, Mask::Uniform(300), None, 3);
        }
    }
}

/// Documented: a zero inside a stored block, or one that fills a group up, is stored and so counts as kept.
#[test]
fn nan_and_infinity_reach_exactly_the_rows_that_store_their_column() {
    for bad in [f32::NAN, f32::INFINITY] {
        for pattern in patterns() {
            for (n, at) in [(1, 0), (1, 148), (3, 200), (20, 2979), (16, 33)] {
                for mask in [Mask::Uniform(200), Mask::EmptyStrips, Mask::Edge] {
                    check([70, 149], n, pattern, mask, Some((at, bad)), 1);
                }
            }
        }
    }
}

#[test]
fn images_meet_blocks() {
    let conv = ConvGeometry::new(3, [9, 11], [3, 3], [1, 2], [1; 2], [1; 4]).unwrap();
    let (m, k, n) = (20, conv.k(), conv.n());
    let image: Vec<f32> = (0..conv.image_len()).map(value).collect();
    let mut columns = vec![0.0; k * n];
    im2col(&image, &conv, &mut columns);
    for pattern in patterns() {
        let (matrix, w, stored) = weight([m, k], pattern, Mask::Uniform(400), ValueType::F32);
        let expected = reference([m, k], n, &w, &stored, &columns);
        let weight = WeightMatrix::from(matrix);
        let layout = Layout::FeatureMajor;
        let problem = Problem::image(conv.clone());
        for kernel in all().filter(|kernel| kernel.takes(&weight, &problem)) {
            let params = kernel.guess(&weight, &problem, &Threads::single());
            let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
            let mut y = vec![f32::NAN; m * n];
            let x = X::Image { data: &image, geometry: &conv };
            packed.run(n, x, &mut y, layout, &Epilogue::default(), &Threads::single());
            for (y, expected) in y.iter().zip(&expected) {
                assert!((f64::from(*y) - expected).abs() < 1e-4, "{}: {y}, expected {expected}", kernel.name);
            }
        }
    }
}

#[test]
fn layout_and_type_of_values_go_together() {
    for pattern in ["block:4x1", "block:1x4", "block:16x1", "block:3x2", "nm:2:4", "nm:3:8"] {
        for to in ValueType::ALL {
            for n in [1, 7, 33] {
                let pattern = pattern.parse().unwrap();
                check_values([37, 50], n, pattern, Mask::Uniform(400), to, None, 1);
            }
        }
    }
}

/// What blocks at the edges, or slots of a last group, hold beyond the matrix means nothing.
#[test]
fn what_lies_beyond_the_matrix_is_never_used() {
    use poda_formats::{BlockMatrix, NmMatrix, Tensor};
    let (m, k) = (5, 6);
    let nan_beyond: Vec<f32> = (0..2 * 2 * 16)
        .map(|i| {
            let (block, row, col) = (i / 16, i / 4 % 4, i % 4);
            let inside = block / 2 * 4 + row < m && block % 2 * 4 + col < k;
            if inside { value(i) } else { f32::NAN }
        })
        .collect();
    let blocks = BlockMatrix::new(
        [m, k],
        [4, 4],
        Tensor::from_slice(&[3], &[0_u32, 2, 4]),
        Tensor::from_slice(&[4], &[0_u16, 1, 0, 1]),
        Tensor::from_slice(&[64], &nan_beyond),
    );
    // The last group has 2 columns: positions 0, 1 and a third that means nothing.
    let slots: Vec<f32> = (0..m * 6).map(|i| if i % 6 == 5 { f32::NAN } else { value(i) }).collect();
    let group = 0b10_01_00;
    let positions: Vec<u8> = (0..m).flat_map(|_| [group | group << 6, group >> 2]).collect();
    let groups = NmMatrix::new(
        [m, k],
        [3, 4],
        Tensor::from_slice(&[m * 6], &slots),
        Tensor::from_slice(&[m * 2], &positions),
    );
    let matrices = [Matrix::from(blocks.unwrap()), Matrix::from(groups.unwrap())];
    for matrix in matrices {
        let weight = WeightMatrix::from(matrix);
        for n in [1, 3, 20] {
            let layout = Layout::TokenMajor;
            let problem = Problem::matrix(n, layout, layout);
            let x: Vec<f32> = (0..k * n).map(value).collect();
            for kernel in all().filter(|kernel| kernel.takes(&weight, &problem)) {
                let params = kernel.guess(&weight, &problem, &Threads::single());
                let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
                let mut y = vec![f32::NAN; m * n];
                let x = X::Matrix { data: &x, layout };
                packed.run(n, x, &mut y, layout, &Epilogue::default(), &Threads::single());
                assert!(y.iter().all(|y| y.is_finite()), "{}: {y:?}", kernel.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_matches_the_reference(
        shape in [0_usize..100, 0_usize..300],
        n in 0_usize..70,
        sides in [1_usize..20, 1_usize..20],
        blocks in any::<bool>(),
        kept in 0_u32..=1000,
    ) {
        let [a, b] = sides;
        let pattern = if blocks { Pattern::block(a, b) } else { Pattern::n_of_m(a, b) };
        if let Ok(pattern) = pattern {
            check(shape, n, pattern, Mask::Uniform(kept), None, 1);
        }
    }
}
