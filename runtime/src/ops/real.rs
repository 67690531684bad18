//! Floats that operators compute with: f32 (also for f16 and bf16) and f64; and products of these and of integers.

mod convert;
mod product;

pub(crate) use crate::kernels::Mat;
pub(crate) use convert::{convert, load, store};
pub(crate) use product::Product;

use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{LogSoftmax, Normalize, NormalizeOptions, Sigmoid, Softmax, Sum, SumSquareSub, Tanh};

use super::number::Number;
use crate::kernels::attention::{Attention, Order};
use crate::packing::scratch::Scratch;

/// A floating-point type that operators compute in.
pub(crate) trait Real:
    Product
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::DivAssign
    + std::iter::Sum
{
    /// Memory for intermediate values.
    type Buffer: std::ops::DerefMut<Target = [Self]> + Send;
    /// `len` elements of unspecified value.
    fn buffer(len: usize) -> Self::Buffer;
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
    /// `[batch, heads, queries, value size]` in the given order.
    fn attend(attention: &Attention<'_, Self>, order: Order, y: &mut [Self]);
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn round_ties_even(self) -> Self;
    fn powf(self, exponent: Self) -> Self;
    fn powi(self, exponent: i32) -> Self;
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

        #[inline(always)]
        fn round_ties_even(self) -> Self {
            self.round_ties_even()
        }

        fn powf(self, exponent: Self) -> Self {
            self.powf(exponent)
        }

        fn powi(self, exponent: i32) -> Self {
            self.powi(exponent)
        }
    };
}

impl Real for f64 {
    type Buffer = Vec<f64>;

    scalar_functions!(f64);

    fn buffer(len: usize) -> Vec<f64> {
        vec![0.0; len]
    }

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
        let max = y.iter().copied().fold(f64::NEG_INFINITY, Number::larger);
        y.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f64 = y.iter().sum();
        y.iter_mut().for_each(|v| *v /= sum);
    }

    fn log_softmax(y: &mut [Self]) {
        let max = y.iter().copied().fold(f64::NEG_INFINITY, Number::larger);
        let sum: f64 = y.iter().map(|v| (v - max).exp()).sum();
        y.iter_mut().for_each(|v| *v = *v - max - sum.ln());
    }

    fn attend(attention: &Attention<'_, Self>, order: Order, y: &mut [Self]) {
        super::attention::plain::run(attention, order, y);
    }
}

impl Real for f32 {
    type Buffer = Scratch;

    scalar_functions!(f32);

    fn buffer(len: usize) -> Scratch {
        Scratch::new(len)
    }

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

    fn attend(attention: &Attention<'_, Self>, order: Order, y: &mut [Self]) {
        attention.run(order, y);
    }
}

/// Evaluates `$body` with `$real` the type that operators on floats `$dtype` compute in: f64 for itself, f32 otherwise.
macro_rules! with_real {
    ($dtype:expr, $real:ident => $body:expr) => {
        if cfg!(feature = "types") && $dtype == poda_formats::DataType::F64 {
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
macro_rules! with_product {
    ($dtype:expr, $op:literal, $number:ident => $body:expr) => {{
        let computed = match $dtype {
            poda_formats::DataType::F16 | poda_formats::DataType::BF16 => poda_formats::DataType::F32,
            dtype => dtype,
        };
        $crate::ops::number::with_type!(
            computed, $number in [f32, f64, i32, i64, u32, u64] => $body,
            else => Err($crate::ops::args::unsupported_type($op, computed))
        )
    }};
}
pub(super) use with_product;
