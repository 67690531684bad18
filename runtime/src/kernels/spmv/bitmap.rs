//! Bitmap for AVX-512: 16 bits say which lanes the next values expand into, so that they meet 16 columns of `X` as they lie.
//! Its time hardly depends on the sparsity; it is for few zeros, and for memory.

use core::arch::asm;
use core::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_load_ps, _mm512_mask3_fmadd_ps, _mm512_maskz_expand_ps,
    _mm512_reduce_add_ps, _mm512_setzero_ps,
};
use std::ops::Range;

use super::{BLOCK, Columns, Multiply, Spmv, Sums, by_columns};
use crate::kernels::simd::{Level, Simd, Value};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::packing::bitmap::{Bitmap, WORD};

/// Lanes of a vector.
const LANES: usize = 16;
/// Bytes ahead of the values in use that are fetched: at 4096×4096 and 50 %, from DRAM, 1.2 times the speed of 1024 on Zen 5.
const AHEAD: usize = 4096;

/// Packs a weight.
///
/// # Panics
/// When `level` is not AVX-512 or the weight is not CSR; the table says that they are.
pub(in crate::kernels) fn prepare<V: Value>(
    weight: &WeightMatrix,
    _: &Problem,
    level: Level,
    _: Params,
) -> Box<dyn Packed> {
    assert_eq!(level, Level::Avx512);
    let Some(csr) = weight.csr() else { panic!("the bitmap kernel takes CSR weights") };
    let matrix = Bitmap::<V>::pack(csr.stored().expect("checked by the table"));
    // SAFETY: the level is AVX-512, checked above.
    Box::new(unsafe { Spmv::new(matrix, level, csr.values()) })
}

impl<V: Value> Multiply for Bitmap<V> {
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

    unsafe fn multiply<S: Simd>(
        &self,
        _: S,
        block: usize,
        x: &Columns,
        columns: Range<usize>,
        sums: &mut Sums,
    ) {
        // SAFETY: by the caller.
        unsafe { by_columns!(columns.len(), |R| self.rows::<R>(block, x.columns(columns.start), sums)) };
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }
}

impl<V: Value> Bitmap<V> {
    /// A block of rows times `R` columns.
    ///
    /// # Safety
    /// As [`Multiply::multiply`].
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,bmi1,bmi2,popcnt")]
    unsafe fn rows<const R: usize>(&self, block: usize, columns: [*const f32; R], sums: &mut Sums) {
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
            for (sums, [a, b, c, d]) in sums.0.iter_mut().zip(totals) {
                sums[row % BLOCK] =
                    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
            }
        }
    }
}
