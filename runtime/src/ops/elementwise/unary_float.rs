//! Functions of one floating-point input.

use poda_formats::op::Unary;
use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, SimdUnaryOp};
use rten_vecmath as vecmath;

use super::wide::{map_vector, widest};
use crate::ops::OpError;
use crate::ops::args::unsupported_type;
use crate::ops::number::Number;
use crate::threads::share::cost;

/// About how many picoseconds [`float_f32`] takes for an element.
pub(super) fn f32_cost(function: Unary) -> usize {
    match function {
        Unary::Abs
        | Unary::Ceil
        | Unary::Floor
        | Unary::HardSigmoid { .. }
        | Unary::HardSwish
        | Unary::LeakyRelu { .. }
        | Unary::Neg
        | Unary::Reciprocal
        | Unary::Relu
        | Unary::Round
        | Unary::Shrink { .. }
        | Unary::Sign
        | Unary::Softsign
        | Unary::Sqrt
        | Unary::ThresholdedRelu { .. } => cost::ARITHMETIC,
        Unary::Cos
        | Unary::Elu { .. }
        | Unary::Erf
        | Unary::Exp
        | Unary::Gelu { .. }
        | Unary::Mish
        | Unary::Sigmoid
        | Unary::Sin
        | Unary::Swish { .. }
        | Unary::Tanh => cost::FUNCTION,
        _ => cost::SCALAR,
    }
}

/// f32: the transcendental functions that networks spend time in are vector functions, with errors of a few units in
/// the last place; simple arithmetic is left to the compiler, for each instruction set.
pub(super) fn float_f32(function: Unary, input: &[f32], output: &mut [f32]) -> Result<(), OpError> {
    match function {
        Unary::Exp => map_vector(&vecmath::Exp {}, input, output),
        Unary::Erf => map_vector(&vecmath::Erf {}, input, output),
        Unary::Tanh => map_vector(&vecmath::Tanh {}, input, output),
        Unary::Sigmoid => map_vector(&vecmath::Sigmoid {}, input, output),
        Unary::Swish { alpha } => map_vector(&vecmath::Swish { alpha }, input, output),
        Unary::Gelu { approximate: false } => map_vector(&vecmath::Gelu {}, input, output),
        Unary::Gelu { approximate: true } => map_vector(&vecmath::ApproxGelu {}, input, output),
        Unary::Elu { alpha } => map_vector(&vecmath::Elu { alpha }, input, output),
        Unary::Sin => map_vector(&vecmath::Sin::new(), input, output),
        Unary::Cos => map_vector(&vecmath::Cos::new(), input, output),
        Unary::Mish => map_vector(&Mish, input, output),
        _ => {
            return widest(
                #[inline(always)]
                || float(function, input, output),
            );
        }
    }
    Ok(())
}

/// `x · tanh(ln(1 + eˣ))`, which is `x · n / (n + 2)` for `n = eˣ · (eˣ + 2)`.
struct Mish;

impl SimdUnaryOp<f32> for Mish {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        let two = ops.splat(2.0);
        // Beyond 20 it is x to the last bit, and the square would overflow later.
        let exp = vecmath::Exp {}.eval(isa, ops.min(x, ops.splat(20.0)));
        let n = ops.mul(exp, ops.add(exp, two));
        ops.mul(x, ops.div(n, ops.add(n, two)))
    }
}

/// f64, exactly.
pub(super) fn float_f64(function: Unary, input: &[f64], output: &mut [f64]) -> Result<(), OpError> {
    float(function, input, output)
}

trait Float: Number + std::ops::Neg<Output = Self> {
    fn of(value: f32) -> Self;
    fn exp(self) -> Self;
    fn exp_m1(self) -> Self;
    fn ln(self) -> Self;
    fn ln_1p(self) -> Self;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn round_ties_even(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tan(self) -> Self;
    fn asin(self) -> Self;
    fn acos(self) -> Self;
    fn atan(self) -> Self;
    fn sinh(self) -> Self;
    fn cosh(self) -> Self;
    fn tanh(self) -> Self;
    fn asinh(self) -> Self;
    fn acosh(self) -> Self;
    fn atanh(self) -> Self;
}

macro_rules! float_methods {
    ($type:ident: $($method:ident),*) => {
        impl Float for $type {
            #[allow(clippy::cast_lossless, trivial_numeric_casts)]
            #[inline(always)]
            fn of(value: f32) -> Self { value as $type }
            $(
                #[inline(always)]
                fn $method(self) -> Self { $type::$method(self) }
            )*
        }
    };
}

float_methods!(f32: exp, exp_m1, ln, ln_1p, sqrt, floor, ceil, round_ties_even, sin, cos, tan, asin, acos, atan, sinh,
    cosh, tanh, asinh, acosh, atanh);
float_methods!(f64: exp, exp_m1, ln, ln_1p, sqrt, floor, ceil, round_ties_even, sin, cos, tan, asin, acos, atan, sinh,
    cosh, tanh, asinh, acosh, atanh);

#[inline(always)]
fn map<T: Copy>(input: &[T], output: &mut [T], function: impl Fn(T) -> T) {
    for (to, &from) in output.iter_mut().zip(input) {
        *to = function(from);
    }
}

/// `ln(1 + exp(x))` without overflow.
#[inline(always)]
fn softplus<T: Float>(x: T) -> T {
    let positive = if x > T::ZERO { x } else { T::ZERO };
    positive.add((-x.abs()).exp().ln_1p())
}

#[inline(always)]
fn sigmoid<T: Float>(x: T) -> T {
    T::ONE.div(T::ONE.add((-x).exp()))
}

/// The error function, in f64: its Maclaurin series where that converges fast, else the continued fraction of erfc.
/// Abramowitz and Stegun, 7.1.6 and 7.1.14.
fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    let value = if magnitude < 3.0 {
        let (mut term, mut sum) = (magnitude, magnitude);
        for n in 1..80 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
    } else if magnitude < 7.0 {
        let fraction = (1..60).rev().fold(magnitude, |below, n| magnitude + f64::from(n) / 2.0 / below);
        1.0 - (-x * x).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0
    } else if magnitude >= 7.0 {
        1.0
    } else {
        return x;
    };
    value.copysign(x)
}

#[inline(always)]
fn float<T: Float>(function: Unary, input: &[T], output: &mut [T]) -> Result<(), OpError> {
    let half = T::of(0.5);
    macro_rules! each {
        (|$x:ident| $body:expr) => {
            map(
                input,
                output,
                #[inline(always)]
                |$x: T| $body,
            )
        };
    }
    match function {
        Unary::Abs => each!(|x| x.abs()),
        Unary::Acos => each!(|x| x.acos()),
        Unary::Acosh => each!(|x| x.acosh()),
        Unary::Asin => each!(|x| x.asin()),
        Unary::Asinh => each!(|x| x.asinh()),
        Unary::Atan => each!(|x| x.atan()),
        Unary::Atanh => each!(|x| x.atanh()),
        Unary::Ceil => each!(|x| x.ceil()),
        Unary::Celu { alpha } => {
            let alpha = T::of(alpha);
            each!(|x| if x > T::ZERO { x } else { alpha.mul(x.div(alpha).exp_m1()) });
        }
        Unary::Cos => each!(|x| x.cos()),
        Unary::Cosh => each!(|x| x.cosh()),
        Unary::Elu { alpha } => {
            let alpha = T::of(alpha);
            each!(|x| if x > T::ZERO { x } else { alpha.mul(x.exp_m1()) });
        }
        Unary::Erf => each!(|x| T::from_f64(erf(x.to_f64()))),
        Unary::Exp => each!(|x| x.exp()),
        Unary::Floor => each!(|x| x.floor()),
        Unary::Gelu { approximate: false } => {
            let scale = std::f64::consts::FRAC_1_SQRT_2;
            each!(|x| x.mul(half).mul(T::ONE.add(T::from_f64(erf(x.to_f64() * scale)))));
        }
        Unary::Gelu { approximate: true } => {
            let scale = T::from_f64((2.0 / std::f64::consts::PI).sqrt());
            let cubic = T::from_f64(0.044_715);
            each!(|x| {
                let inner = scale.mul(x.add(cubic.mul(x.mul(x).mul(x))));
                x.mul(half).mul(T::ONE.add(inner.tanh()))
            });
        }
        Unary::HardSigmoid { alpha, beta } => {
            let (alpha, beta) = (T::of(alpha), T::of(beta));
            each!(|x| unit(alpha.mul(x).add(beta)));
        }
        Unary::HardSwish => {
            let sixth = T::ONE.div(T::of(6.0));
            each!(|x| x.mul(unit(sixth.mul(x).add(half))));
        }
        Unary::LeakyRelu { alpha } => {
            let alpha = T::of(alpha);
            each!(|x| if x < T::ZERO { x.mul(alpha) } else { x });
        }
        Unary::Log => each!(|x| x.ln()),
        Unary::Mish => each!(|x| x.mul(softplus(x).tanh())),
        Unary::Neg => each!(|x| -x),
        Unary::Reciprocal => each!(|x| T::ONE.div(x)),
        Unary::Relu => each!(|x| if x < T::ZERO { T::ZERO } else { x }),
        Unary::Round => each!(|x| x.round_ties_even()),
        Unary::Selu { alpha, gamma } => {
            let (alpha, gamma) = (T::of(alpha), T::of(gamma));
            each!(|x| gamma.mul(if x > T::ZERO { x } else { alpha.mul(x.exp_m1()) }));
        }
        Unary::Shrink { bias, lambda } => {
            let (bias, lambda) = (T::of(bias), T::of(lambda));
            each!(|x| if x < -lambda {
                x.add(bias)
            } else if x > lambda {
                x.sub(bias)
            } else {
                T::ZERO
            });
        }
        Unary::Sigmoid => each!(|x| sigmoid(x)),
        Unary::Sign => each!(|x| if x > T::ZERO {
            T::ONE
        } else if x < T::ZERO {
            -T::ONE
        } else {
            x
        }),
        Unary::Sin => each!(|x| x.sin()),
        Unary::Sinh => each!(|x| x.sinh()),
        Unary::Softplus => each!(|x| softplus(x)),
        Unary::Softsign => each!(|x| x.div(T::ONE.add(x.abs()))),
        Unary::Sqrt => each!(|x| x.sqrt()),
        Unary::Swish { alpha } => {
            let alpha = T::of(alpha);
            each!(|x| x.mul(sigmoid(alpha.mul(x))));
        }
        Unary::Tan => each!(|x| x.tan()),
        Unary::Tanh => each!(|x| x.tanh()),
        Unary::ThresholdedRelu { alpha } => {
            let alpha = T::of(alpha);
            each!(|x| if x > alpha { x } else { T::ZERO });
        }
        Unary::BitwiseNot | Unary::Not | Unary::IsInf { .. } | Unary::IsNan => {
            return Err(unsupported_type(function, T::DTYPE));
        }
    }
    Ok(())
}

/// Clamped to 0..=1; NaN passes.
#[inline(always)]
fn unit<T: Number>(x: T) -> T {
    let x = if x < T::ZERO { T::ZERO } else { x };
    if x > T::ONE { T::ONE } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_tabulated_values() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (-1.0, -0.842_700_792_949_714_9),
            (2.9, 0.999_958_902_121_900_5),
            (3.1, 0.999_988_351_342_632_8),
            (8.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 1e-14, "erf({x}) = {}", erf(x));
        }
        assert!(erf(f64::NAN).is_nan() && erf(f64::NEG_INFINITY) == -1.0);
    }

    #[test]
    fn f32_functions_agree_with_f64() {
        let functions = [
            Unary::Abs,
            Unary::Exp,
            Unary::Erf,
            Unary::Tanh,
            Unary::Sigmoid,
            Unary::Swish { alpha: 1.5 },
            Unary::Gelu { approximate: false },
            Unary::Gelu { approximate: true },
            Unary::Elu { alpha: 0.7 },
            Unary::Celu { alpha: 0.7 },
            Unary::HardSwish,
            Unary::Mish,
            Unary::Softplus,
            Unary::Relu,
            Unary::Round,
            Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
            Unary::LeakyRelu { alpha: 0.1 },
            Unary::Sin,
            Unary::Sign,
        ];
        // Longer than a vector of any instruction set, with a tail.
        let input: Vec<f32> = (-37..=37).map(|i| i as f32 / 4.0).collect();
        let wide: Vec<f64> = input.iter().map(|&x| f64::from(x)).collect();
        for function in functions {
            let (mut narrow, mut exact) = (vec![f32::NAN; input.len()], vec![f64::NAN; input.len()]);
            float_f32(function, &input, &mut narrow).unwrap();
            float_f64(function, &wide, &mut exact).unwrap();
            for (i, (&found, &expected)) in narrow.iter().zip(&exact).enumerate() {
                let error = (f64::from(found) - expected).abs();
                assert!(
                    error <= 2e-6 * expected.abs().max(1.0),
                    "{function:?} of {}: {found}, {expected}",
                    input[i]
                );
            }
        }
    }
}
