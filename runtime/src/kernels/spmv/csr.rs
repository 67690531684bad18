//! CSR as it is stored: no packing, no padding, shared with the mapped file. For every CPU, and compiled for AVX2 as well.

use std::ops::Range;

use poda_formats::{CsrMatrix, DataType};

use super::{BLOCK, COLUMNS, Columns, Multiply, Spmv, Sums, by_columns};
use crate::kernels::simd::{Level, Simd};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};

/// Weights multiplied side by side.
const LANES: usize = 8;

/// Whether it can be packed.
pub(in crate::kernels) fn fits(weight: &WeightMatrix, problem: &Problem) -> bool {
    matches!(weight, WeightMatrix::Csr(_)) && problem.n <= 2 * COLUMNS
}

/// Takes a weight.
///
/// # Panics
/// When the weight is not CSR; the table says that it is.
pub(in crate::kernels) fn prepare(
    weight: &WeightMatrix,
    _: &Problem,
    level: Level,
    _: Params,
) -> Box<dyn Packed> {
    let WeightMatrix::Csr(csr) = weight else { panic!("the CSR kernel takes CSR weights") };
    assert_eq!(csr.values().stored(), DataType::F32, "checked by PackedWeight");
    // SAFETY: any level will do.
    Box::new(unsafe { Spmv::new(Csr(csr.clone()), level) })
}

struct Csr(CsrMatrix);

impl Multiply for Csr {
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
    unsafe fn multiply<S: Simd>(
        &self,
        _: S,
        block: usize,
        x: &Columns,
        columns: Range<usize>,
        sums: &mut Sums,
    ) {
        let (indices, first) = (self.0.indices(), columns.start);
        match indices.dtype() {
            DataType::U16 => {
                let indices: &[u16] = indices.as_slice().expect("checked by CsrMatrix");
                // SAFETY: by the caller.
                by_columns!(columns.len(), |R| unsafe {
                    self.rows::<S, R, u16>(indices, block, x.columns(first), sums);
                });
            }
            _ => {
                let indices: &[u32] = indices.as_slice().expect("checked by CsrMatrix");
                // SAFETY: by the caller.
                by_columns!(columns.len(), |R| unsafe {
                    self.rows::<S, R, u32>(indices, block, x.columns(first), sums);
                });
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Csr {
    /// A block of rows times `R` columns.
    ///
    /// # Safety
    /// As [`Multiply::multiply`].
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize, I: Copy + Into<u32>>(
        &self,
        indices: &[I],
        block: usize,
        columns: [*const f32; R],
        sums: &mut Sums,
    ) {
        // Without the instruction, a fused multiply-add is a call of a function.
        let add = |sum: f32, w: f32, x: f32| {
            if S::LANES > 4 || cfg!(target_arch = "aarch64") { w.mul_add(x, sum) } else { sum + w * x }
        };
        let values: &[f32] = self.0.values().tensor().as_slice().expect("checked by PackedWeight");
        let offsets = &self.0.row_offsets()[block * BLOCK..];
        for (row, range) in offsets.windows(2).take(BLOCK).enumerate() {
            let range = range[0] as usize..range[1] as usize;
            let (indices, values) = (&indices[range.clone()], &values[range]);
            let mut totals = [[0.0; LANES]; R];
            let (index_chunks, index_rest) = indices.as_chunks::<LANES>();
            let (value_chunks, value_rest) = values.as_chunks::<LANES>();
            for (index, value) in index_chunks.iter().zip(value_chunks) {
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
                    totals[lane] = add(totals[lane], value, unsafe { *column.add(col.into() as usize) });
                }
            }
            for (sums, totals) in sums.0.iter_mut().zip(totals) {
                let [a, b, c, d, e, f, g, h] = totals;
                sums[row] = ((a + e) + (b + f)) + ((c + g) + (d + h));
            }
        }
    }
}
