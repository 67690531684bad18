//! The innermost loop of the dense product: a block of `rows × vectors` sums held in registers.
//!
//! Elements of `A` are broadcast along rows, vectors of `B` run along the lanes. Which of the two is the weight depends on
//! the layout of the output: its contiguous side runs along the lanes.

#![allow(clippy::needless_range_loop, reason = "indices with constant bounds keep the sums in registers")]

use rten_simd::ops::{BitOps, NumOps};

use crate::kernels::Activation;
use crate::simd::{Simd, splat, zero};

/// Steps in which a line arrives from the third cache: with fewer there is nothing to hide its way behind.
const ARRIVES: usize = 24;

/// The operands of one block.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Steps to sum over.
    pub(super) k: usize,
    /// Row `i`, step `j` at `a[i · a_row + j · a_k]`.
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_k: usize,
    /// Step `j` of panel `p` at `b[p · b_panel + j · b_k]`; a panel is [`Simd::TILE_VECTORS`] vectors wide.
    pub(super) b: *const f32,
    pub(super) b_panel: usize,
    pub(super) b_k: usize,
    /// What later blocks read, asked for as the steps pass by: a line at `next[j · next_k]` in step `j`.
    pub(super) next: *const f32,
    pub(super) next_k: usize,
}

/// Where a block goes.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    /// Row `i` at `c[i · stride]`.
    pub(super) c: *mut f32,
    pub(super) stride: usize,
    /// Valid elements along the lanes.
    pub(super) cols: usize,
    /// Start from zero, rather than from what `c` holds.
    pub(super) first: bool,
    /// What to do with complete sums; `None` while steps are missing.
    pub(super) finish: Option<Finish<'a>>,
}

/// The epilogue, positioned at the block. Null pointers stand for what is not there.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// One for each row.
    pub(super) row_bias: *const f32,
    /// One for each lane.
    pub(super) lane_bias: *const f32,
    /// Like `c`.
    pub(super) residual: *const f32,
    /// Least and greatest value.
    pub(super) bounds: (f32, f32),
    /// A rounding is applied here; other functions that do more than clamp are the caller's.
    pub(super) activation: &'a Activation,
}

/// How sums are made, and what becomes of them; positioned at a block.
pub(super) trait Arithmetic<S: Simd>: Copy {
    /// `sum + a · b`, with an element of `A` in every lane of `a`.
    fn multiply_add(self, simd: S, a: S::F32, b: S::F32, sum: S::F32) -> S::F32;

    /// The sum of two sums.
    fn add(self, simd: S, a: S::F32, b: S::F32) -> S::F32;

    /// The floats of complete sums in row `row`, from lane `lane` on.
    ///
    /// # Safety
    /// The block must have them.
    unsafe fn finished(self, simd: S, sum: S::F32, row: usize, lane: usize) -> S::F32;
}

/// Sums of floats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floats;

impl<S: Simd> Arithmetic<S> for Floats {
    #[inline(always)]
    fn multiply_add(self, simd: S, a: S::F32, b: S::F32, sum: S::F32) -> S::F32 {
        simd.f32().mul_add(a, b, sum)
    }

    #[inline(always)]
    fn add(self, simd: S, a: S::F32, b: S::F32) -> S::F32 {
        simd.f32().add(a, b)
    }

    #[inline(always)]
    unsafe fn finished(self, _: S, sum: S::F32, _: usize, _: usize) -> S::F32 {
        sum
    }
}

macro_rules! sizes {
    ($block:expr, $size:expr, $packed:literal, $($rows:literal: $($vectors:literal)*;)*) => {
        match $size {
            $($(
                [$rows, $vectors] => {
                    let (simd, arithmetic, operands, output) = $block;
                    // SAFETY: by the caller.
                    unsafe { sized::<S, A, $rows, $vectors, $packed>(simd, arithmetic, operands, output) }
                }
            )*)*
            other => panic!("no tile of {other:?} rows and vectors"),
        }
    };
}

/// Computes a block of `rows <= S::TILE_ROWS` rows and 1 or 2 vectors, with `a` packed as `[k][rows]`.
///
/// # Safety
/// Everything that [`Operands`] and [`Output`] describe must be accessible.
#[inline(always)]
pub(super) unsafe fn block<S: Simd, A: Arithmetic<S>>(
    simd: S,
    arithmetic: A,
    size: [usize; 2],
    operands: Operands,
    output: Output<'_>,
) {
    sizes! {
        (simd, arithmetic, operands, output), size, true,
        1: 1 2; 2: 1 2; 3: 1 2; 4: 1 2; 5: 1 2; 6: 1 2; 7: 1 2; 8: 1 2; 9: 1 2; 10: 1 2; 11: 1 2; 12: 1 2;
    }
    // SAFETY: as above.
    unsafe { round(simd, size[0], output) };
}

/// Computes a block of few rows, with `a` as it lies. Several panels at once keep enough sums in flight.
///
/// # Safety
/// As [`block`].
#[inline(always)]
pub(super) unsafe fn few_rows<S: Simd, A: Arithmetic<S>>(
    simd: S,
    arithmetic: A,
    size: [usize; 2],
    operands: Operands,
    output: Output<'_>,
) {
    sizes! { (simd, arithmetic, operands, output), size, false, 1: 2 8; 2: 2 4; 3: 2 4; }
    // SAFETY: as above.
    unsafe { round(simd, size[0], output) };
}

/// Rounds what was just written, if that is what comes last.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn round<S: Simd>(simd: S, rows: usize, Output { c, stride, cols, finish, .. }: Output<'_>) {
    if let Some(Finish { activation, .. }) = finish {
        // SAFETY: by the caller.
        unsafe { activation.round(simd, c, stride, [rows, cols]) };
    }
}

/// [`block`] with the size known, so that the sums stay in registers. `PACKED`: `a` is `[k][ROWS]`.
#[inline(always)]
unsafe fn sized<S: Simd, A: Arithmetic<S>, const ROWS: usize, const VECTORS: usize, const PACKED: bool>(
    simd: S,
    arithmetic: A,
    operands: Operands,
    output: Output<'_>,
) {
    if ROWS > S::TILE_ROWS {
        unreachable!("{ROWS} rows");
    }
    let ops = simd.f32();
    let Operands { k, mut a, a_row, a_k, b, b_panel, b_k, next, next_k } = operands;
    let (a_row, a_k) = if PACKED { (1, ROWS) } else { (a_row, a_k) };
    let mut sums = [[zero(simd); VECTORS]; ROWS];
    // SAFETY: by the caller of `block`.
    unsafe {
        let (mut b, mut next) = (b, next);
        let Output { c, stride, cols, finish, .. } = output;
        if S::PREFETCH && PACKED && k >= ARRIVES {
            for row in 0..ROWS {
                for v in 0..VECTORS {
                    let at = row * stride + v * S::LANES;
                    ops.prefetch_write(c.wrapping_add(at));
                    if let Some(Finish { residual, .. }) = finish.filter(|finish| !finish.residual.is_null())
                    {
                        ops.prefetch(residual.wrapping_add(at));
                    }
                }
            }
        }
        // Several steps in a row: a short loop takes a tenth longer where it lies badly among the lines of the code's cache.
        let steps = const { if S::LANES <= 8 { 4 } else { 1 } };
        for _ in 0..k / steps {
            for _ in 0..steps {
                step(simd, arithmetic, a, a_row, b, b_panel, &mut sums);
                a = a.add(a_k);
                b = b.wrapping_add(b_k);
                if S::PREFETCH && PACKED {
                    ops.prefetch(next);
                    next = next.wrapping_add(next_k);
                }
            }
        }
        for _ in 0..k % steps {
            step(simd, arithmetic, a, a_row, b, b_panel, &mut sums);
            a = a.add(a_k);
            b = b.wrapping_add(b_k);
        }
        // The loop below is too long to be unrolled and so needs its sums in memory; without this copy the loop above would
        // keep them there too (a third of the speed).
        let mut done = [[zero(simd); VECTORS]; ROWS];
        for row in 0..ROWS {
            for v in 0..VECTORS {
                done[row][v] = sums[row][v];
            }
        }
        if cols == VECTORS * S::LANES {
            store::<S, A, ROWS, VECTORS, true>(simd, arithmetic, &done, output);
        } else {
            store::<S, A, ROWS, VECTORS, false>(simd, arithmetic, &done, output);
        }
    }
}

/// Finishes sums and writes them. `WHOLE`: every lane of every vector is valid.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn store<S: Simd, A: Arithmetic<S>, const ROWS: usize, const VECTORS: usize, const WHOLE: bool>(
    simd: S,
    arithmetic: A,
    sums: &[[S::F32; VECTORS]; ROWS],
    Output { c, stride, cols, first, finish }: Output<'_>,
) {
    let ops = simd.f32();
    for row in 0..ROWS {
        for v in 0..VECTORS {
            let at = row * stride + v * S::LANES;
            let lanes = if WHOLE { S::LANES } else { cols.saturating_sub(v * S::LANES).min(S::LANES) };
            if lanes == 0 {
                continue;
            }
            let mut sum = sums[row][v];
            // SAFETY: by the caller.
            unsafe {
                let load = |at: *const f32| if WHOLE { ops.load_ptr(at) } else { simd.load_first(at, lanes) };
                if !first {
                    sum = arithmetic.add(simd, sum, load(c.add(at)));
                }
                if let Some(finish) = finish {
                    sum = arithmetic.finished(simd, sum, row, v * S::LANES);
                    if !finish.row_bias.is_null() {
                        sum = ops.add(sum, splat(simd, *finish.row_bias.add(row)));
                    }
                    if !finish.lane_bias.is_null() {
                        sum = ops.add(sum, load(finish.lane_bias.add(v * S::LANES)));
                    }
                    if !finish.residual.is_null() {
                        sum = ops.add(sum, load(finish.residual.add(at)));
                    }
                    let (min, max) = finish.bounds;
                    sum = simd.clamp(sum, [splat(simd, min), splat(simd, max)]);
                }
                if WHOLE {
                    ops.store_ptr(sum, c.add(at));
                } else {
                    simd.store_first(sum, c.add(at), lanes);
                }
            }
        }
    }
}

/// One step of all sums: a column of `a` times a row of `b`.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn step<S: Simd, A: Arithmetic<S>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    arithmetic: A,
    a: *const f32,
    a_row: usize,
    b: *const f32,
    b_panel: usize,
    sums: &mut [[S::F32; VECTORS]; ROWS],
) {
    let ops = simd.f32();
    let mut xs = [zero(simd); VECTORS];
    // SAFETY: by the caller.
    unsafe {
        for v in 0..VECTORS {
            xs[v] = ops.load_ptr(b.add(v / S::TILE_VECTORS * b_panel + v % S::TILE_VECTORS * S::LANES));
        }
        for row in 0..ROWS {
            let w = splat(simd, *a.add(row * a_row));
            for v in 0..VECTORS {
                sums[row][v] = arithmetic.multiply_add(simd, w, xs[v], sums[row][v]);
            }
        }
    }
}
