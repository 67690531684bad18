//! AVX-512: 16 lanes, 32 registers, masks.

use core::arch::asm;
use core::arch::x86_64::{
    __m512, __mmask16, _mm_load_ss, _mm_loadu_ps, _mm512_add_epi32, _mm512_broadcast_f32x4, _mm512_castpd_ps,
    _mm512_castps_pd, _mm512_castsi512_ps, _mm512_mask_broadcast_f32x4, _mm512_mask_broadcastss_ps,
    _mm512_mask_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_compress_ps, _mm512_maskz_loadu_ps,
    _mm512_maskz_scalef_ps, _mm512_max_ps, _mm512_min_ps, _mm512_permutex2var_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_sub_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
    _mm512_unpacklo_pd, _mm512_unpacklo_ps, _pext_u64,
};

use rten_simd::isa::Avx512Isa;

use super::{SHIFT, Simd, Value};

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1_u32 << n) - 1) as __mmask16
}

// SAFETY: `Avx512Isa` has 512-bit vectors. Intrinsics are available because an `Avx512Isa` exists.
unsafe impl Simd for Avx512Isa {
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;
    const PREFETCH: bool = true;

    #[inline(always)]
    unsafe fn load_first(self, ptr: *const f32, n: usize) -> Self::F32 {
        // SAFETY: masked-out lanes are not read; the caller answers for the others.
        unsafe { _mm512_maskz_loadu_ps(first(n), ptr) }.into()
    }

    #[inline(always)]
    unsafe fn load_between(self, v: Self::F32, ptr: *const f32, from: usize, to: usize) -> Self::F32 {
        // SAFETY: masked-out lanes are not read; the caller answers for the others.
        unsafe { _mm512_mask_loadu_ps(v.0, first(to) & !first(from), ptr) }.into()
    }

    #[inline(always)]
    fn unzip(self, a: Self::F32, b: Self::F32) -> [Self::F32; 2] {
        // SAFETY: the CPU has AVX-512, because `self` exists.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            [even, odd].map(|index| _mm512_permutex2var_ps(a.0, index, b.0).into())
        }
    }

    #[inline(always)]
    fn zip(self, a: Self::F32, b: Self::F32) -> [Self::F32; 2] {
        // SAFETY: the CPU has AVX-512, because `self` exists.
        unsafe {
            let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
            [first, second].map(|index| _mm512_permutex2var_ps(a.0, index, b.0).into())
        }
    }

    /// Of two NaN, or a NaN and a number, the instructions give the second.
    #[inline(always)]
    fn clamp(self, x: Self::F32, [min, max]: [Self::F32; 2]) -> Self::F32 {
        // SAFETY: the CPU has AVX-512, because `self` exists.
        unsafe { _mm512_min_ps(max.0, _mm512_max_ps(min.0, x.0)) }.into()
    }

    #[inline(always)]
    fn total(self, v: Self::F32) -> f32 {
        // SAFETY: the CPU has AVX-512, because `self` exists.
        unsafe { _mm512_reduce_add_ps(v.0) }
    }

    #[inline(always)]
    fn greatest(self, v: Self::F32) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_max_ps(v.0) }
    }

    #[inline(always)]
    unsafe fn compress(self, v: Self::F32, lanes: u32, dst: *mut f32) {
        // SAFETY: by the caller. (In a register first: to compress into memory takes Zen 4 over a hundred cycles.)
        unsafe { _mm512_storeu_ps(dst, _mm512_maskz_compress_ps(lanes as __mmask16, v.0)) }
    }

    #[inline(always)]
    fn extract(self, bits: u64, mask: u64) -> u64 {
        // SAFETY: a CPU with AVX-512 has BMI2, which is looked for.
        unsafe { _pext_u64(bits, mask) }
    }

    #[inline(always)]
    fn scale_by_power(self, y: Self::F32, shifted: Self::F32, hidden: Self::M32) -> Self::F32 {
        // SAFETY: the CPU has AVX-512, because `self` exists.
        unsafe {
            let n = _mm512_sub_ps(shifted.0, _mm512_set1_ps(SHIFT));
            _mm512_maskz_scalef_ps(!hidden, y.0, n)
        }
        .into()
    }

    #[inline(always)]
    unsafe fn load_values<V: Value>(self, ptr: *const V) -> Self::F32 {
        // SAFETY: by the caller; the CPU has the instructions, because `self` exists.
        unsafe { V::load16(ptr) }.into()
    }

    #[inline(always)]
    unsafe fn store_first(self, v: Self::F32, ptr: *mut f32, n: usize) {
        // SAFETY: masked-out lanes are not written; the caller answers for the others.
        unsafe { _mm512_mask_storeu_ps(ptr, first(n), v.0) };
    }

    /// Broadcasts that are masked while they load: no shuffle.
    #[inline(always)]
    unsafe fn splat_parts(self, at: [*const f32; 4], parts: usize) -> Self::F32 {
        // SAFETY: by the caller.
        unsafe {
            let [a, b, c, d] = at;
            let v = _mm512_set1_ps(*a);
            match parts {
                1 => v,
                2 => _mm512_mask_broadcastss_ps(v, 0xff00, _mm_load_ss(b)),
                _ => {
                    let v = _mm512_mask_broadcastss_ps(v, 0x00f0, _mm_load_ss(b));
                    let v = _mm512_mask_broadcastss_ps(v, 0x0f00, _mm_load_ss(c));
                    _mm512_mask_broadcastss_ps(v, 0xf000, _mm_load_ss(d))
                }
            }
        }
        .into()
    }

    #[inline(always)]
    unsafe fn load_parts(self, at: [*const f32; 4]) -> Self::F32 {
        // SAFETY: by the caller.
        unsafe {
            let [a, b, c, d] = at;
            let v = _mm512_broadcast_f32x4(_mm_loadu_ps(a));
            let v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps(b));
            let v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps(c));
            _mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps(d))
        }
        .into()
    }

    /// Through a general register: one scalar load instead of two broadcast loads, which leaves the two vector load ports
    /// to `X`.
    #[inline(always)]
    unsafe fn splat_pair(self, weights: *const f32) -> [Self::F32; 2] {
        let bits: u64;
        // SAFETY: the caller says that two weights are readable; the instruction touches nothing else. Assembly keeps the
        // compiler from turning it into two loads.
        unsafe {
            asm!("mov {0}, qword ptr [{1}]", out(reg) bits, in(reg) weights,
                options(pure, readonly, nostack, preserves_flags));
        }
        // SAFETY: the CPU has AVX-512, because `self` exists.
        [bits, bits >> 32].map(|bits| unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(bits as i32)) }.into())
    }

    /// By two loads: to fill a vector from a register takes a port that multiply-adds wait for.
    #[inline(always)]
    unsafe fn splat_shared_pair(self, weights: *const f32) -> [Self::F32; 2] {
        // SAFETY: by the caller.
        unsafe { [0, 1].map(|i| _mm512_set1_ps(*weights.add(i)).into()) }
    }

    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing follows the address")]
    fn keep_address(self, mut address: *const f32) -> *const f32 {
        // SAFETY: there is no instruction; the address stays as it is.
        unsafe { asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags)) };
        address
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
            let mut r = [_mm512_setzero_ps(); 16];
            if rows == 16 {
                for (i, r) in r.iter_mut().enumerate() {
                    *r = _mm512_maskz_loadu_ps(first(cols), src.add(i * src_stride));
                }
            } else {
                for (i, r) in r.iter_mut().enumerate() {
                    if i < rows {
                        *r = _mm512_maskz_loadu_ps(first(cols), src.add(i * src_stride));
                    }
                }
            }
            let t = transpose(r);
            if cols == 16 {
                for (i, &t) in t.iter().enumerate() {
                    _mm512_mask_storeu_ps(dst.add(i * dst_stride), first(rows), t);
                }
            } else {
                for (i, &t) in t.iter().enumerate() {
                    if i < cols {
                        _mm512_mask_storeu_ps(dst.add(i * dst_stride), first(rows), t);
                    }
                }
            }
        }
    }
}

/// Transposes 16×16: pairs, quads within 128-bit lanes, then the lanes in two rounds.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline(always)]
unsafe fn transpose(r: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: by the caller.
    unsafe {
        let mut t = r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let low = |a, b| _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
        let high = |a, b| _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
        // q[4 · i + j] holds in lane l the elements 4 · i .. 4 · i + 4 of column 4 · l + j.
        let mut q = t;
        for i in 0..4 {
            let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
            q[4 * i] = low(a, c);
            q[4 * i + 1] = high(a, c);
            q[4 * i + 2] = low(b, d);
            q[4 * i + 3] = high(b, d);
        }
        let mut out = q;
        for j in 0..4 {
            let [a, b, c, d] = [q[j], q[j + 4], q[j + 8], q[j + 12]];
            let even = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
            let odd = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)];
            out[j] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
            out[j + 8] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
            out[j + 4] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
            out[j + 12] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
        }
        out
    }
}
