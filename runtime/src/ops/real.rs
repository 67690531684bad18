//! Numbers that operators compute with: f32 (also for f16 and bf16), f64, and wrapping integers.

mod convert;
mod product;

pub(crate) use crate::kernels::Mat;
use crate::kernels::matmul;
pub(crate) use convert::{load, store};

use poda_formats::Element;
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{LogSoftmax, Normalize, NormalizeOptions, Sigmoid, Softmax, Sum, SumSquareSub, Tanh};

use crate::packing::scratch::Scratch;
use product::{i32_product, wrapping_product};

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
        matmul(a, b, c);
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
