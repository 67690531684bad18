//! One thread's share of a dense product: packs `X` and walks over its tiles.

use std::ops::Range;

use super::tile::{Arithmetic, Finish, Floats, Operands, Output, block, few_rows};
use super::{Lanes, Left, cuts};
use crate::kernels::{Epilogue, Layout, Right};
use crate::packing::scratch::Scratch;
use crate::packing::tile::{Rows, pack_tiles};
use crate::packing::transpose::transpose;
use crate::simd::{Simd, Supported, Vectorized};
use crate::threads::SyncPtr;

/// Steps along `k` before partial sums go to memory: bounds the packed part of `X` to what L2 holds.
const DEPTH: usize = 1024;
/// Columns of `X` that are packed at a time, where the weight does not stay in cache anyway.
const COLUMNS: usize = 128;
/// Bytes of packed columns that stay close while the rows of the output pass by.
const PACKED: usize = 128 << 10;
/// Bytes of weight that stay in L2 while column tiles pass by.
const RESIDENT: usize = 512 << 10;

/// What the elements of a product stand for.
pub(super) trait Elements: Copy + Sync {
    /// How sums are made where features are rows of the output, and where they run along its lanes.
    type ByRow: Copy;
    #[allow(missing_docs)]
    type ByLane: Copy;

    /// At that feature and column.
    fn by_row(self, feature: usize, column: usize) -> Self::ByRow;

    /// At that feature and column.
    fn by_lane(self, feature: usize, column: usize) -> Self::ByLane;

    /// Computes a part with the instructions that this takes.
    fn run(self, level: Supported, part: Part<'_, Self>);
}

impl Elements for Floats {
    type ByRow = Self;
    type ByLane = Self;

    #[inline(always)]
    fn by_row(self, _: usize, _: usize) -> Self {
        self
    }

    #[inline(always)]
    fn by_lane(self, _: usize, _: usize) -> Self {
        self
    }

    fn run(self, level: Supported, part: Part<'_, Self>) {
        level.run(part);
    }
}

/// One product, seen by all its parts.
pub(super) struct Job<'a, E> {
    pub(super) elements: E,
    pub(super) left: Left<'a>,
    pub(super) n: usize,
    pub(super) x: Right<'a>,
    pub(super) y: SyncPtr,
    pub(super) epilogue: &'a Epilogue<'a>,
}

/// Panels of the weight times columns of `X`.
pub(super) struct Part<'a, E> {
    pub(super) job: &'a Job<'a, E>,
    pub(super) panels: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Vectorized for Part<'_, Floats> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        self.multiply(simd);
    }
}

impl<E: Elements> Part<'_, E> {
    #[inline(always)]
    pub(super) fn multiply<S: Simd>(self, simd: S)
    where
        E::ByRow: Arithmetic<S>,
        E::ByLane: Arithmetic<S>,
    {
        // SAFETY: `PackedWeight::run` checked the lengths of `x`, `y`, bias and residual; parts are disjoint.
        unsafe {
            match self.job.left.lanes {
                Lanes::Features => self.features(simd),
                Lanes::Columns => self.columns(simd),
            }
        }
    }

    /// # Safety
    /// See `multiply`.
    #[inline(always)]
    unsafe fn features<S: Simd>(self, simd: S)
    where
        E::ByLane: Arithmetic<S>,
    {
        let Self { job, panels, columns } = self;
        let Left { m, k, starts, .. } = job.left;
        let Right::Matrix { data, layout } = job.x else { unreachable!("images are unrolled before") };
        // Strides of X by token and by feature.
        let [token, feature] = if layout == Layout::TokenMajor { [k, 1] } else { [1, job.n] };
        let width = S::TILE_VECTORS * S::LANES;
        let groups = cuts(columns.len(), S::TILE_ROWS);
        // Few tokens are read where they lie; more are packed, so that one pointer reaches them all.
        let pack = columns.len() > 3;
        let depths = cuts(k, DEPTH);
        let deepest = depths.clone().map(|depth| depth.len()).max().unwrap_or(0);
        let mut packed = Scratch::new(if pack { columns.len() * deepest } else { 0 });
        for depth in depths {
            let steps = depth.len();
            let (first, last) = (depth.start == 0, depth.end == k);
            if pack {
                for group in groups.clone() {
                    let rows = group.len();
                    // SAFETY: tokens and features lie within X; the group's part of the scratch is `steps · rows` long.
                    unsafe {
                        let src =
                            data.as_ptr().add((columns.start + group.start) * token + depth.start * feature);
                        let dst = packed.as_mut_ptr().add(group.start * steps);
                        if layout == Layout::TokenMajor {
                            transpose(simd, src, k, [rows, steps], dst, rows);
                        } else {
                            for i in 0..steps {
                                let row = simd.load_first(src.add(i * feature), rows);
                                simd.store_first(row, dst.add(i * rows), rows);
                            }
                        }
                    }
                }
            }
            let mut panel = panels.start;
            while panel < panels.end {
                // With few tokens, several panels at once keep enough sums in flight.
                let together = match columns.len() {
                    1 => 4,
                    2 | 3 => 2,
                    _ => 1,
                };
                let together = if panel + together <= panels.end { together } else { 1 };
                let cols = starts[panel + together] - starts[panel];
                // The next panel comes from further away than this one, which stays near: its lines are asked for meanwhile.
                let next = job.left.next_panel(panel + together - 1, depth.start, width);
                for (i, group) in groups.clone().enumerate() {
                    let rows = group.len();
                    let at = (columns.start + group.start) * m + starts[panel];
                    let arithmetic = job.elements.by_lane(starts[panel], columns.start + group.start);
                    // SAFETY: the panels hold `steps` steps from `depth.start`, X the group's tokens, and `y` their features.
                    unsafe {
                        let a = if pack {
                            packed.as_ptr().add(group.start * steps)
                        } else {
                            data.as_ptr().add((columns.start + group.start) * token + depth.start * feature)
                        };
                        let operands = Operands {
                            k: steps,
                            a,
                            a_row: token,
                            a_k: feature,
                            b: job.left.panel(panel, depth.start, width),
                            b_panel: width * k,
                            b_k: width,
                            next: next.wrapping_add(i.min(1) * steps * S::LANES),
                            next_k: S::LANES,
                        };
                        let bias =
                            job.epilogue.bias.map_or(std::ptr::null(), |bias| bias[starts[panel]..].as_ptr());
                        let finish = last.then(|| job.finish(at, std::ptr::null(), bias));
                        let c = job.y.get().add(at);
                        let output = Output { c, stride: m, cols, first, finish };
                        let size = [rows, together * S::TILE_VECTORS];
                        if pack {
                            block(simd, arithmetic, size, operands, output);
                        } else {
                            few_rows(simd, arithmetic, size, operands, output);
                        }
                    }
                }
                panel += together;
            }
        }
        let features = starts[panels.start]..starts[panels.end];
        // SAFETY: these elements of `y` are this part's.
        unsafe { job.activate(columns, features, m) };
    }

    /// # Safety
    /// See `multiply`.
    #[inline(always)]
    unsafe fn columns<S: Simd>(self, simd: S)
    where
        E::ByRow: Arithmetic<S>,
    {
        let Self { job, panels, columns } = self;
        let (Left { k, starts, .. }, n) = (job.left, job.n);
        let width = S::TILE_VECTORS * S::LANES;
        let rows = starts[panels.start]..starts[panels.end];
        let resident = rows.len() * k * size_of::<f32>() <= RESIDENT;
        let depths = cuts(k, if resident { 4 * DEPTH } else { DEPTH });
        let steps = depths.clone().map(|depth| depth.len()).max().unwrap_or(0);
        // Long runs of each output row, as far as the packed columns stay near: 128 KiB (at k = 16, twice the speed of one tile).
        let chunk = ((PACKED / (steps.max(1) * size_of::<f32>())).clamp(width, 1024) / width * width)
            .max(if resident { width } else { COLUMNS });
        // For few rows of output, packing X costs more than reading it where it lies.
        let direct = match job.x {
            Right::Matrix { data, layout: Layout::FeatureMajor } if panels.len() <= 2 => Some(data),
            _ => None,
        };
        let mut packed = Scratch::new(steps * chunk);
        for start in columns.clone().step_by(chunk) {
            let end = columns.end.min(start + chunk);
            for depth in depths.clone() {
                let steps = depth.len();
                let lies = |at: usize| direct.filter(|_| at + width <= end);
                let from = if direct.is_some() { end - (end - start) % width } else { start };
                let range = Rows::Range { start: depth.start, end: depth.end };
                // SAFETY: each tile's part of the scratch is `steps · width` long.
                unsafe {
                    let dst = packed.as_mut_ptr().add((from - start) * steps);
                    pack_tiles(simd, &job.x, [k, n], range, from..end, width, dst);
                }
                for panel in panels.clone() {
                    let row = starts[panel];
                    let rows = starts[panel + 1] - row;
                    for at in (start..end).step_by(width) {
                        let cols = width.min(end - at);
                        let arithmetic = job.elements.by_row(row, at);
                        // SAFETY: as above; the panel holds `steps` steps from `depth.start`, and `y` the rows' columns.
                        unsafe {
                            let (b, b_k) = match lies(at) {
                                Some(data) => (data.as_ptr().add(depth.start * n + at), n),
                                None => (packed.as_ptr().add((at - start) * steps), width),
                            };
                            let a = job.left.panel(panel, depth.start, rows);
                            let next = job.left.next_panel(panel, depth.start, rows);
                            let operands = Operands {
                                k: steps,
                                a,
                                a_row: 1,
                                a_k: rows,
                                b,
                                b_panel: 0,
                                b_k,
                                next,
                                next_k: rows,
                            };
                            let bias =
                                job.epilogue.bias.map_or(std::ptr::null(), |bias| bias[row..].as_ptr());
                            let finish =
                                (depth.end == k).then(|| job.finish(row * n + at, bias, std::ptr::null()));
                            let c = job.y.get().add(row * n + at);
                            let output = Output { c, stride: n, cols, first: depth.start == 0, finish };
                            let vectors = if cols <= S::LANES { 1 } else { S::TILE_VECTORS };
                            block(simd, arithmetic, [rows, vectors], operands, output);
                        }
                    }
                }
            }
            // SAFETY: these elements of `y` are this part's.
            unsafe { job.activate(rows.clone(), start..end, n) };
        }
    }
}

impl<E> Job<'_, E> {
    /// The epilogue of the block at element `at` of `y`.
    fn finish(&self, at: usize, row_bias: *const f32, lane_bias: *const f32) -> Finish<'_> {
        let Epilogue { residual, activation, .. } = *self.epilogue;
        Finish {
            row_bias,
            lane_bias,
            residual: residual.map_or(std::ptr::null(), |r| r[at..].as_ptr()),
            bounds: activation.bounds().unwrap_or((f32::NEG_INFINITY, f32::INFINITY)),
            activation: &self.epilogue.activation,
        }
    }

    /// Applies an activation that is more than a clamp or a rounding to a part of `y`.
    ///
    /// # Safety
    /// No other thread may touch the part.
    unsafe fn activate(&self, rows: Range<usize>, cols: Range<usize>, stride: usize) {
        let activation = self.epilogue.activation;
        if activation.bounds().is_none() && !activation.rounds() {
            for row in rows {
                // SAFETY: a part of row `row` of `y`, which is this thread's.
                let y = unsafe {
                    std::slice::from_raw_parts_mut(self.y.get().add(row * stride + cols.start), cols.len())
                };
                activation.apply(y);
            }
        }
    }
}
