//! Products of matrices.

use super::Number;
use crate::kernels::Mat;
use crate::threads;

/// [`Number::product`], one element after the other.
pub(super) fn wrapping_product<T: Number>(a: Mat<'_, T>, b: Mat<'_, T>, c: &mut [T]) {
    assert!(
        a.cols == b.rows && c.len() == a.rows * b.cols,
        "[{}, {}] · [{}, {}]",
        a.rows,
        a.cols,
        b.rows,
        b.cols
    );
    if c.is_empty() {
        return;
    }
    let row = |i: usize, row: &mut [T]| {
        row.fill(T::default());
        for k in 0..a.cols {
            let x = a.data[i * a.row_stride + k * a.col_stride];
            if b.col_stride == 1 {
                let values = &b.data[k * b.row_stride..][..row.len()];
                row.iter_mut().zip(values).for_each(|(y, &v)| *y = y.mul_add(x, v));
            } else {
                let values = b.data[k * b.row_stride..].iter().step_by(b.col_stride);
                row.iter_mut().zip(values).for_each(|(y, &v)| *y = y.mul_add(x, v));
            }
        }
    };
    threads::for_each_chunk(c, b.cols, (1 << 14) / (a.cols * b.cols).max(1), row);
}

/// [`Number::product`] of numbers below 2⁸ in size, as those of 8-bit tensors less their zero points, in f32: sums of 256
/// products are below 2²⁴ and so exact. Gives false, having done nothing, when some number is larger.
fn narrow_product(a: Mat<'_, i32>, b: Mat<'_, i32>, c: &mut [i32]) -> bool {
    const DEPTH: usize = 256;
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let narrow = |from: Mat<'_, i32>, to: &mut [f32]| {
        to.chunks_exact_mut(from.cols).enumerate().all(|(i, row)| {
            row.iter_mut().enumerate().all(|(j, v)| {
                let value = from.data[i * from.row_stride + j * from.col_stride];
                *v = value as f32;
                value.unsigned_abs() < 256
            })
        })
    };
    f32::with_scratch(m * k + k * n + m * n, |scratch| {
        let (left, rest) = scratch.split_at_mut(m * k);
        let (right, sums) = rest.split_at_mut(k * n);
        if !narrow(a, left) || !narrow(b, right) {
            return false;
        }
        c.fill(0);
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            let left = Mat { data: &left[start..], cols: depth, ..Mat::new(left, m, k) };
            f32::product(left, Mat::new(&right[start * n..][..depth * n], depth, n), sums);
            c.iter_mut().zip(&*sums).for_each(|(c, &sum)| *c = c.wrapping_add(sum as i32));
        }
        true
    })
}

/// [`Number::product`] of i32, by way of f32 where that is exact.
pub(super) fn i32_product(a: Mat<'_, i32>, b: Mat<'_, i32>, c: &mut [i32]) {
    let large = c.len().saturating_mul(a.cols) > 1 << 12;
    if !(large && narrow_product(a, b, c)) {
        wrapping_product(a, b, c);
    }
}
