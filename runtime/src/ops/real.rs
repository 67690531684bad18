//! Numbers that operators compute with: f32 (also for f16 and bf16), f64, and wrapping integers.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use poda_formats::dtype::Boolean;
use poda_formats::{DataType, Element, TensorView};
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_tensor::NdTensorView;
use rten_vecmath::{LogSoftmax, Normalize, NormalizeOptions, Sigmoid, Softmax, Sum, SumSquareSub, Tanh};

use super::OpError;
use crate::output::Output;
use crate::packing::scratch::Scratch;

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
}

/// A number with the arithmetic of products. Integers wrap.
pub(crate) trait Number: Element + Default + PartialOrd {
    /// Nearest number, saturating.
    fn from_f64(value: f64) -> Self;

    /// Nearest f64.
    fn to_f64(self) -> f64;

    /// `self + other`.
    fn plus(self, other: Self) -> Self;

    /// `self + a · b`.
    fn mul_add(self, a: Self, b: Self) -> Self;

    /// Calls `f` with `len` elements of unspecified value that live until it returns.
    fn with_scratch<Y>(len: usize, f: impl FnOnce(&mut [Self]) -> Y) -> Y {
        f(&mut vec![Self::default(); len])
    }

    /// `c = a · b` for `a` `[m, k]`, `b` `[k, n]` and row-major `c` `[m, n]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    fn product(a: Mat<'_, Self>, b: Mat<'_, Self>, c: &mut [Self]) {
        wrapping_product(a, b, c);
    }
}

/// [`Number::product`], one element after the other.
fn wrapping_product<T: Number>(a: Mat<'_, T>, b: Mat<'_, T>, c: &mut [T]) {
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
    let row = |(i, row): (usize, &mut [T])| {
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
    if c.len().saturating_mul(a.cols) < 1 << 16 {
        c.chunks_exact_mut(b.cols).enumerate().for_each(row);
    } else {
        c.par_chunks_exact_mut(b.cols).enumerate().for_each(row);
    }
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

fn i32_product(a: Mat<'_, i32>, b: Mat<'_, i32>, c: &mut [i32]) {
    let large = c.len().saturating_mul(a.cols) > 1 << 12;
    if !(large && narrow_product(a, b, c)) {
        wrapping_product(a, b, c);
    }
}

macro_rules! integers {
    ($($type:ty => $product:expr),* $(,)?) => {
        $(impl Number for $type {
            fn from_f64(value: f64) -> Self {
                value as $type
            }

            #[allow(clippy::cast_lossless)]
            fn to_f64(self) -> f64 {
                self as f64
            }

            #[inline]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline]
            fn mul_add(self, a: Self, b: Self) -> Self {
                self.wrapping_add(a.wrapping_mul(b))
            }

            fn product(a: Mat<'_, Self>, b: Mat<'_, Self>, c: &mut [Self]) {
                $product(a, b, c);
            }
        })*
    };
}

integers! {
    i8 => wrapping_product,
    i16 => wrapping_product,
    i32 => i32_product,
    i64 => wrapping_product,
    u8 => wrapping_product,
    u16 => wrapping_product,
    u32 => wrapping_product,
    u64 => wrapping_product,
}

impl Number for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }

    fn to_f64(self) -> f64 {
        self
    }

    #[inline]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline]
    fn mul_add(self, a: Self, b: Self) -> Self {
        self + a * b
    }
}

impl Number for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    fn to_f64(self) -> f64 {
        self.into()
    }

    #[inline]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline]
    fn mul_add(self, a: Self, b: Self) -> Self {
        self + a * b
    }

    fn with_scratch<Y>(len: usize, f: impl FnOnce(&mut [Self]) -> Y) -> Y {
        f(&mut Scratch::new(len))
    }

    fn product(a: Mat<'_, Self>, b: Mat<'_, Self>, c: &mut [Self]) {
        let view = |m: Mat<'_, Self>| {
            // Strides of axes with one element are free; rten refuses those that look like overlap.
            let rows = if m.rows == 1 { m.cols.max(1) * m.col_stride.max(1) } else { m.row_stride };
            let cols = if m.cols == 1 { 1 } else { m.col_stride };
            (rows, cols)
        };
        if c.is_empty() {
            return;
        }
        if a.cols == 0 {
            c.fill(0.0);
            return;
        }
        let (ar, ac) = view(a);
        let (br, bc) = view(b);
        let a = NdTensorView::from_data_with_strides([a.rows, a.cols], a.data, [ar, ac]).expect("a matrix");
        let b = NdTensorView::from_data_with_strides([b.rows, b.cols], b.data, [br, bc]).expect("a matrix");
        let (a, b) = (GemmInputA::Unpacked(a), GemmInputB::Unpacked(b));
        GemmExecutor::<f32>::new().gemm(c, a, b, GemmOptions::default()).expect("shapes that fit");
    }
}

/// A floating-point type that operators compute in.
pub(crate) trait Real:
    Number
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::DivAssign
    + std::iter::Sum
{
    /// Sum of the elements.
    fn total(values: &[Self]) -> Self;
    /// Sum of `(value - offset)²`.
    fn squares(values: &[Self], offset: Self) -> Self;
    /// `y = (y - center) · factor · scale + bias`; `scale` and `bias` are as long as `y`.
    fn normalize(y: &mut [Self], center: Self, factor: Self, scale: Option<&[Self]>, bias: Option<&[Self]>);
    /// `y = (y - center) · factor + shift`.
    fn affine(y: &mut [Self], center: Self, factor: Self, shift: Self);
    /// Hyperbolic tangent of each element, in place.
    fn tanh_all(values: &mut [Self]);
    /// `1 / (1 + exp(-value))` of each element, in place.
    fn sigmoid_all(values: &mut [Self]);
    /// Softmax of the elements, in place.
    fn softmax(y: &mut [Self]);
    /// Logarithm of the softmax of the elements, in place.
    fn log_softmax(y: &mut [Self]);
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn abs(self) -> Self;
    fn powf(self, exponent: Self) -> Self;
    fn powi(self, exponent: i32) -> Self;
    fn maximum(self, other: Self) -> Self;
    fn minimum(self, other: Self) -> Self;
}

macro_rules! scalar_functions {
    ($type:ty) => {
        fn sqrt(self) -> Self {
            self.sqrt()
        }

        fn tanh(self) -> Self {
            self.tanh()
        }

        fn exp(self) -> Self {
            self.exp()
        }

        fn ln(self) -> Self {
            self.ln()
        }

        fn abs(self) -> Self {
            self.abs()
        }

        fn powf(self, exponent: Self) -> Self {
            self.powf(exponent)
        }

        fn powi(self, exponent: i32) -> Self {
            self.powi(exponent)
        }

        fn minimum(self, other: Self) -> Self {
            if self < other || self.is_nan() { self } else { other }
        }

        fn maximum(self, other: Self) -> Self {
            if self > other || self.is_nan() { self } else { other }
        }
    };
}

impl Real for f64 {
    scalar_functions!(f64);

    fn total(values: &[Self]) -> Self {
        values.iter().sum()
    }

    fn squares(values: &[Self], offset: Self) -> Self {
        values.iter().map(|v| (v - offset) * (v - offset)).sum()
    }

    fn normalize(y: &mut [Self], center: Self, factor: Self, scale: Option<&[Self]>, bias: Option<&[Self]>) {
        for (i, v) in y.iter_mut().enumerate() {
            *v = (*v - center) * factor * scale.map_or(1.0, |s| s[i]) + bias.map_or(0.0, |b| b[i]);
        }
    }

    fn affine(y: &mut [Self], center: Self, factor: Self, shift: Self) {
        y.iter_mut().for_each(|v| *v = (*v - center) * factor + shift);
    }

    fn tanh_all(values: &mut [Self]) {
        values.iter_mut().for_each(|v| *v = v.tanh());
    }

    fn sigmoid_all(values: &mut [Self]) {
        values.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp()));
    }

    fn softmax(y: &mut [Self]) {
        let max = y.iter().copied().fold(f64::NEG_INFINITY, Real::maximum);
        y.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f64 = y.iter().sum();
        y.iter_mut().for_each(|v| *v /= sum);
    }

    fn log_softmax(y: &mut [Self]) {
        let max = y.iter().copied().fold(f64::NEG_INFINITY, Real::maximum);
        let sum: f64 = y.iter().map(|v| (v - max).exp()).sum();
        y.iter_mut().for_each(|v| *v = *v - max - sum.ln());
    }
}

impl Real for f32 {
    scalar_functions!(f32);

    fn total(values: &[Self]) -> Self {
        Sum::new(values).dispatch()
    }

    fn squares(values: &[Self], offset: Self) -> Self {
        SumSquareSub::new(values, offset).dispatch()
    }

    fn normalize(y: &mut [Self], center: Self, factor: Self, scale: Option<&[Self]>, bias: Option<&[Self]>) {
        let (element_scale, element_bias) = (scale, bias);
        let options = NormalizeOptions {
            pre_scale_bias: center,
            scale: factor,
            element_scale,
            bias: 0.0,
            element_bias,
        };
        Normalize::new_mut(y, options).dispatch();
    }

    fn affine(y: &mut [Self], center: Self, factor: Self, shift: Self) {
        let options = NormalizeOptions {
            pre_scale_bias: center,
            scale: factor,
            bias: shift,
            ..NormalizeOptions::default()
        };
        Normalize::new_mut(y, options).dispatch();
    }

    fn tanh_all(values: &mut [Self]) {
        Tanh {}.map_mut(values);
    }

    fn sigmoid_all(values: &mut [Self]) {
        Sigmoid {}.map_mut(values);
    }

    fn softmax(y: &mut [Self]) {
        Softmax::new_mut(y).dispatch();
    }

    fn log_softmax(y: &mut [Self]) {
        LogSoftmax::new_mut(y).dispatch();
    }
}

/// Evaluates `$body` with `$real` the type that operators on floats `$dtype` compute in: f64 for itself, f32 otherwise.
macro_rules! with_real {
    ($dtype:expr, $real:ident => $body:expr) => {
        if $dtype == poda_formats::DataType::F64 {
            type $real = f64;
            $body
        } else {
            type $real = f32;
            $body
        }
    };
}
pub(super) use with_real;

/// As [`with_real`], for operators that ONNX also defines for integers of 32 and 64 bits.
macro_rules! with_number {
    ($dtype:expr, $op:literal, $number:ident => $body:expr) => {
        match $dtype {
            poda_formats::DataType::F64 => {
                type $number = f64;
                $body
            }
            poda_formats::DataType::F32 | poda_formats::DataType::F16 | poda_formats::DataType::BF16 => {
                type $number = f32;
                $body
            }
            poda_formats::DataType::I32 => {
                type $number = i32;
                $body
            }
            poda_formats::DataType::I64 => {
                type $number = i64;
                $body
            }
            poda_formats::DataType::U32 => {
                type $number = u32;
                $body
            }
            poda_formats::DataType::U64 => {
                type $number = u64;
                $body
            }
            found => Err($crate::ops::args::unsupported_type($op, found)),
        }
    };
}
pub(super) use with_number;

/// The elements as `R`, borrowed when they are.
pub(crate) fn load<R: Number>(view: TensorView<'_>) -> Cow<'_, [R]> {
    fn each<T: Element, R: Number>(view: TensorView<'_>, convert: impl Fn(T) -> f64) -> Vec<R> {
        let values: &[T] = view.as_slice().expect("the type just matched");
        values.iter().map(|&v| R::from_f64(convert(v))).collect()
    }
    if let Ok(values) = view.as_slice::<R>() {
        return Cow::Borrowed(values);
    }
    Cow::Owned(match view.dtype() {
        DataType::F32 => each(view, |v: f32| f64::from(v)),
        DataType::F64 => each(view, |v: f64| v),
        DataType::F16 if R::DTYPE == DataType::F32 => {
            let values: &[f16] = view.as_slice().expect("the type just matched");
            let mut out = vec![R::default(); values.len()];
            values.convert_to_f32_slice(bytemuck::cast_slice_mut(&mut out));
            out
        }
        DataType::F16 => each(view, f16::to_f64),
        DataType::BF16 if R::DTYPE == DataType::F32 => {
            let values: &[bf16] = view.as_slice().expect("the type just matched");
            let mut out = vec![R::default(); values.len()];
            values.convert_to_f32_slice(bytemuck::cast_slice_mut(&mut out));
            out
        }
        DataType::BF16 => each(view, bf16::to_f64),
        DataType::I8 => each(view, |v: i8| f64::from(v)),
        DataType::I16 => each(view, |v: i16| f64::from(v)),
        DataType::I32 => each(view, |v: i32| f64::from(v)),
        DataType::I64 => each(view, |v: i64| v as f64),
        DataType::U8 => each(view, |v: u8| f64::from(v)),
        DataType::U16 => each(view, |v: u16| f64::from(v)),
        DataType::U32 => each(view, |v: u32| f64::from(v)),
        DataType::U64 => each(view, |v: u64| v as f64),
        DataType::Bool => each(view, |v: Boolean| f64::from(u8::from(v.get()))),
    })
}

/// Has `fill` write an output of type `dtype`, rounding from `R` when that is another type. An output that nobody reads
/// is not computed. What `fill` is given holds unspecified values.
pub(crate) fn store<R: Number>(
    output: &mut Output<'_>,
    dtype: DataType,
    shape: &[usize],
    fill: impl FnOnce(&mut [R]) -> Result<(), OpError>,
) -> Result<(), OpError> {
    if !output.is_used() {
        return Ok(());
    }
    let bytes = output.alloc_bytes(dtype, shape)?;
    if dtype == R::DTYPE {
        return fill(bytemuck::cast_slice_mut(bytes));
    }
    let mut values = vec![R::default(); bytes.len() / dtype.size()];
    fill(&mut values)?;
    convert(&values, dtype, bytes);
    Ok(())
}

/// Writes `values` as elements of `dtype`. Integers truncate and saturate.
fn convert<R: Number>(values: &[R], dtype: DataType, bytes: &mut [u8]) {
    fn each<R: Number, T: Element>(values: &[R], bytes: &mut [u8], convert: impl Fn(f64) -> T) {
        let out: &mut [T] = bytemuck::cast_slice_mut(bytes);
        out.iter_mut().zip(values).for_each(|(y, v)| *y = convert(v.to_f64()));
    }
    match dtype {
        DataType::F32 => each(values, bytes, |v| v as f32),
        DataType::F64 => each(values, bytes, |v| v),
        DataType::F16 if R::DTYPE == DataType::F32 => {
            bytemuck::cast_slice_mut::<u8, f16>(bytes).convert_from_f32_slice(bytemuck::cast_slice(values));
        }
        DataType::F16 => each(values, bytes, f16::from_f64),
        DataType::BF16 => each(values, bytes, bf16::from_f64),
        DataType::I8 => each(values, bytes, |v| v as i8),
        DataType::I16 => each(values, bytes, |v| v as i16),
        DataType::I32 => each(values, bytes, |v| v as i32),
        DataType::I64 => each(values, bytes, |v| v as i64),
        DataType::U8 => each(values, bytes, |v| v as u8),
        DataType::U16 => each(values, bytes, |v| v as u16),
        DataType::U32 => each(values, bytes, |v| v as u32),
        DataType::U64 => each(values, bytes, |v| v as u64),
        DataType::Bool => each(values, bytes, |v| Boolean::from(v != 0.0)),
    }
}
