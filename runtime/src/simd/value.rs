//! Stored values that kernels widen to f32 as they load them.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::{
    __m256, __m512, _mm_loadl_epi64, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_slli_epi32, _mm512_castsi512_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtph_ps, _mm512_loadu_ps, _mm512_slli_epi32,
};

use half::{bf16, f16};
use poda_formats::Element;

/// A type that weights are stored as. Widening is exact; scales are applied to sums.
pub(crate) trait Value: Element {
    /// The f32 of the same value.
    fn widen(self) -> f32;

    /// 8 values from `ptr` on.
    ///
    /// # Safety
    /// They must be readable, and the CPU have AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load8(ptr: *const Self) -> __m256;

    /// 16 values from `ptr` on.
    ///
    /// # Safety
    /// They must be readable, and the CPU have AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load16(ptr: *const Self) -> __m512;
}

impl Value for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(ptr: *const Self) -> __m256 {
        // SAFETY: by the caller.
        unsafe { _mm256_loadu_ps(ptr) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(ptr: *const Self) -> __m512 {
        // SAFETY: by the caller.
        unsafe { _mm512_loadu_ps(ptr) }
    }
}

impl Value for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(ptr: *const Self) -> __m256 {
        // SAFETY: by the caller.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(ptr.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(ptr: *const Self) -> __m512 {
        // SAFETY: by the caller.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(ptr.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
}

impl Value for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(ptr: *const Self) -> __m256 {
        // SAFETY: by the caller.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(ptr.cast())) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(ptr: *const Self) -> __m512 {
        // SAFETY: by the caller.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(ptr.cast())) }
    }
}

impl Value for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(ptr: *const Self) -> __m256 {
        // SAFETY: by the caller.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(ptr.cast()))) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(ptr: *const Self) -> __m512 {
        // SAFETY: by the caller.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(ptr.cast()))) }
    }
}
