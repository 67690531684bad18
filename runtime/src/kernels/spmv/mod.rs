//! Sparse matrix × few columns (SpMV), `n` up to about 8: each weight is read once for all columns, so that bytes, or cycles
//! per stored weight, are the limit.
//!
//! What is common to the layouts of the weight lives here: columns of `X` are copied to where kernels may read beyond their
//! end, threads take runs of row blocks with equal numbers of stored slots, and the epilogue is applied to the sums of a
//! block while they lie in cache. A layout only multiplies: it is a [`Multiply`].

#[cfg(target_arch = "x86_64")]
pub(super) mod bitmap;
#[cfg(feature = "structured")]
pub(super) mod block;
pub(super) mod csr;
#[cfg(all(target_arch = "x86_64", feature = "structured"))]
pub(super) mod nm;
#[cfg(feature = "narrow")]
pub(super) mod rows;
#[cfg(target_arch = "x86_64")]
pub(super) mod sell;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(super) mod wsell;

use std::ops::Range;

use poda_formats::Values;
use poda_formats::tensor::Tensor;
use rten_simd::ops::{BitOps, NumOps};

use super::{Call, Epilogue, Layout, Packed, Right};
use crate::packing::scratch::Scratch;
use crate::packing::transpose::transpose;
use crate::simd::{Simd, Supported, Vectorized, splat};
use crate::threads::{SyncPtr, shares};

/// Rows that a kernel multiplies at a time.
pub(super) const BLOCK: usize = 64;
/// Most rows in a block of any matrix.
const MOST_ROWS: usize = 256;
/// Columns that most kernels multiply at a time.
pub(super) const COLUMNS: usize = 4;
/// Most columns that a kernel multiplies at a time.
const MOST_COLUMNS: usize = 12;

/// Sums of a block of rows in one column.
pub(super) type Line = [f32; MOST_ROWS];

/// Sums of a block of rows, one line a column.
#[repr(align(64))]
pub(super) struct Sums([Line; MOST_COLUMNS]);

impl Default for Sums {
    fn default() -> Self {
        Self([[0.0; MOST_ROWS]; MOST_COLUMNS])
    }
}

/// A sparse matrix that multiplies.
pub(super) trait Multiply: Send + Sync {
    /// Columns that it multiplies at a time, at most [`MOST_COLUMNS`].
    const COLUMNS: usize = COLUMNS;
    /// Stored slots times columns below which another thread does not pay: about half a microsecond, of which dealing out
    /// takes 0.2.
    const PARALLEL: usize = 1 << 14;

    /// Rows and columns, `[m, k]`.
    fn shape(&self) -> [usize; 2];

    /// Rows in a block, a multiple of 64 and at most 256.
    fn block(&self) -> usize {
        BLOCK
    }

    /// Stored slots before block `block`, which may be the number of blocks.
    fn slots(&self, block: usize) -> usize;

    /// Elements that are read beyond the end of a column of `X`.
    fn overread(&self) -> usize;

    /// Writes the sums of a block of rows times `R` columns, a line each. Weights that are not stored contribute nothing;
    /// `finite` says that 0 times any element of the columns is 0.
    ///
    /// # Safety
    /// The CPU must have the instructions that the matrix was packed for, and `simd` be of its level; `block` must be one of
    /// its blocks, and each column be `k` elements, followed by `overread` zeros and more up to a multiple of 64 bytes,
    /// 64-byte aligned; `sums` must be 64-byte aligned.
    unsafe fn rows<S: Simd, const R: usize>(
        &self,
        simd: S,
        block: usize,
        columns: [*const f32; R],
        finite: bool,
        sums: &mut [Line],
    );

    /// [`Multiply::rows`] for up to [`Multiply::COLUMNS`] columns of `x`.
    ///
    /// # Safety
    /// As for `rows`; `x` must have been made for this matrix, and `columns` be some of its.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(
        &self,
        simd: S,
        block: usize,
        x: &Columns,
        columns: Range<usize>,
        sums: &mut [Line],
    ) {
        let first = columns.start;
        // SAFETY: by the caller.
        unsafe {
            match columns.len() {
                1 => self.rows(simd, block, x.columns::<1>(first), x.finite, sums),
                2 => self.rows(simd, block, x.columns::<2>(first), x.finite, sums),
                3 => self.rows(simd, block, x.columns::<3>(first), x.finite, sums),
                _ => self.rows(simd, block, x.columns::<COLUMNS>(first), x.finite, sums),
            }
        }
    }

    /// Bytes of everything.
    fn bytes(&self) -> usize;
}

/// Columns of `X`, each contiguous, 64-byte aligned and followed by zeros.
pub(super) struct Columns {
    data: Scratch,
    stride: usize,
    /// Whether neither an infinity nor a NaN is among them, so that 0 times any is 0.
    pub(super) finite: bool,
}

impl Columns {
    /// The first elements of `R` columns from `first` on.
    pub(super) fn columns<const R: usize>(&self, first: usize) -> [*const f32; R] {
        std::array::from_fn(|i| self.data[(first + i) * self.stride..].as_ptr())
    }
}

/// A packed matrix and the instructions that it was packed for.
pub(super) struct Spmv<M> {
    matrix: M,
    level: Supported,
    /// What the sums of each row are multiplied with, f32 `[m]`.
    scales: Option<Tensor>,
}

impl<M: Multiply> Spmv<M> {
    /// `values` are those that the matrix was packed from.
    ///
    /// # Safety
    /// `level` must have the instructions that the matrix needs.
    pub(super) unsafe fn new(matrix: M, level: Supported, values: &Values) -> Self {
        Self { matrix, level, scales: values.scales_tensor().cloned() }
    }
}

impl<M: Multiply> Packed for Spmv<M> {
    fn run(&self, call: Call<'_>) {
        let Call { n, x, y, y_layout, epilogue, threads } = call;
        let [m, k] = self.matrix.shape();
        let x = match x {
            Right::Matrix { data, layout } => {
                self.level.run(Gather { data, layout, n, k, matrix: &self.matrix })
            }
            Right::Image(image) => {
                let mut matrix = Scratch::new(k * n);
                image.unroll(&mut matrix);
                let layout = Layout::FeatureMajor;
                self.level.run(Gather { data: &matrix, layout, n, k, matrix: &self.matrix })
            }
            Right::Images { .. } => unreachable!("takes one image"),
        };
        let blocks = m.div_ceil(self.matrix.block());
        let slots = self.matrix.slots(blocks);
        let worth = slots * n / M::PARALLEL;
        let parts = shares(threads.count().min(worth), worth / 4).min(blocks);
        let scales = self.scales.as_ref().map(|scales| scales.as_slice().expect("f32, checked by Values"));
        let y = SyncPtr(y.as_mut_ptr());
        let job = Job { matrix: &self.matrix, scales, x: &x, y, n, y_layout, epilogue };
        // The first block at which a part's share of the slots begins.
        let start = |part: usize| {
            let (mut low, mut high) = (0, blocks);
            while low < high {
                let middle = usize::midpoint(low, high);
                if self.matrix.slots(middle) * parts < part * slots {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            if part == parts { blocks } else { low }
        };
        threads.for_each(parts, |part| {
            self.level.run(Part { job: &job, blocks: start(part)..start(part + 1) });
        });
    }

    fn bytes(&self) -> usize {
        self.matrix.bytes() + self.scales.as_ref().map_or(0, |scales| scales.bytes().len())
    }
}

/// Copies the columns of `X`.
struct Gather<'a, M> {
    data: &'a [f32],
    layout: Layout,
    n: usize,
    k: usize,
    matrix: &'a M,
}

impl<M: Multiply> Vectorized for Gather<'_, M> {
    type Output = Columns;

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) -> Columns {
        let Self { data, layout, n, k, matrix } = self;
        let stride = (k + matrix.overread()).next_multiple_of(16);
        let mut columns = Scratch::new(n * stride);
        if layout == Layout::FeatureMajor && n > 1 {
            // SAFETY: `PackedWeight::run` checked that `data` is `[k, n]`; `columns` holds `n` rows of `stride >= k`.
            unsafe { transpose(simd, data.as_ptr(), n, [k, n], columns.as_mut_ptr(), stride) };
        }
        let mut largest = 0;
        for (i, column) in columns.chunks_exact_mut(stride.max(1)).enumerate() {
            if layout == Layout::TokenMajor || n == 1 {
                column[..k].copy_from_slice(&data[i * k..][..k]);
            }
            column[k..].fill(0.0);
            largest = column.iter().fold(largest, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
        }
        Columns { data: columns, stride, finite: largest < f32::INFINITY.to_bits() }
    }
}

struct Job<'a, M> {
    matrix: &'a M,
    scales: Option<&'a [f32]>,
    x: &'a Columns,
    y: SyncPtr,
    n: usize,
    y_layout: Layout,
    epilogue: &'a Epilogue<'a>,
}

impl<M: Multiply> Job<'_, M> {
    /// Applies the epilogue to the sums of a block of rows in a column, and writes them.
    ///
    /// # Safety
    /// `y` must be `[m, n]` in its layout, and nobody else may touch these rows.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        column: usize,
        sums: &mut [f32; MOST_ROWS],
    ) {
        let ([m, _], n) = (self.matrix.shape(), self.n);
        let Epilogue { bias, residual, activation } = *self.epilogue;
        let len = rows.len();
        if let Some(scales) = self.scales {
            for (sum, scale) in sums.iter_mut().zip(&scales[rows.clone()]) {
                *sum *= scale;
            }
        }
        if self.y_layout == Layout::FeatureMajor && n > 1 {
            let at = |row: usize| (rows.start + row) * n + column;
            for (row, sum) in sums[..len].iter_mut().enumerate() {
                *sum += bias.map_or(0.0, |bias| bias[rows.start + row]);
                *sum += residual.map_or(0.0, |residual| residual[at(row)]);
            }
            activation.apply(&mut sums[..len]);
            for (row, &sum) in sums[..len].iter().enumerate() {
                // SAFETY: by the caller.
                unsafe { *self.y.0.add(at(row)) = sum };
            }
            return;
        }
        // A single column is the same in both layouts.
        let at = column * m + rows.start;
        let (bias, residual) =
            (bias.map(|bias| &bias[rows]), residual.map(|residual| &residual[at..][..len]));
        let bounds = activation.bounds();
        let (min, max) = bounds.unwrap_or_default();
        let range = [splat(simd, min), splat(simd, max)];
        let ops = simd.f32();
        for i in (0..len).step_by(S::LANES) {
            let count = S::LANES.min(len - i);
            // SAFETY: `count` elements are left of each, and a vector of the block's sums.
            unsafe {
                let mut sum = ops.load_ptr(sums.as_ptr().add(i));
                if let Some(bias) = bias {
                    sum = ops.add(sum, simd.load_first(bias.as_ptr().add(i), count));
                }
                if let Some(residual) = residual {
                    sum = ops.add(sum, simd.load_first(residual.as_ptr().add(i), count));
                }
                if bounds.is_some() {
                    sum = simd.clamp(sum, range);
                }
                simd.store_first(sum, self.y.0.add(at + i), count);
            }
        }
        if bounds.is_none() {
            // SAFETY: written above.
            activation.apply(unsafe { std::slice::from_raw_parts_mut(self.y.0.add(at), len) });
        }
    }
}

/// Some blocks of rows.
struct Part<'a, M> {
    job: &'a Job<'a, M>,
    blocks: Range<usize>,
}

impl<M: Multiply> Vectorized for Part<'_, M> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Job { matrix, x, n, .. } = *self.job;
        let [m, _] = matrix.shape();
        let mut sums = Sums::default();
        let height = matrix.block();
        for block in self.blocks {
            let rows = block * height..m.min((block + 1) * height);
            for first in (0..n).step_by(M::COLUMNS) {
                let columns = first..n.min(first + M::COLUMNS);
                // SAFETY: this runs on the level given to `Spmv::new`; `x` was made for this matrix.
                unsafe { matrix.multiply(simd, block, x, columns.clone(), &mut sums.0) };
                for (column, sums) in columns.zip(&mut sums.0) {
                    // SAFETY: `y` is `[m, n]`, checked by `PackedWeight::run`; these rows are this part's.
                    unsafe { self.job.finish(simd, rows.clone(), column, sums) };
                }
            }
        }
    }
}
