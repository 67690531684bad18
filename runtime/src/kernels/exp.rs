//! The exponential of what is not positive: all that softmax needs.

use rten_simd::ops::NumOps;

use crate::simd::{SHIFT, Simd, splat};

/// `exp(x)` for `x <= 0`, or NaN: within 1.5 ULP, and 0 below −86.
///
/// `2^n · exp(r)` with `|r| <= ln 2 / 2`; the polynomial is the one of least relative error, 9.2e-8 (fitted by Lawson's method).
#[inline(always)]
pub(super) fn exp_negative<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let ops = simd.f32();
    let shift = splat(simd, SHIFT);
    let shifted = ops.mul_add(x, splat(simd, std::f32::consts::LOG2_E), shift);
    let n = ops.sub(shifted, shift);
    // ln 2 in two parts, of which the first has few bits.
    let r = ops.mul_add(n, splat(simd, -0.693_145_75), x);
    let r = ops.mul_add(n, splat(simd, -1.428_606_8e-6), r);
    let mut y = splat(simd, 0.008_290_272);
    for coefficient in [0.041_898_16, 0.166_676_39, 0.499_991_48, 0.999_999_7, 1.0] {
        y = ops.mul_add(y, r, splat(simd, coefficient));
    }
    simd.scale_by_power(y, shifted, ops.lt(x, splat(simd, -86.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Level, Vectorized};

    struct Each<'a>(&'a [f32], &'a mut [f32]);

    impl Vectorized for Each<'_> {
        type Output = ();

        #[inline(always)]
        fn eval<S: Simd>(self, simd: S) {
            for (x, y) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
                // SAFETY: both chunks have as many elements, at most a vector.
                unsafe {
                    let x = simd.load_first(x.as_ptr(), x.len());
                    simd.store_first(exp_negative(simd, x), y.as_mut_ptr(), y.len());
                }
            }
        }
    }

    #[test]
    fn exponentials_are_within_two_units_in_the_last_place() {
        let mut xs: Vec<f32> = (0..200_000).map(|i| -(i as f32) * 86.0 / 200_000.0).collect();
        xs.extend([f32::NEG_INFINITY, f32::MIN, -87.0, f32::NAN, -0.0]);
        for level in [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter_map(Level::supported) {
            let mut ys = vec![7.0; xs.len()];
            level.run(Each(&xs, &mut ys));
            for (&x, &y) in xs.iter().zip(&ys) {
                let exact = f64::from(x).exp();
                let error = (f64::from(y) - exact).abs();
                let unit = f64::from(f32::EPSILON) * exact;
                let close = error <= 2.0 * unit || x < -86.0 && y == 0.0 || x.is_nan() && y.is_nan();
                assert!(close, "{level:?}: exp({x}) = {y}, not {exact}");
            }
        }
    }
}
