//! Dense product of bytes: inputs that a quantiser left, weights that are whole multiples of one number in each row, sums of
//! integers.
//!
//! Inputs and weights come as floats, and are made bytes when they are packed, four features in the 32 bits of an element: from there
//! on the product is that of floats with a fourth of the features ([`Quads`] says how sums are made), over matrices and images alike.
//! Sums are exact. A sum then becomes a float, and is multiplied once by what the steps of its input and its row are.
//!
//! A row of which the multiples are no signed bytes, as of weights without sign, counts from another one than 0, its center: what that
//! leaves out is as many times the sum of a column's inputs.

use std::borrow::Cow;

use poda_formats::storage::AlignedBytes;
use rten_simd::Isa as _;
use rten_simd::ops::{BitOps, NumOps};

use super::part::{Elements, Part};
use super::tile::Arithmetic;
use super::{Gemm, Lanes, dense_values};
use crate::kernels::{Call, Grid, Layout, Packed, Params, Problem, Right, WeightMatrix, range};
use crate::packing::scratch::Scratch;
#[cfg(feature = "avx512")]
use crate::simd::Avx512Vnni;
use crate::simd::{AvxVnni, ByteProducts, F32, OnBytes, SHIFT, Simd, Supported, Vectorized, splat};
use crate::threads;

/// Features in an element.
const FEATURES: usize = 4;
/// Features whose sums fit 32 bits, whatever the bytes.
const MOST: usize = 1 << 16;
/// The same where weights are as far from zero as inputs.
const MOST_CENTERED: usize = 1 << 15;
/// Lanes of a tile, at most: sums of columns are read up to there.
const TILE: usize = 64;
/// Columns that are summed together.
const COLUMNS: usize = 512;
/// Elements that pay for another thread to make bytes of them.
const GRAIN: usize = 1 << 13;
/// What a multiple may be off by for being computed in floats, as a share of it.
const ROUNDED: f32 = 4.0 * f32::EPSILON;

/// A weight `[m, k]` of bytes.
struct Bytes<B> {
    gemm: Gemm,
    products: B,
    grid: Grid,
    k: usize,
    /// By row, and zeros up to whole tiles: the steps of a sum.
    steps: Vec<f32>,
    /// By row, too: the sum of its bytes.
    totals: Vec<i32>,
    /// By row, too: the multiple that bytes count from; none where all are 0.
    centers: Vec<i32>,
}

/// Whether this CPU sums `k` products, in one of the ways.
pub(crate) fn sums(k: usize) -> bool {
    #[cfg(feature = "avx512")]
    if can::<Avx512Vnni>(k) {
        return true;
    }
    can::<AvxVnni>(k)
}

fn can<B: ByteProducts>(k: usize) -> bool {
    (1..MOST).contains(&k) && B::find().is_some()
}

/// Whether inputs are known to be bytes, weights can be, and the CPU multiplies them.
pub(in crate::kernels) fn fits<B: ByteProducts>(weight: &WeightMatrix, problem: &Problem) -> bool {
    // (What the columns of an image sum up to is not known.)
    let may_center = |k| k < MOST_CENTERED && problem.conv.is_none();
    let rows = |k| row_steps(weight).filter(|rows| may_center(k) || rows.iter().all(|row| row.1 == 0));
    problem.grid.is_some() && weight.shape().is_ok_and(|[_, k]| can::<B>(k) && rows(k).is_some())
}

/// Packs a weight for `level`.
pub(in crate::kernels) fn prepare<B: ByteProducts + 'static>(
    weight: &WeightMatrix,
    problem: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    struct Pack<'a>(&'a [f32], [usize; 2], Lanes, Supported);
    impl Vectorized for Pack<'_> {
        type Output = (Gemm, usize);

        #[inline(always)]
        fn eval<S: Simd>(self, simd: S) -> Self::Output {
            let Self(weight, shape, lanes, level) = self;
            (Gemm::pack(simd, weight, shape, lanes, level), S::TILE_VECTORS * S::LANES)
        }
    }
    let [m, k] = weight.shape().expect("checked by PackedWeight");
    let (grid, row_steps) = (problem.grid.expect("fitted"), row_steps(weight).expect("fitted"));
    let values = every_value(weight).expect("fitted");
    // Rows of the matrix are taps of channels; an element holds one tap of four channels.
    let taps = problem.conv.as_ref().map_or(1, |conv| conv.kernel().iter().product());
    let quads = (k / taps).div_ceil(FEATURES) * taps;
    let mut elements = AlignedBytes::zeroed(m * quads * FEATURES);
    let mut totals = vec![0_i32; m];
    let rows = elements.chunks_exact_mut(quads * FEATURES).zip(values.chunks_exact(k));
    for ((to, row), (total, &(step, center))) in rows.zip(totals.iter_mut().zip(&row_steps)) {
        // (The nearest integer is in the low bits.)
        let byte = |w: f32| (w * (1.0 / step) + (SHIFT - center as f32)).to_bits() as u8;
        if taps == 1 {
            to.iter_mut().zip(row).for_each(|(to, &w)| *to = byte(w));
        } else {
            for (channel, row) in row.chunks_exact(taps).enumerate() {
                let to = &mut to[channel / FEATURES * taps * FEATURES + channel % FEATURES..];
                to.iter_mut().step_by(FEATURES).zip(row).for_each(|(to, &w)| *to = byte(w));
            }
        }
        *total = to.iter().map(|&byte| i32::from(byte.cast_signed())).sum();
    }
    let lanes = Lanes::of(problem, level);
    let (gemm, tile) = level.run(Pack(bytemuck::cast_slice(&elements), [m, quads], lanes, level));
    let mut steps: Vec<f32> = row_steps.iter().map(|(step, _)| grid.step() * step).collect();
    let mut centers: Vec<i32> = row_steps.iter().map(|&(_, center)| center).collect();
    steps.resize(m.next_multiple_of(tile), 0.0);
    totals.resize(m.next_multiple_of(tile), 0);
    centers.resize(m.next_multiple_of(tile), 0);
    if centers.iter().all(|&center| center == 0) {
        centers = Vec::new();
    }
    Box::new(Bytes { gemm, products: B::find().expect("fitted"), grid, k, steps, totals, centers })
}

/// The steps of the rows of a weight and their centers, if in each all elements are multiples of one, few enough for a byte.
fn row_steps(weight: &WeightMatrix) -> Option<Vec<(f32, i32)>> {
    struct Check<'a>(&'a [f32], f32);
    impl Vectorized for Check<'_> {
        type Output = Option<i32>;

        #[inline(always)]
        fn eval<S: Simd>(self, _: S) -> Option<i32> {
            let Self(row, step) = self;
            let per = 1.0 / step;
            // (Without a branch, so that vectors do it; the order of these floats is that of their bits.)
            let zero = SHIFT.to_bits().cast_signed();
            let (fit, least, most) = row.iter().fold((1, zero, zero), |(fit, least, most), &w| {
                let multiple = (w * per).round_ties_even();
                let near = (multiple * step - w).abs() <= ROUNDED * w.abs();
                let bits = (multiple + SHIFT).to_bits().cast_signed();
                let inside = (-255.0..=255.0).contains(&multiple);
                (fit & u32::from(near) & u32::from(inside), least.min(bits), most.max(bits))
            });
            let [least, most] = [least - zero, most - zero];
            let center = if least >= -128 && most <= 127 { 0 } else { least + 128 };
            (fit == 1 && most - center <= 127).then_some(center)
        }
    }
    let [m, k] = weight.shape().ok()?;
    let values = every_value(weight)?;
    let step = |row: &[f32]| {
        let greatest = row.iter().fold(0.0_f32, |most, w| if w.abs() > most { w.abs() } else { most });
        let (few, level) = (&row[..row.len().min(16)], Supported::best());
        // Sums of integers stay what they are; most quantisers make the greatest element 127 steps, or, of bytes without sign, more.
        let parts =
            [127_u8, 128, 255].into_iter().chain(1..127).chain(129..255).map(|top| greatest / f32::from(top));
        std::iter::once(1.0).chain(parts).find_map(|step| {
            level.run(Check(few, step))?;
            Some((step, level.run(Check(row, step))?))
        })
    };
    (0..m).map(|row| step(&values[row * k..][..k])).collect()
}

fn every_value(weight: &WeightMatrix) -> Option<Cow<'_, [f32]>> {
    match weight {
        WeightMatrix::Narrow(narrow) => {
            Some(narrow.to_tensor().ok()?.as_slice::<f32>().ok()?.to_vec().into())
        }
        wide => Some(dense_values(wide)),
    }
}

impl<B: ByteProducts> Packed for Bytes<B> {
    fn run(&self, call: Call<'_>) {
        let n = call.n;
        let least = self.grid.least().unwrap_or_else(|| {
            let values = match &call.x {
                Right::Matrix { data, .. } => data,
                Right::Image(image) => image.given(),
                Right::Images { .. } => unreachable!("takes one image"),
            };
            // (As floats they are off by less than half a step.)
            (range(values)[0] / self.grid.step()).round() as i32
        });
        let narrow = Narrow { per: 1.0 / self.grid.step(), shift: SHIFT - least as f32 };
        let Self { products, ref steps, ref totals, ref centers, .. } = *self;
        let centered = !centers.is_empty();
        // What the bytes of a column sum up to, counted from zero again: beyond `none` of them.
        let none = self.k as i32 * least;
        let mut sums = Scratch::new(if centered { n + TILE } else { 0 });
        let sums: &mut [i32] = bytemuck::cast_slice_mut(&mut sums);
        let elements = |sums| Quads { products, steps, totals, centers, sums, least };
        match call.x {
            Right::Matrix { data, layout: Layout::TokenMajor } => {
                let mut x = Scratch::new(n * self.gemm.k);
                threads::for_each_chunk(&mut x, self.gemm.k, GRAIN.div_ceil(self.gemm.k), |token, to| {
                    narrow.run(Narrowed::Row(&data[token * self.k..][..self.k]), to);
                });
                if centered {
                    threads::for_each_chunk(&mut sums[..n], 1, GRAIN.div_ceil(self.gemm.k), |token, to| {
                        let from = &x[token * self.gemm.k..][..self.gemm.k];
                        to[0] = none + Supported::best().run(Total(from));
                    });
                }
                let x = Right::Matrix { data: &x, layout: Layout::TokenMajor };
                self.gemm.run_with(Call { x, ..call }, elements(sums));
            }
            Right::Matrix { data, layout: Layout::FeatureMajor } => {
                let mut x = Scratch::new(n * self.gemm.k);
                threads::for_each_chunk(&mut x, n, GRAIN.div_ceil(n), |quad, to| {
                    narrow.run(Narrowed::planes(&data[quad * FEATURES * n..], n), to);
                });
                if centered {
                    threads::for_each_chunk(&mut sums[..n], COLUMNS, 1, |i, to| {
                        to.fill(none);
                        for (quad, from) in x.chunks_exact(n).enumerate() {
                            // (Of features beyond the last there are any bytes.)
                            let last = self.k - quad * FEATURES;
                            let mask = if last >= FEATURES { u32::MAX } else { (1 << (8 * last)) - 1 };
                            let from = &from[i * COLUMNS..][..to.len()];
                            Supported::best().run(Sums { from, mask, to: &mut *to });
                        }
                    });
                }
                let x = Right::Matrix { data: &x, layout: Layout::FeatureMajor };
                self.gemm.run_with(Call { x, ..call }, elements(sums));
            }
            Right::Image(image) => {
                let quads = image.together(FEATURES, GRAIN, |planes, len, to| {
                    narrow.run(Narrowed::planes(planes, len), to);
                });
                self.gemm.run_with(Call { x: Right::Image(&quads), ..call }, elements(sums));
            }
            Right::Images { .. } => unreachable!("takes one image"),
        }
    }

    fn bytes(&self) -> usize {
        self.gemm.bytes() + size_of_val(&self.steps[..]) + size_of_val(&self.totals[..])
    }
}

/// The sum of the four bytes in an element.
#[inline(always)]
fn bytes_of(element: u32) -> i32 {
    let pairs = (element & 0x00ff_00ff) + (element >> 8 & 0x00ff_00ff);
    ((pairs & 0xffff) + (pairs >> 16)).cast_signed()
}

/// The sum of all bytes.
struct Total<'a>(&'a [f32]);

impl Vectorized for Total<'_> {
    type Output = i32;

    #[inline(always)]
    fn eval<S: Simd>(self, _: S) -> i32 {
        self.0.iter().map(|x| bytes_of(x.to_bits())).sum()
    }
}

/// Adds the bytes under the mask, by column.
struct Sums<'a> {
    from: &'a [f32],
    mask: u32,
    to: &'a mut [i32],
}

impl Vectorized for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, _: S) {
        let Self { from, mask, to } = self;
        to.iter_mut().zip(from).for_each(|(to, x)| *to += bytes_of(x.to_bits() & mask));
    }
}

/// Makes bytes of floats on a grid: how far they are above its least multiple.
#[derive(Clone, Copy)]
struct Narrow {
    per: f32,
    /// Added to a multiple: leaves it, counted from the least one, in the low bits.
    shift: f32,
}

/// What becomes elements.
enum Narrowed<'a> {
    /// Features one after another.
    Row(&'a [f32]),
    /// A line of each of four features; of those beyond the last, whose weights are zero, any.
    Planes([&'a [f32]; FEATURES]),
}

impl<'a> Narrowed<'a> {
    /// The first four lines of `len` in `planes`.
    fn planes(planes: &'a [f32], len: usize) -> Self {
        let line = |i: usize| planes.get(i * len..(i + 1) * len).unwrap_or(&planes[..len]);
        Self::Planes([0, 1, 2, 3].map(line))
    }
}

impl Narrow {
    #[inline(always)]
    fn byte(self, x: f32) -> u32 {
        (x * self.per + self.shift).to_bits() & 0xff
    }

    fn run(self, from: Narrowed<'_>, to: &mut [f32]) {
        struct Run<'a>(Narrow, Narrowed<'a>, &'a mut [f32]);
        impl Vectorized for Run<'_> {
            type Output = ();

            #[inline(always)]
            fn eval<S: Simd>(self, _: S) {
                let Self(narrow, from, to) = self;
                match from {
                    Narrowed::Row(row) => {
                        let to: &mut [u8] = bytemuck::cast_slice_mut(to);
                        let (to, rest) = to.split_at_mut(row.len());
                        to.iter_mut().zip(row).for_each(|(to, &x)| *to = narrow.byte(x) as u8);
                        rest.fill(0);
                    }
                    Narrowed::Planes([a, b, c, d]) => {
                        let len = to.len();
                        let [a, b, c, d] = [a, b, c, d].map(|line| &line[..len]);
                        for i in 0..len {
                            let [a, b, c, d] = [a[i], b[i], c[i], d[i]].map(|x| narrow.byte(x));
                            to[i] = f32::from_bits(a | b << 8 | c << 16 | d << 24);
                        }
                    }
                }
            }
        }
        Supported::best().run(Run(self, from, to));
    }
}

/// Sums of products of bytes.
#[derive(Clone, Copy)]
struct Quads<'a, B> {
    products: B,
    /// By feature, from that of the block on.
    steps: &'a [f32],
    totals: &'a [i32],
    centers: &'a [i32],
    /// By column, from that of the block on; none where there are no centers.
    sums: &'a [i32],
    /// What bytes count from.
    least: i32,
}

impl<'a, B: ByteProducts> Quads<'a, B> {
    #[inline(always)]
    fn at(self, feature: usize, column: usize) -> Self {
        let from = |all: &'a [i32], start: usize| all.get(start..).unwrap_or_default();
        Self {
            steps: &self.steps[feature..],
            totals: &self.totals[feature..],
            centers: from(self.centers, feature),
            sums: from(self.sums, column),
            ..self
        }
    }

    /// The floats of sums, by what belongs to their features: of inputs that count from zero again.
    #[inline(always)]
    fn floats(self, simd: B::Isa, sum: F32<B>, [steps, totals]: [F32<B>; 2]) -> F32<B> {
        let sum = self.products.add(sum, self.products.multiply(totals, self.least));
        simd.f32().mul(self.products.to_floats(sum), steps)
    }
}

/// Features are rows, whose weights are in every lane; or run along the lanes, and inputs are in every lane.
#[derive(Clone, Copy)]
struct At<'a, B, const BY_LANE: bool>(Quads<'a, B>);

impl<B: ByteProducts, const BY_LANE: bool> Arithmetic<B::Isa> for At<'_, B, BY_LANE> {
    #[inline(always)]
    fn multiply_add(self, _: B::Isa, a: F32<B>, b: F32<B>, sum: F32<B>) -> F32<B> {
        let (inputs, weights) = if BY_LANE { (a, b) } else { (b, a) };
        self.0.products.multiply_add(sum, inputs, weights)
    }

    #[inline(always)]
    fn add(self, _: B::Isa, a: F32<B>, b: F32<B>) -> F32<B> {
        self.0.products.add(a, b)
    }

    #[inline(always)]
    unsafe fn finished(self, simd: B::Isa, sum: F32<B>, row: usize, lane: usize) -> F32<B> {
        let of_features = [self.0.steps.as_ptr(), self.0.totals.as_ptr().cast()];
        let mut sum = sum;
        if !self.0.centers.is_empty() {
            const { assert!(B::Isa::TILE_VECTORS * B::Isa::LANES <= TILE) };
            let (by_lane, by_row) =
                if BY_LANE { (self.0.centers, self.0.sums) } else { (self.0.sums, self.0.centers) };
            // SAFETY: there is a center for each feature and a sum for each column, and both are as many as whole tiles have.
            let products = unsafe {
                let by_lane = simd.f32().load_ptr(by_lane.as_ptr().cast::<f32>().add(lane));
                self.0.products.multiply(by_lane, *by_row.as_ptr().add(row))
            };
            sum = self.0.products.add(sum, products);
        }
        // SAFETY: there is one of each for every row, or for every lane of the tile.
        let values = of_features.map(|at: *const f32| unsafe {
            if BY_LANE { simd.f32().load_ptr(at.add(lane)) } else { splat(simd, *at.add(row)) }
        });
        self.0.floats(simd, sum, values)
    }
}

impl<'a, B: ByteProducts> Elements for Quads<'a, B> {
    type ByRow = At<'a, B, false>;
    type ByLane = At<'a, B, true>;

    #[inline(always)]
    fn by_row(self, feature: usize, column: usize) -> Self::ByRow {
        At(self.at(feature, column))
    }

    #[inline(always)]
    fn by_lane(self, feature: usize, column: usize) -> Self::ByLane {
        At(self.at(feature, column))
    }

    fn run(self, _: Supported, part: Part<'_, Self>) {
        self.products.run(part);
    }
}

impl<B: ByteProducts> OnBytes<B::Isa> for Part<'_, Quads<'_, B>> {
    #[inline(always)]
    fn eval(self, simd: B::Isa) {
        self.multiply(simd);
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "steps are powers of two, or the same quotient")]
mod tests {
    use poda_formats::{CsrMatrix, Tensor};

    use super::*;

    #[test]
    fn rows_of_multiples_are_found_whatever_their_step() {
        let steps = |rows: &[&[f32]]| {
            let (shape, values) = ([rows.len(), rows[0].len()], rows.concat());
            let dense = row_steps(&WeightMatrix::Dense(Tensor::from_slice(&shape, &values)));
            let sparse = WeightMatrix::Csr(CsrMatrix::from_dense(shape[0], shape[1], &values));
            assert!(values.iter().any(|w| w.is_nan()) || dense == row_steps(&sparse), "{rows:?}");
            dense
        };
        let plain = |steps: Vec<f32>| Some(steps.into_iter().map(|step| (step, 0)).collect::<Vec<_>>());
        // The greatest is 127 steps, 128 below zero, 3 and 1; nothing but zeros.
        assert_eq!(steps(&[&[127.0, -3.0, 0.0], &[-64.0, 0.5, 63.5]]), plain(vec![1.0, 0.5]));
        assert_eq!(steps(&[&[0.75, -0.5, 0.25], &[-3.0, 3.0, 0.0]]), plain(vec![0.75 / 3.0, 1.0]));
        assert_eq!(steps(&[&[0.0; 3], &[f32::MIN_POSITIVE, 0.0, 0.0]]).map(|steps| steps[0]), Some((1.0, 0)));
        // Each is off by as much as two roundings, after a factor.
        let scaled: Vec<f32> = (-127..=127).map(|q| q as f32 * 0.003_173 * 1.732_1).collect();
        assert_eq!(steps(&[&scaled]).map(|steps| steps[0]), Some((scaled[254] / 127.0, 0)));
        // Without sign, and with a zero point.
        assert_eq!(steps(&[&[127.0, 128.0, 0.0], &[255.0, 0.0, 1.0]]), Some(vec![(1.0, 128), (1.0, 128)]));
        assert_eq!(steps(&[&[-200.0, 55.0, 1.0], &[-0.5, 127.0, 0.0]]), Some(vec![(1.0, -72), (0.5, 127)]));
        // 257 steps, no common one, and what is no number.
        assert_eq!(steps(&[&[-128.0, 128.0, 1.0]]), None);
        assert_eq!(steps(&[&[256.0, 1.0, 2.0]]), None);
        assert_eq!(steps(&[&[1.0, 0.301, 0.77]]), None);
        assert_eq!(steps(&[&[127.0, f32::NAN, 1.0]]), None);
        assert_eq!(steps(&[&[f32::INFINITY, 1.0, 0.0]]), None);
    }
}
