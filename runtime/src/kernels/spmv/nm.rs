//! N:M with rows in lanes. A group of `X` is loaded into a register, all parts of it alike, and each lane picks its element by
//! its position: one permutation and one multiply-add for a vector of weights, no gather, no padding, no row pointers. The
//! more columns share the weights and positions, the better: it serves many columns as well as few.

use core::arch::x86_64::{
    _mm_loadu_ps, _mm256_add_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_load_si256, _mm256_loadu_ps,
    _mm256_permutevar_ps, _mm256_permutevar8x32_ps, _mm256_set_m128, _mm256_setzero_ps, _mm256_srli_epi32,
    _mm256_store_ps, _mm512_add_ps, _mm512_broadcast_f32x4, _mm512_fmadd_ps, _mm512_load_ps,
    _mm512_load_si512, _mm512_loadu_ps, _mm512_permutevar_ps, _mm512_permutexvar_ps, _mm512_setzero_ps,
    _mm512_srli_epi32, _mm512_store_ps,
};
use std::ops::Range;

use super::{BLOCK, Columns, Line, Multiply, Spmv};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::packing::nm::{NmLanes, bits, groups_of_word};
use crate::simd::{Level, Simd, Supported};

/// Whether it can be packed for AVX-512: for other N there is no code, and CSR serves.
pub(in crate::kernels) fn fits16(weight: &WeightMatrix, _: &Problem) -> bool {
    weight
        .n_of_m()
        .map(|matrix| matrix.sizes())
        .is_some_and(|[n, m]| matches!((bits(m), n), (2, _) | (4, 1 | 2 | 4 | 8)))
}

/// Whether it can be packed for AVX2, whose permutations reach 8 elements.
pub(in crate::kernels) fn fits8(weight: &WeightMatrix, problem: &Problem) -> bool {
    fits16(weight, problem) && weight.n_of_m().is_some_and(|matrix| matrix.sizes()[1] <= 8)
}

/// Packs a weight.
///
/// # Panics
/// When it is not N:M; the table says that it must be.
pub(in crate::kernels) fn prepare(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    let matrix = weight.n_of_m().expect("the N:M kernel takes N:M");
    let values = matrix.values().clone();
    let packed = NmLanes::pack(&matrix, level.lanes());
    // SAFETY: each matrix is packed for the level that it is run on.
    unsafe {
        match level.level() {
            Level::Avx512 => Box::new(Spmv::new(Avx512(packed), level, &values)),
            Level::Avx2 => Box::new(Spmv::new(Avx2(packed), level, &values)),
            Level::Portable => unreachable!("the table has no such row"),
        }
    }
}

struct Avx512(NmLanes);
struct Avx2(NmLanes);

/// [`Multiply`] but for the instructions.
macro_rules! multiply {
    ($name:ident, $widest:literal) => {
        impl Multiply for $name {
            const COLUMNS: usize = $widest;

            fn shape(&self) -> [usize; 2] {
                [self.0.m, self.0.k]
            }

            fn slots(&self, block: usize) -> usize {
                let [n, _] = self.0.n_of_m;
                self.0.m.min(block * BLOCK) * self.0.words * groups_of_word(self.0.n_of_m) * n
            }

            fn overread(&self) -> usize {
                self.0.overread()
            }

            unsafe fn rows<S: Simd, const R: usize>(
                &self,
                _: S,
                block: usize,
                columns: [*const f32; R],
                _: bool,
                sums: &mut [Line],
            ) {
                let [n, m] = self.0.n_of_m;
                // SAFETY: by the caller; `fits` let only these N pass.
                unsafe {
                    match (bits(m), n) {
                        (2, 1) => self.strips::<2, 1, R>(block, columns, sums),
                        (2, 2) => self.strips::<2, 2, R>(block, columns, sums),
                        (2, _) => self.strips::<2, 3, R>(block, columns, sums),
                        (_, 1) => self.strips::<4, 1, R>(block, columns, sums),
                        (_, 2) => self.strips::<4, 2, R>(block, columns, sums),
                        (_, 4) => self.strips::<4, 4, R>(block, columns, sums),
                        _ => self.strips::<4, 8, R>(block, columns, sums),
                    }
                }
            }

            unsafe fn multiply<S: Simd>(
                &self,
                simd: S,
                block: usize,
                x: &Columns,
                columns: Range<usize>,
                sums: &mut [Line],
            ) {
                let mut first = columns.start;
                while first < columns.end {
                    let sums = &mut sums[first - columns.start..];
                    // SAFETY: by the caller.
                    first += unsafe {
                        match columns.end - first {
                            1 => some::<_, _, 1>(self, simd, block, x, first, sums),
                            2..=3 => some::<_, _, 2>(self, simd, block, x, first, sums),
                            4..=7 => some::<_, _, 4>(self, simd, block, x, first, sums),
                            8..=11 => some::<_, _, 8>(self, simd, block, x, first, sums),
                            _ => some::<_, _, $widest>(self, simd, block, x, first, sums),
                        }
                    };
                }
            }

            fn bytes(&self) -> usize {
                self.0.bytes()
            }
        }
    };
}

multiply!(Avx512, 12);
multiply!(Avx2, 8);

/// `R` columns from `first` on; gives their number.
///
/// # Safety
/// As [`Multiply::multiply`].
#[inline(always)]
unsafe fn some<M: Multiply, S: Simd, const R: usize>(
    matrix: &M,
    simd: S,
    block: usize,
    x: &Columns,
    first: usize,
    sums: &mut [Line],
) -> usize {
    // SAFETY: by the caller.
    unsafe { matrix.rows(simd, block, x.columns::<R>(first), x.finite, sums) };
    R
}

impl Avx512 {
    /// A block of rows times `R` columns, with positions of `BITS` bits, `N` in each group.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma,bmi1,bmi2")]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn strips<const BITS: u32, const N: usize, const R: usize>(
        &self,
        block: usize,
        columns: [*const f32; R],
        sums: &mut [Line],
    ) {
        const LANES: usize = 16;
        let (words, m) = (self.0.words, self.0.n_of_m[1]);
        let groups = 32 / BITS as usize / N;
        for strip in block * (BLOCK / LANES)..self.0.m.div_ceil(LANES).min((block + 1) * (BLOCK / LANES)) {
            let mut totals = [[_mm512_setzero_ps(); 2]; R];
            // SAFETY: the matrix holds a vector of positions for each word of a strip, and `N` of values for each of its groups;
            // as many groups as words have may be read in a column, and a vector more.
            unsafe {
                let mut values = self.0.values().as_ptr().add(strip * words * groups * N * LANES);
                let positions = self.0.positions().as_ptr().add(strip * words * LANES);
                for word in 0..words {
                    let mut index = _mm512_load_si512(positions.add(word * LANES).cast());
                    for group in 0..groups {
                        let offset = (word * groups + group) * m;
                        let mut window = [_mm512_setzero_ps(); R];
                        for r in 0..R {
                            let x = columns[r].add(offset);
                            window[r] = if BITS == 2 {
                                _mm512_broadcast_f32x4(_mm_loadu_ps(x))
                            } else {
                                _mm512_loadu_ps(x)
                            };
                        }
                        for i in 0..N {
                            let weights = _mm512_load_ps(values);
                            values = values.add(LANES);
                            for r in 0..R {
                                let x = if BITS == 2 {
                                    _mm512_permutevar_ps(window[r], index)
                                } else {
                                    _mm512_permutexvar_ps(index, window[r])
                                };
                                let chain = if R < 4 { (group * N + i) % 2 } else { 0 };
                                totals[r][chain] = _mm512_fmadd_ps(weights, x, totals[r][chain]);
                            }
                            index = if BITS == 2 {
                                _mm512_srli_epi32::<2>(index)
                            } else {
                                _mm512_srli_epi32::<4>(index)
                            };
                        }
                    }
                }
                for r in 0..R {
                    let to = sums[r].as_mut_ptr().add(strip % (BLOCK / LANES) * LANES);
                    _mm512_store_ps(to, _mm512_add_ps(totals[r][0], totals[r][1]));
                }
            }
        }
    }
}

impl Avx2 {
    /// A block of rows times `R` columns, with positions of `BITS` bits, `N` in each group.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[target_feature(enable = "avx2,fma")]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn strips<const BITS: u32, const N: usize, const R: usize>(
        &self,
        block: usize,
        columns: [*const f32; R],
        sums: &mut [Line],
    ) {
        const LANES: usize = 8;
        let (words, m) = (self.0.words, self.0.n_of_m[1]);
        let groups = 32 / BITS as usize / N;
        for strip in block * (BLOCK / LANES)..self.0.m.div_ceil(LANES).min((block + 1) * (BLOCK / LANES)) {
            let mut totals = [[_mm256_setzero_ps(); 2]; R];
            // SAFETY: as for AVX-512.
            unsafe {
                let mut values = self.0.values().as_ptr().add(strip * words * groups * N * LANES);
                let positions = self.0.positions().as_ptr().add(strip * words * LANES);
                for word in 0..words {
                    let mut index = _mm256_load_si256(positions.add(word * LANES).cast());
                    for group in 0..groups {
                        let offset = (word * groups + group) * m;
                        for i in 0..N {
                            let weights = _mm256_load_ps(values);
                            values = values.add(LANES);
                            for r in 0..R {
                                let x = columns[r].add(offset);
                                let x = if BITS == 2 {
                                    _mm256_permutevar_ps(
                                        _mm256_set_m128(_mm_loadu_ps(x), _mm_loadu_ps(x)),
                                        index,
                                    )
                                } else {
                                    _mm256_permutevar8x32_ps(_mm256_loadu_ps(x), index)
                                };
                                let chain = if R < 4 { (group * N + i) % 2 } else { 0 };
                                totals[r][chain] = _mm256_fmadd_ps(weights, x, totals[r][chain]);
                            }
                            index = if BITS == 2 {
                                _mm256_srli_epi32::<2>(index)
                            } else {
                                _mm256_srli_epi32::<4>(index)
                            };
                        }
                    }
                }
                for r in 0..R {
                    let to = sums[r].as_mut_ptr().add(strip % (BLOCK / LANES) * LANES);
                    _mm256_store_ps(to, _mm256_add_ps(totals[r][0], totals[r][1]));
                }
            }
        }
    }
}
