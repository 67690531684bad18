//! SELL for AVX2 (8 rows in lanes) and AVX-512 (16). Elements of `X` come by gather instructions (Intel) or by inserting one
//! after the other (AMD, where gathers are no faster than that); both are in the table, and the tuner knows.

use core::arch::x86_64::{
    __m128, _mm_castsi128_ps, _mm_cvtsi32_si128, _mm_insert_ps, _mm_load_ss, _mm_loadu_si128, _mm256_add_ps,
    _mm256_castps128_ps256, _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_i32gather_ps,
    _mm256_insertf128_ps, _mm256_load_si256, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_ps,
    _mm512_cvtepu16_epi32, _mm512_fmadd_ps, _mm512_i32gather_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::ops::Range;

use poda_formats::CsrMatrix;

use super::{Line, Multiply, Spmv};
use crate::kernels::simd::{Level, Simd, Value};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::packing::sell::Sell;

/// Sums per column, to hide the latency of additions.
const CHAINS: usize = 2;

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
    level: Level,
    params: Params,
) -> Box<dyn Packed> {
    assert!(level >= Level::Avx2);
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
    level: Level,
    params: Params,
) -> Box<dyn Packed> {
    assert_eq!(level, Level::Avx512);
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

impl<V, const LANES: usize> Sell<V, LANES> {
    fn slots(&self, block: usize) -> usize {
        self.starts[(self.starts.len() - 1).min(block * (self.block / LANES))] as usize * LANES
    }

    /// The steps of each group of a block, and the rows of its lanes.
    fn groups(&self, block: usize) -> impl Iterator<Item = (Range<usize>, &[u8])> {
        let starts = &self.starts[block * (self.block / LANES)..];
        let rows = &self.rows[block * self.block..self.m.min((block + 1) * self.block)];
        starts.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).zip(rows.chunks(LANES))
    }
}

/// The elements of a column at 4 indices.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn four(column: *const f32, indices: u64) -> __m128 {
    // SAFETY: by the caller. Instructions that insert a lane from memory take 4 bytes.
    unsafe {
        let at = |i: u32| column.add((indices >> (16 * i)) as usize & 0xffff);
        let lane = |i: u32| _mm_castsi128_ps(_mm_cvtsi32_si128((*at(i)).to_bits() as i32));
        let x = _mm_load_ss(at(0));
        let x = _mm_insert_ps::<0x10>(x, lane(1));
        let x = _mm_insert_ps::<0x20>(x, lane(2));
        _mm_insert_ps::<0x30>(x, lane(3))
    }
}

impl<V: Value, const GATHER: bool> Avx2<V, GATHER> {
    /// A block of rows times `R` columns.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn lanes<const R: usize>(&self, block: usize, columns: [*const f32; R], sums: &mut [Line]) {
        let indices = self.0.indices().as_ptr();
        let values = self.0.values().as_ptr();
        for (steps, rows) in self.0.groups(block) {
            let mut totals = [[_mm256_setzero_ps(); CHAINS]; R];
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
                let mut lanes = [0.0; 8];
                // SAFETY: 8 lanes.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(a, b)) };
                for (&row, lane) in rows.iter().zip(lanes) {
                    sums[usize::from(row)] = lane;
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
                    sums[usize::from(row)] = lane;
                }
            }
        }
    }
}
