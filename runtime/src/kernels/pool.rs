//! The commonest pooling of small networks: the largest of each 2×2, on lines that may be shorter than a vector.

use rten_simd::ops::{BitOps, NumOps};

use crate::simd::{Simd, Supported, Vectorized};

/// `y[i, r, c] = max(x[i, 2r..2r + 2, 2c..2c + 2])` for each channel `i`, `x` `[channels, height, width]`, `y`
/// `[channels, lines, columns]`; NaN counts as largest.
///
/// # Panics
/// When lengths do not fit, or twice as many lines and columns are not there, or one of them is 0.
pub(crate) fn max_2x2(x: &[f32], [height, width]: [usize; 2], y: &mut [f32], [lines, columns]: [usize; 2]) {
    assert!(2 * columns <= width && 2 * lines <= height, "{lines} x {columns} of {height} x {width}");
    assert_eq!(x.len() / (height * width), y.len() / (lines * columns), "channels");
    Supported::best().run(Max2x2 { x, input: [height, width], y, output: [lines, columns] });
}

struct Max2x2<'a> {
    x: &'a [f32],
    input: [usize; 2],
    y: &'a mut [f32],
    output: [usize; 2],
}

impl Vectorized for Max2x2<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Self { x, input: [height, width], y, output: [lines, columns] } = self;
        let channels = x.chunks_exact(height * width).zip(y.chunks_exact_mut(lines * columns));
        let lines = channels.flat_map(|(x, y)| x.chunks_exact(2 * width).zip(y.chunks_exact_mut(columns)));
        for (x, y) in lines {
            let (upper, lower) = x.split_at(width);
            for start in (0..columns).step_by(S::LANES) {
                let lanes = S::LANES.min(columns - start);
                // SAFETY: `2 · lanes` elements from `2 · start` on lie within a line, by `max_2x2`; `y` has `lanes` left.
                unsafe {
                    let folded = |half: usize| {
                        let at = 2 * start + half * S::LANES;
                        let count = (2 * (start + lanes)).saturating_sub(at).min(S::LANES);
                        let [a, b] = [upper, lower].map(|line| line.as_ptr().wrapping_add(at));
                        larger(simd, simd.load_first(a, count), simd.load_first(b, count))
                    };
                    let [even, odd] = simd.unzip(folded(0), folded(1));
                    simd.store_first(larger(simd, even, odd), y.as_mut_ptr().add(start), lanes);
                }
            }
        }
    }
}

/// The larger of each two elements; NaN counts as largest.
#[inline(always)]
fn larger<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32 {
    let ops = simd.f32();
    // Comparisons with NaN are false: `b` where it is larger or either is NaN, then `a` where that is NaN.
    let larger = ops.select(a, b, ops.ge(a, b));
    ops.select(larger, a, ops.eq(a, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Level;

    #[test]
    #[allow(clippy::float_cmp, reason = "moved values are bit for bit the same")]
    fn the_largest_of_each_window_is_found() {
        for width in 2..70 {
            let columns = width / 2;
            let x: Vec<f32> = (0..14 * width)
                .map(|i| if i % 41 == 7 { f32::NAN } else { (i * 37 % 101) as f32 - 50.0 })
                .collect();
            for level in
                [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter_map(Level::supported)
            {
                let mut y = vec![-99.0; 2 * 3 * columns];
                level.run(Max2x2 { x: &x, input: [7, width], y: &mut y, output: [3, columns] });
                for (i, &y) in y.iter().enumerate() {
                    let at = (i / columns % 3 * 2 + i / columns / 3 * 7) * width + i % columns * 2;
                    let window = [x[at], x[at + 1], x[at + width], x[at + width + 1]];
                    if window.iter().any(|v| v.is_nan()) {
                        assert!(y.is_nan(), "{level:?} {width}: {i}");
                    } else {
                        assert_eq!(y, window.into_iter().fold(f32::MIN, f32::max), "{level:?} {width}: {i}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "1 x 2 of 2 x 3")]
    fn windows_beyond_a_line_are_refused() {
        max_2x2(&[0.0; 6], [2, 3], &mut [0.0; 2], [1, 2]);
    }
}
