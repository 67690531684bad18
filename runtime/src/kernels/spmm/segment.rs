//! The inner loops of the panel kernel: the pairs of rows of one (block, panel) segment.

use rten_simd::ops::{BitOps, NumOps};

use crate::packing::panels::Panels;
use crate::simd::{Simd, splat, zero};

/// Where the sums of a block's rows come from, and where they go.
#[derive(Clone, Copy)]
pub(super) struct Sums<S: Simd> {
    /// A tile of them, `[rows][width]`.
    pub(super) tile: *mut f32,
    pub(super) width: usize,
    /// Where the first panel begins: one for each row, instead of what the tile holds.
    pub(super) bias: Option<*const f32>,
    /// Where they go after the last panel, instead of into the tile.
    pub(super) output: Option<Output<S>>,
    /// Tiles of `X` that each pair of rows goes through, and bytes from one to the next. More than one only from bias to output.
    pub(super) tiles: usize,
    pub(super) x_stride: usize,
}

impl<S: Simd> Sums<S> {
    /// What the sums of a row begin with.
    ///
    /// # Safety
    /// The row must be one of the block.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    pub(super) unsafe fn begin<const N: usize>(&self, simd: S, row: usize) -> [S::F32; N] {
        let mut sums = [zero(simd); N];
        // SAFETY: by the caller.
        unsafe {
            match self.bias {
                None => {
                    let tile = self.tile.add(row * self.width);
                    for i in 0..N {
                        sums[i] = simd.f32().load_ptr(tile.add(i * S::LANES));
                    }
                }
                Some(bias) if !bias.is_null() => sums = [splat(simd, *bias.add(row)); N],
                Some(_) => {}
            }
        }
        sums
    }

    /// Stores the sums of a row, or writes them if they are complete.
    ///
    /// # Safety
    /// As [`Sums::begin`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    pub(super) unsafe fn end<const N: usize>(&self, simd: S, row: usize, tile: usize, sums: [S::F32; N]) {
        // SAFETY: by the caller.
        unsafe {
            if let Some(output) = &self.output {
                output.write(simd, row, tile, sums);
                return;
            }
            let tile = self.tile.add(row * self.width);
            for i in 0..N {
                simd.f32().store_ptr(sums[i], tile.add(i * S::LANES));
            }
        }
    }
}

/// Rows of a feature-major output that complete sums are written to. What they may need beyond a residual and a clamp is another's.
#[derive(Clone, Copy)]
pub(super) struct Output<S: Simd> {
    /// The first row of the block, at the first tile's first column.
    pub(super) y: *mut f32,
    /// Like `y`; null where there is none.
    pub(super) residual: *const f32,
    /// From one row to the next.
    pub(super) stride: usize,
    /// Columns of the tiles that are there.
    pub(super) cols: usize,
    pub(super) limits: [S::F32; 2],
}

impl<S: Simd> Output<S> {
    /// Asks for what a row will be written to, unless rows follow one another.
    #[inline(always)]
    pub(super) fn ask<const N: usize>(&self, simd: S, row: usize) {
        if self.cols == self.stride {
            return;
        }
        for i in 0..N {
            let at = row * self.stride + i * S::LANES;
            simd.f32().prefetch_write(self.y.wrapping_add(at));
            if !self.residual.is_null() {
                simd.f32().prefetch(self.residual.wrapping_add(at));
            }
        }
    }

    /// Finishes the sums of a row, and writes them.
    ///
    /// # Safety
    /// The row's columns must be accessible, and nobody else's.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn write<const N: usize>(&self, simd: S, row: usize, tile: usize, sums: [S::F32; N]) {
        let (ops, first) = (simd.f32(), tile * N * S::LANES);
        let (at, cols) = (row * self.stride + first, self.cols - first);
        for i in 0..N {
            let (mut sum, before) = (sums[i], i * S::LANES);
            // SAFETY: by the caller; the first `cols` columns are there.
            unsafe {
                let y = self.y.add(at).wrapping_add(before);
                let residual = self.residual.wrapping_add(at + before);
                if cols >= before + S::LANES {
                    if !self.residual.is_null() {
                        sum = ops.add(sum, ops.load_ptr(residual));
                    }
                    ops.store_ptr(simd.clamp(sum, self.limits), y);
                } else if cols > before {
                    if !self.residual.is_null() {
                        sum = ops.add(sum, simd.load_first(residual, cols - before));
                    }
                    simd.store_first(simd.clamp(sum, self.limits), y, cols - before);
                }
            }
        }
    }
}

/// Adds the weights of one segment to the sums of its rows: `N` vectors, with `SETS` sets of accumulators, so that enough
/// multiply-adds are in flight when `N` is small.
///
/// # Safety
/// `x` must point to the panel's part of a tile; `sums` must hold every row of the block, bias and output too.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
pub(super) unsafe fn segment<S: Simd, const N: usize, const SETS: usize>(
    simd: S,
    panels: &Panels,
    at: usize,
    x: *const u8,
    sums: Sums<S>,
) {
    let ops = simd.f32();
    let (here, next) = (panels.segments[at], panels.segments[at + 1]);
    // SAFETY: `Panels` counts the rows and entries of each group, and the caller answers for `x` and `y`.
    unsafe {
        let mut row = panels.rows.as_ptr().add(here.row);
        let mut weight = panels.weights.as_ptr().add(here.weight);
        let mut offset = panels.offsets.as_ptr().add(here.offset);
        for group in &panels.groups[here.group..next.group] {
            let (shared, single) = (group.shared as usize, group.single as usize);
            for _ in 0..group.pairs {
                let rows = [*row as usize, *row.add(1) as usize];
                row = row.add(2);
                if S::PREFETCH {
                    if let Some(output) = &sums.output {
                        output.ask::<N>(simd, rows[0]);
                        output.ask::<N>(simd, rows[1]);
                    }
                    for line in 0..(shared + single).div_ceil(8) {
                        ops.prefetch(weight.wrapping_add(AHEAD + 16 * line));
                    }
                    for line in 0..(shared + 2 * single).div_ceil(32) {
                        ops.prefetch(offset.wrapping_add(AHEAD + 32 * line).cast());
                    }
                }
                let (weights, offsets) = (weight, offset);
                for tile in 0..sums.tiles {
                    let x = x.add(tile * sums.x_stride);
                    (weight, offset) = (weights, offsets);
                    let mut a = [[zero(simd); N]; SETS];
                    let mut b = a;
                    (a[0], b[0]) = (sums.begin(simd, rows[0]), sums.begin(simd, rows[1]));
                    let mut left = shared;
                    while left >= SETS {
                        for s in 0..SETS {
                            both(
                                simd,
                                weight.add(2 * s),
                                x.add(*offset.add(s) as usize),
                                &mut a[s],
                                &mut b[s],
                            );
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
                    sums.end(simd, rows[0], tile, total(simd, a));
                    sums.end(simd, rows[1], tile, total(simd, b));
                }
            }
            if group.pairs == 0 {
                let at = *row as usize;
                row = row.add(1);
                let (weights, offsets) = (weight, offset);
                for tile in 0..sums.tiles {
                    let x = x.add(tile * sums.x_stride);
                    (weight, offset) = (weights, offsets);
                    let mut a: [S::F32; N] = sums.begin(simd, at);
                    for _ in 0..single {
                        one(simd, splat(simd, *weight), x.add(*offset as usize), &mut a);
                        weight = weight.add(1);
                        offset = offset.add(1);
                    }
                    sums.end(simd, at, tile, a);
                }
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
    let x: *const f32 = simd.keep_address(x.cast());
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
        let [first, second] = simd.splat_shared_pair(weights);
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
