//! Sparse × dense product (SpMM), many columns: `Y = W · X` with `W` in [`Panels`].
//!
//! Vectors run along the columns of `X`, so a stored weight scales a piece of one row of `X`, and no gather is needed. A tile
//! of `X` is packed `[k][width]` and split along `k` into panels that stay in L1; each (row, panel) segment loads its sums
//! from a tile `[rows][width]`, adds its weights and stores them. `docs/kernels.md` tells what each step gave.
//!
//! Gale et al., "Sparse GPU Kernels for Deep Learning", SC 2020, and Elsen et al., "Fast Sparse ConvNets", CVPR 2020, for the
//! row-wise product; panels, pairs and the entry layout are measured on CPUs here.

#[cfg(feature = "structured")]
pub(super) mod block;
mod segment;

use std::ops::Range;

use poda_formats::Tensor;
use rten_simd::ops::{BitOps, NumOps};
use smallvec::SmallVec;

use super::{Call, Epilogue, Layout, Packed, Params, Problem, Right, WeightMatrix};
use crate::packing::panels::{PanelShape, Panels};
use crate::packing::scratch::Scratch;
use crate::packing::tile::{Rows, fill, pack_tile};
use crate::packing::transpose::transpose;
use crate::simd::{Level, Simd, Supported, Vectorized, splat};
use crate::threads::{Split, SyncPtr, shares};
use segment::{Output, Sums, segment};

/// Bytes of packed `X` that stay in L2 while blocks of rows pass by.
const GROUP: usize = 512 << 10;
/// Multiply-adds below which another thread does not pay.
const PARALLEL: usize = 1 << 15;
/// Multiply-adds of a product so short that its threads do not share what they pack, nor parts of equal time.
const SHORT: usize = 1 << 19;
/// Bytes of the tiles of `X` that a pair of rows goes through before the next pair: what stays in L1.
const RUN: usize = 32 << 10;
/// Rows of a block below which fewer of them pair up well.
const LEAST_ROWS: usize = 384;

/// Tiles for each thread from which on it packs those that it multiplies. What is shared instead crosses from one core to another
/// twice, when it is packed and when it is read: at 14×14, four tiles, 384 to 64 channels with 90 % zeros took two threads of a Zen 4 37 µs
/// shared, 13 apart and one thread 29 (576 to 96: 60, 25, 54); MobileNetV1 2.44 and 2.21 ms, ResNet-50 13.8 and 12.9.
const OWN_TILES: usize = 2;

/// A sparse weight, packed for one instruction set.
struct Spmm {
    m: usize,
    k: usize,
    level: Supported,
    /// Vectors in the width of a tile.
    vectors: usize,
    /// Sets of accumulators.
    sets: usize,
    panels: Panels,
}

/// Widths and depths worth trying on any CPU; the first is the guess where nothing is timed.
pub(super) fn variants(weight: &WeightMatrix, problem: &Problem, level: Level) -> Vec<Params> {
    let (true, Ok([m, k])) = (weight.is_sparse(), weight.shape()) else { return Vec::new() };
    // In whole percents, as the tuner remembers: weights that share an answer have the same choice.
    let density = (weight.nnz() as f64 / (m * k).max(1) as f64 * 100.0).round() / 100.0;
    let lanes = level.lanes();
    // 16 registers hold a pair's sums of 6 vectors, or two sets of 3; 32 hold two sets of 4 and more.
    let sets = if lanes < 16 { 1 } else { 2 };
    let all: &[[usize; 2]] = match (problem.n.div_ceil(lanes), density) {
        (1, d) if lanes < 16 && d > 0.15 => &[[1, 128], [1, 256]],
        (1, _) => &[[1, 256], [1, 512]],
        (2, d) if lanes < 16 && d > 0.15 => &[[2, 64], [2, 128]],
        (2, _) => &[[2, 192], [2, 320]],
        (3 | 4, _) if lanes < 16 => &[[4, 96], [4, 64]],
        (_, d) if lanes < 16 && d > 0.07 => &[[6, 48], [6, 64], [4, 96]],
        (_, _) if lanes < 16 => &[[6, 96], [4, 96]],
        // Two threads may have a narrow tile each: LeNet-300-100 at batch 64.
        (3 | 4, d) if d > 0.07 && d < 0.3 => &[[4, 128], [4, 192], [2, 320]],
        (_, d) if d > 0.15 => &[[4, 128], [4, 96]],
        (_, d) if d > 0.07 => &[[4, 128], [4, 192]],
        _ => &[[4, 192], [2, 320]],
    };
    let variants = all.iter().map(|&[vectors, depth]| Params { vectors, depth, rows: 768, sets, parts: 1 });
    variants.collect()
}

/// Packs a sparse weight.
///
/// # Panics
/// When the weight is not sparse or not of f32; the table says that it must be.
pub(super) fn prepare(
    weight: &WeightMatrix,
    problem: &Problem,
    level: Supported,
    params: Params,
) -> Box<dyn Packed> {
    let Some(rows_of) = weight.bit_rows() else { panic!("the panel kernel takes sparse weights of f32") };
    let [m, k] = weight.shape().expect("checked by PackedWeight");
    // Rows of X are picked one by one when they are packed, except from token-major X, where they are columns.
    let skip = problem.conv.is_some() || problem.x_layout == Layout::FeatureMajor;
    let panels = Panels::new(level, rows_of, shape(level, params), block_unit(m, params.parts), skip);
    of_panels([m, k], level, params, panels)
}

/// Takes what [`Packed::arrays`] gave of a weight `[m, k]`.
pub(super) fn restore(
    [m, k]: [usize; 2],
    arrays: &[Tensor],
    level: Supported,
    params: Params,
) -> Option<Box<dyn Packed>> {
    let panels = Panels::from_arrays([m, k], shape(level, params), arrays)?;
    Some(of_panels([m, k], level, params, panels))
}

fn shape(level: Supported, Params { vectors, depth, rows, .. }: Params) -> PanelShape {
    PanelShape { width: vectors * level.lanes(), depth: depth * 16 / level.lanes().min(16), rows }
}

/// What the number of blocks of `m` rows is a multiple of, for so many threads.
fn block_unit(m: usize, threads: usize) -> usize {
    shares(threads, m / LEAST_ROWS)
}

/// A packed weight `[m, k]`.
fn of_panels([m, k]: [usize; 2], level: Supported, params: Params, panels: Panels) -> Box<dyn Packed> {
    Box::new(Spmm { m, k, level, vectors: params.vectors, sets: params.sets, panels })
}

impl Packed for Spmm {
    fn run(&self, call: Call<'_>) {
        let lanes = self.level.lanes();
        let macs = self.panels.weights.len() * call.n;
        let parts = call.threads.count().min(macs / PARALLEL).max(1);
        // Vectors are dealt out evenly: 65 columns are tiles of 3 and 2 vectors, not of 4 and 1.
        let vectors = call.n.div_ceil(lanes);
        let tiles = vectors.div_ceil(self.vectors);
        // Few tiles are as many for each thread.
        let few = tiles >= OWN_TILES * parts && tiles < 2 * OWN_TILES * parts;
        let tiles = Split::even(vectors, if few { tiles.next_multiple_of(parts) } else { tiles });
        let blocks = self.panels.blocks.len() - 1;
        let job = Job {
            spmm: self,
            n: call.n,
            pixels: call.x.pixels(call.n),
            x: call.x,
            y: SyncPtr(call.y.as_mut_ptr()),
            y_layout: call.y_layout,
            epilogue: call.epilogue,
            tiles,
        };
        let depth = self.panels.depth;
        let stride = depth * self.panels.shape.width;
        let group = (GROUP / (stride * size_of::<f32>()).max(1)).max(1);
        // Tokens keep their thread from one layer to the next where they deal out evenly: what a layer wrote is in the caches of
        // the thread that reads it (MiniLM with 90 % zeros, 2 threads: 3.4 -> 3.0 ms, on two chiplets 5.6 -> 3.5).
        let even = tiles.parts() > 1 && tiles.parts().is_multiple_of(parts);
        if tiles.parts() >= OWN_TILES * parts || blocks < parts || even && call.y_layout == Layout::TokenMajor
        {
            // Each thread packs the tiles that it multiplies.
            let split = Split::even(tiles.parts(), shares(parts, tiles.parts()));
            call.threads.for_each(split.parts(), |i| {
                let tiles = split.part(i);
                let mut x = Scratch::new(stride * group.min(tiles.len()));
                let x = SyncPtr(x.as_mut_ptr());
                for start in tiles.clone().step_by(group) {
                    let tiles = start..tiles.end.min(start + group);
                    self.level.run(Pack { job: &job, tiles: tiles.clone(), rows: 0..depth, x });
                    self.level.run(Multiply { job: &job, tiles, blocks: 0..blocks, x });
                }
            });
        } else if tiles.parts() == 1 && macs < SHORT {
            // Each thread packs what little there is, and multiplies its rows: to fetch it from another core's cache takes
            // longer.
            let split = self.split_blocks(parts);
            call.threads.for_each(split.len() - 1, |i| {
                let mut x = Scratch::new(stride);
                let x = SyncPtr(x.as_mut_ptr());
                self.level.run(Pack { job: &job, tiles: 0..1, rows: 0..depth, x });
                self.level.run(Multiply { job: &job, tiles: 0..1, blocks: split[i]..split[i + 1], x });
            });
        } else {
            // All threads pack, then each multiplies its rows.
            let mut x = Scratch::new(stride * tiles.parts());
            let x = SyncPtr(x.as_mut_ptr());
            let cuts = Split::even(depth, (4 * parts).div_ceil(tiles.parts()));
            call.threads.for_each(tiles.parts() * cuts.parts(), |i| {
                let (tile, rows) = (i / cuts.parts(), cuts.part(i % cuts.parts()));
                let x = SyncPtr(x.get().wrapping_add(tile * stride));
                self.level.run(Pack { job: &job, tiles: tile..tile + 1, rows, x });
            });
            let split = self.split_blocks(shares(parts, blocks));
            call.threads.for_each(split.len() - 1, |i| {
                let (blocks, tiles) = (split[i]..split[i + 1], 0..tiles.parts());
                self.level.run(Multiply { job: &job, tiles, blocks, x });
            });
        }
    }

    fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    fn takes_images(&self) -> bool {
        true
    }

    fn arrays(&self) -> Option<Vec<Tensor>> {
        // Strips are soon packed.
        (self.panels.height == 1).then(|| self.panels.arrays())
    }
}

impl Spmm {
    /// First block of each part, and the number of blocks: parts of about equal numbers of weights.
    fn split_blocks(&self, parts: usize) -> SmallVec<[usize; 32]> {
        let blocks = self.panels.blocks.len() - 1;
        let work = |block: usize| self.panels.segments[block * self.panels.across].weight;
        let mut starts: SmallVec<[usize; 32]> = (0..parts)
            .map(|i| (0..blocks).take_while(|&b| work(b) * parts < i * work(blocks)).count())
            .collect();
        starts.push(blocks);
        starts
    }
}

struct Job<'a> {
    spmm: &'a Spmm,
    n: usize,
    /// Columns of each image.
    pixels: usize,
    x: Right<'a>,
    y: SyncPtr,
    y_layout: Layout,
    epilogue: &'a Epilogue<'a>,
    /// Vectors of each tile.
    tiles: Split,
}

impl Job<'_> {
    /// Columns of tile `i`.
    fn columns(&self, i: usize) -> Range<usize> {
        let (lanes, vectors) = (self.spmm.level.lanes(), self.tiles.part(i));
        vectors.start * lanes..self.n.min(vectors.end * lanes)
    }
}

/// Packs tiles of `X` one behind the other, or some of their rows.
struct Pack<'a> {
    job: &'a Job<'a>,
    tiles: Range<usize>,
    rows: Range<usize>,
    /// The first of the tiles.
    x: SyncPtr,
}

impl Vectorized for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Self { job, tiles, rows, x } = self;
        let Panels { shape, used, depth, .. } = &job.spmm.panels;
        let first = rows.start;
        let rows = match used {
            Some(used) => Rows::List(&used[rows]),
            None => Rows::Range { start: rows.start, end: rows.end },
        };
        for (i, tile) in tiles.enumerate() {
            // SAFETY: `x` holds `depth · width` elements for each tile; `PackedWeight::run` checked the length of X.
            unsafe {
                let dst = x.get().add((i * depth + first) * shape.width);
                pack_tile(simd, &job.x, [job.spmm.k, job.n], rows, job.columns(tile), shape.width, dst);
            }
        }
    }
}

/// Multiplies blocks of rows with packed tiles.
struct Multiply<'a> {
    job: &'a Job<'a>,
    tiles: Range<usize>,
    blocks: Range<usize>,
    /// The first of the tiles.
    x: SyncPtr,
}

impl Vectorized for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Self { job, tiles, blocks, x } = self;
        let panels = &job.spmm.panels;
        let width = panels.shape.width;
        let most = panels.blocks.windows(2).map(|b| b[1] - b[0]).max().unwrap_or(0);
        let mut sums = Scratch::new(most.next_multiple_of(panels.height) * width);
        for block in blocks {
            let rows = panels.blocks[block]..panels.blocks[block + 1];
            let mut first = tiles.start;
            while first < tiles.end {
                let run = job.run_of_tiles(first..tiles.end);
                let columns = job.columns(first).start..job.columns(run.end - 1).end;
                let i = first - tiles.start;
                first = run.end;
                let y = sums.as_mut_ptr();
                let output = job.output(simd, &rows, &columns);
                let bias = job.epilogue.bias.map(|bias| &bias[rows.clone()]);
                // SAFETY: the tile of sums holds the rows of the largest block; `Panels` was built so that every offset lies
                // within a panel of X, and every row within the block, of which the first and the last panel hold all; blocks and
                // tiles of `y` are this thread's.
                unsafe {
                    if panels.across == 0 {
                        for r in 0..rows.len() {
                            fill(simd, bias.map_or(0.0, |bias| bias[r]), y.add(r * width), width);
                        }
                    }
                    for panel in 0..panels.across {
                        let x = x.get().add((i * panels.depth + panel * panels.shape.depth) * width).cast();
                        let at = block * panels.across + panel;
                        let vectors = job.tiles.part(run.start).len();
                        let y = Sums {
                            tile: y,
                            width,
                            bias: (panel == 0).then(|| bias.map_or(std::ptr::null(), <[f32]>::as_ptr)),
                            output: if panel + 1 == panels.across { output } else { None },
                            tiles: run.len(),
                            x_stride: panels.depth * width * size_of::<f32>(),
                        };
                        #[cfg(feature = "structured")]
                        if panels.height > 1 {
                            block::segment(simd, panels, at, vectors, x, y);
                            continue;
                        }
                        match (vectors, job.spmm.sets) {
                            (1, _) => segment::<S, 1, 4>(simd, panels, at, x, y),
                            (2, 1) => segment::<S, 2, 2>(simd, panels, at, x, y),
                            (2, _) => segment::<S, 2, 4>(simd, panels, at, x, y),
                            (3, 1) => segment::<S, 3, 1>(simd, panels, at, x, y),
                            (3, _) => segment::<S, 3, 2>(simd, panels, at, x, y),
                            (4, 1) => segment::<S, 4, 1>(simd, panels, at, x, y),
                            (4, _) => segment::<S, 4, 2>(simd, panels, at, x, y),
                            (5, _) => segment::<S, 5, 1>(simd, panels, at, x, y),
                            (6, _) => segment::<S, 6, 1>(simd, panels, at, x, y),
                            other => unreachable!("a tile of {other:?} vectors"),
                        }
                    }
                    if output.is_none() {
                        job.finish(simd, &sums, rows.clone(), columns);
                    }
                }
            }
        }
    }
}

impl Job<'_> {
    /// The first of these tiles, and as many others as each pair of rows may go through after it, so that longer runs of its outputs are
    /// written: where sums go straight from bias to output, tiles of as many vectors in one image, as long as they stay in L1.
    fn run_of_tiles(&self, tiles: Range<usize>) -> Range<usize> {
        let Panels { across, depth, shape, .. } = &self.spmm.panels;
        let most = (RUN / (depth * shape.width * size_of::<f32>()).max(1)).max(1);
        let start = tiles.start;
        if *across != 1 || !self.goes_straight() {
            return start..start + 1;
        }
        let (first, image) = (self.tiles.part(start).len(), self.columns(start).start / self.pixels);
        let alike = |&tile: &usize| {
            self.tiles.part(tile).len() == first && (self.columns(tile).end - 1) / self.pixels == image
        };
        let others = (start + 1..tiles.end.min(start + most)).take_while(alike).count();
        start..start + 1 + others
    }

    /// Whether complete sums need nothing but a residual and a clamp, and lie in rows of the output.
    fn goes_straight(&self) -> bool {
        let clamps = self.epilogue.activation.bounds().is_some();
        clamps && self.y_layout == Layout::FeatureMajor && self.spmm.panels.across > 0
    }

    /// Where sums of some rows and columns go as they are complete, if that is straight to one image.
    #[inline(always)]
    fn output<S: Simd>(&self, simd: S, rows: &Range<usize>, columns: &Range<usize>) -> Option<Output<S>> {
        let (image, pixel) = (columns.start / self.pixels, columns.start % self.pixels);
        let Epilogue { residual, activation, .. } = *self.epilogue;
        let (min, max) = activation.bounds()?;
        if !self.goes_straight() || pixel + columns.len() > self.pixels {
            return None;
        }
        let at = (image * self.spmm.m + rows.start) * self.pixels + pixel;
        Some(Output {
            y: self.y.get().wrapping_add(at),
            residual: residual.map_or(std::ptr::null(), |residual| residual[at..].as_ptr()),
            stride: self.pixels,
            cols: columns.len(),
            limits: [splat(simd, min), splat(simd, max)],
        })
    }

    /// Residual, activation and layout of a block of rows whose sums, bias included, are complete.
    ///
    /// # Safety
    /// No other thread may touch that part of `y`.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, sums: &[f32], rows: Range<usize>, columns: Range<usize>) {
        let (width, m, pixels) = (self.spmm.panels.shape.width, self.spmm.m, self.pixels);
        // SAFETY: `rows × columns` of `y` are this thread's, whatever image they are of; sums hold the block.
        unsafe {
            if self.y_layout == Layout::TokenMajor {
                let dst = self.y.get().add(columns.start * m + rows.start);
                transpose(simd, sums.as_ptr(), width, [rows.len(), columns.len()], dst, m);
                let Epilogue { residual, activation, .. } = *self.epilogue;
                if residual.is_none() && activation == super::Activation::None {
                    return;
                }
                for column in columns {
                    let at = column * m + rows.start;
                    self.finish_line(simd, self.y.get().add(at), at, rows.len());
                }
                return;
            }
            // The columns of one image after those of another.
            let mut start = columns.start;
            while start < columns.end {
                let (image, pixel) = (start / pixels, start % pixels);
                let len = (columns.end - start).min(pixels - pixel);
                for (i, row) in rows.clone().enumerate() {
                    let src = sums.as_ptr().add(i * width + start - columns.start);
                    self.finish_line(simd, src, (image * m + row) * pixels + pixel, len);
                }
                start += len;
            }
        }
    }

    /// Writes `len` sums, which may lie there already, to element `at` of `y` and the following.
    ///
    /// # Safety
    /// `src` must hold as many elements; those of `y` must be this thread's.
    #[inline(always)]
    unsafe fn finish_line<S: Simd>(&self, simd: S, src: *const f32, at: usize, len: usize) {
        let Epilogue { residual, activation, .. } = *self.epilogue;
        let bounds = activation.bounds();
        let [min, max] = bounds.map_or([f32::NEG_INFINITY, f32::INFINITY], |(min, max)| [min, max]);
        let limits = [splat(simd, min), splat(simd, max)];
        let ops = simd.f32();
        let clamps = bounds.is_some() && activation != super::Activation::None;
        // SAFETY: by the caller; a residual is as long as `y`.
        unsafe {
            let y = self.y.get().add(at);
            let residual = residual.map(|r| r.as_ptr().add(at));
            let whole = len / S::LANES * S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                let mut sum = ops.load_ptr(src.add(at));
                if let Some(residual) = residual {
                    sum = ops.add(sum, ops.load_ptr(residual.add(at)));
                }
                if clamps {
                    sum = simd.clamp(sum, limits);
                }
                ops.store_ptr(sum, y.add(at));
            }
            let rest = len - whole;
            if rest > 0 {
                let mut sum = simd.load_first(src.add(whole), rest);
                if let Some(residual) = residual {
                    sum = ops.add(sum, simd.load_first(residual.add(whole), rest));
                }
                simd.store_first(simd.clamp(sum, limits), y.add(whole), rest);
            }
            if activation.rounds() {
                activation.round(simd, y, 0, [1, len]);
            } else if bounds.is_none() {
                activation.apply(std::slice::from_raw_parts_mut(y, len));
            }
        }
    }
}
