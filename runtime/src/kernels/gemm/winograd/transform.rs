//! The transforms of Winograd's F(4×4, 3×3): a vector holds one element of as many tiles as it has lanes.
//!
//! Polynomials are evaluated at 0, ±3/4, ±3/2 and infinity. With the usual points 0, ±1, ±2 the greatest error over 256 channels is
//! eight times that of the sum itself, with these twice (one and a half times where it is not the greatest that counts, but the mean
//! square); their squares are floats, so that the constants below are exact. (Choice of points: Barabasz et al., "Error Analysis and
//! Improving the Accuracy of Winograd Convolution for Deep Neural Networks", TOMS 2020.)

#![allow(clippy::needless_range_loop, reason = "indices with constant bounds keep the vectors in registers")]

use rten_simd::ops::{BitOps, NumOps};

use crate::simd::{Simd, splat, zero};

/// Outputs of a tile along one side.
pub(super) const TILE: usize = 4;
/// Inputs that they read.
pub(super) const WINDOW: usize = 6;
/// Inputs of a tile.
pub(super) const POINTS: usize = WINDOW * WINDOW;

/// The points are 0, ±A, ±B and infinity.
const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// `G · g · Gᵀ` of a filter `[3][3]`.
pub(super) fn filter(g: &[f32]) -> [f32; POINTS] {
    let [a, b] = [f64::from(A), f64::from(B)];
    let [na, nb] = [2.0 * a * a * (a * a - b * b), 2.0 * b * b * (b * b - a * a)];
    let points = [(0.0, a * a * b * b), (a, na), (-a, na), (b, nb), (-b, nb)];
    let evaluated = |g: [f64; 3]| -> [f64; WINDOW] {
        std::array::from_fn(|i| match points.get(i) {
            Some(&(x, n)) => (g[0] + x * (g[1] + x * g[2])) / n,
            None => g[2],
        })
    };
    let rows: [[f64; WINDOW]; 3] =
        std::array::from_fn(|y| evaluated(std::array::from_fn(|x| f64::from(g[3 * y + x]))));
    let mut out = [0.0; POINTS];
    for x in 0..WINDOW {
        for (y, value) in evaluated([0, 1, 2].map(|y| rows[y][x])).into_iter().enumerate() {
            out[y * WINDOW + x] = value as f32;
        }
    }
    out
}

/// `Bᵀ · d` of a column or row of inputs.
#[inline(always)]
fn input_line<S: Simd>(simd: S, d: [S::F32; WINDOW]) -> [S::F32; WINDOW] {
    let ops = simd.f32();
    let times = |x: f32, v: S::F32, plus: S::F32| ops.mul_add(splat(simd, x), v, plus);
    let ends = |near: S::F32, middle: S::F32, far: S::F32| times(A2 * B2, near, times(-A2 - B2, middle, far));
    // Polynomials of the even and of the odd powers that a pair of points shares.
    let pair = |at: f32, other: f32| {
        let even = times(-other, d[2], d[4]);
        let odd = times(-other, d[1], d[3]);
        [times(at, odd, even), times(-at, odd, even)]
    };
    let ([a, minus_a], [b, minus_b]) = (pair(A, B2), pair(B, A2));
    [ends(d[0], d[2], d[4]), a, minus_a, b, minus_b, ends(d[1], d[3], d[5])]
}

/// `Aᵀ · m` of a column or row of products.
#[inline(always)]
fn output_line<S: Simd>(simd: S, m: [S::F32; WINDOW]) -> [S::F32; TILE] {
    let ops = simd.f32();
    let times = |x: f32, v: S::F32, plus: S::F32| ops.mul_add(splat(simd, x), v, plus);
    let [[sa, da], [sb, db]] = [[m[1], m[2]], [m[3], m[4]]].map(|[p, q]| [ops.add(p, q), ops.sub(p, q)]);
    let scaled = |x: f32, v: S::F32| ops.mul(splat(simd, x), v);
    [
        ops.add(ops.add(m[0], sa), sb),
        times(A, da, scaled(B, db)),
        times(A2, sa, scaled(B2, sb)),
        times(A2 * A, da, times(B2 * B, db, m[5])),
    ]
}

/// `Bᵀ · d · B` of the windows at `d`, whose element `i` is at `d[i · stride]`; element `i` of the result goes to `v[i · to]`.
///
/// # Safety
/// Vectors at these places must be readable and writable.
#[inline(always)]
pub(super) unsafe fn input<S: Simd>(simd: S, d: *const f32, stride: usize, v: *mut f32, to: usize) {
    let ops = simd.f32();
    let mut columns = [[zero(simd); WINDOW]; WINDOW];
    for x in 0..WINDOW {
        let mut column = [zero(simd); WINDOW];
        for y in 0..WINDOW {
            // SAFETY: by the caller.
            column[y] = unsafe { ops.load_ptr(d.add((y * WINDOW + x) * stride)) };
        }
        columns[x] = input_line(simd, column);
    }
    for y in 0..WINDOW {
        let mut row = [zero(simd); WINDOW];
        for x in 0..WINDOW {
            row[x] = columns[x][y];
        }
        let row = input_line(simd, row);
        for x in 0..WINDOW {
            // SAFETY: by the caller.
            unsafe { ops.store_ptr(row[x], v.add((y * WINDOW + x) * to)) };
        }
    }
}

/// `clamp(Aᵀ · m · A + bias)` of the products at `m`, whose element `i` is at `m[i · stride]`. Line `y` of the tiles, one beside the
/// other, goes to `out[y · line]`.
///
/// # Safety
/// The vectors of `m`, and [`TILE`] lines of as many vectors at `out`, must be readable and writable.
#[inline(always)]
pub(super) unsafe fn output<S: Simd>(
    simd: S,
    m: *const f32,
    stride: usize,
    bias: f32,
    (min, max): (f32, f32),
    out: *mut f32,
    line: usize,
) {
    let ops = simd.f32();
    let mut columns = [[zero(simd); TILE]; WINDOW];
    for x in 0..WINDOW {
        let mut column = [zero(simd); WINDOW];
        for y in 0..WINDOW {
            // SAFETY: by the caller.
            column[y] = unsafe { ops.load_ptr(m.add((y * WINDOW + x) * stride)) };
        }
        columns[x] = output_line(simd, column);
    }
    let (bias, bounds) = (splat(simd, bias), [splat(simd, min), splat(simd, max)]);
    for y in 0..TILE {
        let mut row = [zero(simd); WINDOW];
        for x in 0..WINDOW {
            row[x] = columns[x][y];
        }
        let row = output_line(simd, row).map(|v| simd.clamp(ops.add(v, bias), bounds));
        let ([a, b], [c, d]) = (simd.zip(row[0], row[2]), simd.zip(row[1], row[3]));
        for (i, [even, odd]) in [[a, c], [b, d]].into_iter().enumerate() {
            for (j, v) in simd.zip(even, odd).into_iter().enumerate() {
                // SAFETY: by the caller.
                unsafe { ops.store_ptr(v, out.add(y * line + (2 * i + j) * S::LANES)) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Level, Vectorized};

    /// Tiles one by one, as in the definition, sums in f64.
    struct Check;

    impl Vectorized for Check {
        type Output = ();

        fn eval<S: Simd>(self, simd: S) {
            let lanes = S::LANES;
            let value = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
            let d: Vec<f32> = (0..POINTS * lanes).map(value).collect();
            let g: Vec<f32> = (0..9).map(|i| value(i + 1_000_000)).collect();
            let (mut v, mut out) = (vec![0.0; POINTS * lanes], vec![0.0; TILE * TILE * lanes]);
            let u = filter(&g);
            // SAFETY: each holds as many vectors as are read or written.
            unsafe {
                input(simd, d.as_ptr(), lanes, v.as_mut_ptr(), lanes);
                let m: Vec<f32> = v.iter().enumerate().map(|(i, v)| v * u[i / lanes]).collect();
                output(simd, m.as_ptr(), lanes, 0.5, (-0.75, 1.0), out.as_mut_ptr(), TILE * lanes);
            }
            for tile in 0..lanes {
                for (y, x) in (0..TILE).flat_map(|y| (0..TILE).map(move |x| (y, x))) {
                    let at = |ky: usize, kx: usize| d[((y + ky) * WINDOW + x + kx) * lanes + tile];
                    let sum: f64 =
                        (0..9).map(|i| f64::from(at(i / 3, i % 3)) * f64::from(g[i])).sum::<f64>() + 0.5;
                    let got = out[y * TILE * lanes + tile * TILE + x];
                    let expected = sum.clamp(-0.75, 1.0) as f32;
                    assert!((got - expected).abs() < 3e-6, "tile {tile} of {lanes}: {got}, {expected}");
                }
            }
        }
    }

    #[test]
    fn tiles_are_convolutions() {
        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
            if let Some(level) = level.supported() {
                level.run(Check);
            }
        }
    }
}
