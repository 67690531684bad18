//! Dense 3×3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray, "Fast
//! Algorithms for Convolutional Neural Networks", CVPR 2016).
//!
//! What a square of 4×4 outputs reads, 6×6 inputs, is transformed, as the filters were when they were packed; each of the 36 elements
//! is a product of its own over the channels; sums are transformed back. Tiles run along the lanes, so that the products are
//! those of the dense kernel, and windows are packed as the im2col matrix of a 6×6 convolution with stride 4 is. A packed weight takes
//! four times the bytes.
//!
//! Where one input is infinite, NaN or many orders greater than its neighbours, all outputs of its tiles are NaN or lose
//! precision, not only those that read it.

mod transform;

use std::ops::Range;

use poda_formats::storage::AlignedBytes;
use smallvec::SmallVec;

use super::tile::{Floats, Operands, Output, block};
use super::{PARALLEL, cuts, dense_values};
use crate::kernels::{Call, Epilogue, Layout, Packed, Params, Problem, Right, Sums, WeightMatrix};
use crate::packing::image::PaddedImage;
use crate::packing::scratch::Scratch;
use crate::packing::tile::Rows;
use crate::simd::{Simd, Supported, Vectorized, splat};
use crate::threads::{self, Split, SyncPtr};
use transform::{POINTS, TILE};

/// Channels whose windows are packed before they are transformed: 36 KiB, in vectors of 16.
const CHANNELS: usize = 8;
/// Fewest channels in and out for which the transforms can pay.
const LEAST: usize = 8;

/// Most bytes of a packed weight that is multiplied with few pixels: a larger one is read from memory in every run, in which four times
/// the bytes cost more than the multiplications that are saved, although no cache is that cold when a kernel is timed again and again.
/// (512 to 512 channels at 4×25, 36 MiB: 1.9 ms so, 7.0 in a network, the direct product 2.0. 256 to 256 at 14×14, 9 MiB: 0.65, 0.92
/// and 1.25. Zen 4, two threads, 2026-11-30.)
const CACHED: usize = 12 << 20;
/// Pixels that pay for reading any weight from memory.
const MANY: usize = 1024;

/// A weight `[m, channels · 9]`, transformed.
struct Winograd {
    m: usize,
    channels: usize,
    level: Supported,
    /// For each of the 36 points panels of up to a tile's rows, each `[channels][rows]`.
    panels: AlignedBytes,
    /// First row of each panel, and `m`.
    starts: Vec<usize>,
}

/// Whether it is a 3×3 convolution without stride of more than a few channels. Weights that are whole numbers stand for a quantised
/// product, whose sums must come out whole.
pub(in crate::kernels) fn fits(weight: &WeightMatrix, problem: &Problem) -> bool {
    let Some(conv) = &problem.conv else { return false };
    let Ok([m, _]) = weight.shape() else { return false };
    let shape = [conv.kernel(), conv.stride(), conv.dilation()] == [[3; 2], [1; 2], [1; 2]];
    shape
        && problem.sums == Sums::Near
        && problem.y_layout == Layout::FeatureMajor
        && m.min(conv.channels()) >= LEAST
        && conv.output().iter().all(|&side| side >= TILE)
        && (conv.n() >= MANY || POINTS * m * conv.channels() * size_of::<f32>() <= CACHED)
        && !weight.is_whole()
}

/// Packs a weight for `level`.
pub(in crate::kernels) fn prepare(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    struct TileRows;
    impl Vectorized for TileRows {
        type Output = usize;

        fn eval<S: Simd>(self, _: S) -> usize {
            S::TILE_ROWS
        }
    }
    let [m, k] = weight.shape().expect("checked by PackedWeight");
    let channels = k / 9;
    let starts: Vec<usize> = cuts(m, level.run(TileRows)).map(|cut| cut.start).chain([m]).collect();
    let mut panels = AlignedBytes::zeroed(POINTS * m * channels * size_of::<f32>());
    let out: &mut [f32] = bytemuck::cast_slice_mut(&mut panels);
    let values = dense_values(weight);
    for range in starts.windows(2) {
        let (start, rows) = (range[0], range[1] - range[0]);
        for (row, channel) in (0..rows).flat_map(|row| (0..channels).map(move |c| (row, c))) {
            let points = transform::filter(&values[(start + row) * k + channel * 9..][..9]);
            let at = start * channels + channel * rows + row;
            points.into_iter().enumerate().for_each(|(i, point)| out[i * m * channels + at] = point);
        }
    }
    Box::new(Winograd { m, channels, level, panels, starts })
}

/// Estimated cycles: a quarter of the multiplications, with what tiles hold beyond the image, and the transforms.
pub(in crate::kernels) fn cost(weight: &WeightMatrix, problem: &Problem) -> f64 {
    let ([m, k], lanes) = (weight.shape().unwrap_or_default(), Supported::best().lanes());
    let tiles = problem.conv.as_ref().map_or(0, |conv| conv.tiled(TILE).n());
    let vectors = tiles.div_ceil(lanes) as f64;
    vectors * ((POINTS * m * k / 9) as f64 / 1.7 + 6.0 * (POINTS * (m + k / 9)) as f64)
}

impl Packed for Winograd {
    fn run(&self, call: Call<'_>) {
        let Call { n, x, y, y_layout, epilogue, threads } = call;
        let Right::Image(image) = x else { unreachable!("windows of 3×3 are an image's") };
        assert_eq!(y_layout, Layout::FeatureMajor, "fitted for no other");
        let [pixels, columns] = [image.output(), image.columns()].map(|[h, w]| h * w);
        let tiles = n / pixels * columns;
        let parts = threads.count().min(self.m * self.channels * n / PARALLEL).max(1);
        let job = Job { weight: self, image, y: SyncPtr(y.as_mut_ptr()), pixels, epilogue };
        let multiply = || job.multiply(tiles, parts);
        if parts == 1 { multiply() } else { threads.install(multiply) }
    }

    fn bytes(&self) -> usize {
        self.panels.len()
    }

    fn tile(&self) -> usize {
        TILE
    }

    fn takes_images(&self) -> bool {
        true
    }
}

/// One convolution, seen by all its parts.
struct Job<'a> {
    weight: &'a Winograd,
    image: &'a PaddedImage<'a>,
    /// `[images, m, pixels]`
    y: SyncPtr,
    pixels: usize,
    epilogue: &'a Epilogue<'a>,
}

/// Panels of the weight times some tiles.
struct Part<'a> {
    job: &'a Job<'a>,
    panels: Range<usize>,
    tiles: Range<usize>,
}

/// Tiles of one line of an image, next to one another.
struct Run {
    /// Of those that are worked on, the first, and how many they are.
    first: usize,
    count: usize,
    image: usize,
    /// The first output.
    y: usize,
    x: usize,
}

impl Job<'_> {
    fn multiply(&self, tiles: usize, parts: usize) {
        let Winograd { level, starts, .. } = self.weight;
        let (lanes, panels) = (level.lanes(), starts.len() - 1);
        let vectors = tiles.div_ceil(lanes);
        // Threads share the tiles, or else the weight, and then each transforms all inputs.
        let by_tiles = vectors.is_multiple_of(2 * parts) || vectors >= 6 * parts || panels < 2 * parts;
        let split = Split::even(if by_tiles { vectors } else { panels }, parts);
        threads::for_each(split.parts(), 1, |i| {
            let (panels, vectors) =
                if by_tiles { (0..panels, split.part(i)) } else { (split.part(i), 0..vectors) };
            let tiles = vectors.start * lanes..tiles.min(vectors.end * lanes);
            level.run(Part { job: self, panels, tiles });
        });
    }

    /// The lines that tiles belong to.
    fn runs(&self, tiles: Range<usize>) -> SmallVec<[Run; 16]> {
        let [down, across] = self.image.columns();
        let mut runs = SmallVec::new();
        let mut tile = tiles.start;
        while tile < tiles.end {
            let (image, line, column) = (tile / (down * across), tile / across % down, tile % across);
            let count = (across - column).min(tiles.end - tile);
            runs.push(Run { first: tile - tiles.start, count, image, y: line * TILE, x: column * TILE });
            tile += count;
        }
        runs
    }
}

impl Vectorized for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Self { job, panels, tiles } = self;
        let Winograd { m, channels, ref starts, .. } = *job.weight;
        let filters: &[f32] = bytemuck::cast_slice(&job.weight.panels);
        let most = S::TILE_VECTORS * S::LANES;
        // One buffer for all: of several some would be taken by smaller ones the next time, and made anew for larger ones.
        let lens = [CHANNELS * POINTS, POINTS * channels, POINTS * S::TILE_ROWS, TILE * TILE]
            .map(|rows| rows * most);
        let mut scratch = Scratch::new(lens.iter().sum());
        let (windows, rest) = scratch.split_at_mut(lens[0]);
        let (inputs, rest) = rest.split_at_mut(lens[1]);
        let (sums, lines) = rest.split_at_mut(lens[2]);
        for start in tiles.clone().step_by(most) {
            let chosen = start..tiles.end.min(start + most);
            let vectors = if chosen.len() <= S::LANES { 1 } else { S::TILE_VECTORS };
            let width = vectors * S::LANES;
            for first in (0..channels).step_by(CHANNELS) {
                let count = CHANNELS.min(channels - first);
                let rows = Rows::Range { start: first * POINTS, end: (first + count) * POINTS };
                // SAFETY: `windows` holds `count · POINTS` rows of `width`, `inputs` `POINTS` matrices of `channels` rows of `width`.
                unsafe {
                    job.image.pack(simd, rows, chosen.clone(), width, windows.as_mut_ptr());
                    for (c, v) in (0..count).flat_map(|c| (0..vectors).map(move |v| (c, v * S::LANES))) {
                        let d = windows.as_ptr().add(c * POINTS * width + v);
                        let to = inputs.as_mut_ptr().add((first + c) * width + v);
                        transform::input(simd, d, width, to, channels * width);
                    }
                }
            }
            let runs = job.runs(chosen);
            for panel in panels.clone() {
                let (first, rows) = (starts[panel], starts[panel + 1] - starts[panel]);
                for point in 0..POINTS {
                    let a = &filters[(point * m + first) * channels..][..rows * channels];
                    // SAFETY: `a` is `[channels][rows]`, `inputs` and `sums` hold as many rows of `width` for each point. (What is
                    // asked for ahead may lie beyond the end.)
                    unsafe {
                        let operands = Operands {
                            k: channels,
                            a: a.as_ptr(),
                            a_row: 1,
                            a_k: rows,
                            b: inputs.as_ptr().add(point * channels * width),
                            b_panel: 0,
                            b_k: width,
                            next: a.as_ptr().wrapping_add(m * channels),
                            next_k: rows,
                        };
                        let c = sums.as_mut_ptr().add(point * rows * width);
                        let output = Output { c, stride: width, cols: width, first: true, finish: None };
                        block(simd, Floats, [rows, vectors], operands, output);
                    }
                }
                for row in 0..rows {
                    let (channel, bounds) = (first + row, job.early_bounds());
                    let bias = job.epilogue.bias.map_or(0.0, |bias| bias[channel]);
                    for v in 0..vectors {
                        // SAFETY: `sums` holds a row of `width` for each row and point, `lines` four times `TILE` such rows.
                        unsafe {
                            let m = sums.as_ptr().add(row * width + v * S::LANES);
                            let out = lines.as_mut_ptr().add(TILE * v * S::LANES);
                            transform::output(simd, m, rows * width, bias, bounds, out, TILE * width);
                        }
                    }
                    // SAFETY: `lines` was just written, and the outputs of these rows and tiles are this part's.
                    unsafe { job.finish(simd, lines, TILE * width, channel, &runs) };
                }
            }
        }
    }
}

impl Job<'_> {
    /// What sums are clamped to before a residual is added: nothing, if there is one.
    fn early_bounds(&self) -> (f32, f32) {
        let bounds = self.epilogue.activation.bounds().filter(|_| self.epilogue.residual.is_none());
        bounds.unwrap_or((f32::NEG_INFINITY, f32::INFINITY))
    }

    /// Does what remains of the epilogue of one channel and writes its outputs. `lines` has line `i` of all tiles at `i · stride`.
    ///
    /// # Safety
    /// `lines` must hold [`TILE`] lines that long, `channel` and `runs` be of this convolution, and no other thread touch their outputs.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        lines: &mut [f32],
        stride: usize,
        channel: usize,
        runs: &[Run],
    ) {
        let Epilogue { residual, activation, .. } = *self.epilogue;
        let residual = residual.map(<[f32]>::as_ptr);
        // Where the activation is more than a clamp the residual is added first, and then it is applied to all lines at once.
        let clamps = activation.bounds();
        if let (Some(residual), None) = (residual, clamps) {
            for Piece { line, at, len } in self.pieces(channel, runs, stride) {
                // SAFETY: by the caller `lines` has these elements, and the residual, which is as long as `y`.
                unsafe {
                    let line = lines.as_mut_ptr().add(line);
                    sum(simd, line, residual.add(at), (f32::NEG_INFINITY, f32::INFINITY), line, len);
                }
            }
        }
        if clamps.is_none() {
            activation.apply(&mut lines[..TILE * stride]);
        }
        for Piece { line, at, len } in self.pieces(channel, runs, stride) {
            // SAFETY: as above; nobody else writes these outputs.
            unsafe {
                let (line, to) = (lines.as_ptr().add(line), self.y.get().add(at));
                match (residual, clamps) {
                    (Some(residual), Some(bounds)) => sum(simd, line, residual.add(at), bounds, to, len),
                    _ => copy(simd, line, to, len),
                }
            }
        }
    }

    /// Where the lines of tiles go that belong to outputs of a channel.
    fn pieces(&self, channel: usize, runs: &[Run], stride: usize) -> impl Iterator<Item = Piece> {
        let [height, width] = self.image.output();
        let (m, pixels) = (self.weight.m, self.pixels);
        runs.iter().flat_map(move |&Run { first, count, image, y, x }| {
            let (at, len) = ((image * m + channel) * pixels + y * width + x, (count * TILE).min(width - x));
            (0..TILE.min(height - y)).map(move |i| Piece {
                line: i * stride + first * TILE,
                at: at + i * width,
                len,
            })
        })
    }
}

/// Outputs next to one another.
struct Piece {
    /// Where they are among the lines of tiles.
    line: usize,
    /// Where they belong in `y`.
    at: usize,
    len: usize,
}

/// Copies `len` elements.
///
/// # Safety
/// They must be readable and writable.
#[inline(always)]
unsafe fn copy<S: Simd>(simd: S, from: *const f32, to: *mut f32, len: usize) {
    for i in (0..len).step_by(S::LANES) {
        let lanes = S::LANES.min(len - i);
        // SAFETY: by the caller.
        unsafe { simd.store_first(simd.load_first(from.add(i), lanes), to.add(i), lanes) };
    }
}

/// `to = clamp(a + b)`, `len` elements each.
///
/// # Safety
/// They must be readable and writable.
#[inline(always)]
unsafe fn sum<S: Simd>(
    simd: S,
    a: *const f32,
    b: *const f32,
    (min, max): (f32, f32),
    to: *mut f32,
    len: usize,
) {
    use rten_simd::ops::NumOps;
    let bounds = [splat(simd, min), splat(simd, max)];
    for i in (0..len).step_by(S::LANES) {
        let lanes = S::LANES.min(len - i);
        // SAFETY: by the caller.
        unsafe {
            let sum = simd.f32().add(simd.load_first(a.add(i), lanes), simd.load_first(b.add(i), lanes));
            simd.store_first(simd.clamp(sum, bounds), to.add(i), lanes);
        }
    }
}
