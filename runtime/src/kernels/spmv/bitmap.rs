//! Bitmap: bits say which lanes the next values expand into, so that they meet columns of `X` as they lie, 16 at a time with
//! AVX-512, 8 with AVX2. Its time hardly depends on the sparsity; it is for few zeros, and for memory.

use core::arch::asm;
use core::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_fmadd_ps,
    _mm256_load_ps, _mm256_load_si256, _mm256_permutevar8x32_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm512_add_ps, _mm512_load_ps, _mm512_mask3_fmadd_ps, _mm512_maskz_expand_ps, _mm512_reduce_add_ps,
    _mm512_setzero_ps,
};

use super::{BLOCK, Line, Multiply, Spmv};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::packing::bitmap::{Bitmap, WORD};
use crate::simd::{Level, Simd, Supported, Value};

/// Lanes of a vector of AVX-512.
const LANES: usize = 16;
/// Bytes ahead of the values in use that are fetched: at 4096×4096 and 50 %, from DRAM, 1.2 times the speed of 1024 on Zen 5.
const AHEAD: usize = 4096;

/// Packs a weight.
///
/// # Panics
/// When `level` is less than AVX2 or the weight is not CSR; the table says that they are.
pub(in crate::kernels) fn prepare<V: Value>(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    assert!(level.level() >= Level::Avx2);
    let Some(csr) = weight.csr() else { panic!("the bitmap kernel takes CSR weights") };
    let matrix = Bitmap::<V>::pack(csr.stored().expect("checked by the table"));
    // SAFETY: the level is AVX2 or more, checked above, and tells which of the two loops runs.
    Box::new(unsafe { Spmv::new(matrix, level, csr.values()) })
}

impl<V: Value> Multiply for Bitmap<V> {
    const PARALLEL: usize = 1 << 12;

    fn shape(&self) -> [usize; 2] {
        [self.m, self.k]
    }

    fn slots(&self, block: usize) -> usize {
        // Time goes by the length of rows, not by what they hold.
        self.m.min(block * BLOCK) * self.k / 4
    }

    fn overread(&self) -> usize {
        WORD
    }

    unsafe fn rows<S: Simd, const R: usize>(
        &self,
        _: S,
        block: usize,
        columns: [*const f32; R],
        finite: bool,
        sums: &mut [Line],
    ) {
        // SAFETY: by the caller; vectors of 16 lanes are those of AVX-512.
        unsafe {
            match (S::LANES == LANES, finite) {
                (true, _) => self.rows_avx512(block, columns, sums),
                (false, true) => self.rows_avx2::<R, true>(block, columns, sums),
                (false, false) => self.rows_avx2::<R, false>(block, columns, sums),
            }
        }
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }
}

impl<V: Value> Bitmap<V> {
    /// A block of rows times `R` columns.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,bmi1,bmi2,popcnt")]
    unsafe fn rows_avx512<const R: usize>(&self, block: usize, columns: [*const f32; R], sums: &mut [Line]) {
        let (width, first) = (self.k.div_ceil(WORD), self.values().as_ptr());
        for row in block * BLOCK..self.m.min((block + 1) * BLOCK) {
            let mut totals = [[_mm512_setzero_ps(); 4]; R];
            // SAFETY: `starts` are within `values`.
            let mut values = unsafe { first.add(self.starts[row] as usize) };
            for (i, &word) in self.words[row * width..][..width].iter().enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(values.wrapping_byte_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(values.wrapping_byte_add(AHEAD + 64).cast());
                for quarter in 0..4 {
                    let mask = (word >> (quarter * LANES)) as u16;
                    let before = (word & ((1 << (quarter * LANES)) - 1)).count_ones() as usize;
                    // SAFETY: a row holds as many values as bits, and 16 more may be read; columns are followed by zeros up
                    // to a whole word.
                    unsafe {
                        let mut next = V::load16(values.add(before));
                        // Keeps the compiler from merging the load into the expansion, which AMD runs in microcode: 3 times
                        // slower.
                        asm!("/* {0} */", inout(zmm_reg) next, options(pure, nomem, nostack, preserves_flags));
                        let weights = _mm512_maskz_expand_ps(mask, next);
                        for (totals, column) in totals.iter_mut().zip(columns) {
                            let x = _mm512_load_ps(column.add(i * WORD + quarter * LANES));
                            totals[quarter] = _mm512_mask3_fmadd_ps(weights, x, totals[quarter], mask);
                        }
                    }
                }
                // SAFETY: as above.
                values = unsafe { values.add(word.count_ones() as usize) };
            }
            for (sums, [a, b, c, d]) in sums.iter_mut().zip(totals) {
                sums[row % BLOCK] =
                    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
            }
        }
    }

    /// The same. `FINITE` says that 0 times any element of the columns is 0.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[target_feature(enable = "avx2,fma,f16c,popcnt")]
    unsafe fn rows_avx2<const R: usize, const FINITE: bool>(
        &self,
        block: usize,
        columns: [*const f32; R],
        sums: &mut [Line],
    ) {
        let (width, first) = (self.k.div_ceil(WORD), self.values().as_ptr());
        for row in block * BLOCK..self.m.min((block + 1) * BLOCK) {
            let mut totals = [[_mm256_setzero_ps(); 4]; R];
            // SAFETY: `starts` are within `values`.
            let mut values = unsafe { first.add(self.starts[row] as usize) };
            for (i, word) in self.words[row * width..][..width].iter().enumerate() {
                for line in 0..2 {
                    _mm_prefetch::<_MM_HINT_T0>(values.wrapping_byte_add(AHEAD + 64 * line).cast());
                }
                for (part, &bits) in word.to_le_bytes().iter().enumerate() {
                    // SAFETY: a row holds as many values as bits, and 16 more may be read; columns are followed by zeros up
                    // to a whole word; entries of the table are aligned.
                    unsafe {
                        let lanes = _mm256_load_si256(EXPAND[usize::from(bits)].0.as_ptr().cast());
                        let pruned = _mm256_castsi256_ps(lanes);
                        let next = _mm256_permutevar8x32_ps(V::load8(values), lanes);
                        let weights = _mm256_blendv_ps(next, _mm256_setzero_ps(), pruned);
                        for (totals, column) in totals.iter_mut().zip(columns) {
                            let mut x = _mm256_load_ps(column.add(i * WORD + part * 8));
                            if !FINITE {
                                x = _mm256_blendv_ps(x, _mm256_setzero_ps(), pruned);
                            }
                            // At least 4 sums in all, to hide the latency of additions.
                            let total = &mut totals[part % 4_usize.div_ceil(R)];
                            *total = _mm256_fmadd_ps(weights, x, *total);
                        }
                        values = values.add(bits.count_ones() as usize);
                    }
                }
            }
            for (sums, [a, b, c, d]) in sums.iter_mut().zip(totals) {
                sums[row % BLOCK] = sum(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
            }
        }
    }
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(v: __m256) -> f32 {
    let mut lanes = [0.0; 8];
    // SAFETY: 8 lanes.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), v) };
    lanes.iter().sum()
}

/// For each lane the number of its value among the next 8, or a negative one for a lane whose bit is not set.
#[repr(align(32))]
struct Expand([i32; 8]);

/// By the bits of 8 lanes.
static EXPAND: [Expand; 256] = {
    let mut table = [const { Expand([-1; 8]) }; 256];
    let mut bits = 0;
    while bits < table.len() {
        let (mut lane, mut value) = (0, 0);
        while lane < 8 {
            if bits >> lane & 1 == 1 {
                table[bits].0[lane] = value;
                value += 1;
            }
            lane += 1;
        }
        bits += 1;
    }
    table
};
