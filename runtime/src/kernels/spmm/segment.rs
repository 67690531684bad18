//! The inner loops of the panel kernel: the pairs of rows of one (block, panel) segment.

use rten_simd::ops::{BitOps, NumOps};

use crate::packing::panels::Panels;
use crate::simd::{Simd, splat, zero};

/// Adds the weights of one segment to the sums of its rows: `N` vectors, with `SETS` sets of accumulators, so that enough
/// multiply-adds are in flight when `N` is small.
///
/// # Safety
/// `x` must point to the panel's part of a tile, `y` to a tile of sums.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
pub(super) unsafe fn segment<S: Simd, const N: usize, const SETS: usize>(
    simd: S,
    panels: &Panels,
    at: usize,
    x: *const u8,
    y: *mut u8,
) {
    let ops = simd.f32();
    let (here, next) = (panels.segments[at], panels.segments[at + 1]);
    // SAFETY: `Panels` counts the rows and entries of each group, and the caller answers for `x` and `y`.
    unsafe {
        let mut row = panels.rows.as_ptr().add(here.row);
        let mut weight = panels.weights.as_ptr().add(here.weight);
        let mut offset = panels.offsets.as_ptr().add(here.offset);
        let load = |at: *const f32| -> [S::F32; N] {
            let mut v = [zero(simd); N];
            for i in 0..N {
                v[i] = ops.load_ptr(at.add(i * S::LANES));
            }
            v
        };
        let store = |v: [S::F32; N], at: *mut f32| {
            for i in 0..N {
                ops.store_ptr(v[i], at.add(i * S::LANES));
            }
        };
        for group in &panels.groups[here.group..next.group] {
            let (shared, single) = (group.shared as usize, group.single as usize);
            for _ in 0..group.pairs {
                let ys: [*mut f32; 2] = [y.add(*row as usize).cast(), y.add(*row.add(1) as usize).cast()];
                row = row.add(2);
                if S::PREFETCH {
                    for line in 0..(shared + single).div_ceil(8) {
                        ops.prefetch(weight.wrapping_add(AHEAD + 16 * line));
                    }
                    for line in 0..(shared + 2 * single).div_ceil(32) {
                        ops.prefetch(offset.wrapping_add(AHEAD + 32 * line).cast());
                    }
                }
                let mut a = [[zero(simd); N]; SETS];
                let mut b = a;
                (a[0], b[0]) = (load(ys[0]), load(ys[1]));
                let mut left = shared;
                while left >= SETS {
                    for s in 0..SETS {
                        both(simd, weight.add(2 * s), x.add(*offset.add(s) as usize), &mut a[s], &mut b[s]);
                    }
                    weight = weight.add(2 * SETS);
                    offset = offset.add(SETS);
                    left -= SETS;
                }
                for _ in 0..left {
                    both(simd, weight, x.add(*offset as usize), &mut a[0], &mut b[0]);
                    weight = weight.add(2);
                    offset = offset.add(1);
                }
                let mut left = single;
                while left >= SETS {
                    for s in 0..SETS {
                        each(simd, weight.add(2 * s), x, offset.add(2 * s), &mut a[s], &mut b[s]);
                    }
                    weight = weight.add(2 * SETS);
                    offset = offset.add(2 * SETS);
                    left -= SETS;
                }
                for _ in 0..left {
                    each(simd, weight, x, offset, &mut a[0], &mut b[0]);
                    weight = weight.add(2);
                    offset = offset.add(2);
                }
                store(total(simd, a), ys[0]);
                store(total(simd, b), ys[1]);
            }
            if group.pairs == 0 {
                let y = y.add(*row as usize).cast();
                row = row.add(1);
                let mut a = load(y);
                for _ in 0..single {
                    one(simd, splat(simd, *weight), x.add(*offset as usize), &mut a);
                    weight = weight.add(1);
                    offset = offset.add(1);
                }
                store(a, y);
            }
        }
    }
}

/// Weights (and offsets) by which their prefetch runs ahead.
const AHEAD: usize = 256;

/// One weight times a row of `X`.
///
/// # Safety
/// As [`segment`], with `x` at the row.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
unsafe fn one<S: Simd, const N: usize>(simd: S, weight: S::F32, x: *const u8, a: &mut [S::F32; N]) {
    let ops = simd.f32();
    let x: *const f32 = x.cast();
    // SAFETY: by the caller.
    unsafe {
        for i in 0..N {
            a[i] = ops.mul_add(weight, ops.load_ptr(x.add(i * S::LANES)), a[i]);
        }
    }
}

/// A weight of each row of a pair, times its own row of `X`.
///
/// # Safety
/// As [`segment`].
#[inline(always)]
unsafe fn each<S: Simd, const N: usize>(
    simd: S,
    weights: *const f32,
    x: *const u8,
    offsets: *const u16,
    a: &mut [S::F32; N],
    b: &mut [S::F32; N],
) {
    // SAFETY: by the caller.
    unsafe {
        let [first, second] = simd.splat_pair(weights);
        // Loads are what is scarce: both offsets by one.
        let offsets = offsets.cast::<u32>().read_unaligned();
        one(simd, first, x.add((offsets & 0xffff) as usize), a);
        one(simd, second, x.add((offsets >> 16) as usize), b);
    }
}

/// A weight of each row of a pair, times the same row of `X`.
///
/// # Safety
/// As [`segment`], with `x` at the row.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
unsafe fn both<S: Simd, const N: usize>(
    simd: S,
    weights: *const f32,
    x: *const u8,
    a: &mut [S::F32; N],
    b: &mut [S::F32; N],
) {
    let ops = simd.f32();
    let x: *const f32 = x.cast();
    // SAFETY: by the caller.
    unsafe {
        let [first, second] = simd.splat_pair(weights);
        for i in 0..N {
            let x = simd.keep(ops.load_ptr(x.add(i * S::LANES)));
            a[i] = ops.mul_add(first, x, a[i]);
            b[i] = ops.mul_add(second, x, b[i]);
        }
    }
}

/// The sum of accumulator sets.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
fn total<S: Simd, const N: usize, const SETS: usize>(simd: S, sets: [[S::F32; N]; SETS]) -> [S::F32; N] {
    let mut sum = sets[0];
    for s in 1..SETS {
        for i in 0..N {
            sum[i] = simd.f32().add(sum[i], sets[s][i]);
        }
    }
    sum
}
