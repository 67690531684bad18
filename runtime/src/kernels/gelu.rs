//! The Gaussian error linear unit.

use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, SimdUnaryOp};

/// `x / 2 · (1 + erf(x / √2))` (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016).
///
/// `erf(x / √2)` is `x · p(x²) / q(x²)`, which has no exponential; the quotient of least absolute error, 1.5e-8 before rounding (fitted
/// by Lawson's method), within 3e-7 as computed.
pub(super) struct Gelu;

/// From here on `erf` is 1, and the quotient gives just that.
const ONE: f32 = 5.55;
/// From the highest power down.
const P: [f32; 6] =
    [4.549_869_5e-8, 1.270_425_9e-5, 3.376_535_6e-4, 9.354_535e-3, 0.067_705_505, 0.797_884_46];
const Q: [f32; 6] = [1.197_504_3e-6, 7.364_788e-5, 1.884_451_1e-3, 0.028_645_933, 0.251_522_18, 1.0];

impl SimdUnaryOp<f32> for Gelu {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        let near = ops.min(ops.max(x, ops.splat(-ONE)), ops.splat(ONE));
        let square = ops.mul(near, near);
        let (mut p, mut q) = (ops.splat(P[0]), ops.splat(Q[0]));
        for (a, b) in P.into_iter().zip(Q).skip(1) {
            p = ops.mul_add(p, square, ops.splat(a));
            q = ops.mul_add(q, square, ops.splat(b));
        }
        let erf = ops.div(ops.mul(near, p), q);
        let half = ops.mul(x, ops.splat(0.5));
        ops.mul_add(half, erf, half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_from_zero_it_is_the_number_itself_or_nothing() {
        let mut xs = vec![-1e30, -1e4, -7.0, -5.55, 5.55, 7.0, 1e4, 1e30, f32::INFINITY, f32::NAN];
        let expected = [0.0, 0.0, 0.0, 0.0, 5.55, 7.0, 1e4, 1e30, f32::INFINITY, f32::NAN];
        // (In vectors and, what is left, in parts of one.)
        for xs in [&mut xs.repeat(7)[..], &mut xs[..]] {
            Gelu.map_mut(xs);
            for (i, y) in xs.iter().enumerate() {
                let expected: f32 = expected[i % expected.len()];
                assert!(*y == expected || y.is_nan() && expected.is_nan(), "{i}: {y}");
            }
        }
    }
}
