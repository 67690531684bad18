//! Every kernel for few columns, on masks that are hard on one layout or another, against the loop that is the specification.

use poda_formats::{CsrMatrix, DenseMatrix, ValueType, Values};
use proptest::prelude::*;

use crate::kernels::{
    Activation, Call, Epilogue, Kernel, Layout, Level, Params, Problem, Right, Source, WeightMatrix, all,
};
use crate::threads::Threads;

/// Which weights are kept.
#[derive(Debug, Clone, Copy)]
enum Mask {
    None,
    All,
    /// Of 1000, anywhere.
    Uniform(u32),
    /// Every third row only, and of those 1 in 4.
    EmptyRows,
    /// The middle row, and of the others 1 in 50.
    LongRow,
    /// A run of columns, elsewhere in each row.
    Clusters,
    /// The last column, and the first of odd rows.
    Edges,
}

const MASKS: [Mask; 9] = [
    Mask::None,
    Mask::All,
    Mask::Uniform(500),
    Mask::Uniform(100),
    Mask::Uniform(10),
    Mask::EmptyRows,
    Mask::LongRow,
    Mask::Clusters,
    Mask::Edges,
];

fn hash(i: usize) -> u64 {
    let i = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (i ^ (i >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// In -1..1, not 0.
fn value(i: usize) -> f32 {
    ((hash(i) % 2000) as f32 - 999.5) / 1000.0
}

fn weights([m, k]: [usize; 2], mask: Mask) -> Vec<f32> {
    let kept = |row: usize, col: usize| match mask {
        Mask::None => false,
        Mask::All => true,
        Mask::Uniform(kept) => hash(row * k + col) % 1000 < kept.into(),
        Mask::EmptyRows => row % 3 == 1 && hash(row * k + col).is_multiple_of(4),
        Mask::LongRow => row == m / 2 || hash(row * k + col).is_multiple_of(50),
        Mask::Clusters => (col + k - row * 37 % k) % k < 20,
        Mask::Edges => col + 1 == k || col == 0 && row % 2 == 1,
    };
    (0..m * k).map(|i| if kept(i / k, i % k) { value(i) } else { 0.0 }).collect()
}

fn problem(n: usize, layout: Layout) -> Problem {
    Problem::matrix(n, layout, layout)
}

/// The kernels that are for few columns, also where so much padding makes windowed SELL stay out of the race.
fn kernels(weight: &WeightMatrix) -> impl Iterator<Item = &'static Kernel> {
    let problem = problem(1, Layout::TokenMajor);
    all().filter(move |kernel| {
        let wsell = kernel.name.contains("wsell") && matches!(weight, WeightMatrix::Csr(_));
        let forced = wsell && kernel.level.available();
        let reads = kernel.values == weight.stored();
        let few = kernel.name.starts_with("spmv") || kernel.name.starts_with("gemv");
        few && reads && (forced || kernel.takes(weight, &problem))
    })
}

/// `max(Σ over kept k of w[row, k] · x[col, k] + bias[row] + residual, 0)` in f64, `[n, m]`.
fn reference([m, k]: [usize; 2], w: &[f32], x: &[f32], bias: &[f32], residual: &[f32]) -> Vec<f32> {
    let n = residual.len() / m.max(1);
    let mut y = Vec::new();
    for col in 0..n {
        for row in 0..m {
            let kept = (0..k).filter(|i| w[row * k + i] != 0.0);
            let sum: f64 = kept.map(|i| f64::from(w[row * k + i]) * f64::from(x[col * k + i])).sum();
            let sum = sum + f64::from(bias[row]) + f64::from(residual[col * m + row]);
            y.push(if sum < 0.0 { 0.0 } else { sum as f32 });
        }
    }
    y
}

fn transposed(values: &[f32], [rows, cols]: [usize; 2]) -> Vec<f32> {
    (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// A weight as CSR, and for each type with rounded values as CSR and dense, each with the elements that it stands for.
fn forms([m, k]: [usize; 2], w: &[f32], types: &[ValueType]) -> Vec<(WeightMatrix, Vec<f32>)> {
    let mut forms = vec![(WeightMatrix::Csr(CsrMatrix::from_dense(m, k, w)), w.to_vec())];
    for &to in types {
        let narrow = DenseMatrix::new(m, k, Values::round(w, [m, k], to).unwrap()).unwrap();
        let wide = narrow.to_tensor().unwrap().as_slice::<f32>().unwrap().to_vec();
        forms.push((WeightMatrix::Csr(narrow.to_csr()), wide.clone()));
        forms.push((WeightMatrix::Narrow(narrow), wide));
    }
    forms
}

const NARROW: &[ValueType] = &[ValueType::Bf16, ValueType::F16, ValueType::Int8];

/// Runs every kernel that multiplies few columns, with f32 values and with each of `types`; `x` is `[n, k]`.
fn check_values(
    shape: [usize; 2],
    n: usize,
    w: &[f32],
    x: &[f32],
    types: &[ValueType],
    threads: &Threads,
    what: &str,
) {
    for (weight, wide) in forms(shape, w, types) {
        check_weight(shape, n, &weight, &wide, x, threads, what);
    }
}

/// Runs every kernel that takes a weight as it is stored, in both layouts; `w` is what the weight stands for.
fn check_weight(
    [m, k]: [usize; 2],
    n: usize,
    weight: &WeightMatrix,
    w: &[f32],
    x: &[f32],
    threads: &Threads,
    what: &str,
) {
    let bias: Vec<f32> = (0..m).map(|i| value(i + 7)).collect();
    let residual: Vec<f32> = (0..m * n).map(|i| value(i + 9)).collect();
    let expected = reference([m, k], w, x, &bias, &residual);
    // Dense kernels multiply pruned weights, too.
    let finite = x.iter().all(|x| x.is_finite());
    for kernel in kernels(weight).filter(|kernel| finite || !kernel.dense) {
        for layout in [Layout::TokenMajor, Layout::FeatureMajor] {
            let packed = kernel.pack(&Source::new(weight), &problem(1, layout), Params::default()).unwrap();
            let (x, residual) = match layout {
                Layout::TokenMajor => (x.to_vec(), residual.clone()),
                Layout::FeatureMajor => (transposed(x, [n, k]), transposed(&residual, [n, m])),
            };
            let epilogue =
                Epilogue { bias: Some(&bias), residual: Some(&residual), activation: Activation::Relu };
            let mut y = vec![f32::NAN; m * n];
            if m * n > 0 {
                let x = Right::Matrix { data: &x, layout };
                packed.run(Call { n, x, y: &mut y, y_layout: layout, epilogue: &epilogue, threads });
            }
            let y = if layout == Layout::TokenMajor { y } else { transposed(&y, [m, n]) };
            for (i, (&y, &expected)) in y.iter().zip(&expected).enumerate() {
                let same = y.is_nan() && expected.is_nan() || y == expected;
                let tolerance = 1e-5 * (k as f32).sqrt().max(1.0);
                assert!(
                    same || (y - expected).abs() <= tolerance,
                    "{} {layout:?}: y[{}, {}] = {y}, expected {expected}: [{m}, {k}] × {n}, {what}",
                    kernel.name,
                    i % m,
                    i / m
                );
            }
        }
    }
}

fn check(shape: [usize; 2], n: usize, mask: Mask, threads: &Threads) {
    let x: Vec<f32> = (0..n * shape[1]).map(|i| value(i + 3)).collect();
    // One narrow type a case, another for its neighbours.
    let types = &NARROW[(shape[0] + shape[1] + n) % NARROW.len()..][..1];
    check_values(shape, n, &weights(shape, mask), &x, types, threads, &format!("{mask:?}"));
}

#[test]
fn shapes_on_both_sides_of_lanes_windows_and_blocks() {
    for m in [0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 131] {
        for k in [0, 1, 15, 16, 17, 63, 64, 65, 127, 129, 331] {
            for mask in MASKS {
                check([m, k], 1, mask, &Threads::single());
            }
        }
    }
}

#[test]
fn any_number_of_columns() {
    for n in 0..=9 {
        for mask in MASKS {
            check([67, 203], n, mask, &Threads::single());
        }
    }
}

#[test]
fn threads_take_blocks_of_rows() {
    let threads = Threads::new(3).unwrap();
    for mask in [Mask::Uniform(500), Mask::LongRow, Mask::All] {
        check([1000, 1024], 2, mask, &threads);
    }
}

#[test]
fn columns_beyond_16_bits() {
    check([20, 70_000], 1, Mask::Uniform(10), &Threads::single());
}

#[test]
fn denormals_are_kept() {
    let (shape, n) = ([40, 90], 1);
    let w: Vec<f32> =
        weights(shape, Mask::Uniform(300)).iter().map(|w| w * f32::MIN_POSITIVE / 8.0).collect();
    let x: Vec<f32> = (0..shape[1]).map(|i| value(i) * 1e38).collect();
    // (Not as int8: 127 times such an x is infinite before the scale is applied.)
    let types = &[ValueType::Bf16, ValueType::F16];
    check_values(shape, n, &w, &x, types, &Threads::single(), "denormal weights");
}

#[test]
fn nan_and_infinity_reach_exactly_the_rows_that_keep_their_column() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for mask in [Mask::Uniform(100), Mask::Clusters, Mask::EmptyRows, Mask::LongRow, Mask::Edges] {
            for (n, at) in [(1, 0), (1, 16), (1, 149), (3, 200), (4, 599), (5, 0)] {
                let shape = [70, 150];
                let mut x: Vec<f32> = (0..n * shape[1]).map(|i| value(i + 3)).collect();
                x[at] = bad;
                let what = format!("{mask:?}, x[{at}] = {bad}");
                check_values(shape, n, &weights(shape, mask), &x, NARROW, &Threads::single(), &what);
            }
        }
    }
}

#[test]
fn every_type_of_values_is_read_on_every_instruction_set() {
    let w = weights([4, 64], Mask::Uniform(500));
    for (weight, _) in forms([4, 64], &w, NARROW) {
        for level in [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter(|l| l.available()) {
            assert!(kernels(&weight).any(|kernel| kernel.level == level), "{:?} {level:?}", weight.stored());
        }
    }
}

#[test]
fn windows_take_at_most_so_many_bytes() {
    let smallest = |csr: &CsrMatrix| csr.bytes().min(csr.rows() * csr.cols() / 8 + csr.nnz() * 4) as f64;
    let best = |mask| {
        let csr = CsrMatrix::from_dense(512, 768, &weights([512, 768], mask));
        let bytes = smallest(&csr);
        let weight = WeightMatrix::Csr(csr);
        let wsell = kernels(&weight).filter(|kernel| kernel.name.contains("wsell"));
        let wsell = wsell.filter(|kernel| kernel.takes(&weight, &problem(1, Layout::TokenMajor)));
        let packed = wsell.map(|kernel| {
            kernel.pack(&Source::new(&weight), &problem(1, Layout::TokenMajor), Params::default()).unwrap()
        });
        packed.map(|packed| (packed.bytes() - 4096) as f64 / bytes).collect::<Vec<_>>()
    };
    if !Level::Avx512.available() {
        return;
    }
    for kept in [500, 300, 200, 100, 50] {
        let ratios = best(Mask::Uniform(kept));
        assert!(!ratios.is_empty() && ratios.iter().all(|&ratio| ratio < 1.65), "{kept} ‰: {ratios:?}");
    }
    assert!(best(Mask::Uniform(3)).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_mask_matches_the_reference(
        shape in [0_usize..150, 0_usize..400],
        n in 0_usize..10,
        mask in prop_oneof![(0..MASKS.len()).prop_map(|i| MASKS[i]), (0_u32..1000).prop_map(Mask::Uniform)],
    ) {
        check(shape, n, mask, &Threads::single());
    }
}
