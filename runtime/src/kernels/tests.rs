//! Every row of [`all`] against the loop that is the specification.

use poda_formats::{CsrMatrix, DenseMatrix, Tensor, ValueType, Values};
use proptest::prelude::*;

use super::{Activation, Epilogue, Grid, Kernel, Layout, Problem, Rounding, Sums, WeightMatrix, X, all};
use crate::packing::{ConvGeometry, im2col};
use crate::threads::Threads;
use crate::tune::PackedWeight;

/// Reproducible values in -1..1.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    /// Whole numbers in -8..=8, whose sums have the same bits in whatever order.
    fn whole(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() * 8.0).round()).collect()
    }
}

#[derive(Debug, Clone)]
struct Case {
    shape: [usize; 2],
    n: usize,
    /// Of 1000 weights.
    kept: u32,
    x_layout: Layout,
    y_layout: Layout,
    conv: Option<ConvGeometry>,
    bias: bool,
    residual: bool,
    activation: Activation,
    threads: usize,
}

/// `y[r, c] = activation(bias[r] + residual[r, c] + Σ over kept k of w[r, k] · x[k, c])`, sums in f64.
/// `x` is `[k, n]`; the result and the residual are in `y_layout`. A zero weight contributes nothing.
fn reference(case: &Case, w: &[f32], x: &[f32], bias: Option<&[f32]>, residual: Option<&[f32]>) -> Vec<f32> {
    let ([m, k], n) = (case.shape, case.n);
    let mut y = vec![f32::NAN; m * n];
    for row in 0..m {
        for col in 0..n {
            let at = if case.y_layout == Layout::FeatureMajor { row * n + col } else { col * m + row };
            let mut sum = 0.0_f64;
            for i in 0..k {
                if w[row * k + i] != 0.0 {
                    sum += f64::from(w[row * k + i]) * f64::from(x[i * n + col]);
                }
            }
            sum += bias.map_or(0.0, |b| b[row].into()) + residual.map_or(0.0, |r| f64::from(r[at]));
            y[at] = sum as f32;
        }
    }
    case.activation.apply(&mut y);
    y
}

fn check(case: &Case) {
    let mut random = Random(case.shape[0] as u64 * 31 + case.n as u64);
    let ([m, k], n) = (case.shape, case.n);
    // A sum that lies between two steps must come out exactly, to be rounded as it should.
    let rounds = case.activation.rounds();
    let values = if rounds { Random::whole } else { Random::values };
    let mut w = values(&mut random, m * k);
    for w in &mut w {
        if (random.next() * 500.0 + 500.0) as u32 >= case.kept {
            *w = 0.0;
        }
    }
    let image = case.conv.as_ref().map(|g| values(&mut random, g.image_len()));
    let mut x = values(&mut random, k * n);
    if let (Some(image), Some(geometry)) = (&image, &case.conv) {
        im2col(image, geometry, &mut x);
    }
    let mut tokens = vec![0.0; k * n];
    for i in 0..k {
        for j in 0..n {
            tokens[j * k + i] = x[i * n + j];
        }
    }
    let input = match (&image, &case.conv, case.x_layout) {
        (Some(data), Some(geometry), _) => X::Image { data, geometry },
        (_, _, Layout::FeatureMajor) => X::Matrix { data: &x, layout: Layout::FeatureMajor },
        (_, _, Layout::TokenMajor) => X::Matrix { data: &tokens, layout: Layout::TokenMajor },
    };
    let bias = case.bias.then(|| values(&mut random, m));
    let residual = case.residual.then(|| values(&mut random, m * n));
    let epilogue =
        Epilogue { bias: bias.as_deref(), residual: residual.as_deref(), activation: case.activation };
    let conv = case.conv.clone();
    let sums = if rounds { Sums::Whole } else { Sums::Near };
    let grid = if rounds { Grid::new(1.0, Some([-8.0, 8.0])) } else { None };
    let problem = Problem { conv, sums, grid, ..Problem::matrix(n, case.x_layout, case.y_layout) };
    let threads = Threads::new(case.threads).unwrap();
    // (Bytes stand for whole numbers with an error.)
    let to = ValueType::ALL[1 + n % if rounds { 2 } else { 3 }];
    let narrow = DenseMatrix::new(m, k, Values::round(&w, [m, k], to).unwrap()).unwrap();
    let wide = narrow.to_tensor().unwrap();
    let wide = wide.as_slice::<f32>().unwrap();
    let exact = reference(case, &w, &x, epilogue.bias, epilogue.residual);
    let rounded = reference(case, wide, &x, epilogue.bias, epilogue.residual);
    for (weight, expected) in [
        (WeightMatrix::Dense(Tensor::from_slice(&[m, k], &w)), &exact),
        (WeightMatrix::Csr(CsrMatrix::from_dense(m, k, &w)), &exact),
        (WeightMatrix::Csr(narrow.to_csr()), &rounded),
        (WeightMatrix::Narrow(narrow), &rounded),
    ] {
        // Rounded weights are widened for a kernel that reads f32; that is tried with the dense ones.
        let reads = |kernel: &Kernel| kernel.values == weight.stored() || kernel.dense;
        for kernel in all().filter(|kernel| reads(kernel) && kernel.takes(&weight, &problem)) {
            // What was packed for one number of columns must serve any other.
            for planned in [n, 1, 64] {
                let problem = Problem { n: planned, ..problem.clone() };
                if !kernel.takes(&weight, &problem) {
                    continue;
                }
                for params in kernel.variants(&weight, &problem, &threads) {
                    let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
                    let mut y = vec![f32::NAN; m * n];
                    packed.run(n, input, &mut y, case.y_layout, &epilogue, &threads);
                    for (i, (&y, &e)) in y.iter().zip(expected).enumerate() {
                        let close = (y - e).abs() <= 1e-5 * (k as f32).sqrt().max(1.0);
                        assert!(
                            close,
                            "{}: y[{i}] = {y}, expected {e}, {params:?}, planned {planned}: {case:?}",
                            kernel.name
                        );
                    }
                }
            }
        }
    }
}

const BASE: Case = Case {
    shape: [5, 7],
    n: 3,
    kept: 500,
    x_layout: Layout::FeatureMajor,
    y_layout: Layout::FeatureMajor,
    conv: None,
    bias: true,
    residual: false,
    activation: Activation::Relu,
    threads: 1,
};

pub(super) const LAYOUTS: [[Layout; 2]; 4] = [
    [Layout::FeatureMajor, Layout::FeatureMajor],
    [Layout::TokenMajor, Layout::TokenMajor],
    [Layout::TokenMajor, Layout::FeatureMajor],
    [Layout::FeatureMajor, Layout::TokenMajor],
];

#[test]
fn shapes_on_both_sides_of_every_tile() {
    // Rows around 4, 6, 12 and 32; columns around every vector and tile; depths around panels.
    for m in [0, 1, 2, 3, 5, 6, 7, 12, 13, 31, 33, 67] {
        for n in [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 64, 65, 129] {
            let kept = [0, 100, 500, 1000][(m + n) % 4];
            for [x_layout, y_layout] in LAYOUTS {
                check(&Case { shape: [m, [1, 17, 130][n % 3]], n, kept, x_layout, y_layout, ..BASE });
            }
        }
    }
    for k in [0, 1, 1023, 1025, 2500] {
        for [x_layout, y_layout] in LAYOUTS {
            check(&Case { shape: [14, k], n: 35, kept: 60, x_layout, y_layout, residual: true, ..BASE });
        }
    }
}

#[test]
fn epilogues_of_every_kind() {
    for activation in [Activation::None, Activation::Clip { min: -0.2, max: 0.3 }, Activation::Gelu] {
        for (bias, residual) in [(false, false), (true, false), (false, true), (true, true)] {
            for [x_layout, y_layout] in LAYOUTS {
                for n in [1, 37, 70] {
                    let case =
                        Case { shape: [19, 23], n, activation, bias, residual, x_layout, y_layout, ..BASE };
                    check(&case);
                }
            }
        }
    }
}

#[test]
fn roundings_in_the_epilogue_are_those_of_one_number_after_another() {
    let rounding = |scale: f32, to: f32, range: [f32; 2]| Rounding {
        clamp: [range[0] * scale, range[1] * scale],
        scale,
        to,
        range,
        nan: range[0],
    };
    // Sums reach a few hundred; half of them lie between two multiples of 2.
    let first = rounding(2.0, 2.0, [-128.0, 127.0]);
    let second = Rounding { clamp: [0.0, 60.0], ..rounding(0.3, 0.3, [0.0, 255.0]) };
    for activation in
        [Activation::Rounded(first), Activation::RoundedTwice(first, second), first.then(second)]
    {
        for [x_layout, y_layout] in LAYOUTS {
            for (n, kept) in [(1, 300), (37, 1000), (70, 100)] {
                let case =
                    Case { shape: [19, 23], n, kept, activation, residual: true, x_layout, y_layout, ..BASE };
                check(&case);
            }
        }
        let conv = ConvGeometry::new(3, [9, 17], [3, 3], [1, 1], [1, 1], [1; 4]).unwrap();
        check(&Case { shape: [13, conv.k()], n: conv.n(), activation, conv: Some(conv), ..BASE });
    }
}

#[test]
fn threads_share_the_work() {
    for n in [1, 40, 300] {
        for [x_layout, y_layout] in LAYOUTS {
            let case = Case {
                shape: [130, 257],
                n,
                kept: 300,
                x_layout,
                y_layout,
                residual: true,
                threads: 3,
                ..BASE
            };
            check(&case);
        }
    }
}

#[test]
fn images_of_every_geometry() {
    let geometry = |input, kernel, stride, dilation, pads| {
        ConvGeometry::new(3, input, kernel, stride, dilation, pads).unwrap()
    };
    let geometries = [
        geometry([7, 9], [1, 1], [1, 1], [1, 1], [0; 4]),
        geometry([7, 9], [1, 1], [2, 2], [1, 1], [0; 4]),
        geometry([8, 21], [3, 3], [1, 1], [1, 1], [1; 4]),
        geometry([9, 40], [3, 3], [2, 2], [1, 1], [0, 0, 1, 1]),
        geometry([9, 11], [5, 3], [1, 2], [2, 1], [4, 0, 3, 2]),
        geometry([1, 100], [1, 5], [1, 3], [1, 4], [0, 20, 0, 7]),
        geometry([2, 2], [2, 2], [1, 1], [1, 1], [3; 4]),
        // Lines much shorter than a tile, of one pixel, of a vector, and with pads wider than the image.
        geometry([14, 14], [3, 3], [1, 1], [1, 1], [1; 4]),
        geometry([7, 5], [3, 3], [1, 1], [2, 2], [2, 1, 2, 3]),
        geometry([40, 1], [3, 1], [1, 1], [1, 1], [1, 0, 0, 0]),
        geometry([5, 16], [2, 3], [2, 1], [1, 1], [0, 1, 1, 1]),
        geometry([3, 2], [3, 5], [1, 1], [1, 1], [0, 6, 2, 9]),
    ];
    for conv in geometries {
        for y_layout in [Layout::FeatureMajor, Layout::TokenMajor] {
            let (k, n) = (conv.k(), conv.n());
            check(&Case { shape: [13, k], n, y_layout, conv: Some(conv.clone()), ..BASE });
        }
    }
}

#[test]
fn convolutions_of_three_by_three_in_tiles() {
    // Tiles that fill lines and vectors or do not, one after another and beside each other; pads on every side, and none.
    let geometries = [
        ([4, 4], [0; 4]),
        ([14, 14], [1; 4]),
        ([9, 70], [1, 0, 0, 2]),
        ([30, 7], [0, 3, 4, 1]),
        ([66, 66], [0; 4]),
    ];
    let activations = [Activation::Relu, Activation::None, Activation::Silu, Activation::Sigmoid];
    let cases = geometries.into_iter().flat_map(|g| activations.map(|activation| (g, activation)));
    for (i, ((input, pads), activation)) in cases.enumerate() {
        let channels = [8, 11, 17][i % 3];
        let Ok(conv) = ConvGeometry::new(channels, input, [3; 2], [1; 2], [1; 2], pads) else { continue };
        let (k, n) = (conv.k(), conv.n());
        let (bias, residual, threads) = (i % 2 == 0, i % 3 == 0, 1 + i % 3);
        let kept = [1000, 600][i % 2];
        let case = Case {
            shape: [[8, 29][i % 2], k],
            n,
            kept,
            conv: Some(conv.clone()),
            bias,
            residual,
            activation,
            threads,
            ..BASE
        };
        check(&case);
    }
}

#[test]
fn products_that_must_be_exact_are_not_made_of_fractions() {
    let conv = ConvGeometry::new(8, [16, 16], [3; 2], [1; 2], [1; 2], [1; 4]).unwrap();
    let shape = [8, conv.k()];
    let problem = |sums| Problem { sums, ..Problem::image(conv.clone()) };
    let mut random = Random(9);
    let (any, whole) = (random.values(shape[0] * shape[1]), random.whole(shape[0] * shape[1]));
    let taken = |w: &[f32], sums| {
        let weights = [
            WeightMatrix::Dense(Tensor::from_slice(&shape, w)),
            WeightMatrix::Csr(CsrMatrix::from_dense(shape[0], shape[1], w)),
        ];
        weights.map(|weight| {
            let takes = |kernel: &&Kernel| {
                kernel.name.starts_with("winograd") && kernel.takes(&weight, &problem(sums))
            };
            all().any(|kernel| takes(&kernel))
        })
    };
    assert_eq!(taken(&any, Sums::Near), [true; 2]);
    assert_eq!([taken(&any, Sums::Whole), taken(&whole, Sums::Near)], [[false; 2]; 2]);
}

#[test]
fn several_images_have_the_bits_of_each_alone() {
    for (side, kernel) in [(14, 3), (7, 3), (5, 1)] {
        let conv =
            ConvGeometry::new(9, [side, side + 2], [kernel; 2], [1; 2], [1; 2], [kernel / 2; 4]).unwrap();
        let (m, k, n, images) = (21, conv.k(), conv.n(), 5);
        let mut random = Random(8);
        let mut w = random.values(m * k);
        let x = random.values(images * conv.image_len());
        let residual = random.values(images * m * n);
        let layout = Layout::FeatureMajor;
        let given = (kernel > 1).then(|| conv.clone());
        let problem = Problem { conv: given, ..Problem::matrix(n, layout, layout) };
        let dense = WeightMatrix::Dense(Tensor::from_slice(&[m, k], &w));
        w.iter_mut().step_by(2).for_each(|w| *w = 0.0);
        let mut found = 0;
        for weight in [dense, WeightMatrix::Csr(CsrMatrix::from_dense(m, k, &w))] {
            for kernel in all().filter(|kernel| kernel.takes(&weight, &problem)) {
                let params = kernel.guess(&weight, &problem, &Threads::single());
                let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
                if !packed.takes_images() {
                    continue;
                }
                found += 1;
                let threads = Threads::new(2).unwrap();
                let epilogue = Epilogue {
                    residual: Some(&residual),
                    activation: Activation::Relu,
                    ..Epilogue::default()
                };
                let mut together = vec![f32::NAN; images * m * n];
                packed.run_images(images, &x, &conv, &mut together, &epilogue, &threads);
                let mut alone = vec![f32::NAN; images * m * n];
                for (i, y) in alone.chunks_exact_mut(m * n).enumerate() {
                    let data = &x[i * conv.image_len()..][..conv.image_len()];
                    let image = X::Image { data, geometry: &conv };
                    let epilogue = Epilogue { residual: Some(&residual[i * m * n..][..m * n]), ..epilogue };
                    packed.run(n, image, y, layout, &epilogue, &threads);
                }
                let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&together), bits(&alone), "{}, {conv:?}", kernel.name);
            }
        }
        assert!(found > 0, "no kernel takes several images of {conv:?}");
    }
}

#[test]
fn nan_and_infinity_reach_only_rows_that_keep_their_column() {
    let (m, k, n) = (40, 50, 33);
    let mut w = Random(5).values(m * k);
    for (i, w) in w.iter_mut().enumerate() {
        // Column 7 is kept by rows 0, 5, 10, … only.
        if i % k == 7 && i / k % 5 != 0 || i % 3 == 0 && i % k != 7 {
            *w = 0.0;
        }
    }
    let weight = WeightMatrix::Csr(CsrMatrix::from_dense(m, k, &w));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = Random(6).values(k * n);
        x[7 * n + 20] = bad;
        for kernel in all().filter(|kernel| kernel.name.starts_with("sp")) {
            let problem = Problem::matrix(n, Layout::FeatureMajor, Layout::FeatureMajor);
            if !kernel.takes(&weight, &problem) {
                continue;
            }
            let params = kernel.guess(&weight, &problem, &Threads::single());
            let packed = PackedWeight::with_kernel(&weight, &problem, kernel, params).unwrap();
            let mut y = vec![0.0; m * n];
            let x = X::Matrix { data: &x, layout: Layout::FeatureMajor };
            packed.run(n, x, &mut y, Layout::FeatureMajor, &Epilogue::default(), &Threads::single());
            for (i, y) in y.iter().enumerate() {
                let reached = i % n == 20 && i / n % 5 == 0;
                assert_eq!(!y.is_finite(), reached, "{}: y[{}, {}] = {y}", kernel.name, i / n, i % n);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_case_matches_the_reference(
        shape in [0_usize..90, 0_usize..300],
        n in 0_usize..150,
        kept in 0_u32..=1000,
        layouts in 0_usize..4,
        flags in 0_u8..4,
        threads in 1_usize..3,
    ) {
        let [x_layout, y_layout] = LAYOUTS[layouts];
        let (bias, residual) = (flags & 1 == 1, flags & 2 == 2);
        check(&Case { shape, n, kept, x_layout, y_layout, bias, residual, threads, ..BASE });
    }
}
