//! The innermost loop of both products: a block of `rows × vectors` sums held in registers.

#![allow(clippy::needless_range_loop, reason = "indices with constant bounds keep the sums in registers")]

use rten_simd::ops::{BitOps, NumOps};

use crate::simd::{Simd, splat, zero};

/// Elements of a row of scores: of a block of keys, and as many as keep twelve rows out of each other's cache lines.
pub(super) const STRIDE: usize = super::part::KEYS + 16;

/// The operands of one block.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Steps to sum over.
    pub(super) k: usize,
    /// Scores: row `i`, step `j` at `a[i · STRIDE + j]`. Packed queries: at `a[j · rows + i]`.
    pub(super) a: *const f32,
    /// Step `j` at `b[j · b_step]`, vectors one after the other.
    pub(super) b: *const f32,
    pub(super) b_step: usize,
}

/// Where a block goes.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// Row `i` at `c[i · stride]`.
    pub(super) c: *mut f32,
    pub(super) stride: usize,
    /// A factor for what each row holds before; not read for packed queries, which start from zero.
    pub(super) factors: *const f32,
}

/// Rows that a block of at least `rows <= TILE_ROWS` has.
#[inline(always)]
pub(super) fn padded<S: Simd>(rows: usize) -> usize {
    let rows = if rows > 4 { rows.next_multiple_of(2) } else { rows };
    rows.min(S::TILE_ROWS)
}

macro_rules! sizes {
    ($simd:ident, $operands:ident, $output:ident, $size:expr, $packed:literal, $($rows:literal: $($vectors:literal)*;)*) => {
        match $size {
            $($(
                // SAFETY: by the caller.
                [$rows, $vectors] => unsafe { sized::<S, $rows, $vectors, $packed>($simd, $operands, $output) },
            )*)*
            other => unreachable!("no tile of {other:?} rows and vectors"),
        }
    };
}

/// `c = a · b` for packed queries, of [`padded`] rows and the vectors of a panel of keys.
///
/// # Safety
/// Everything that [`Operands`] and [`Output`] describe must be accessible.
#[inline(always)]
pub(super) unsafe fn scores<S: Simd>(simd: S, rows: usize, operands: Operands, output: Output) {
    sizes! {
        simd, operands, output, [rows, S::TILE_VECTORS], true,
        1: 2; 2: 2; 3: 2; 4: 2; 6: 2; 8: 2; 10: 2; 12: 2;
    }
}

/// `c = factors · c + a · b` for scores, of [`padded`] rows and up to 2 vectors, or 4 where there are no more than 3 rows.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
pub(super) unsafe fn values<S: Simd>(simd: S, size: [usize; 2], operands: Operands, output: Output) {
    sizes! {
        simd, operands, output, size, false,
        1: 1 2 4; 2: 1 2 4; 3: 1 2 4; 4: 1 2; 6: 1 2; 8: 1 2; 10: 1 2; 12: 1 2;
    }
}

/// A block whose size is known, so that the sums stay in registers. `PACKED`: `a` is packed queries, not scores.
#[inline(always)]
unsafe fn sized<S: Simd, const ROWS: usize, const VECTORS: usize, const PACKED: bool>(
    simd: S,
    Operands { k, mut a, mut b, b_step }: Operands,
    Output { c, stride, factors }: Output,
) {
    if ROWS > S::TILE_ROWS {
        unreachable!("{ROWS} rows");
    }
    let ops = simd.f32();
    let (a_row, a_step) = if PACKED { (1, ROWS) } else { (STRIDE, 1) };
    // Loops that load or store sums may be too long to be unrolled, and then need them in memory. Copies of their own keep the
    // loop over steps from having them there too, see the dense product.
    let mut before = [[zero(simd); VECTORS]; ROWS];
    // SAFETY: by the caller.
    unsafe {
        if !PACKED {
            for row in 0..ROWS {
                let factor = splat(simd, *factors.add(row));
                for v in 0..VECTORS {
                    before[row][v] = ops.mul(ops.load_ptr(c.add(row * stride + v * S::LANES)), factor);
                }
            }
        }
        let mut sums = [[zero(simd); VECTORS]; ROWS];
        for row in 0..ROWS {
            for v in 0..VECTORS {
                sums[row][v] = before[row][v];
            }
        }
        // Several steps in a row where loops are short: see the dense product.
        let steps = const { if S::LANES <= 8 { 4 } else { 1 } };
        for _ in 0..k / steps {
            for _ in 0..steps {
                step(simd, a, a_row, b, &mut sums);
                a = a.add(a_step);
                b = b.wrapping_add(b_step);
            }
        }
        for _ in 0..k % steps {
            step(simd, a, a_row, b, &mut sums);
            a = a.add(a_step);
            b = b.wrapping_add(b_step);
        }
        let mut after = [[zero(simd); VECTORS]; ROWS];
        for row in 0..ROWS {
            for v in 0..VECTORS {
                after[row][v] = sums[row][v];
            }
        }
        for row in 0..ROWS {
            for v in 0..VECTORS {
                ops.store_ptr(after[row][v], c.add(row * stride + v * S::LANES));
            }
        }
    }
}

/// One step of all sums: a column of `a` times a row of `b`.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
unsafe fn step<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    a: *const f32,
    a_row: usize,
    b: *const f32,
    sums: &mut [[S::F32; VECTORS]; ROWS],
) {
    let ops = simd.f32();
    let mut xs = [zero(simd); VECTORS];
    // SAFETY: by the caller.
    unsafe {
        for v in 0..VECTORS {
            xs[v] = ops.load_ptr(b.add(v * S::LANES));
        }
        for row in 0..ROWS {
            let w = splat(simd, *a.add(row * a_row));
            for v in 0..VECTORS {
                sums[row][v] = ops.mul_add(w, xs[v], sums[row][v]);
            }
        }
    }
}
