//! Block-sparse × dense product, many columns: the panel kernel of [`super`] for strips of rows that keep the same
//! columns (`packing/strips.rs`). A row of `X` is loaded once for all rows of a strip, so that the inner loop is that of a
//! dense product but for the look-up of the row.

use rten_simd::ops::{BitOps, NumOps};

use super::segment::Sums;
use crate::kernels::{Layout, Packed, Params, Problem, WeightMatrix};
use crate::packing::panels::{Group, Panels};
use crate::packing::strips;
use crate::simd::{Level, Simd, Supported, splat, zero};

/// Rows of a strip, or `None` where blocks have an odd number of rows: nothing is shared in those.
fn height(weight: &WeightMatrix, level: Level) -> Option<usize> {
    let rows = weight.blocks()?.block()[0];
    // What the registers hold beside a few vectors of X.
    let most = if level == Level::Avx512 { 8 } else { 4 };
    [8, 4, 2].into_iter().find(|&height| height <= most && rows.is_multiple_of(height))
}

/// Whether it can be packed.
pub(in crate::kernels) fn fits(weight: &WeightMatrix, _: &Problem) -> bool {
    height(weight, Level::Portable).is_some()
}

/// Widths and depths worth trying.
pub(in crate::kernels) fn variants(weight: &WeightMatrix, problem: &Problem, level: Level) -> Vec<Params> {
    // Sums, a row of X and a weight fill the registers: of 16, 4 rows of 2 vectors leave none (3 spill: half the speed).
    let (most, depths) = match (height(weight, level), level) {
        (Some(8), Level::Avx512) => (3, [[512, 1024], [192, 512], [192, 336], [128, 256]]),
        (_, Level::Avx512) => (4, [[512, 1024], [192, 512], [192, 336], [128, 256]]),
        (Some(4), _) => (2, [[256, 512], [96, 192], [64, 128], [64, 96]]),
        (_, _) => (3, [[256, 512], [96, 192], [64, 128], [64, 96]]),
    };
    let vectors = problem.n.div_ceil(level.lanes()).clamp(1, most);
    // Offsets reach 64 KiB; narrow tiles stay in cache at any depth.
    let depths = depths[vectors - 1];
    let variants = depths.iter().map(|&depth| Params { vectors, depth, rows: 768, sets: 1, parts: 1 });
    variants.collect()
}

/// Packs a weight in blocks.
///
/// # Panics
/// When the weight has no such blocks; the table says that it must.
pub(in crate::kernels) fn prepare(
    weight: &WeightMatrix,
    problem: &Problem,
    level: Supported,
    params: Params,
) -> Box<dyn Packed> {
    let matrix = weight.blocks().expect("the block kernel takes blocks");
    let height = height(weight, level.level()).expect("the block kernel takes blocks of even height");
    // Registers hold 3 vectors of sums for 8 rows, 4 for fewer.
    let params = Params { vectors: params.vectors.min(if height == 8 { 3 } else { 4 }), ..params };
    let shape = super::shape(level, params);
    let skip = problem.conv.is_some() || problem.x_layout == Layout::FeatureMajor;
    let panels = strips::pack(&matrix, shape, height, super::block_unit(matrix.rows(), params.parts), skip);
    super::of_panels([matrix.rows(), matrix.cols()], level, params, panels)
}

/// Adds the weights of one segment to the sums of its rows, in tiles that are `vectors` vectors wide at most.
///
/// # Safety
/// As `segment::segment`; a tile of sums must hold the rows of a block rounded up to whole strips.
#[inline(always)]
pub(super) unsafe fn segment<S: Simd>(
    simd: S,
    panels: &Panels,
    at: usize,
    vectors: usize,
    x: *const u8,
    sums: Sums<S>,
) {
    let (here, next, block) = (panels.segments[at], panels.segments[at + 1], at / panels.across);
    let strips = panels.groups[here.group..next.group].iter().zip(&panels.rows[here.row..next.row]);
    // SAFETY: by the caller; `strips::pack` counts the columns of each strip.
    unsafe {
        let run = Run {
            offsets: panels.offsets.as_ptr().add(here.offset),
            weights: panels.weights.as_ptr().add(here.weight),
            x,
            sums,
            rows: panels.blocks[block + 1] - panels.blocks[block],
        };
        match (panels.height, vectors) {
            (8, 1) => run.strips::<8, 1>(simd, strips),
            (8, 2) => run.strips::<8, 2>(simd, strips),
            (8, 3) => run.strips::<8, 3>(simd, strips),
            (4, 1) => run.strips::<4, 1>(simd, strips),
            (4, 2) => run.strips::<4, 2>(simd, strips),
            (4, 3) => run.strips::<4, 3>(simd, strips),
            (4, 4) => run.strips::<4, 4>(simd, strips),
            (2, 1) => run.strips::<2, 1>(simd, strips),
            (2, 2) => run.strips::<2, 2>(simd, strips),
            (2, 3) => run.strips::<2, 3>(simd, strips),
            (2, 4) => run.strips::<2, 4>(simd, strips),
            other => unreachable!("strips and vectors {other:?}"),
        }
    }
}

/// Where the next strip reads, and where its sums are.
struct Run<S: Simd> {
    offsets: *const u16,
    weights: *const f32,
    x: *const u8,
    sums: Sums<S>,
    /// Rows of the block.
    rows: usize,
}

impl<S: Simd> Run<S> {
    /// Strips of `R` rows times `N` vectors.
    ///
    /// # Safety
    /// As [`segment`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn strips<'a, const R: usize, const N: usize>(
        mut self,
        simd: S,
        strips: impl Iterator<Item = (&'a Group, &'a u32)>,
    ) {
        let ops = simd.f32();
        for (group, &row) in strips {
            let row = row as usize;
            // Of the last strip some rows may be beyond the weight.
            let there = R.min(self.rows - row);
            let (weights, offsets) = (self.weights, self.offsets);
            for tile in 0..self.sums.tiles {
                (self.weights, self.offsets) = (weights, offsets);
                // SAFETY: by the caller.
                unsafe {
                    let x = self.x.add(tile * self.sums.x_stride);
                    // The loops before and after the one over columns are too long to be unrolled and so need their sums in
                    // memory; without copies that one would keep them there too (half of the speed of 8 rows).
                    let mut begun = [[zero(simd); N]; R];
                    for r in 0..R {
                        if r < there {
                            begun[r] = self.sums.begin(simd, row + r);
                        }
                    }
                    let mut sums = copied::<S, R, N>(simd, &begun);
                    for _ in 0..group.single {
                        let x: *const f32 = x.add(*self.offsets as usize).cast();
                        self.offsets = self.offsets.add(1);
                        let mut row = [zero(simd); N];
                        for i in 0..N {
                            row[i] = simd.keep(ops.load_ptr(x.add(i * S::LANES)));
                        }
                        for r in 0..R {
                            let weight = splat(simd, *self.weights.add(r));
                            for i in 0..N {
                                sums[r][i] = ops.mul_add(weight, row[i], sums[r][i]);
                            }
                        }
                        self.weights = self.weights.add(R);
                    }
                    let done = copied::<S, R, N>(simd, &sums);
                    for r in 0..R {
                        if r < there {
                            self.sums.end(simd, row + r, tile, done[r]);
                        }
                    }
                }
            }
        }
    }
}

/// The same vectors at another place.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant bounds keep the vectors in registers")]
fn copied<S: Simd, const R: usize, const N: usize>(simd: S, from: &[[S::F32; N]; R]) -> [[S::F32; N]; R] {
    let mut to = [[zero(simd); N]; R];
    for r in 0..R {
        for i in 0..N {
            to[r][i] = from[r][i];
        }
    }
    to
}
