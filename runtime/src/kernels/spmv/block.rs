//! Blocks for few columns. Tall blocks, 4, 8 or 16 rows: the weights of a column lie in lanes of rows and meet one element of
//! `X`, broadcast. Wide blocks, 4 columns: the weights of a row meet 4 elements of `X` as they lie. Where a vector is longer
//! than that, it takes several columns, or pieces of a row, at once.

use rten_simd::ops::{BitOps, NumOps};

use super::{BLOCK, COLUMNS, Line, Multiply, Spmv};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::packing::blocks::Blocks;
use crate::simd::{Simd, Supported, zero};

/// Columns of a piece of a row.
const WIDTH: usize = 4;
/// Most lanes of a vector.
const MOST: usize = 16;

/// Rows of a strip, or `None` where 4 do not divide those of a block.
fn height(weight: &WeightMatrix) -> Option<usize> {
    let rows = weight.blocks()?.block()[0];
    [16, 8, 4].into_iter().find(|&height| rows.is_multiple_of(height))
}

/// Whether it can be packed as tall blocks.
pub(in crate::kernels) fn fits_tall(weight: &WeightMatrix, problem: &Problem) -> bool {
    height(weight).is_some() && fits(weight, problem)
}

/// Whether it can be packed as wide blocks.
pub(in crate::kernels) fn fits_wide(weight: &WeightMatrix, problem: &Problem) -> bool {
    weight.blocks().is_some_and(|m| m.block()[1].is_multiple_of(WIDTH))
        && height(weight).is_none()
        && fits(weight, problem)
}

fn fits(weight: &WeightMatrix, problem: &Problem) -> bool {
    weight.shape().is_ok_and(|[_, k]| k < 1 << 16) && problem.n <= 2 * COLUMNS
}

/// Packs a weight in tall blocks.
///
/// # Panics
/// When it has none; the table says that it must.
pub(in crate::kernels) fn prepare_tall(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    let matrix = weight.blocks().expect("the block kernel takes blocks");
    let height = height(weight).expect("the block kernel takes tall blocks");
    let values = matrix.values().clone();
    let blocks = Blocks::tall(&matrix, height, (level.lanes() / height).max(1));
    // SAFETY: any level will do.
    unsafe {
        match height {
            16 => Box::new(Spmv::new(Tall::<16>(blocks), level, &values)),
            8 => Box::new(Spmv::new(Tall::<8>(blocks), level, &values)),
            _ => Box::new(Spmv::new(Tall::<4>(blocks), level, &values)),
        }
    }
}

/// Packs a weight in wide blocks.
///
/// # Panics
/// When it has none; the table says that it must.
pub(in crate::kernels) fn prepare_wide(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    let matrix = weight.blocks().expect("the block kernel takes blocks");
    let values = matrix.values().clone();
    let blocks = Blocks::wide(&matrix, WIDTH, (level.lanes() / WIDTH).max(1));
    // SAFETY: any level will do.
    Box::new(unsafe { Spmv::new(Wide(blocks), level, &values) })
}

/// Strips of `H` rows.
struct Tall<const H: usize>(Blocks);
/// Rows of pieces of [`WIDTH`] columns.
struct Wide(Blocks);

impl<const H: usize> Multiply for Tall<H> {
    fn shape(&self) -> [usize; 2] {
        [self.0.m, self.0.k]
    }

    fn slots(&self, block: usize) -> usize {
        self.0.starts[(block * BLOCK / H).min(self.0.starts.len() - 1)] as usize * H
    }

    fn overread(&self) -> usize {
        1
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn rows<S: Simd, const R: usize>(
        &self,
        simd: S,
        block: usize,
        columns: [*const f32; R],
        _: bool,
        sums: &mut [Line],
    ) {
        let ops = simd.f32();
        // Columns in a vector, vectors of a column, and columns of `X` that share as many chains of sums as hide latency.
        let parts = (S::LANES / H).max(1);
        let vectors = (H / S::LANES).max(1);
        let chains = if R * vectors < 4 { 4 } else { 1 };
        let starts = &self.0.starts[block * (BLOCK / H)..];
        for (strip, range) in starts.windows(2).take(BLOCK / H).enumerate() {
            let (mut slot, end) = (range[0] as usize, range[1] as usize);
            let mut totals = [[[zero(simd); MOST / 4]; 4]; R];
            // SAFETY: `Blocks` holds `H` weights for each slot, and a multiple of `parts` slots; columns are at most `k`,
            // where a zero lies.
            unsafe {
                while slot + chains * parts <= end {
                    for chain in 0..chains {
                        self.step(simd, slot + chain * parts, columns, chain, &mut totals);
                    }
                    slot += chains * parts;
                }
                while slot < end {
                    self.step(simd, slot, columns, 0, &mut totals);
                    slot += parts;
                }
                for r in 0..R {
                    let out = &mut sums[r][strip * H..][..H];
                    for v in 0..vectors {
                        let [a, b, c, d] = [0, 1, 2, 3].map(|chain| totals[r][chain][v]);
                        let sum = if chains == 4 { ops.add(ops.add(a, b), ops.add(c, d)) } else { a };
                        if parts == 1 {
                            ops.store_ptr(sum, out.as_mut_ptr().add(v * S::LANES));
                        } else {
                            let mut lanes = [0.0; MOST];
                            ops.store_ptr(sum, lanes.as_mut_ptr());
                            for i in 0..H {
                                out[i] = (0..parts).map(|part| lanes[part * H + i]).sum();
                            }
                        }
                    }
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl<const H: usize> Tall<H> {
    /// One vector of weights, or the vectors of one column, times `R` columns of `X`.
    ///
    /// # Safety
    /// The slots must be there.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn step<S: Simd, const R: usize>(
        &self,
        simd: S,
        slot: usize,
        columns: [*const f32; R],
        chain: usize,
        totals: &mut [[[S::F32; MOST / 4]; 4]; R],
    ) {
        let ops = simd.f32();
        let (parts, vectors) = ((S::LANES / H).max(1), (H / S::LANES).max(1));
        // SAFETY: by the caller; columns are at most `k`, where a zero lies.
        unsafe {
            let index = self.0.columns.as_ptr().add(slot);
            let weights = self.0.values().as_ptr().add(slot * H);
            for r in 0..R {
                let mut x = [columns[r]; 4];
                for part in 0..parts {
                    x[part] = columns[r].add(usize::from(*index.add(part)));
                }
                let x = simd.splat_parts(x, parts);
                for v in 0..vectors {
                    let weights = ops.load_ptr(weights.add(v * S::LANES));
                    totals[r][chain][v] = ops.mul_add(weights, x, totals[r][chain][v]);
                }
            }
        }
    }
}

impl Multiply for Wide {
    fn shape(&self) -> [usize; 2] {
        [self.0.m, self.0.k]
    }

    fn slots(&self, block: usize) -> usize {
        self.0.starts[(block * BLOCK).min(self.0.m)] as usize * WIDTH
    }

    fn overread(&self) -> usize {
        WIDTH
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn rows<S: Simd, const R: usize>(
        &self,
        simd: S,
        block: usize,
        columns: [*const f32; R],
        _: bool,
        sums: &mut [Line],
    ) {
        let ops = simd.f32();
        let pieces = S::LANES / WIDTH;
        let chains = if R < 4 { 4 } else { 1 };
        let starts = &self.0.starts[block * BLOCK..];
        for (row, range) in starts.windows(2).take(BLOCK).enumerate() {
            let (mut slot, end) = (range[0] as usize, range[1] as usize);
            let mut totals = [[zero(simd); 4]; R];
            // SAFETY: `Blocks` holds 4 weights for each slot, and a multiple of `pieces` slots; columns are at most `k`, and 4
            // elements more may be read.
            unsafe {
                while slot + chains * pieces <= end {
                    for chain in 0..chains {
                        self.step(simd, slot + chain * pieces, columns, chain, &mut totals);
                    }
                    slot += chains * pieces;
                }
                while slot < end {
                    self.step(simd, slot, columns, 0, &mut totals);
                    slot += pieces;
                }
                for r in 0..R {
                    let [a, b, c, d] = totals[r];
                    let sum = if chains == 4 { ops.add(ops.add(a, b), ops.add(c, d)) } else { a };
                    sums[r][row] = ops.sum(sum);
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Wide {
    /// One vector of weights times `R` columns of `X`.
    ///
    /// # Safety
    /// The slots must be there.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn step<S: Simd, const R: usize>(
        &self,
        simd: S,
        slot: usize,
        columns: [*const f32; R],
        chain: usize,
        totals: &mut [[S::F32; 4]; R],
    ) {
        let ops = simd.f32();
        // SAFETY: by the caller; columns are at most `k`, and 4 elements more may be read.
        unsafe {
            let index = self.0.columns.as_ptr().add(slot);
            let weights = ops.load_ptr(self.0.values().as_ptr().add(slot * WIDTH));
            for r in 0..R {
                let mut x = [columns[r]; 4];
                for piece in 0..S::LANES / WIDTH {
                    x[piece] = columns[r].add(usize::from(*index.add(piece)));
                }
                totals[r][chain] = ops.mul_add(weights, simd.load_parts(x), totals[r][chain]);
            }
        }
    }
}
