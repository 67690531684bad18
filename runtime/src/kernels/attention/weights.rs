//! From products to the weights of the values: scale, soft cap, mask, and the exponential over the greatest so far.

use rten_simd::SimdUnaryOp;
use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_vecmath::Tanh;

use super::super::exp::exp_negative;
use super::{Attention, MaskValues};
use crate::simd::{Simd, splat, zero};

/// What online softmax remembers of the rows of a group. Rows beyond the group stay as they start.
pub(super) struct Statistics {
    /// The greatest score so far.
    pub(super) greatest: [f32; 16],
    /// Sum of the weights so far, relative to the greatest.
    pub(super) sums: [f32; 16],
    /// By what earlier weights shrink as the greatest grows.
    pub(super) factors: [f32; 16],
}

impl Statistics {
    pub(super) const START: Self =
        Self { greatest: [f32::NEG_INFINITY; 16], sums: [0.0; 16], factors: [0.0; 16] };
}

/// The keys of a block that a row may see, and its part of the mask.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The first so many.
    pub(super) keys: usize,
    pub(super) mask: RowMask<'a>,
}

/// A row's part of the mask, as long as the keys that it may see.
#[derive(Clone, Copy)]
pub(super) enum RowMask<'a> {
    None,
    Add(&'a [f32]),
    /// Hides keys where it is not 0.
    Hide(&'a [f32]),
}

impl<'a> RowMask<'a> {
    /// The mask of a query for `keys` keys from `start` on. `buffer` has place for as many, and is written when the mask
    /// cannot be read where it lies.
    #[inline(always)]
    pub(super) fn new(
        of: &Attention<'a, f32>,
        [batch, head, query]: [usize; 3],
        start: usize,
        keys: usize,
        buffer: &'a mut [f32],
    ) -> Self {
        let Some(mask) = of.scoring.mask.filter(|_| keys > 0) else { return Self::None };
        let [b, h, q, step] = mask.strides;
        let at = batch * b + head * h + query * q + start * step;
        let buffer = &mut buffer[..keys];
        match mask.values {
            MaskValues::Add(values) if step == 1 => Self::Add(&values[at..at + keys]),
            MaskValues::Add(values) => {
                buffer.iter_mut().enumerate().for_each(|(i, to)| *to = values[at + i * step]);
                Self::Add(buffer)
            }
            MaskValues::Allow(values) => {
                if step == 1 {
                    let values = &values[at..at + keys];
                    let hidden = buffer.iter_mut().zip(values);
                    hidden.for_each(|(to, allowed)| *to = f32::from(u8::from(!allowed.get())));
                } else {
                    let hidden = |i: usize| f32::from(u8::from(!values[at + i * step].get()));
                    buffer.iter_mut().enumerate().for_each(|(i, to)| *to = hidden(i));
                }
                Self::Hide(buffer)
            }
        }
    }
}

/// The first `lanes` elements.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn load<S: Simd>(simd: S, from: *const f32, lanes: usize) -> S::F32 {
    // SAFETY: by the caller.
    unsafe { if lanes == S::LANES { simd.f32().load_ptr(from) } else { simd.load_first(from, lanes) } }
}

/// Turns the products of a row into scores as far as it sees them; gives the greatest.
///
/// # Safety
/// The row must hold as many products, with place for whole vectors.
#[inline(always)]
pub(super) unsafe fn score<S: Simd>(
    simd: S,
    [scale, softcap]: [f32; 2],
    seen: Seen<'_>,
    row: *mut f32,
) -> f32 {
    let ops = simd.f32();
    let hidden = splat(simd, f32::NEG_INFINITY);
    let scale_all = splat(simd, scale);
    let mut greatest = hidden;
    for at in (0..seen.keys).step_by(S::LANES) {
        let lanes = S::LANES.min(seen.keys - at);
        // SAFETY: by the caller; a row's mask has as many elements as the row sees keys.
        unsafe {
            let to = row.add(at);
            let mut score = ops.mul(ops.load_ptr(to), scale_all);
            if softcap > 0.0 {
                let cap = splat(simd, softcap);
                score = ops.mul(Tanh {}.eval(simd, ops.div(score, cap)), cap);
            }
            match seen.mask {
                RowMask::None => {}
                RowMask::Add(values) => score = ops.add(score, load(simd, values.as_ptr().add(at), lanes)),
                RowMask::Hide(values) => {
                    score = ops.select(
                        score,
                        hidden,
                        ops.eq(load(simd, values.as_ptr().add(at), lanes), zero(simd)),
                    );
                }
            }
            ops.store_ptr(score, to);
            if lanes < S::LANES {
                score = simd.load_between(hidden, to, 0, lanes);
                ops.store_ptr(score, to);
            }
            greatest = ops.max(greatest, score);
        }
    }
    simd.greatest(greatest)
}

/// Turns scores into weights relative to `greatest`, those of the keys that the row does not see into zeros; gives their sum.
///
/// # Safety
/// As [`score`].
#[inline(always)]
pub(super) unsafe fn weigh<S: Simd>(simd: S, greatest: f32, seen: usize, keys: usize, row: *mut f32) -> f32 {
    let ops = simd.f32();
    let (greatest, mut sum) = (splat(simd, greatest), zero(simd));
    // SAFETY: by the caller.
    unsafe {
        for at in (0..seen).step_by(S::LANES) {
            let weight = exp_negative(simd, ops.sub(ops.load_ptr(row.add(at)), greatest));
            ops.store_ptr(weight, row.add(at));
            sum = ops.add(sum, weight);
        }
        for at in (seen.next_multiple_of(S::LANES)..keys).step_by(S::LANES) {
            ops.store_ptr(zero(simd), row.add(at));
        }
    }
    simd.total(sum)
}

impl Statistics {
    /// Takes in the greatest score that each row has in a block; gives what weights are to be relative to. `is_first`: of the
    /// first block that there is.
    ///
    /// A row that has seen nothing but −∞ so far counts from 0, so that its weights are exp(−∞) = 0 rather than NaN.
    #[inline(always)]
    pub(super) fn grow<S: Simd>(&mut self, simd: S, block: &[f32; 16], is_first: bool) -> [f32; 16] {
        let ops = simd.f32();
        let mut bases = [0.0; 16];
        let nothing = splat(simd, f32::NEG_INFINITY);
        for at in (0..16).step_by(S::LANES) {
            // SAFETY: all arrays hold 16 elements, a multiple of every number of lanes.
            unsafe {
                let old = ops.load_ptr(self.greatest.as_ptr().add(at));
                let new = ops.max(old, ops.load_ptr(block.as_ptr().add(at)));
                let base = ops.select(zero(simd), new, ops.eq(new, nothing));
                ops.store_ptr(new, self.greatest.as_mut_ptr().add(at));
                ops.store_ptr(base, bases.as_mut_ptr().add(at));
                // (Before the first block there is nothing that could shrink.)
                if !is_first {
                    let factor = exp_negative(simd, ops.sub(old, base));
                    ops.store_ptr(factor, self.factors.as_mut_ptr().add(at));
                }
            }
        }
        bases
    }
}
