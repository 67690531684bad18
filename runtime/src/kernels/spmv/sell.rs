//! SELL for AVX2 (8 rows in lanes) and AVX-512 (16). Elements of `X` come by gather instructions (Intel) or by inserting one
//! after the other (AMD, where gathers are no faster than that); both are in the table, and the tuner knows.

use core::arch::asm;
use core::arch::x86_64::{
    __m128, _MM_HINT_T0, _bextr2_u64, _mm_loadu_si128, _mm_prefetch, _mm256_add_ps, _mm256_castps128_ps256,
    _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_i32gather_ps, _mm256_insertf128_ps, _mm256_load_si256,
    _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_ps, _mm512_cvtepu16_epi32, _mm512_fmadd_ps,
    _mm512_i32gather_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};
use poda_formats::CsrMatrix;

use super::{Line, Multiply, Spmv};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::packing::sell::Sell;
use crate::simd::{Level, Simd, Supported, Value};

/// Sums per column, to hide the latency of additions. A single column has registers for more on AVX2, and gains 5 % from the
/// longer loop (Zen 3, 768×768 at 50 and 90 %).
const CHAINS: usize = 2;

/// Steps ahead of the one in use that are fetched, 4 KiB of f32: across the page's end, where the hardware's prefetcher stops
/// (4096×4096×1 on Zen 3, one thread, 80 and 90 % zeros: 2.9 → 2.0 and 1.3 → 0.85 ms; in cache it costs nothing).
const AHEAD: usize = 128;

/// Whether it can be packed.
pub(in crate::kernels) fn fits(weight: &WeightMatrix, problem: &Problem) -> bool {
    weight.is_sparse() && weight.shape().is_ok_and(|[_, k]| k < 1 << 16) && problem.n <= 8
}

/// Packs a weight for 8 lanes; `GATHER` says which instructions fetch elements of `X`.
///
/// # Panics
/// When `level` is less than AVX2 or the weight is not CSR; the table says that they are.
pub(in crate::kernels) fn prepare8<V: Value, const GATHER: bool>(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    params: Params,
) -> Box<dyn Packed> {
    assert!(level.level() >= Level::Avx2);
    let Some(csr) = weight.csr() else { panic!("SELL takes CSR weights") };
    // SAFETY: the level is AVX2 or more, checked above.
    Box::new(unsafe { Spmv::new(Avx2::<V, GATHER>(pack(csr, params)), level, csr.values()) })
}

/// Packs a weight for 16 lanes.
///
/// # Panics
/// When `level` is not AVX-512 or the weight is not CSR; the table says that they are.
pub(in crate::kernels) fn prepare16<V: Value>(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    params: Params,
) -> Box<dyn Packed> {
    assert_eq!(level.level(), Level::Avx512);
    let Some(csr) = weight.csr() else { panic!("SELL takes CSR weights") };
    // SAFETY: the level is AVX-512, checked above.
    Box::new(unsafe { Spmv::new(Avx512::<V>(pack(csr, params)), level, csr.values()) })
}

fn pack<V: Value, const LANES: usize>(csr: &CsrMatrix, params: Params) -> Sell<V, LANES> {
    Sell::pack(csr.stored().expect("checked by the table"), params.parts)
}

struct Avx2<V, const GATHER: bool>(Sell<V, 8>);
struct Avx512<V>(Sell<V, 16>);

impl<V: Value, const GATHER: bool> Multiply for Avx2<V, GATHER> {
    const PARALLEL: usize = 1 << 11;

    fn shape(&self) -> [usize; 2] {
        [self.0.m, self.0.k]
    }

    fn block(&self) -> usize {
        self.0.block
    }

    fn slots(&self, block: usize) -> usize {
        self.0.slots(block)
    }

    fn overread(&self) -> usize {
        1
    }

    unsafe fn rows<S: Simd, const R: usize>(
        &self,
        _: S,
        block: usize,
        columns: [*const f32; R],
        _: bool,
        sums: &mut [Line],
    ) {
        // SAFETY: by the caller.
        unsafe { self.lanes(block, columns, sums) };
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl<V: Value> Multiply for Avx512<V> {
    const PARALLEL: usize = 1 << 11;

    fn shape(&self) -> [usize; 2] {
        [self.0.m, self.0.k]
    }

    fn block(&self) -> usize {
        self.0.block
    }

    fn slots(&self, block: usize) -> usize {
        self.0.slots(block)
    }

    fn overread(&self) -> usize {
        1
    }

    unsafe fn rows<S: Simd, const R: usize>(
        &self,
        _: S,
        block: usize,
        columns: [*const f32; R],
        _: bool,
        sums: &mut [Line],
    ) {
        // SAFETY: by the caller.
        unsafe { self.lanes(block, columns, sums) };
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// The elements of a column at 4 indices of 16 bits. Assembly, because the compiler would load each element apart from
/// inserting it: 6 of 37 instructions in a step. Taking an index by one instruction saves 4 more.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2,fma,bmi1")]
unsafe fn four(column: *const f32, indices: u64) -> __m128 {
    // (The lowest byte of the second number says from which bit on, the next how many.)
    let [a, b, c, d] =
        [indices & 0xffff, _bextr2_u64(indices, 0x1010), _bextr2_u64(indices, 0x1020), indices >> 48];
    let x;
    // SAFETY: by the caller; the instructions read 4 bytes each and touch nothing else.
    unsafe {
        asm!(
            "vmovss {x}, dword ptr [{column} + 4 * {a}]",
            "vinsertps {x}, {x}, dword ptr [{column} + 4 * {b}], 0x10",
            "vinsertps {x}, {x}, dword ptr [{column} + 4 * {c}], 0x20",
            "vinsertps {x}, {x}, dword ptr [{column} + 4 * {d}], 0x30",
            x = out(xmm_reg) x, column = in(reg) column, a = in(reg) a, b = in(reg) b, c = in(reg) c, d = in(reg) d,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    x
}

impl<V: Value, const GATHER: bool> Avx2<V, GATHER> {
    /// A block of rows times `R` columns.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[target_feature(enable = "avx2,fma,f16c,bmi1")]
    unsafe fn lanes<const R: usize>(&self, block: usize, columns: [*const f32; R], sums: &mut [Line]) {
        const MOST: usize = 2 * CHAINS;
        let chains = const { if R == 1 { MOST } else { CHAINS } };
        sums[..R].iter_mut().for_each(|sums| sums[..self.0.block].fill(0.0));
        let indices = self.0.indices().as_ptr();
        let values = self.0.values().as_ptr();
        for (steps, rows) in self.0.groups(block) {
            let mut totals = [[_mm256_setzero_ps(); MOST]; R];
            let mut one = |step: usize, chain: usize| {
                // SAFETY: the matrix holds 8 indices and values a step; indices are at most `k`, where a zero lies.
                unsafe {
                    let weights = V::load8(values.add(step * 8));
                    let index = indices.add(step * 2);
                    for (totals, column) in totals.iter_mut().zip(columns) {
                        let x = if GATHER {
                            let index = _mm256_cvtepu16_epi32(_mm_loadu_si128(index.cast()));
                            _mm256_i32gather_ps::<4>(column, index)
                        } else {
                            let low = _mm256_castps128_ps256(four(column, *index));
                            _mm256_insertf128_ps::<1>(low, four(column, *index.add(1)))
                        };
                        totals[chain] = _mm256_fmadd_ps(weights, x, totals[chain]);
                    }
                }
            };
            let whole = steps.end - steps.len() % chains;
            for step in (steps.start..whole).step_by(chains) {
                let (ahead, bytes) = (step + AHEAD, chains * 8 * size_of::<V>());
                for line in (0..bytes).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(
                        values.wrapping_add(ahead * 8).wrapping_byte_add(line).cast(),
                    );
                }
                _mm_prefetch::<_MM_HINT_T0>(indices.wrapping_add(ahead * 2).cast());
                for chain in 0..chains {
                    one(step + chain, chain);
                }
            }
            for step in whole..steps.end {
                one(step, 0);
            }
            for (sums, [a, b, c, d]) in sums.iter_mut().zip(totals) {
                let total = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
                let mut lanes = [0.0; 8];
                // SAFETY: 8 lanes.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
                for (&row, lane) in rows.iter().zip(lanes) {
                    sums[usize::from(row)] += lane;
                }
            }
        }
    }
}

impl<V: Value> Avx512<V> {
    /// A block of rows times `R` columns.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,bmi1,bmi2")]
    unsafe fn lanes<const R: usize>(&self, block: usize, columns: [*const f32; R], sums: &mut [Line]) {
        sums[..R].iter_mut().for_each(|sums| sums[..self.0.block].fill(0.0));
        let indices = self.0.indices().as_ptr();
        let values = self.0.values().as_ptr();
        for (steps, rows) in self.0.groups(block) {
            let mut totals = [[_mm512_setzero_ps(); CHAINS]; R];
            let mut one = |step: usize, chain: usize| {
                // SAFETY: the matrix holds 16 indices and values a step; indices are at most `k`, where a zero lies.
                unsafe {
                    let weights = V::load16(values.add(step * 16));
                    let index = _mm512_cvtepu16_epi32(_mm256_load_si256(indices.add(step * 4).cast()));
                    for (totals, column) in totals.iter_mut().zip(columns) {
                        let x = _mm512_i32gather_ps::<4>(index, column);
                        totals[chain] = _mm512_fmadd_ps(weights, x, totals[chain]);
                    }
                }
            };
            let even = steps.end - steps.len() % CHAINS;
            for step in (steps.start..even).step_by(CHAINS) {
                for chain in 0..CHAINS {
                    one(step + chain, chain);
                }
            }
            for step in even..steps.end {
                one(step, 0);
            }
            for (sums, [a, b]) in sums.iter_mut().zip(totals) {
                let mut lanes = [0.0; 16];
                // SAFETY: 16 lanes.
                unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), _mm512_add_ps(a, b)) };
                for (&row, lane) in rows.iter().zip(lanes) {
                    sums[usize::from(row)] += lane;
                }
            }
        }
    }
}
