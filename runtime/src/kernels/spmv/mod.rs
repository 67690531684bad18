//! Sparse matrix × few columns (SpMV), `n` up to about 8: each weight is read once for all columns, so that bytes, or cycles
//! per stored weight, are the limit.
//!
//! What is common to the layouts of the weight lives here: columns of `X` are copied to where kernels may read beyond their
//! end, threads take runs of row blocks with equal numbers of stored slots, and the epilogue is applied to the sums of a
//! block while they lie in cache. A layout only multiplies: it is a [`Multiply`].

#[cfg(target_arch = "x86_64")]
pub(super) mod bitmap;
pub(super) mod csr;
#[cfg(target_arch = "x86_64")]
pub(super) mod sell;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(super) mod wsell;

use std::ops::Range;

use super::activation::clamped;
use super::simd::{Level, Simd, Vectorized};
use super::{Call, Epilogue, Layout, Packed, X};
use crate::packing::im2col;
use crate::packing::scratch::Scratch;
use crate::packing::transpose::transpose;
use crate::threads::SyncPtr;

/// Rows that a kernel multiplies at a time.
pub(super) const BLOCK: usize = 64;
/// Columns that a kernel multiplies at a time.
pub(super) const COLUMNS: usize = 4;
/// Stored slots times columns below which another thread does not pay.
const PARALLEL: usize = 1 << 17;

/// Sums of a block of rows, one line a column.
#[repr(align(64))]
pub(super) struct Sums(pub(super) [[f32; BLOCK]; COLUMNS]);

/// A sparse matrix that multiplies.
pub(super) trait Multiply: Send + Sync {
    /// Rows and columns, `[m, k]`.
    fn shape(&self) -> [usize; 2];

    /// Stored slots before block `block`, which may be the number of blocks.
    fn slots(&self, block: usize) -> usize;

    /// Elements that are read beyond the end of a column of `X`.
    fn overread(&self) -> usize;

    /// Writes the sums of a block of rows times up to [`COLUMNS`] columns. Weights that are not stored contribute nothing.
    ///
    /// # Safety
    /// The CPU must have the instructions that the matrix was packed for; `x` must have been made with this matrix' `k` and
    /// `overread`, `block` must be one of its blocks, and `columns` at most [`COLUMNS`] and some of `x`.
    unsafe fn multiply<S: Simd>(
        &self,
        simd: S,
        block: usize,
        x: &Columns,
        columns: Range<usize>,
        sums: &mut Sums,
    );

    /// Bytes of everything.
    fn bytes(&self) -> usize;
}

/// `$body` with the constant `$R` for the number of columns, 1 to [`COLUMNS`].
macro_rules! by_columns {
    ($columns:expr, |$R:ident| $body:expr) => {
        match $columns {
            1 => {
                const $R: usize = 1;
                $body
            }
            2 => {
                const $R: usize = 2;
                $body
            }
            3 => {
                const $R: usize = 3;
                $body
            }
            _ => {
                const $R: usize = 4;
                $body
            }
        }
    };
}
use by_columns;

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
    level: Level,
}

impl<M: Multiply> Spmv<M> {
    /// # Safety
    /// `level` must have the instructions that the matrix needs.
    pub(super) unsafe fn new(matrix: M, level: Level) -> Self {
        Self { matrix, level }
    }
}

impl<M: Multiply> Packed for Spmv<M> {
    fn run(&self, call: Call<'_>) {
        let Call { n, x, y, y_layout, epilogue, threads } = call;
        let [m, k] = self.matrix.shape();
        let x = match x {
            X::Matrix { data, layout } => self.level.run(Gather { data, layout, n, k, matrix: &self.matrix }),
            X::Image { data, geometry } => {
                let mut matrix = Scratch::new(k * n);
                im2col(data, geometry, &mut matrix);
                let layout = Layout::FeatureMajor;
                self.level.run(Gather { data: &matrix, layout, n, k, matrix: &self.matrix })
            }
        };
        let blocks = m.div_ceil(BLOCK);
        let slots = self.matrix.slots(blocks);
        let parts = threads.count().min(slots * n / PARALLEL).clamp(1, blocks);
        let job = Job { matrix: &self.matrix, x: &x, y: SyncPtr(y.as_mut_ptr()), n, y_layout, epilogue };
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
        self.matrix.bytes()
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
    x: &'a Columns,
    y: SyncPtr,
    n: usize,
    y_layout: Layout,
    epilogue: &'a Epilogue<'a>,
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
        let Job { matrix, x, y, n, y_layout, epilogue } = *self.job;
        let [m, _] = matrix.shape();
        let Epilogue { bias, residual, activation } = *epilogue;
        let mut sums = Sums([[0.0; BLOCK]; COLUMNS]);
        for block in self.blocks {
            let rows = block * BLOCK..m.min((block + 1) * BLOCK);
            for first in (0..n).step_by(COLUMNS) {
                let columns = first..n.min(first + COLUMNS);
                // SAFETY: this runs on the level given to `Spmv::new`; `x` was made for this matrix.
                unsafe { matrix.multiply(simd, block, x, columns.clone(), &mut sums) };
                for (column, sums) in columns.zip(&mut sums.0) {
                    let sums = &mut sums[..rows.len()];
                    // A single column is the same in both layouts.
                    let [at, step] = match y_layout {
                        Layout::TokenMajor => [column * m + rows.start, 1],
                        Layout::FeatureMajor => [rows.start * n + column, n],
                    };
                    if let Some(bias) = bias {
                        for (sum, bias) in sums.iter_mut().zip(&bias[rows.clone()]) {
                            *sum += bias;
                        }
                    }
                    if let Some(residual) = residual {
                        if step == 1 {
                            for (sum, residual) in sums.iter_mut().zip(&residual[at..]) {
                                *sum += residual;
                            }
                        } else {
                            for (sum, residual) in sums.iter_mut().zip(residual[at..].iter().step_by(step)) {
                                *sum += residual;
                            }
                        }
                    }
                    if let Some((min, max)) = activation.bounds() {
                        for sum in sums.iter_mut() {
                            *sum = clamped(*sum, min, max);
                        }
                    } else {
                        activation.apply(sums);
                    }
                    // SAFETY: `y` is `[m, n]` in this layout, checked by `PackedWeight::run`; these rows are this part's.
                    unsafe {
                        let y = y.0.add(at);
                        if step == 1 {
                            y.copy_from_nonoverlapping(sums.as_ptr(), sums.len());
                        } else {
                            for (i, &sum) in sums.iter().enumerate() {
                                *y.add(i * step) = sum;
                            }
                        }
                    }
                }
            }
        }
    }
}
