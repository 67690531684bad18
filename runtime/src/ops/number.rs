//! Arithmetic of the element types, as ONNX Runtime does it: integers wrap, nothing panics.
//!
//! f16 and bf16 are not here: operators compute them by way of f32 ([`by_way_of_f32`]).

use poda_formats::{DataType, Element, TensorView};

use super::elementwise::wide::widest;
use super::real::{convert, load};
use super::{Inputs, OpError};
use crate::output::{FreshTensor, Output};

/// A number with total arithmetic: f32, f64 and the integers.
pub(crate) trait Number: Element + Default + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    /// Below every other number (minus infinity for floats).
    const LOWEST: Self;
    /// Above every other number.
    const HIGHEST: Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Integers: towards zero; the divisor is not zero (callers check).
    fn div(self, other: Self) -> Self;
    /// Remainder with the sign of the dividend; integers: the divisor is not zero.
    fn rem_truncated(self, other: Self) -> Self;
    /// Remainder with the sign of the divisor; integers: the divisor is not zero.
    fn rem_floored(self, other: Self) -> Self;
    fn abs(self) -> Self;
    fn from_i64(value: i64) -> Self;
    fn to_f64(self) -> f64;
    /// Truncates, saturates, and takes NaN to 0.
    fn from_f64(value: f64) -> Self;
    fn is_nan(self) -> bool;
    /// Runs `work`, a loop over numbers of this type. For f32, which networks spend their time in, it is compiled for
    /// each instruction set, see [`widest`]; for the others once.
    #[inline(always)]
    fn looped(work: impl FnOnce()) {
        work();
    }
    /// The larger, or NaN if one is NaN.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }
    /// The smaller, or NaN if one is NaN.
    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        if self < other || self.is_nan() { self } else { other }
    }
}

macro_rules! floats {
    ($($type:ident $(by $looped:ident)?),*) => {$(
        impl Number for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $type::NEG_INFINITY;
            const HIGHEST: Self = $type::INFINITY;
            #[inline(always)]
            fn add(self, other: Self) -> Self { self + other }
            #[inline(always)]
            fn sub(self, other: Self) -> Self { self - other }
            #[inline(always)]
            fn mul(self, other: Self) -> Self { self * other }
            #[inline(always)]
            fn div(self, other: Self) -> Self { self / other }
            #[inline(always)]
            fn rem_truncated(self, other: Self) -> Self { self % other }
            #[inline(always)]
            fn rem_floored(self, other: Self) -> Self {
                let rem = self % other;
                if rem != 0.0 && (rem < 0.0) != (other < 0.0) { rem + other } else { rem }
            }
            #[inline(always)]
            fn abs(self) -> Self { $type::abs(self) }
            #[inline(always)]
            fn from_i64(value: i64) -> Self { value as $type }
            #[allow(clippy::cast_lossless, trivial_numeric_casts)]
            #[inline(always)]
            fn to_f64(self) -> f64 { self as f64 }
            #[inline(always)]
            fn from_f64(value: f64) -> Self { value as $type }
            #[inline(always)]
            fn is_nan(self) -> bool { $type::is_nan(self) }
            $(
                #[inline(always)]
                fn looped(work: impl FnOnce()) { $looped(work); }
            )?
        }
    )*};
}

macro_rules! integers {
    ($(($type:ident, $abs:expr)),*) => {$(
        impl Number for $type {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = $type::MIN;
            const HIGHEST: Self = $type::MAX;
            #[inline(always)]
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline(always)]
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline(always)]
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            #[inline(always)]
            fn div(self, other: Self) -> Self { self.wrapping_div(other) }
            #[inline(always)]
            fn rem_truncated(self, other: Self) -> Self { self.wrapping_rem(other) }
            #[allow(unused_comparisons, reason = "one body for signed and unsigned types")]
            #[inline(always)]
            fn rem_floored(self, other: Self) -> Self {
                let rem = self.wrapping_rem(other);
                if rem != 0 && (rem < 0) != (other < 0) { rem.wrapping_add(other) } else { rem }
            }
            #[inline(always)]
            fn abs(self) -> Self { $abs(self) }
            #[allow(clippy::cast_lossless)]
            #[inline(always)]
            fn from_i64(value: i64) -> Self { value as $type }
            #[allow(clippy::cast_lossless)]
            #[inline(always)]
            fn to_f64(self) -> f64 { self as f64 }
            #[inline(always)]
            fn from_f64(value: f64) -> Self { value as $type }
            #[inline(always)]
            fn is_nan(self) -> bool { false }
        }
    )*};
}

floats!(f32 by widest, f64);
integers!(
    (i8, i8::wrapping_abs),
    (i16, i16::wrapping_abs),
    (i32, i32::wrapping_abs),
    (i64, i64::wrapping_abs),
    (u8, std::convert::identity),
    (u16, std::convert::identity),
    (u32, std::convert::identity),
    (u64, std::convert::identity)
);

/// Whether operators of this build compute with elements of that type: without feature `types` only with those that networks and the
/// shapes in them are made of.
pub(crate) const fn computes(dtype: DataType) -> bool {
    use DataType::{BF16, Bool, F16, F32, I8, I32, I64, U8};
    cfg!(feature = "types") || matches!(dtype, F32 | F16 | BF16 | I32 | I64 | Bool | U8 | I8)
}

/// Evaluates an expression with `$T` as the Rust type of a data type that is one of those listed (by their Rust names),
/// and another expression for the other data types.
macro_rules! with_type {
    ($dtype:expr, $T:ident in [$($type:ty),*] => $body:expr, else => $otherwise:expr) => {{
        let dtype = $dtype;
        $(if $crate::ops::number::computes(<$type as poda_formats::Element>::DTYPE)
            && dtype == <$type as poda_formats::Element>::DTYPE
        {
            type $T = $type;
            $body
        } else)* {
            $otherwise
        }
    }};
}

/// [`with_type!`] over all of [`Number`].
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr, else => $otherwise:expr) => {
        $crate::ops::number::with_type!(
            $dtype, $T in [f32, f64, i8, i16, i32, i64, u8, u16, u32, u64] => $body, else => $otherwise
        )
    };
}

/// Evaluates an expression with `$T` as the unsigned integer that is as wide as an element: for moving elements about.
macro_rules! with_width {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.size() {
            1 => {
                type $T = u8;
                $body
            }
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            _ => {
                type $T = u64;
                $body
            }
        }
    };
}

pub(super) use {with_number, with_type, with_width};

/// For each element a number in the same order: equal ones for equal elements (so for both zeros), the largest for NaN.
pub(super) fn order_keys(view: TensorView<'_>) -> Result<Vec<u64>, OpError> {
    let float = |x: f64| {
        // Adding 0 makes minus zero plus zero. Greater magnitudes have greater bits, which a minus sign turns round.
        let bits = (x + 0.0).to_bits();
        if x.is_nan() { u64::MAX } else { bits ^ if x < 0.0 { u64::MAX } else { 1 << 63 } }
    };
    Ok(match view.dtype() {
        DataType::F64 => view.as_slice::<f64>()?.iter().map(|&x| float(x)).collect(),
        dtype if dtype.is_float() => {
            super::cast::converted::<f32>(view)?.into_iter().map(|x| float(f64::from(x))).collect()
        }
        DataType::U64 => view.as_slice::<u64>()?.to_vec(),
        _ => super::cast::converted::<i64>(view)?.into_iter().map(|x| x as u64 ^ (1 << 63)).collect(),
    })
}

/// Runs an operator on f32 copies of its f16 and bf16 inputs. When the first input is one of these, so are the outputs
/// that come out as f32. Without such inputs it just runs.
pub(super) fn by_way_of_f32(
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
    run: impl Fn(&Inputs<'_>, &mut [Output<'_>]) -> Result<(), OpError>,
) -> Result<(), OpError> {
    let is_half = |view: &TensorView<'_>| matches!(view.dtype(), DataType::F16 | DataType::BF16);
    if !inputs.iter().flatten().any(is_half) {
        return run(inputs, outputs);
    }
    let mut copies = Vec::with_capacity(inputs.len());
    for input in inputs {
        copies.push(input.filter(is_half).map(load::<f32>));
    }
    let mut wide = Vec::with_capacity(inputs.len());
    for (input, copy) in inputs.iter().zip(&copies) {
        wide.push(match (input, copy) {
            (Some(input), Some(copy)) => Some(TensorView::from_slice(input.shape(), copy)),
            (input, _) => *input,
        });
    }
    let result = inputs[0].map(|view| view.dtype());
    let mut fresh: Vec<Output<'_>> = outputs
        .iter()
        .map(|output| if output.is_used() { Output::Fresh(None) } else { Output::Unused })
        .collect();
    run(&wide, &mut fresh)?;
    for (output, fresh) in outputs.iter_mut().zip(fresh) {
        let Output::Fresh(Some(FreshTensor { dtype, shape, bytes })) = fresh else { continue };
        match (dtype, result) {
            (DataType::F32, Some(half @ (DataType::F16 | DataType::BF16))) => {
                convert::<f32>(bytemuck::cast_slice(&bytes), half, output.alloc_bytes(half, &shape)?);
            }
            _ => output.alloc_bytes(dtype, &shape)?.copy_from_slice(&bytes),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_follow_the_dividend_or_the_divisor() {
        for (a, b, truncated, floored) in [(5, 3, 2, 2), (-5, 3, -2, 1), (5, -3, 2, -1), (-5, -3, -2, -2)] {
            assert_eq!((i32::rem_truncated(a, b), i32::rem_floored(a, b)), (truncated, floored));
            assert_eq!(f64::rem_floored(f64::from(a), f64::from(b)).to_bits(), f64::from(floored).to_bits());
        }
        assert_eq!(i8::rem_floored(i8::MIN, -1), 0);
        assert_eq!(Number::div(i8::MIN, -1), i8::MIN);
        assert_eq!(u8::rem_floored(200, 7), 4);
    }

    #[test]
    fn keys_are_in_the_order_of_elements() {
        let floats = [f32::NEG_INFINITY, -2.0, -1.0, -1e-40, 0.0, 1e-40, 1.0, 2.0, f32::INFINITY, f32::NAN];
        let keys = order_keys(TensorView::from_slice(&[10], &floats)).unwrap();
        assert!(keys.is_sorted_by(|a, b| a < b));
        assert_eq!(order_keys(TensorView::from_slice(&[1], &[-0.0f32])).unwrap(), keys[4..5]);
        let keys = order_keys(TensorView::from_slice(&[4], &[i64::MIN, -1, 0, i64::MAX])).unwrap();
        assert!(keys.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn larger_and_smaller_keep_nan() {
        assert!(f32::NAN.larger(1.0).is_nan() && 1f32.larger(f32::NAN).is_nan());
        assert!(f32::NAN.smaller(1.0).is_nan() && 1f32.smaller(f32::NAN).is_nan());
        assert_eq!(Number::larger(-3i8, 2), 2);
    }
}
