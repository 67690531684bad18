//! Dense product, one or many columns, with the weight packed once.
//!
//! The contiguous side of the output runs along the vector lanes. Token-major outputs have their features there, so the
//! weight is packed as vectors, and elements of `X` are broadcast ([`Lanes::Features`]); this also serves few columns, down
//! to a matrix × vector product that streams the weight once. Feature-major outputs with many columns have those along the
//! lanes: vectors of `X`, broadcast weights ([`Lanes::Columns`]).
//!
//! Blocking: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", TOMS 2008, with sums in registers
//! for up to [`DEPTH`] steps.

use std::ops::Range;

use poda_formats::storage::AlignedBytes;

use super::gemm_tile::{Finish, Operands, Output, block, few_rows};
use super::simd::{Level, Simd, Vectorized};
use super::{Call, Epilogue, Layout, Packed, Params, Problem, WeightMatrix, X};
use crate::packing::im2col;
use crate::packing::scratch::Scratch;
use crate::packing::tile::{Rows, pack_tile};
use crate::packing::transpose::{transpose, transpose_matrix};
use crate::threads::{Split, SyncPtr};

/// Steps along `k` before partial sums go to memory: bounds the packed part of `X` to what L2 holds.
const DEPTH: usize = 1024;
/// Columns of `X` that are packed at a time, where the weight does not stay in cache anyway.
const COLUMNS: usize = 128;
/// Bytes of packed columns that stay close while the rows of the output pass by.
const PACKED: usize = 128 << 10;
/// Bytes of weight that stay in L2 while column tiles pass by.
const RESIDENT: usize = 512 << 10;
/// Multiply-adds below which another thread does not pay.
const PARALLEL: usize = 1 << 18;

/// What runs along the vector lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lanes {
    Features,
    Columns,
}

/// A dense weight `[m, k]`.
struct Gemm {
    m: usize,
    k: usize,
    level: Level,
    lanes: Lanes,
    /// `Features`: panels of a tile's width, each `[k][width]`, zeros beyond `m`.
    /// `Columns`: panels of up to a tile's rows, each `[k][rows]`.
    panels: AlignedBytes,
    /// First row of each panel, and `m`.
    starts: Vec<usize>,
}

/// Packs a weight for `level`.
pub(super) fn prepare(weight: &WeightMatrix, problem: &Problem, level: Level, _: Params) -> Box<dyn Packed> {
    struct Pack<'a>(&'a [f32], [usize; 2], Lanes, Level);
    impl Vectorized for Pack<'_> {
        type Output = Gemm;

        #[inline(always)]
        fn eval<S: Simd>(self, simd: S) -> Gemm {
            let Self(weight, shape, lanes, level) = self;
            Gemm::pack(simd, weight, shape, lanes, level)
        }
    }
    let shape = weight.shape().expect("checked by PackedWeight");
    let few = problem.n < 4 * level.lanes();
    let lanes =
        if problem.y_layout == Layout::FeatureMajor && !few { Lanes::Columns } else { Lanes::Features };
    Box::new(match weight {
        WeightMatrix::Dense(tensor) => {
            level.run(Pack(tensor.as_slice().expect("checked by PackedWeight"), shape, lanes, level))
        }
        WeightMatrix::Csr(csr) => {
            level.run(Pack(&csr.to_dense().expect("checked by PackedWeight"), shape, lanes, level))
        }
    })
}

impl Gemm {
    #[inline(always)]
    fn pack<S: Simd>(simd: S, weight: &[f32], [m, k]: [usize; 2], lanes: Lanes, level: Level) -> Self {
        let width = S::TILE_VECTORS * S::LANES;
        let starts: Vec<usize> = match lanes {
            Lanes::Features => (0..m).step_by(width).chain([m]).collect(),
            Lanes::Columns => even(m, S::TILE_ROWS),
        };
        let len = match lanes {
            Lanes::Features => m.next_multiple_of(width) * k,
            Lanes::Columns => m * k,
        };
        let mut panels = AlignedBytes::zeroed(len * size_of::<f32>());
        let out: &mut [f32] = bytemuck::cast_slice_mut(&mut panels);
        for range in starts.windows(2) {
            let (start, rows) = (range[0], range[1] - range[0]);
            let stride = if lanes == Lanes::Features { width } else { rows };
            let (src, dst) = (&weight[start * k..][..rows * k], &mut out[start * k..][..stride * k]);
            // SAFETY: `src` holds `rows` rows of `k`, `dst` `k` rows of `stride >= rows`.
            unsafe { transpose(simd, src.as_ptr(), k, [rows, k], dst.as_mut_ptr(), stride) };
        }
        Self { m, k, level, lanes, panels, starts }
    }

    /// Elements of panel `i`, from step `depth` on.
    fn panel(&self, i: usize, depth: usize, stride: usize) -> *const f32 {
        let panels: &[f32] = bytemuck::cast_slice(&self.panels);
        panels[self.starts[i] * self.k + depth * stride..].as_ptr()
    }
}

/// `0..len` in as few parts of at most `most` as possible, of nearly equal length: where they start, and `len`.
fn even(len: usize, most: usize) -> Vec<usize> {
    let parts = len.div_ceil(most).max(1);
    (0..=parts).map(|i| i * len / parts).collect()
}

impl Packed for Gemm {
    fn run(&self, mut call: Call<'_>) {
        let transposed = match (self.lanes, call.y_layout) {
            (Lanes::Features, Layout::TokenMajor) | (Lanes::Columns, Layout::FeatureMajor) => false,
            // A single row or column is the same in both layouts.
            _ => call.n > 1 && self.m > 1,
        };
        if transposed {
            return self.run_transposed(call);
        }
        match (call.x, self.lanes) {
            (X::Image { data, geometry }, Lanes::Features) if !geometry.is_pointwise() => {
                let mut matrix = Scratch::new(geometry.k() * geometry.n());
                im2col(data, geometry, &mut matrix);
                let x = X::Matrix { data: &matrix, layout: Layout::FeatureMajor };
                self.dispatch(&mut Call { x, ..call });
            }
            (X::Image { data, geometry }, _) if geometry.is_pointwise() => {
                self.dispatch(&mut Call { x: X::Matrix { data, layout: Layout::FeatureMajor }, ..call });
            }
            _ => self.dispatch(&mut call),
        }
    }

    fn bytes(&self) -> usize {
        self.panels.len()
    }
}

impl Gemm {
    /// Into scratch in the layout that this packing writes, then over to the one asked for.
    fn run_transposed(&self, call: Call<'_>) {
        let Call { n, x, y: out, y_layout, epilogue, threads } = call;
        let (natural, shape) = match y_layout {
            Layout::FeatureMajor => (Layout::TokenMajor, [n, self.m]),
            Layout::TokenMajor => (Layout::FeatureMajor, [self.m, n]),
        };
        let Epilogue { bias, residual, activation } = *epilogue;
        let fused = if residual.is_some() { Epilogue { bias, ..Epilogue::default() } } else { *epilogue };
        let mut y = Scratch::new(out.len());
        self.run(Call {
            n,
            x,
            y: &mut y,
            y_layout: natural,
            epilogue: &Epilogue { residual: None, ..fused },
            threads,
        });
        transpose_matrix(&y, shape, out);
        if let Some(residual) = residual {
            for (y, r) in out.iter_mut().zip(residual) {
                *y += r;
            }
            activation.apply(out);
        }
    }

    /// Splits the work over threads and runs each part with vectors.
    fn dispatch(&self, call: &mut Call<'_>) {
        let macs = self.m * self.k * call.n;
        let parts = call.threads.count().min(macs / PARALLEL).max(1);
        let width = 2 * self.level.lanes();
        let (panels, columns) = (
            self.starts.len() - 1,
            match self.lanes {
                Lanes::Features => call.n,
                Lanes::Columns => call.n.div_ceil(width),
            },
        );
        // Parts either share the weight or share X: the weight when there are columns enough for all.
        let by_columns = match self.lanes {
            Lanes::Features => panels < 2 * parts,
            Lanes::Columns => columns >= 4 * parts || panels < 2 * parts,
        };
        let split = if by_columns { Split::even(columns, parts) } else { Split::even(panels, parts) };
        let job = Job {
            gemm: self,
            n: call.n,
            x: call.x,
            y: SyncPtr(call.y.as_mut_ptr()),
            epilogue: call.epilogue,
        };
        call.threads.for_each(split.parts(), |i| {
            let (panels, columns) =
                if by_columns { (0..panels, split.part(i)) } else { (split.part(i), 0..columns) };
            let columns = match self.lanes {
                Lanes::Features => columns,
                Lanes::Columns => columns.start * width..call.n.min(columns.end * width),
            };
            self.level.run(Part { job: &job, panels, columns });
        });
    }
}

struct Job<'a> {
    gemm: &'a Gemm,
    n: usize,
    x: X<'a>,
    y: SyncPtr,
    epilogue: &'a Epilogue<'a>,
}

/// Panels of the weight times columns of `X`.
struct Part<'a> {
    job: &'a Job<'a>,
    panels: Range<usize>,
    columns: Range<usize>,
}

impl Vectorized for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        // SAFETY: `PackedWeight::run` checked the lengths of `x`, `y`, bias and residual; parts are disjoint.
        unsafe {
            match self.job.gemm.lanes {
                Lanes::Features => self.features(simd),
                Lanes::Columns => self.columns(simd),
            }
        }
    }
}

impl Part<'_> {
    /// # Safety
    /// See `eval`.
    #[inline(always)]
    unsafe fn features<S: Simd>(self, simd: S) {
        let Self { job, panels, columns } = self;
        let (gemm, m, k) = (job.gemm, job.gemm.m, job.gemm.k);
        let X::Matrix { data, layout } = job.x else { unreachable!("images are unrolled before") };
        // Strides of X by token and by feature.
        let [token, feature] = if layout == Layout::TokenMajor { [k, 1] } else { [1, job.n] };
        let width = S::TILE_VECTORS * S::LANES;
        let groups = even(columns.len(), S::TILE_ROWS);
        // Few tokens are read where they lie; more are packed, so that one pointer reaches them all.
        let pack = columns.len() > 3;
        let depths = even(k, DEPTH);
        let starts: &[usize] = &gemm.starts;
        let deepest = depths.windows(2).map(|d| d[1] - d[0]).max().unwrap_or(0);
        let mut packed = Scratch::new(if pack { columns.len() * deepest } else { 0 });
        for depth in depths.windows(2) {
            let steps = depth[1] - depth[0];
            let (first, last) = (depth[0] == 0, depth[1] == k);
            if pack {
                for group in groups.windows(2) {
                    let rows = group[1] - group[0];
                    // SAFETY: tokens and features lie within X; the group's part of the scratch is `steps · rows` long.
                    unsafe {
                        let src = data.as_ptr().add((columns.start + group[0]) * token + depth[0] * feature);
                        let dst = packed.as_mut_ptr().add(group[0] * steps);
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
                for group in groups.windows(2) {
                    let rows = group[1] - group[0];
                    let at = (columns.start + group[0]) * m + starts[panel];
                    // SAFETY: the panels hold `steps` steps from `depth[0]`, X the group's tokens, and `y` their features.
                    unsafe {
                        let a = if pack {
                            packed.as_ptr().add(group[0] * steps)
                        } else {
                            data.as_ptr().add((columns.start + group[0]) * token + depth[0] * feature)
                        };
                        let operands = Operands {
                            k: steps,
                            a,
                            a_row: token,
                            a_k: feature,
                            b: gemm.panel(panel, depth[0], width),
                            b_panel: width * k,
                            b_k: width,
                        };
                        let bias =
                            job.epilogue.bias.map_or(std::ptr::null(), |bias| bias[starts[panel]..].as_ptr());
                        let finish = last.then(|| job.finish(at, std::ptr::null(), bias));
                        let c = job.y.get().add(at);
                        let output = Output { c, stride: m, cols, first, finish };
                        let size = [rows, together * S::TILE_VECTORS];
                        if pack {
                            block(simd, size, operands, output);
                        } else {
                            few_rows(simd, size, operands, output);
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
    /// See `eval`.
    #[inline(always)]
    unsafe fn columns<S: Simd>(self, simd: S) {
        let Self { job, panels, columns } = self;
        let (gemm, n, k) = (job.gemm, job.n, job.gemm.k);
        let width = S::TILE_VECTORS * S::LANES;
        let starts: &[usize] = &gemm.starts;
        let rows = starts[panels.start]..starts[panels.end];
        let resident = rows.len() * k * size_of::<f32>() <= RESIDENT;
        let depths = even(k, if resident { 4 * DEPTH } else { DEPTH });
        let steps = depths.windows(2).map(|d| d[1] - d[0]).max().unwrap_or(0);
        // Long runs of each output row, as far as the packed columns stay near: 128 KiB (at k = 16, twice the speed of one tile).
        let chunk = ((PACKED / (steps.max(1) * size_of::<f32>())).clamp(width, 1024) / width * width)
            .max(if resident { width } else { COLUMNS });
        // For few rows of output, packing X costs more than reading it where it lies.
        let direct = match job.x {
            X::Matrix { data, layout: Layout::FeatureMajor } if panels.len() <= 2 => Some(data),
            _ => None,
        };
        let mut packed = Scratch::new(steps * chunk);
        for start in columns.clone().step_by(chunk) {
            let end = columns.end.min(start + chunk);
            for depth in depths.windows(2) {
                let steps = depth[1] - depth[0];
                let lies = |at: usize| direct.filter(|_| at + width <= end);
                for at in (start..end).step_by(width) {
                    if lies(at).is_none() {
                        let rows = Rows::Range { start: depth[0], end: depth[1] };
                        // SAFETY: the tile's part of the scratch is `steps · width` long.
                        unsafe {
                            let dst = packed.as_mut_ptr().add((at - start) * steps);
                            pack_tile(simd, &job.x, [k, n], rows, at..end.min(at + width), width, dst);
                        }
                    }
                }
                for panel in panels.clone() {
                    let row = starts[panel];
                    let rows = starts[panel + 1] - row;
                    for at in (start..end).step_by(width) {
                        let cols = width.min(end - at);
                        // SAFETY: as above; the panel holds `steps` steps from `depth[0]`, and `y` the rows' columns.
                        unsafe {
                            let (b, b_k) = match lies(at) {
                                Some(data) => (data.as_ptr().add(depth[0] * n + at), n),
                                None => (packed.as_ptr().add((at - start) * steps), width),
                            };
                            let a = gemm.panel(panel, depth[0], rows);
                            let operands = Operands { k: steps, a, a_row: 1, a_k: rows, b, b_panel: 0, b_k };
                            let bias =
                                job.epilogue.bias.map_or(std::ptr::null(), |bias| bias[row..].as_ptr());
                            let finish =
                                (depth[1] == k).then(|| job.finish(row * n + at, bias, std::ptr::null()));
                            let c = job.y.get().add(row * n + at);
                            let output = Output { c, stride: n, cols, first: depth[0] == 0, finish };
                            let vectors = if cols <= S::LANES { 1 } else { S::TILE_VECTORS };
                            block(simd, [rows, vectors], operands, output);
                        }
                    }
                }
            }
            // SAFETY: these elements of `y` are this part's.
            unsafe { job.activate(rows.clone(), start..end, n) };
        }
    }
}

impl Job<'_> {
    /// The epilogue of the block at element `at` of `y`.
    fn finish(&self, at: usize, row_bias: *const f32, lane_bias: *const f32) -> Finish {
        let Epilogue { residual, activation, .. } = *self.epilogue;
        Finish {
            row_bias,
            lane_bias,
            residual: residual.map_or(std::ptr::null(), |r| r[at..].as_ptr()),
            bounds: activation.bounds().unwrap_or((f32::NEG_INFINITY, f32::INFINITY)),
        }
    }

    /// Applies an activation that is more than a clamp to a part of `y`.
    ///
    /// # Safety
    /// No other thread may touch the part.
    unsafe fn activate(&self, rows: Range<usize>, cols: Range<usize>, stride: usize) {
        let activation = self.epilogue.activation;
        if activation.bounds().is_none() {
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
