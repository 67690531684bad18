//! Softmax. Along the innermost axis vectors run along a row; along another one lanes lie side by side, and vectors hold an element
//! of each of several.

use rten_simd::ops::{BitOps, FloatOps, NumOps};

use super::exp::exp_negative;
use crate::simd::{Simd, Supported, Vectorized, splat, zero};
use crate::threads::share::{self, cost, parts};
use crate::threads::{self, Split, SyncPtr};

/// `y[o, :] = softmax(x[o, :])`, or its logarithm, of rows of `dim` elements.
///
/// # Panics
/// When `x` and `y` are not equally many whole rows.
pub(crate) fn softmax_rows(x: &[f32], y: &mut [f32], dim: usize, log: bool) {
    assert_eq!(x.len(), y.len());
    if y.is_empty() {
        return;
    }
    assert!(y.len().is_multiple_of(dim), "{} elements in rows of {dim}", y.len());
    let level = Supported::best();
    let part = share::part(y.len(), cost::FUNCTION).next_multiple_of(dim);
    threads::for_each_chunk(y, part, 1, |i, y| {
        level.run(Rows { x: &x[i * part..][..y.len()], y, dim, log });
    });
}

/// Rows one after another.
struct Rows<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    dim: usize,
    log: bool,
}

impl Vectorized for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let ops = simd.f32();
        let whole = self.dim / S::LANES * S::LANES;
        for (x, y) in self.x.chunks_exact(self.dim).zip(self.y.chunks_exact_mut(self.dim)) {
            let ((x, x_rest), (y, y_rest)) = (x.split_at(whole), y.split_at_mut(whole));
            // What adds nothing to a sum of exponentials.
            let mut last = [f32::NEG_INFINITY; 16];
            last[..x_rest.len()].copy_from_slice(x_rest);
            let last = ops.load(&last);
            let mut greatest = last;
            for x in x.chunks_exact(S::LANES) {
                greatest = ops.max(greatest, ops.load(x));
            }
            let greatest = splat(simd, simd.greatest(greatest));
            let last_weight = exp_negative(simd, ops.sub(last, greatest));
            let mut sum = last_weight;
            for (x, y) in x.chunks_exact(S::LANES).zip(y.chunks_exact_mut(S::LANES)) {
                let weight = exp_negative(simd, ops.sub(ops.load(x), greatest));
                sum = ops.add(sum, weight);
                if !self.log {
                    ops.store(weight, y);
                }
            }
            let sum = simd.total(sum);
            let last = if self.log {
                let log = splat(simd, sum.ln());
                let of = |x| ops.sub(ops.sub(x, greatest), log);
                for (x, y) in x.chunks_exact(S::LANES).zip(y.chunks_exact_mut(S::LANES)) {
                    ops.store(of(ops.load(x)), y);
                }
                of(last)
            } else {
                let factor = splat(simd, 1.0 / sum);
                for y in y.chunks_exact_mut(S::LANES) {
                    ops.store(ops.mul(ops.load(y), factor), y);
                }
                ops.mul(last_weight, factor)
            };
            let mut rest = [0.0; 16];
            ops.store(last, &mut rest);
            y_rest.copy_from_slice(&rest[..y_rest.len()]);
        }
    }
}

/// `y[o, :, i] = softmax(x[o, :, i])`, or its logarithm, of `[outer, dim, inner]`.
///
/// # Panics
/// When `x` and `y` are not of that shape.
pub(crate) fn softmax_columns(x: &[f32], y: &mut [f32], [outer, dim, inner]: [usize; 3], log: bool) {
    assert!(x.len() == outer * dim * inner && y.len() == x.len(), "[{outer}, {dim}, {inner}]");
    if y.is_empty() {
        return;
    }
    // Cache lines of lanes.
    let blocks = inner.div_ceil(16);
    let split = Split::even(outer * blocks, parts(y.len(), cost::FUNCTION));
    let (y, level) = (SyncPtr(y.as_mut_ptr()), Supported::best());
    threads::for_each(split.parts(), 1, |part| {
        for block in split.part(part) {
            let (o, lane) = (block / blocks, block % blocks * 16);
            let at = o * dim * inner + lane;
            level.run(Lanes { x: &x[at..], y, at, dim, inner, count: 16.min(inner - lane), log });
        }
    });
}

/// Up to 16 neighbouring lanes, from element `at` on.
struct Lanes<'a> {
    x: &'a [f32],
    y: SyncPtr,
    at: usize,
    dim: usize,
    inner: usize,
    count: usize,
    log: bool,
}

impl Vectorized for Lanes<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Self { x, y, at, dim, inner, count: lanes, log } = self;
        let ops = simd.f32();
        for lane in (0..lanes).step_by(S::LANES) {
            let count = S::LANES.min(lanes - lane);
            // SAFETY: `count` lanes from here on lie within a row of `inner`, of which there are `dim`; `softmax_columns` checked
            // that `x` and `y` hold them, and gives each lane to one part.
            unsafe {
                let x = x.as_ptr().add(lane);
                let y = y.get().add(at + lane);
                let load = |i: usize| simd.load_first(x.add(i * inner), count);
                let mut greatest = splat(simd, f32::NEG_INFINITY);
                for i in 0..dim {
                    greatest = ops.max(greatest, load(i));
                }
                let mut sum = zero(simd);
                for i in 0..dim {
                    let weight = exp_negative(simd, ops.sub(load(i), greatest));
                    sum = ops.add(sum, weight);
                    if !log {
                        simd.store_first(weight, y.add(i * inner), count);
                    }
                }
                if log {
                    let mut logs = [0.0_f32; 16];
                    ops.store_ptr(sum, logs.as_mut_ptr());
                    logs.iter_mut().for_each(|v| *v = v.ln());
                    let logs = ops.load_ptr(logs.as_ptr());
                    for i in 0..dim {
                        let value = ops.sub(ops.sub(load(i), greatest), logs);
                        simd.store_first(value, y.add(i * inner), count);
                    }
                } else {
                    let factor = ops.div(splat(simd, 1.0), sum);
                    for i in 0..dim {
                        let to = y.add(i * inner);
                        simd.store_first(ops.mul(simd.load_first(to, count), factor), to, count);
                    }
                }
            }
        }
    }
}
