//! Scores of few rows, with keys that lie one after the other: each key is read once, and nothing is packed.

use rten_simd::ops::{BitOps, NumOps};

use super::tile::STRIDE;
use crate::simd::{Simd, zero};

/// Most rows for which keys are not packed: packing takes as long as the products of three.
pub(super) const FEW: usize = 4;
/// Keys whose sums are under way at once.
const TOGETHER: usize = 4;

/// Copies a row of `size` elements and fills it up with zeros to whole vectors.
///
/// # Safety
/// `size` elements `stride` apart must be readable at `from`, and as many in whole vectors writable at `to`.
#[inline(always)]
pub(super) unsafe fn copy_row<S: Simd>(simd: S, from: *const f32, stride: usize, size: usize, to: *mut f32) {
    let ops = simd.f32();
    for at in (0..size).step_by(S::LANES) {
        let lanes = S::LANES.min(size - at);
        // SAFETY: by the caller.
        unsafe {
            if stride == 1 {
                let values = from.add(at);
                let v = if lanes == S::LANES { ops.load_ptr(values) } else { simd.load_first(values, lanes) };
                ops.store_ptr(v, to.add(at));
            } else {
                ops.store_ptr(zero(simd), to.add(at));
                for i in 0..lanes {
                    *to.add(at + i) = *from.add((at + i) * stride);
                }
            }
        }
    }
}

/// Products `[rows, keys]` of `rows` queries, each in whole vectors with zeros at the end, with `keys` keys of `size` elements
/// that are `key_stride` apart.
///
/// # Safety
/// Those must be readable, and rows of [`STRIDE`] elements writable at `scores`, in whole vectors.
#[inline(always)]
pub(super) unsafe fn scores<S: Simd>(
    simd: S,
    [rows, keys, size]: [usize; 3],
    q: *const f32,
    k: *const f32,
    key_stride: usize,
    scores: *mut f32,
) {
    let ops = simd.f32();
    let (whole, tail) = (size / S::LANES * S::LANES, size % S::LANES);
    let padded = size.next_multiple_of(S::LANES);
    let (mut sums, mut turned) = ([0.0_f32; 256], [0.0_f32; 256]);
    for start in (0..keys).step_by(S::LANES) {
        let lanes = S::LANES.min(keys - start);
        for row in 0..rows {
            // SAFETY: by the caller; keys are at most the last one, and both arrays hold a square of vectors.
            unsafe {
                let q = q.add(row * padded);
                for key in (0..lanes).step_by(TOGETHER) {
                    let at: [_; TOGETHER] =
                        std::array::from_fn(|i| k.add((start + (key + i).min(lanes - 1)) * key_stride));
                    let mut sum = [zero(simd); TOGETHER];
                    for i in (0..whole).step_by(S::LANES) {
                        let q = ops.load_ptr(q.add(i));
                        for (sum, at) in sum.iter_mut().zip(at) {
                            *sum = ops.mul_add(q, ops.load_ptr(at.add(i)), *sum);
                        }
                    }
                    if tail > 0 {
                        let q = ops.load_ptr(q.add(whole));
                        for (sum, at) in sum.iter_mut().zip(at) {
                            *sum = ops.mul_add(q, simd.load_first(at.add(whole), tail), *sum);
                        }
                    }
                    for (i, sum) in sum.into_iter().enumerate() {
                        ops.store_ptr(sum, sums.as_mut_ptr().add((key + i) * S::LANES));
                    }
                }
                // The sum over the lanes of each key becomes a sum of vectors over keys.
                simd.transpose_block(sums.as_ptr(), S::LANES, [S::LANES; 2], turned.as_mut_ptr(), S::LANES);
                let mut total = ops.load_ptr(turned.as_ptr());
                for i in 1..S::LANES {
                    total = ops.add(total, ops.load_ptr(turned.as_ptr().add(i * S::LANES)));
                }
                ops.store_ptr(total, scores.add(row * STRIDE + start));
            }
        }
    }
}
