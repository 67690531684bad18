//! Transposes of strided matrices, in register blocks.

use crate::simd::{Simd, Supported, Vectorized};

/// `dst[c · dst_stride + r] = src[r · src_stride + c]` for `r < rows`, `c < cols`.
///
/// # Safety
/// Those elements must be readable and writable, and must not overlap.
#[inline(always)]
pub(crate) unsafe fn transpose<S: Simd>(
    simd: S,
    src: *const f32,
    src_stride: usize,
    [rows, cols]: [usize; 2],
    dst: *mut f32,
    dst_stride: usize,
) {
    // Along the longer rows, so that a few pages are walked through one after the other.
    let along_src = src_stride >= dst_stride;
    let [outer, inner] = if along_src { [rows, cols] } else { [cols, rows] };
    for o in (0..outer).step_by(S::LANES) {
        for i in (0..inner).step_by(S::LANES) {
            let [r, c] = if along_src { [o, i] } else { [i, o] };
            let block = [S::LANES.min(rows - r), S::LANES.min(cols - c)];
            // SAFETY: the block lies within the matrix that the caller answers for.
            unsafe {
                let (src, dst) = (src.add(r * src_stride + c), dst.add(c * dst_stride + r));
                simd.transpose_block(src, src_stride, block, dst, dst_stride);
            }
        }
    }
}

/// `[rows, cols]` to `[cols, rows]`, both contiguous.
///
/// # Panics
/// When a slice does not hold `rows · cols` elements.
pub fn transpose_matrix(src: &[f32], [rows, cols]: [usize; 2], dst: &mut [f32]) {
    struct Op<'a>(&'a [f32], [usize; 2], &'a mut [f32]);
    impl Vectorized for Op<'_> {
        type Output = ();

        #[inline(always)]
        fn eval<S: Simd>(self, simd: S) {
            let Self(src, shape, dst) = self;
            // SAFETY: both slices hold `rows · cols` elements, checked below; `&mut` does not overlap `&`.
            unsafe { transpose(simd, src.as_ptr(), shape[1], shape, dst.as_mut_ptr(), shape[0]) };
        }
    }
    assert_eq!([src.len(), dst.len()], [rows * cols; 2], "[{rows}, {cols}]");
    Supported::best().run(Op(src, [rows, cols], dst));
}
