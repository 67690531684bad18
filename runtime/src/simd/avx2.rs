//! AVX2 and FMA: 8 lanes, 16 registers.

use core::arch::asm;
use core::arch::x86_64::{
    __m256, __m256i, _mm_add_ps, _mm_add_ss, _mm_castps_pd, _mm_cvtsi64_si128, _mm_cvtss_f32, _mm_loadu_ps,
    _mm_max_ps, _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps, _mm_store_ss, _mm_storel_pd, _mm_storeu_ps,
    _mm256_andnot_si256, _mm256_blend_ps, _mm256_blendv_ps, _mm256_castpd_ps, _mm256_castps_pd,
    _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtepu8_epi32, _mm256_extractf128_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskload_ps, _mm256_max_ps, _mm256_min_ps,
    _mm256_movehdup_ps, _mm256_moveldup_ps, _mm256_permute2f128_ps, _mm256_permute4x64_pd,
    _mm256_permutevar8x32_ps, _mm256_set_m128, _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_ps,
    _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _pdep_u64, _pext_u64,
};

use rten_simd::isa::Avx2Isa;

use super::{Simd, Value};

/// `MASKS[8 - n..][..8]` selects the first `n` lanes.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn first(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: `8 - n .. 16 - n` lies within the table for `n <= 8`.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast()) }
}

// SAFETY: `Avx2Isa` has 256-bit vectors. Intrinsics are available because an `Avx2Isa` exists.
unsafe impl Simd for Avx2Isa {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    unsafe fn load_first(self, ptr: *const f32, n: usize) -> Self::F32 {
        // SAFETY: masked-out lanes are not read; the caller answers for the others.
        unsafe { _mm256_maskload_ps(ptr, first(n)) }.into()
    }

    #[inline(always)]
    unsafe fn load_between(self, v: Self::F32, ptr: *const f32, from: usize, to: usize) -> Self::F32 {
        // SAFETY: masked-out lanes are not read; the caller answers for the others.
        unsafe {
            let lanes = _mm256_andnot_si256(first(from), first(to));
            _mm256_blendv_ps(v.0, _mm256_maskload_ps(ptr, lanes), _mm256_castsi256_ps(lanes))
        }
        .into()
    }

    #[inline(always)]
    unsafe fn compress(self, v: Self::F32, lanes: u32, dst: *mut f32) {
        // SAFETY: by the caller; a CPU with AVX2 has BMI2, which is looked for.
        unsafe {
            // A byte for each lane: full where its bit is set, then the numbers of these.
            let full = _pdep_u64(u64::from(lanes), 0x0101_0101_0101_0101).wrapping_mul(0xff);
            let numbers = _pext_u64(0x0706_0504_0302_0100, full);
            let order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(numbers.cast_signed()));
            _mm256_storeu_ps(dst, _mm256_permutevar8x32_ps(v.0, order));
        }
    }

    #[inline(always)]
    fn extract(self, bits: u64, mask: u64) -> u64 {
        // SAFETY: as above.
        unsafe { _pext_u64(bits, mask) }
    }

    #[inline(always)]
    fn unzip(self, a: Self::F32, b: Self::F32) -> [Self::F32; 2] {
        // SAFETY: the CPU has AVX2, because `self` exists.
        unsafe {
            // Within 128-bit lanes, then their halves in order.
            let ordered = |v| _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(_mm256_castps_pd(v))).into();
            [ordered(_mm256_shuffle_ps::<0x88>(a.0, b.0)), ordered(_mm256_shuffle_ps::<0xdd>(a.0, b.0))]
        }
    }

    #[inline(always)]
    fn zip(self, a: Self::F32, b: Self::F32) -> [Self::F32; 2] {
        // SAFETY: the CPU has AVX2, because `self` exists.
        unsafe {
            // Within 128-bit lanes, then the lower of both, and the upper.
            let (low, high) = (_mm256_unpacklo_ps(a.0, b.0), _mm256_unpackhi_ps(a.0, b.0));
            [
                _mm256_permute2f128_ps::<0x20>(low, high).into(),
                _mm256_permute2f128_ps::<0x31>(low, high).into(),
            ]
        }
    }

    /// Of two NaN, or a NaN and a number, the instructions give the second.
    #[inline(always)]
    fn clamp(self, x: Self::F32, [min, max]: [Self::F32; 2]) -> Self::F32 {
        // SAFETY: the CPU has AVX2, because `self` exists.
        unsafe { _mm256_min_ps(max.0, _mm256_max_ps(min.0, x.0)) }.into()
    }

    #[inline(always)]
    fn total(self, v: Self::F32) -> f32 {
        // SAFETY: the CPU has AVX2, because `self` exists.
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v.0), _mm256_extractf128_ps::<1>(v.0));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn greatest(self, v: Self::F32) -> f32 {
        // SAFETY: as above.
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v.0), _mm256_extractf128_ps::<1>(v.0));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    unsafe fn load_values<V: Value>(self, ptr: *const V) -> Self::F32 {
        // SAFETY: by the caller; the CPU has the instructions, because `self` exists.
        unsafe { V::load8(ptr) }.into()
    }

    #[inline(always)]
    unsafe fn store_first(self, v: Self::F32, ptr: *mut f32, n: usize) {
        // SAFETY: the caller answers for `n` elements; the pieces are 8, 4, 2 and 1 of those that are left.
        unsafe { store(v.0, ptr, n) };
    }

    /// One load and two shuffles instead of two loads, of which the CPU does two in a cycle.
    #[inline(always)]
    unsafe fn splat_pair(self, weights: *const f32) -> [Self::F32; 2] {
        // SAFETY: the caller says that two weights are readable.
        unsafe {
            let pairs = pairs(weights);
            [_mm256_moveldup_ps(pairs).into(), _mm256_movehdup_ps(pairs).into()]
        }
    }

    #[inline(always)]
    unsafe fn splat_parts(self, at: [*const f32; 4], parts: usize) -> Self::F32 {
        // SAFETY: by the caller.
        unsafe {
            let first = _mm256_set1_ps(*at[0]);
            if parts == 1 { first } else { _mm256_blend_ps::<0xf0>(first, _mm256_set1_ps(*at[1])) }
        }
        .into()
    }

    #[inline(always)]
    unsafe fn load_parts(self, at: [*const f32; 4]) -> Self::F32 {
        // SAFETY: by the caller.
        unsafe { _mm256_set_m128(_mm_loadu_ps(at[1]), _mm_loadu_ps(at[0])) }.into()
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
        // SAFETY: rows and columns beyond the block are neither read nor written; the caller answers for the block.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, r) in r.iter_mut().enumerate().take(rows) {
                let row = src.add(i * src_stride);
                *r = if cols == 8 { _mm256_loadu_ps(row) } else { _mm256_maskload_ps(row, first(cols)) };
            }
            let t = transpose(r);
            for (i, &t) in t.iter().enumerate().take(cols) {
                let row = dst.add(i * dst_stride);
                store(t, row, rows);
            }
        }
    }
}

/// Two elements in turn. Assembly keeps the compiler from loading each of them by itself.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx")]
unsafe fn pairs(at: *const f32) -> __m256 {
    let pairs;
    // SAFETY: by the caller; the instruction touches nothing else.
    unsafe {
        asm!("vbroadcastsd {0}, qword ptr [{1}]", out(ymm_reg) pairs, in(reg) at,
            options(pure, readonly, nostack, preserves_flags));
    }
    pairs
}

/// Writes the first `n` lanes in whole pieces: an AMD Zen 3 takes over ten cycles for a masked store.
///
/// # Safety
/// The CPU must have AVX, and `n <= 8` elements at `ptr` must be writable.
#[inline(always)]
unsafe fn store(v: __m256, ptr: *mut f32, n: usize) {
    debug_assert!(n <= 8);
    // SAFETY: by the caller.
    unsafe {
        if n == 8 {
            _mm256_storeu_ps(ptr, v);
            return;
        }
        let (mut piece, mut at) = (_mm256_castps256_ps128(v), ptr);
        if n & 4 != 0 {
            _mm_storeu_ps(at, piece);
            (piece, at) = (_mm256_extractf128_ps::<1>(v), at.add(4));
        }
        if n & 2 != 0 {
            _mm_storel_pd(at.cast(), _mm_castps_pd(piece));
            (piece, at) = (_mm_movehl_ps(piece, piece), at.add(2));
        }
        if n & 1 != 0 {
            _mm_store_ss(at, piece);
        }
    }
}

/// Transposes 8×8: pairs, then quads within 128-bit lanes, then the lanes.
///
/// # Safety
/// The CPU must have AVX.
#[inline(always)]
unsafe fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: by the caller.
    unsafe {
        let mut t = r;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut q = t;
        for half in [0, 4] {
            q[half] = _mm256_shuffle_ps::<0x44>(t[half], t[half + 2]);
            q[half + 1] = _mm256_shuffle_ps::<0xee>(t[half], t[half + 2]);
            q[half + 2] = _mm256_shuffle_ps::<0x44>(t[half + 1], t[half + 3]);
            q[half + 3] = _mm256_shuffle_ps::<0xee>(t[half + 1], t[half + 3]);
        }
        let mut out = q;
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(q[i], q[i + 4]);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(q[i], q[i + 4]);
        }
        out
    }
}
