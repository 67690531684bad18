//! Activation functions, fused into the epilogue of products and applied to slices.

use super::Grid;
use super::gelu::Gelu;
use crate::simd::Simd;
use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, SimdUnaryOp};
use rten_vecmath::{ApproxGelu, Elu, LeakyRelu, Sigmoid, Silu, Tanh};

/// A function applied to every element. Parameters carry ONNX's names.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Activation {
    /// `x`
    #[default]
    None,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, min), max)`
    #[allow(missing_docs)]
    Clip { min: f32, max: f32 },
    /// `x / 2 · (1 + erf(x / √2))`
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// `x · sigmoid(x)`, also called swish.
    Silu,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `tanh(x)`
    Tanh,
    /// `x · min(max(x / 6 + 1 / 2, 0), 1)`
    HardSwish,
    /// `min(max(alpha · x + beta, 0), 1)`
    #[allow(missing_docs)]
    HardSigmoid { alpha: f32, beta: f32 },
    /// `x` above zero, `alpha · x` below.
    #[allow(missing_docs)]
    LeakyRelu { alpha: f32 },
    /// `x` above zero, `alpha · (exp(x) - 1)` below.
    #[allow(missing_docs)]
    Elu { alpha: f32 },
    /// `x`, clamped, as QuantizeLinear and DequantizeLinear give it back.
    Rounded(Rounding),
    /// The same twice, as around a clamp between two pairs of them.
    RoundedTwice(Rounding, Rounding),
    /// The same in fewer steps, where `Rounding::then` has found that it is.
    Requantized(Rounding, Steps),
}

/// The nearest integer, up to a greatest one, times a factor.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Steps {
    pub top: f32,
    pub of: f32,
}

/// To the nearest of some multiples of `scale`, ties to the even one, a NaN to that of `nan`; and as many times `to`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Rounding {
    /// Bounds of what is rounded.
    pub clamp: [f32; 2],
    pub scale: f32,
    /// What comes of `scale`: the same, where integers stand for the numbers that they stood for.
    pub to: f32,
    /// The least and the greatest multiple.
    pub range: [f32; 2],
    pub nan: f32,
}

/// Multiples that are looked at one by one: those of 8 bits, with the zero between them.
const MOST_MULTIPLES: f32 = 256.0;

impl Rounding {
    /// The multiple that a number is rounded to.
    fn multiple(self, x: f32) -> f32 {
        let [low, high] = self.clamp;
        (x.max(low).min(high) / self.scale).round_ties_even().max(self.range[0]).min(self.range[1])
    }

    /// What all that it gives are multiples of.
    pub(crate) fn grid(self) -> Option<Grid> {
        let [least, most] = self.range;
        (least..=most).contains(&self.nan).then(|| Grid::new(self.to, Some(self.range))).flatten()
    }

    /// This rounding and a clamp at zero after it.
    pub(crate) fn then_relu(self) -> Self {
        let [low, high] = self.clamp;
        Self { clamp: [low.max(0.0), high.max(0.0)], nan: self.nan.max(0.0), ..self }
    }

    /// This rounding and another after it.
    ///
    /// Of two roundings the second sees nothing but multiples of the first, few enough to look at each: where what it makes of them is
    /// the nearest integer to the multiple times one factor, up to a greatest one, nothing is divided for it. Below the last
    /// multiple that becomes the least one nothing changes, so that the first rounding may stop there.
    pub(crate) fn then(self, second: Self) -> Activation {
        let merged = || {
            let [least, most] = [f32::NEG_INFINITY, f32::INFINITY].map(|x| self.multiple(x));
            let count = (most - least).min(MOST_MULTIPLES) as usize;
            let multiples: Vec<f32> = (0..=count).map(|i| least + i as f32).collect();
            let given: Vec<f32> = multiples.iter().map(|q| second.multiple(q * self.to)).collect();
            let from = given.iter().rposition(|to| *to == given[0])?;
            let (least, top) = (multiples[from], *given.last().filter(|_| multiples[count] == most)?);
            let fits = |factor: &f32| {
                let mut pairs = multiples[from..].iter().zip(&given[from..]);
                pairs.all(|(q, given)| (q * factor).round_ties_even().min(top) == *given)
            };
            let near = self.to / second.scale;
            let factor = [near, near.next_up(), near.next_down()].into_iter().find(fits)?;
            let rounding = Self { to: factor, range: [least, most], nan: self.nan.max(least), ..self };
            Some(Activation::Requantized(rounding, Steps { top, of: second.to }))
        };
        merged().unwrap_or(Activation::RoundedTwice(self, second))
    }
}

impl SimdUnaryOp<f32> for Rounding {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        // What is no further than the range is rounded to within it.
        let ([least, most], [low, high]) = (self.range, self.clamp);
        let low = ops.splat(low.max(least * self.scale).min(most * self.scale));
        let high = ops.splat(high.min(most * self.scale).max(least * self.scale));
        let mut clamped = ops.min(ops.max(x, low), high);
        // (Of a NaN and a number wide vectors have the second as the greater one.)
        if ops.len() < 8 || self.nan != least || self.clamp[0] > least * self.scale {
            clamped = ops.select(clamped, ops.splat(self.nan * self.scale), ops.eq(x, x));
        }
        let multiple = ops.round_ties_even(divide(isa, clamped, self.scale));
        // (An integer has no negative zero.)
        ops.mul_add(multiple, ops.splat(self.to), ops.splat(0.0))
    }
}

/// `x / by` to the last bit, where both, the quotient and `1 / by` are normal numbers or the quotient is next to nothing.
///
/// The quotient by the reciprocal, put right by its remainder (Markstein, "Computation of elementary functions on the IBM RISC
/// System/6000 processor", 1990): three instructions for one that takes as long as sixteen.
#[inline(always)]
fn divide<I: Isa>(isa: I, x: I::F32, by: f32) -> I::F32 {
    let ops = isa.f32();
    let reciprocal = 1.0 / by;
    // (Narrow vectors may have no multiply-add of a single rounding.)
    if ops.len() < 8 || !reciprocal.is_normal() {
        return ops.div(x, ops.splat(by));
    }
    let reciprocal = ops.splat(reciprocal);
    let quotient = ops.mul(x, reciprocal);
    let remainder = ops.mul_add(quotient, ops.splat(-by), x);
    ops.mul_add(remainder, reciprocal, quotient)
}

/// One function after another.
struct Twice(Rounding, Rounding);

impl SimdUnaryOp<f32> for Twice {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        self.1.eval(isa, self.0.eval(isa, x))
    }
}

/// The steps of what the rounding gives.
struct Requantize(Rounding, Steps);

impl SimdUnaryOp<f32> for Requantize {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let (ops, Self(rounding, Steps { top, of })) = (isa.f32(), self);
        let multiple = ops.min(ops.round_ties_even(rounding.eval(isa, x)), ops.splat(*top));
        // (An integer has no negative zero.)
        ops.mul_add(multiple, ops.splat(*of), ops.splat(0.0))
    }
}

impl Activation {
    /// Bounds `(min, max)` when the function only clamps; kernels do that in registers. A NaN stays a NaN.
    pub(crate) fn bounds(self) -> Option<(f32, f32)> {
        match self {
            Self::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Self::Relu => Some((0.0, f32::INFINITY)),
            Self::Clip { min, max } => Some((min, max)),
            Self::Gelu
            | Self::GeluTanh
            | Self::Silu
            | Self::Sigmoid
            | Self::Tanh
            | Self::HardSwish
            | Self::HardSigmoid { .. }
            | Self::LeakyRelu { .. }
            | Self::Elu { .. }
            | Self::Rounded(_)
            | Self::RoundedTwice(..)
            | Self::Requantized(..) => None,
        }
    }

    /// Applies the function to every element.
    pub fn apply(self, xs: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Relu => clamp(xs, 0.0, f32::INFINITY),
            Self::Clip { min, max } => clamp(xs, min, max),
            Self::Gelu => Gelu.map_mut(xs),
            Self::GeluTanh => ApproxGelu {}.map_mut(xs),
            Self::Silu => Silu {}.map_mut(xs),
            Self::Sigmoid => Sigmoid {}.map_mut(xs),
            Self::Tanh => Tanh {}.map_mut(xs),
            Self::HardSwish => {
                for x in xs {
                    *x *= clamped(*x / 6.0 + 0.5, 0.0, 1.0);
                }
            }
            Self::HardSigmoid { alpha, beta } => {
                for x in xs {
                    *x = clamped(alpha * *x + beta, 0.0, 1.0);
                }
            }
            Self::LeakyRelu { alpha } => LeakyRelu { alpha }.map_mut(xs),
            Self::Elu { alpha } => Elu { alpha }.map_mut(xs),
            Self::Rounded(rounding) => rounding.map_mut(xs),
            Self::RoundedTwice(first, then) => Twice(first, then).map_mut(xs),
            Self::Requantized(rounding, steps) => Requantize(rounding, steps).map_mut(xs),
        }
    }

    /// Whether [`Activation::round`] applies the function.
    pub(crate) fn rounds(self) -> bool {
        matches!(self, Self::Rounded(_) | Self::RoundedTwice(..) | Self::Requantized(..))
    }

    /// Applies the function to `rows` of `cols` elements, `stride` apart, that were just written, if it is a rounding.
    ///
    /// # Safety
    /// The elements must be accessible, and nobody else's.
    #[inline(always)]
    pub(crate) unsafe fn round<S: Simd>(
        self,
        simd: S,
        at: *mut f32,
        stride: usize,
        [rows, cols]: [usize; 2],
    ) {
        /// # Safety
        /// As `round`.
        #[inline(always)]
        unsafe fn each<S: Simd>(
            simd: S,
            function: &impl SimdUnaryOp<f32>,
            at: *mut f32,
            stride: usize,
            [rows, cols]: [usize; 2],
        ) {
            let (ops, rest) = (simd.f32(), cols % S::LANES);
            for row in 0..rows {
                let line = at.wrapping_add(row * stride);
                // SAFETY: by the caller.
                unsafe {
                    for col in (0..cols - rest).step_by(S::LANES) {
                        let at = line.wrapping_add(col);
                        ops.store_ptr(function.eval(simd, ops.load_ptr(at)), at);
                    }
                    if rest > 0 {
                        let at = line.wrapping_add(cols - rest);
                        simd.store_first(function.eval(simd, simd.load_first(at, rest)), at, rest);
                    }
                }
            }
        }
        // SAFETY: by the caller.
        unsafe {
            match self {
                Self::Rounded(rounding) => each(simd, &rounding, at, stride, [rows, cols]),
                Self::RoundedTwice(first, then) => each(simd, &Twice(first, then), at, stride, [rows, cols]),
                Self::Requantized(rounding, steps) => {
                    each(simd, &Requantize(rounding, steps), at, stride, [rows, cols]);
                }
                _ => {}
            }
        }
    }
}

fn clamp(xs: &mut [f32], min: f32, max: f32) {
    for x in xs {
        *x = clamped(*x, min, max);
    }
}

/// Clamps and lets a NaN through, unlike `f32::max`.
#[inline]
fn clamped(x: f32, min: f32, max: f32) -> f32 {
    let x = if x < min { min } else { x };
    if x > max { max } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(activation: Activation, x: f64) -> f64 {
        // erf by its integral, midpoint rule: slow and exact enough to judge f32.
        let erf = |x: f64| {
            let steps = 2000;
            let h = x / f64::from(steps);
            let sum: f64 = (0..steps).map(|i| (-((f64::from(i) + 0.5) * h).powi(2)).exp()).sum();
            sum * h * 2.0 / std::f64::consts::PI.sqrt()
        };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::None => x,
            Activation::Relu => x.max(0.0),
            Activation::Clip { min, max } => x.clamp(min.into(), max.into()),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            Activation::Silu => x * sigmoid(x),
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => x.tanh(),
            Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::HardSigmoid { alpha, beta } => {
                (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
            }
            Activation::LeakyRelu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * x
                } else {
                    x
                }
            }
            Activation::Elu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * x.exp_m1()
                } else {
                    x
                }
            }
            Activation::Rounded(Rounding { clamp: [low, high], scale, to, range: [least, most], .. }) => {
                let scale = f64::from(scale);
                let multiple = (x.clamp(low.into(), high.into()) / scale).round_ties_even();
                multiple.clamp(least.into(), most.into()) * f64::from(to)
            }
            Activation::RoundedTwice(first, then) => {
                reference(Activation::Rounded(then), reference(Activation::Rounded(first), x))
            }
            Activation::Requantized(rounding, Steps { top, of }) => {
                let multiple = reference(Activation::Rounded(rounding), x).round_ties_even();
                multiple.min(top.into()) * f64::from(of)
            }
        }
    }

    #[test]
    fn every_activation_matches_its_formula() {
        let all = [
            Activation::None,
            Activation::Relu,
            Activation::Clip { min: -0.5, max: 1.5 },
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Silu,
            Activation::Sigmoid,
            Activation::Tanh,
            Activation::HardSwish,
            Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
            Activation::LeakyRelu { alpha: 0.1 },
            Activation::Elu { alpha: 0.7 },
            Activation::Rounded(Rounding {
                clamp: [-2.5, 4.0],
                scale: 0.25,
                to: 1.5,
                range: [-8.0, 17.0],
                nan: 3.0,
            }),
            Activation::RoundedTwice(
                Rounding { clamp: [-9.0, 9.0], scale: 0.375, to: 0.375, range: [-8.0, 7.0], nan: 0.0 },
                Rounding { clamp: [0.0, 2.0], scale: 0.25, to: 0.25, range: [-8.0, 17.0], nan: 0.0 },
            ),
        ];
        for activation in all {
            let xs: Vec<f32> = (-40..=40).map(|i| i as f32 / 8.0).collect();
            let mut ys = xs.clone();
            activation.apply(&mut ys);
            for (&x, &y) in xs.iter().zip(&ys) {
                let expected = reference(activation, x.into());
                assert!((f64::from(y) - expected).abs() < 2e-6, "{activation:?}({x}) = {y}, not {expected}");
            }
        }
    }

    /// Where rounding is decided: at ties, a bit beside them, and where the range ends.
    #[test]
    fn rounding_is_that_of_the_quotient() {
        for i in 0..400 {
            // From 1e-6 to 30, of all mantissas.
            let scale = 1e-6 * 1.0441_f32.powi(i);
            let to = if i % 3 == 0 { 1.0 } else { scale };
            let range = if i % 2 == 0 { [-128.0, 127.0] } else { [-100.0, 155.0] };
            let rounding = Rounding { clamp: [f32::NEG_INFINITY, f32::INFINITY], scale, to, range, nan: 2.0 };
            let mut xs = vec![0.0, -0.0, 1e-38, 1e30, -1e30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY];
            for tie in -130..=160 {
                let mut x = ((f64::from(tie) + 0.5) * f64::from(scale)) as f32;
                (0..4).for_each(|_| x = x.next_down());
                for _ in 0..9 {
                    xs.push(x);
                    x = x.next_up();
                }
            }
            let expected: Vec<f32> = xs
                .iter()
                .map(|x| ((x / scale).round_ties_even().clamp(range[0], range[1]) + 0.0) * to)
                .collect();
            let mut bounded = xs.clone();
            bounded.push(f32::NAN);
            Activation::Rounded(rounding).apply(&mut xs);
            assert_eq!(xs, expected, "{scale}");
            // With a clamp at zero after it.
            Activation::Rounded(rounding.then_relu()).apply(&mut bounded);
            let relu = |x: &f32| if *x > 0.0 { *x } else { 0.0 };
            assert_eq!(
                bounded,
                expected.iter().chain([&(2.0 * to)]).map(relu).collect::<Vec<_>>(),
                "{scale}"
            );
        }
    }

    /// Of all multiples, around all ties, and what is no number.
    #[test]
    fn two_roundings_in_fewer_steps_give_the_same_bits() {
        let mut merged = 0;
        for i in 0..300 {
            let scale = 1e-3 * 1.0441_f32.powi(i % 150);
            let range = if i % 2 == 0 { [-128.0, 127.0] } else { [-100.0, 155.0] };
            let clamp = if i % 3 == 0 { [0.0, 6.0] } else { [f32::NEG_INFINITY, f32::INFINITY] };
            let first = Rounding {
                clamp: [f32::NEG_INFINITY, f32::INFINITY],
                scale,
                to: scale,
                range,
                nan: [0.0, range[0]][i as usize % 2],
            };
            let first = if i % 4 == 3 { first.then_relu() } else { first };
            let then = [6.0 / 255.0, scale, scale * 0.7, scale * 3.1, 1e-4 * scale][i as usize % 5];
            let second = Rounding { clamp, scale: then, to: then * 0.5, range: [0.0, 255.0], nan: 0.0 };
            let fewer = first.then(second);
            merged += usize::from(matches!(fewer, Activation::Requantized(..)));
            let mut xs = vec![f32::NAN, 0.0, -0.0, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY];
            for tie in -130..=160 {
                let x = ((f64::from(tie) + 0.5) * f64::from(scale)) as f32;
                xs.extend([x.next_down(), x, x.next_up(), x + 0.3 * scale]);
            }
            let mut expected = xs.clone();
            Activation::RoundedTwice(first, second).apply(&mut expected);
            fewer.apply(&mut xs);
            let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&xs), bits(&expected), "{first:?} {second:?}");
        }
        assert!(merged > 200, "{merged} of 300");
    }

    #[test]
    fn a_nan_is_rounded_to_its_number() {
        let rounding = Rounding { clamp: [0.0, 4.0], scale: 0.5, to: 0.5, range: [-8.0, 17.0], nan: -3.0 };
        let mut xs = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.75, 0.25];
        Activation::Rounded(rounding).apply(&mut xs);
        assert_eq!(xs, [-1.5, 4.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn clamps_let_nan_through() {
        for activation in [Activation::Relu, Activation::Clip { min: 0.0, max: 6.0 }] {
            let mut xs = [f32::NAN, -1.0];
            activation.apply(&mut xs);
            assert!(xs[0].is_nan() && xs[1] == 0.0);
        }
    }
}
