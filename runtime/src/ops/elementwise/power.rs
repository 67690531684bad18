//! Pow: the result has the type of the base; the exponent may have another.

use poda_formats::{DataType, Element, TensorView};

use super::binary::Pair;
use crate::ops::OpError;
use crate::ops::args::unsupported_type;
use crate::ops::cast::converted;
use crate::ops::number::{Number, with_type};
use crate::threads::share::cost;

pub(super) fn power(pair: Pair<'_, '_, '_>) -> Result<(), OpError> {
    let (base, exponent) = (pair.left.dtype(), pair.right.dtype());
    let integer = |dtype: DataType| !dtype.is_float() && dtype != DataType::Bool;
    if integer(base) && integer(exponent) {
        let exponents = converted::<i64>(pair.right)?;
        return with_type!(base, T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
            with_exponents(pair, &exponents, integer_power::<T>)
        }, else => Err(unsupported_type("Pow", base)));
    }
    match base {
        DataType::F32 => float_power(pair),
        DataType::F64 => {
            let exponents = converted::<f64>(pair.right)?;
            with_exponents(pair, &exponents, f64::powf)
        }
        _ => {
            let exponents = converted::<f64>(pair.right)?;
            with_type!(base, T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
                with_exponents(pair, &exponents, |x: T, y: f64| T::from_f64(x.to_f64().powf(y)))
            }, else => Err(unsupported_type("Pow", base)))
        }
    }
}

/// f32 bases. One exponent for all is common, and 2, 3 and one half of these have short forms.
fn float_power(pair: Pair<'_, '_, '_>) -> Result<(), OpError> {
    let exponents = converted::<f32>(pair.right)?;
    let pair = Pair { right: TensorView::from_slice(pair.right.shape(), &exponents), ..pair };
    match *exponents {
        [2.0] => pair.map_numbers(|x: f32, _| x * x),
        [3.0] => pair.map_numbers(|x: f32, _| x * x * x),
        // The square root differs from the power at minus zero and minus infinity only.
        [0.5] => {
            pair.map_numbers(|x: f32, _| if x == f32::NEG_INFINITY { f32::INFINITY } else { x.sqrt().abs() })
        }
        _ => pair.map_at(cost::SCALAR, f32::powf),
    }
}

/// Wraps; a negative exponent gives the whole part of the true quotient, and 0 of a division by zero.
fn integer_power<T: Number>(base: T, exponent: i64) -> T {
    if exponent < 0 {
        let minus_one = T::ZERO.sub(T::ONE);
        return if base == T::ONE || (base == minus_one && exponent % 2 == 0) {
            T::ONE
        } else if base == minus_one && base < T::ZERO {
            minus_one
        } else {
            T::ZERO
        };
    }
    let (mut result, mut square, mut rest) = (T::ONE, base, exponent);
    while rest > 0 {
        if rest % 2 == 1 {
            result = result.mul(square);
        }
        square = square.mul(square);
        rest /= 2;
    }
    result
}

fn with_exponents<T: Number, E: Element>(
    pair: Pair<'_, '_, '_>,
    exponents: &[E],
    function: impl Fn(T, E) -> T + Sync,
) -> Result<(), OpError> {
    Pair { right: TensorView::from_slice(pair.right.shape(), exponents), ..pair }
        .map_at(cost::SCALAR, function)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_powers_wrap_and_never_divide_by_zero() {
        for (base, exponent, expected) in
            [(2, 3, 8), (0, 0, 1), (2, -1, 0), (1, -5, 1), (-1, -3, -1), (-1, -2, 1), (0, -1, 0), (3, 5, -13)]
        {
            assert_eq!(integer_power::<i8>(base, exponent), expected, "{base} to the {exponent}");
        }
        assert_eq!(integer_power::<u8>(255, -1), 0);
        assert_eq!(integer_power::<i64>(2, i64::MAX), 0);
    }
}
