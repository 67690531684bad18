//! CSR as it is stored: no packing, no padding, shared with the mapped file. For every CPU, and compiled for AVX2 as well.

use std::marker::PhantomData;

use poda_formats::{CsrMatrix, DataType};

use super::{BLOCK, COLUMNS, Line, Multiply, Spmv};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::simd::{Simd, Supported, Value};

/// Weights multiplied side by side.
const LANES: usize = 8;

/// Whether it can be packed.
pub(in crate::kernels) fn fits(weight: &WeightMatrix, problem: &Problem) -> bool {
    weight.is_sparse() && problem.n <= 2 * COLUMNS
}

/// Takes a weight.
///
/// # Panics
/// When the weight is not CSR; the table says that it is.
pub(in crate::kernels) fn prepare<V: Value>(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    let Some(csr) = weight.csr() else { panic!("the CSR kernel takes CSR weights") };
    assert_eq!(csr.values().stored(), V::DTYPE, "checked by the table");
    // SAFETY: any level will do.
    Box::new(unsafe { Spmv::new(Csr::<V>(csr.clone(), PhantomData), level, csr.values()) })
}

struct Csr<V>(CsrMatrix, PhantomData<V>);

impl<V: Value> Multiply for Csr<V> {
    const PARALLEL: usize = 1 << 11;

    fn shape(&self) -> [usize; 2] {
        [self.0.rows(), self.0.cols()]
    }

    fn slots(&self, block: usize) -> usize {
        self.0.row_offsets()[self.0.rows().min(block * BLOCK)] as usize
    }

    fn overread(&self) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(
        &self,
        simd: S,
        block: usize,
        columns: [*const f32; R],
        _: bool,
        sums: &mut [Line],
    ) {
        let indices = self.0.indices();
        // SAFETY: by the caller.
        unsafe {
            match indices.dtype() {
                DataType::U16 => {
                    let indices: &[u16] = indices.as_slice().expect("checked by CsrMatrix");
                    self.with_indices(simd, indices, block, columns, sums);
                }
                _ => {
                    let indices: &[u32] = indices.as_slice().expect("checked by CsrMatrix");
                    self.with_indices(simd, indices, block, columns, sums);
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.bytes() - self.0.values().scales_tensor().map_or(0, |scales| scales.bytes().len())
    }
}

impl<V: Value> Csr<V> {
    /// A block of rows times `R` columns.
    ///
    /// # Safety
    /// As [`Multiply::rows`].
    #[inline(always)]
    unsafe fn with_indices<S: Simd, const R: usize, I: Copy + Into<u32>>(
        &self,
        simd: S,
        indices: &[I],
        block: usize,
        columns: [*const f32; R],
        sums: &mut [Line],
    ) {
        // Without the instruction, a fused multiply-add is a call of a function.
        let add = |sum: f32, w: f32, x: f32| {
            if S::LANES > 4 || cfg!(target_arch = "aarch64") { w.mul_add(x, sum) } else { sum + w * x }
        };
        let values: &[V] = self.0.values().tensor().as_slice().expect("checked by prepare");
        let offsets = &self.0.row_offsets()[block * BLOCK..];
        for (row, range) in offsets.windows(2).take(BLOCK).enumerate() {
            let range = range[0] as usize..range[1] as usize;
            let (indices, values) = (&indices[range.clone()], &values[range]);
            let mut totals = [[0.0; LANES]; R];
            let (index_chunks, index_rest) = indices.as_chunks::<LANES>();
            let (value_chunks, value_rest) = values.as_chunks::<LANES>();
            for (index, value) in index_chunks.iter().zip(value_chunks) {
                let value = widen(simd, value);
                for (totals, column) in totals.iter_mut().zip(columns) {
                    // SAFETY: columns are `k` long, and `CsrMatrix` checked that indices are less.
                    let x = index.map(|col| unsafe { *column.add(col.into() as usize) });
                    for lane in 0..LANES {
                        totals[lane] = add(totals[lane], value[lane], x[lane]);
                    }
                }
            }
            for ((&col, &value), lane) in index_rest.iter().zip(value_rest).zip(0..) {
                for (totals, column) in totals.iter_mut().zip(columns) {
                    let lane: usize = lane;
                    // SAFETY: as above.
                    totals[lane] =
                        add(totals[lane], value.widen(), unsafe { *column.add(col.into() as usize) });
                }
            }
            for (sums, totals) in sums.iter_mut().zip(totals) {
                let [a, b, c, d, e, f, g, h] = totals;
                sums[row] = ((a + e) + (b + f)) + ((c + g) + (d + h));
            }
        }
    }
}

/// Values as f32, by the conversions that the CPU has.
#[inline(always)]
fn widen<S: Simd, V: Value>(simd: S, values: &[V; LANES]) -> [f32; LANES] {
    use rten_simd::ops::BitOps;
    let mut wide = [0.0; 2 * LANES];
    if S::LANES == LANES {
        // SAFETY: as many values as a vector has, and room for as many.
        unsafe { simd.f32().store_ptr(simd.load_values(values.as_ptr()), wide.as_mut_ptr()) };
        return std::array::from_fn(|i| wide[i]);
    }
    values.map(V::widen)
}
