//! Vectors as arrays, for any CPU.

use rten_simd::isa::GenericIsa;
use rten_simd::ops::BitOps as _;
use rten_simd::{Isa as _, Simd as _};

use super::{Simd, Value};

// SAFETY: `GenericIsa` has 128-bit vectors.
unsafe impl Simd for GenericIsa {
    const LANES: usize = 4;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn load_first(self, ptr: *const f32, n: usize) -> Self::F32 {
        let mut lanes = [0.0; Self::LANES];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            // SAFETY: `i < n`, and the caller says that `n` elements are readable.
            *lane = unsafe { *ptr.add(i) };
        }
        // SAFETY: `lanes` is a local of a vector's size.
        unsafe { self.f32().load_ptr(lanes.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_between(self, v: Self::F32, ptr: *const f32, from: usize, to: usize) -> Self::F32 {
        let mut lanes = v.to_array();
        for (i, lane) in lanes.iter_mut().enumerate().take(to).skip(from) {
            // SAFETY: `from <= i < to`, and the caller says that those elements are readable.
            *lane = unsafe { *ptr.wrapping_add(i) };
        }
        // SAFETY: `lanes` is a local of a vector's size.
        unsafe { self.f32().load_ptr(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn unzip(self, a: Self::F32, b: Self::F32) -> [Self::F32; 2] {
        let (a, b) = (a.to_array(), b.to_array());
        let both = |i: usize| if i < Self::LANES { a[i] } else { b[i - Self::LANES] };
        [0, 1].map(|odd| {
            let lanes: [f32; Self::LANES] = std::array::from_fn(|i| both(2 * i + odd));
            // SAFETY: `lanes` is a local of a vector's size.
            unsafe { self.f32().load_ptr(lanes.as_ptr()) }
        })
    }

    #[inline(always)]
    fn zip(self, a: Self::F32, b: Self::F32) -> [Self::F32; 2] {
        let (a, b) = (a.to_array(), b.to_array());
        [0, Self::LANES].map(|start| {
            let lane = |i: usize| if i.is_multiple_of(2) { a[i / 2] } else { b[i / 2] };
            let lanes: [f32; Self::LANES] = std::array::from_fn(|i| lane(start + i));
            // SAFETY: `lanes` is a local of a vector's size.
            unsafe { self.f32().load_ptr(lanes.as_ptr()) }
        })
    }

    #[inline(always)]
    unsafe fn load_values<V: Value>(self, ptr: *const V) -> Self::F32 {
        // SAFETY: the caller says that as many are readable.
        let lanes: [f32; Self::LANES] = std::array::from_fn(|i| unsafe { *ptr.add(i) }.widen());
        // SAFETY: `lanes` is a local of a vector's size.
        unsafe { self.f32().load_ptr(lanes.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store_first(self, v: Self::F32, ptr: *mut f32, n: usize) {
        use rten_simd::Simd as _;
        for (i, lane) in v.to_array().into_iter().enumerate().take(n) {
            // SAFETY: `i < n`, and the caller says that `n` elements are writable.
            unsafe { *ptr.add(i) = lane };
        }
    }

    #[inline(always)]
    unsafe fn splat_parts(self, at: [*const f32; 4], _: usize) -> Self::F32 {
        // SAFETY: by the caller; a vector of 4 lanes has one part.
        self.f32().splat(unsafe { *at[0] })
    }

    #[inline(always)]
    unsafe fn load_parts(self, at: [*const f32; 4]) -> Self::F32 {
        // SAFETY: by the caller.
        unsafe { self.f32().load_ptr(at[0]) }
    }

    #[inline(always)]
    unsafe fn transpose_block(
        self,
        src: *const f32,
        src_stride: usize,
        [rows, cols]: [usize; 2],
        dst: *mut f32,
        dst_stride: usize,
    ) {
        for col in 0..cols {
            for row in 0..rows {
                // SAFETY: within the block that the caller names.
                unsafe { *dst.add(col * dst_stride + row) = *src.add(row * src_stride + col) };
            }
        }
    }
}
