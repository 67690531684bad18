//! Products of matrices.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::kernels::{Mat, matmul};
use crate::ops::elementwise::wide::widest;
use crate::ops::number::Number;
use crate::packing::scratch::Scratch;
use crate::threads;
use crate::threads::share::{cost, for_elements, for_rows};

/// A number that matrices are multiplied in.
pub(crate) trait Product: Number {
    /// `self + a · b`.
    #[inline]
    fn mul_add(self, a: Self, b: Self) -> Self {
        self.add(a.mul(b))
    }

    /// Calls `f` with `len` elements of unspecified value that live until it returns.
    fn with_scratch<Y>(len: usize, f: impl FnOnce(&mut [Self]) -> Y) -> Y {
        f(&mut vec![Self::default(); len])
    }

    /// `c = a · b` for `a` `[m, k]`, `b` `[k, n]` and row-major `c` `[m, n]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    fn product(a: Mat<'_, Self>, b: Mat<'_, Self>, c: &mut [Self]) {
        plain_product(a, b, c);
    }
}

impl Product for f64 {}
impl Product for i8 {}
impl Product for i16 {}
impl Product for i64 {}
impl Product for u8 {}
impl Product for u16 {}
impl Product for u32 {}
impl Product for u64 {}

impl Product for i32 {
    fn product(a: Mat<'_, Self>, b: Mat<'_, Self>, c: &mut [Self]) {
        i32_product(a, b, c);
    }
}

impl Product for f32 {
    fn with_scratch<Y>(len: usize, f: impl FnOnce(&mut [Self]) -> Y) -> Y {
        f(&mut Scratch::new(len))
    }

    fn product(a: Mat<'_, Self>, b: Mat<'_, Self>, c: &mut [Self]) {
        matmul(a, b, c);
    }
}

/// [`Product::product`], one element after the other.
fn plain_product<T: Product>(a: Mat<'_, T>, b: Mat<'_, T>, c: &mut [T]) {
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

/// [`Product::product`] of numbers below 2⁸ in size, as those of 8-bit tensors less their zero points, in f32: sums of 256
/// products are below 2²⁴ and so exact. Gives false, having done nothing, when some number is larger.
fn narrow_product(a: Mat<'_, i32>, b: Mat<'_, i32>, c: &mut [i32]) -> bool {
    const DEPTH: usize = 256;
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let narrow = |from: Mat<'_, i32>, to: &mut [f32]| {
        let wide = AtomicBool::new(false);
        for_rows(to, from.cols, cost::COPY, |i, row| {
            let values = &from.data[i * from.row_stride..];
            let mut bits = 0;
            if from.col_stride == 1 {
                widest(
                    #[inline(always)]
                    || {
                        for (v, &value) in row.iter_mut().zip(values) {
                            *v = value as f32;
                            bits |= value.unsigned_abs();
                        }
                    },
                );
            } else {
                for (v, &value) in row.iter_mut().zip(values.iter().step_by(from.col_stride)) {
                    *v = value as f32;
                    bits |= value.unsigned_abs();
                }
            }
            if bits >= 256 {
                wide.store(true, Ordering::Relaxed);
            }
        });
        !wide.into_inner()
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
            for_elements(c, cost::ARITHMETIC, |start, c| {
                let sums = &sums[start..][..c.len()];
                widest(
                    #[inline(always)]
                    || c.iter_mut().zip(sums).for_each(|(c, &sum)| *c = c.wrapping_add(sum as i32)),
                );
            });
        }
        true
    })
}

/// [`Product::product`] of i32, by way of f32 where that is exact.
fn i32_product(a: Mat<'_, i32>, b: Mat<'_, i32>, c: &mut [i32]) {
    let large = c.len().saturating_mul(a.cols) > 1 << 12;
    if !(large && narrow_product(a, b, c)) {
        plain_product(a, b, c);
    }
}
