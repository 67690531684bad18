//! Windowed SELL for AVX-512: a window of `X` lies in `T` registers and `vpermt2ps` looks up 16 columns at once, so that
//! a step of 16 weights takes about 6 instructions, no gather, and no branch.

#![allow(
    clippy::needless_range_loop,
    reason = "vectors passed to closures, as iterators do, go through memory: those lack the instructions"
)]

use core::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm512_add_ps, _mm512_cvtepu8_epi32,
    _mm512_fmadd_ps, _mm512_i32gather_ps, _mm512_load_ps, _mm512_load_si512, _mm512_mask_blend_ps,
    _mm512_mask3_fmadd_ps, _mm512_permutex2var_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_srli_epi32,
    _mm512_store_ps, _mm512_test_epi32_mask, _mm512_testn_epi32_mask,
};
use std::ops::Range;

use super::{COLUMNS, Line, Multiply, Spmv, Sums};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::packing::wsell::{LANES, PADDING, STEPS, WindowedSell};
use crate::simd::{Level, Simd, Supported, Value};

/// Chunks ahead of the one in use that are fetched, 4 KiB of values: across the page's end, where the hardware's prefetcher
/// stops. At 4096×4096 and 80 to 95 %, from L3 and DRAM, 1.3 times the speed of 6 chunks on Zen 5; in L2 3 % less.
const AHEAD: usize = 16;

/// Whether it can be packed, and in at most 1.6 times the bytes of its smallest lossless layout: rows whose weights lie far
/// from one another's, or very few weights, make much padding. A page more makes no difference.
pub(in crate::kernels) fn fits<V: Value, const T: usize, const B: usize>(
    weight: &WeightMatrix,
    problem: &Problem,
) -> bool {
    if problem.n > 2 * COLUMNS {
        return false;
    }
    let Some(csr) = weight.csr() else { return false };
    let (bitmap, rows) = (csr.rows() * csr.cols() / 8, (csr.rows() + 1) * size_of::<u32>());
    let smallest = csr.nnz() * size_of::<V>() + bitmap.min(rows + csr.indices().bytes().len());
    csr.cols() <= 1 << 20 && WindowedSell::<V>::bytes_of(csr, T * LANES, B) <= smallest * 8 / 5 + 4096
}

/// Packs a weight for windows of `16 · T` columns and bursts of `B` steps.
///
/// # Panics
/// When `level` is not AVX-512 or the weight is not CSR; the table says that they are.
pub(in crate::kernels) fn prepare<V: Value, const T: usize, const B: usize>(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    params: Params,
) -> Box<dyn Packed> {
    assert_eq!(level.level(), Level::Avx512);
    let Some(csr) = weight.csr() else { panic!("windowed SELL takes CSR weights") };
    let matrix =
        WindowedSell::<V>::pack(csr.stored().expect("checked by the table"), T * LANES, B, params.parts);
    // SAFETY: the level is AVX-512, checked above.
    Box::new(unsafe { Spmv::new(Windowed::<V, T, B>(matrix), level, csr.values()) })
}

struct Windowed<V, const T: usize, const B: usize>(WindowedSell<V>);

impl<V: Value, const T: usize, const B: usize> Multiply for Windowed<V, T, B> {
    fn shape(&self) -> [usize; 2] {
        [self.0.m, self.0.k]
    }

    fn block(&self) -> usize {
        self.0.block
    }

    fn slots(&self, block: usize) -> usize {
        let groups = (self.0.starts.len() - 1).min(block * (self.0.block / LANES));
        self.0.starts[groups] as usize * STEPS * LANES
    }

    fn overread(&self) -> usize {
        T * LANES
    }

    unsafe fn rows<S: Simd, const R: usize>(
        &self,
        _: S,
        block: usize,
        columns: [*const f32; R],
        finite: bool,
        sums: &mut [Line],
    ) {
        // SAFETY: by the caller.
        unsafe {
            if finite {
                self.lanes::<R, true>(block, columns, sums);
            } else {
                self.lanes::<R, false>(block, columns, sums);
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// Looks up each lane's element of `16 · T` floats in registers, by the byte of `index` at bit `8 · step`, of which only as
/// many bits count as that takes.
#[inline]
#[target_feature(enable = "avx512f")]
fn look_up<const T: usize>(window: [__m512; T], index: __m512i, step: usize) -> __m512 {
    // The instruction looks at the lowest 5 bits.
    let pairs = match step {
        0 => index,
        1 => _mm512_srli_epi32::<8>(index),
        2 => _mm512_srli_epi32::<16>(index),
        _ => _mm512_srli_epi32::<24>(index),
    };
    let shift = 8 * step;
    let bit5 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(0x20 << shift));
    let low = _mm512_permutex2var_ps(window[0], pairs, window[1]);
    let high = _mm512_permutex2var_ps(window[2], pairs, window[3]);
    let first = _mm512_mask_blend_ps(bit5, low, high);
    if T == 4 {
        return first;
    }
    let bit6 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(0x40 << shift));
    let low = _mm512_permutex2var_ps(window[T - 4], pairs, window[T - 3]);
    let high = _mm512_permutex2var_ps(window[T - 2], pairs, window[T - 1]);
    _mm512_mask_blend_ps(bit6, first, _mm512_mask_blend_ps(bit5, low, high))
}

impl<V: Value, const T: usize, const B: usize> Windowed<V, T, B> {
    /// A block of rows times `R` columns. `FINITE` says that 0 times any element of them is 0.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,bmi1,bmi2")]
    unsafe fn lanes<const R: usize, const FINITE: bool>(
        &self,
        block: usize,
        columns: [*const f32; R],
        sums: &mut [Line],
    ) {
        let matrix = &self.0;
        let groups = &matrix.starts[block * (matrix.block / LANES)..];
        let mut sorted = Sums::default();
        for (group, range) in groups.windows(2).take(matrix.block / LANES).enumerate() {
            // SAFETY: the chunks are the group's.
            let lanes = unsafe { self.group::<R, FINITE>(range[0] as usize..range[1] as usize, columns) };
            for r in 0..R {
                // SAFETY: `Sums` is aligned to 64 bytes and holds the rows of a block.
                unsafe { _mm512_store_ps(sorted.0[r].as_mut_ptr().add(group * LANES), lanes[r]) };
            }
        }
        let order = &matrix.order[block * matrix.block..][..matrix.block];
        for (i, order) in order.chunks_exact(LANES).enumerate() {
            // SAFETY: 16 bytes.
            let order = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(order.as_ptr().cast()) });
            for r in 0..R {
                // SAFETY: as above; a place is less than a block's rows.
                unsafe {
                    let sum = _mm512_i32gather_ps::<4>(order, sorted.0[r].as_ptr());
                    _mm512_store_ps(sums[r].as_mut_ptr().add(i * LANES), sum);
                }
            }
        }
    }

    /// The sums of a group of rows, a column each.
    ///
    /// # Safety
    /// As [`Multiply::rows`]; the chunks must be of this matrix.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,bmi1,bmi2")]
    unsafe fn group<const R: usize, const FINITE: bool>(
        &self,
        chunks: Range<usize>,
        columns: [*const f32; R],
    ) -> [__m512; R] {
        let matrix = &self.0;
        let first = matrix.values().as_ptr();
        let (mut sums, mut windows) = ([[_mm512_setzero_ps(); STEPS]; R], [[_mm512_setzero_ps(); T]; R]);
        for chunk in chunks {
            // SAFETY: the matrix holds `STEPS` vectors of values and one of indices for each chunk, and `STEPS / B` windows.
            // A window begins at a column less than `k`, and columns are followed by as many zeros as a window is long.
            unsafe {
                let index = matrix.indices.as_ptr().add(chunk * STEPS * LANES);
                let values = first.add(chunk * STEPS * LANES);
                let starts = matrix.windows.as_ptr().add(chunk * (STEPS / B));
                _mm_prefetch::<_MM_HINT_T0>(index.wrapping_add(AHEAD * STEPS * LANES).cast());
                let index = _mm512_load_si512(index.cast());
                for step in 0..STEPS {
                    _mm_prefetch::<_MM_HINT_T0>(values.wrapping_add((AHEAD * STEPS + step) * LANES).cast());
                    if step % B == 0 {
                        let start = usize::from(*starts.add(step / B));
                        for r in 0..R {
                            for t in 0..T {
                                windows[r][t] = _mm512_load_ps(columns[r].add((start + t) * LANES));
                            }
                        }
                    }
                    let weights = V::load16(values.add(step * LANES));
                    let kept =
                        _mm512_testn_epi32_mask(index, _mm512_set1_epi32(i32::from(PADDING) << (8 * step)));
                    for r in 0..R {
                        let x = look_up(windows[r], index, step);
                        // At least 4 sums in all, to hide the latency of additions.
                        let sum = &mut sums[r][step % STEPS.div_ceil(R)];
                        *sum = if FINITE {
                            _mm512_fmadd_ps(weights, x, *sum)
                        } else {
                            _mm512_mask3_fmadd_ps(weights, x, *sum, kept)
                        };
                    }
                }
            }
        }
        let mut totals = [_mm512_setzero_ps(); R];
        for r in 0..R {
            let [a, b, c, d] = sums[r];
            totals[r] = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
        }
        totals
    }
}
