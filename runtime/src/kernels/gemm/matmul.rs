//! Dense product of two matrices that both are new each time: the left one is packed on the way.

use smallvec::SmallVec;

use super::tile::Floats;
use super::{Lanes, Left};
use crate::kernels::{Epilogue, Layout, Right};
use crate::packing::scratch::Scratch;
use crate::packing::transpose::{transpose, transpose_matrix};
use crate::simd::{Simd, Supported, Vectorized};
use crate::threads;

/// A matrix `[rows, cols]` with any strides, in elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, over the same elements.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Elements from the first to the last that the strides reach.
    fn span(&self) -> usize {
        match (self.rows, self.cols) {
            (0, _) | (_, 0) => 0,
            (rows, cols) => (rows - 1) * self.row_stride + (cols - 1) * self.col_stride + 1,
        }
    }
}

/// `c = a · b`, with `c` `[m, n]` row-major, on the threads that are installed.
///
/// # Panics
/// When shapes or lengths do not fit each other.
pub(crate) fn matmul(a: Mat<'_, f32>, b: Mat<'_, f32>, c: &mut [f32]) {
    let ([m, k], n) = ([a.rows, a.cols], b.cols);
    assert!(b.rows == k && c.len() == m * n, "[{m}, {k}] · [{}, {n}]", b.rows);
    assert!(a.span() <= a.data.len() && b.span() <= b.data.len(), "strides beyond the matrix");
    if c.is_empty() {
        return;
    }
    if k == 0 {
        return c.fill(0.0);
    }
    let level = Supported::best();
    if n < level.lanes() && m > n {
        // Vectors run along the columns of `c`, so that the longer side becomes that.
        if n == 1 {
            return matmul(b.t(), a.t(), c);
        }
        let mut transposed = Scratch::new(m * n);
        matmul(b.t(), a.t(), &mut transposed);
        return transpose_matrix(&transposed, [n, m], c);
    }
    let mut panels = Scratch::new(m * k);
    let starts = level.run(Pack { a, panels: &mut panels });
    let left = Left { m, k, level, lanes: Lanes::Columns, panels: &panels, starts: &starts };
    let parts = left.parts(n, threads::current());
    let mut multiply = |data, layout| {
        left.multiply(n, Right::Matrix { data, layout }, c, &Epilogue::default(), parts, Floats);
    };
    match (b.row_stride, b.col_stride) {
        (rows, 1) if rows == n || k == 1 => multiply(&b.data[..k * n], Layout::FeatureMajor),
        (1, cols) if cols == k || n == 1 => multiply(&b.data[..k * n], Layout::TokenMajor),
        (1, _) => multiply(&contiguous(b.t()), Layout::TokenMajor),
        _ => multiply(&contiguous(b), Layout::FeatureMajor),
    }
}

/// The matrix, row-major.
fn contiguous(from: Mat<'_, f32>) -> Scratch {
    let mut to = Scratch::new(from.rows * from.cols);
    for (i, row) in to.chunks_exact_mut(from.cols).enumerate() {
        let values = &from.data[i * from.row_stride..];
        if from.col_stride == 1 {
            row.copy_from_slice(&values[..from.cols]);
        } else {
            row.iter_mut().zip(values.iter().step_by(from.col_stride)).for_each(|(to, &v)| *to = v);
        }
    }
    to
}

/// Packs `a` in panels of a tile's rows; gives the first row of each panel, and the number of rows.
struct Pack<'a> {
    a: Mat<'a, f32>,
    panels: &'a mut [f32],
}

impl Vectorized for Pack<'_> {
    type Output = SmallVec<[usize; 32]>;

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) -> Self::Output {
        let Self { a, panels } = self;
        let [m, k] = [a.rows, a.cols];
        let count = m.div_ceil(S::TILE_ROWS);
        let starts: SmallVec<[usize; 32]> = (0..=count).map(|i| i * m / count).collect();
        for range in starts.windows(2) {
            let (start, rows) = (range[0], range[1] - range[0]);
            let dst = &mut panels[start * k..][..rows * k];
            let src = &a.data[start * a.row_stride..];
            if a.col_stride == 1 {
                // SAFETY: `src` holds `rows` rows of `k`, by the span that `matmul` checked; `dst` `k` rows of `rows`.
                unsafe { transpose(simd, src.as_ptr(), a.row_stride, [rows, k], dst.as_mut_ptr(), rows) };
            } else {
                for (step, dst) in dst.chunks_exact_mut(rows).enumerate() {
                    let src = &src[step * a.col_stride..];
                    dst.iter_mut().enumerate().for_each(|(i, to)| *to = src[i * a.row_stride]);
                }
            }
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(m: usize, k: usize, n: usize, transposed: [bool; 2], gap: usize) {
        let values = |len: usize, seed: usize| -> Vec<f32> {
            (0..len).map(|i| ((i * 37 + seed) % 23) as f32 * 0.125 - 1.25).collect()
        };
        let (a, b) = (values((m + gap) * (k + gap), 1), values((k + gap) * (n + gap), 5));
        let mat = |data, rows: usize, cols: usize, transposed: bool| {
            let (row_stride, col_stride) = if transposed { (1, rows + gap) } else { (cols + gap, 1) };
            Mat { data, rows, cols, row_stride, col_stride }
        };
        let (a, b) = (mat(&a[..], m, k, transposed[0]), mat(&b[..], k, n, transposed[1]));
        let mut c = vec![f32::NAN; m * n];
        matmul(a, b, &mut c);
        for i in 0..m {
            for j in 0..n {
                let expected: f64 = (0..k)
                    .map(|s| {
                        let x = a.data[i * a.row_stride + s * a.col_stride];
                        f64::from(x) * f64::from(b.data[s * b.row_stride + j * b.col_stride])
                    })
                    .sum();
                let got = f64::from(c[i * n + j]);
                assert!((got - expected).abs() < 1e-3, "{m}x{k}x{n} {transposed:?} {gap}: {got} {expected}");
            }
        }
    }

    #[test]
    fn all_shapes_and_strides_agree_with_the_definition() {
        for (m, k, n) in [
            (1, 1, 1),
            (1, 40, 1),
            (5, 7, 1),
            (1, 7, 65),
            (13, 9, 16),
            (12, 33, 31),
            (25, 64, 3),
            (3, 64, 25),
            (50, 100, 47),
            (128, 32, 130),
            (17, 0, 9),
            (0, 4, 9),
        ] {
            for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                for gap in [0, 3] {
                    check(m, k, n, transposed, gap);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "strides beyond")]
    fn strides_beyond_the_data_are_refused() {
        let a = Mat { data: &[0.0; 8], rows: 3, cols: 2, row_stride: 4, col_stride: 1 };
        matmul(a, Mat::new(&[0.0; 2], 2, 1), &mut [0.0; 3]);
    }
}
