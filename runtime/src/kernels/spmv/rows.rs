//! Dense rows of narrow values as they are stored: no packing, shared with the mapped file unless that is sparse. Vectors run
//! along `k`, four rows share the elements of `X`, and each row is read once for up to [`COLUMNS`] columns.

use std::marker::PhantomData;

use poda_formats::DenseMatrix;
use rten_simd::ops::{BitOps, NumOps};

use super::{BLOCK, Line, Multiply, Spmv};
use crate::kernels::{Packed, Params, Problem, WeightMatrix};
use crate::simd::{Simd, Supported, Value, zero};

/// Rows side by side.
const ROWS: usize = 4;
/// Elements of the widest vector.
const WIDEST: usize = 16;

/// Takes a weight.
///
/// # Panics
/// When the weight is not a matrix of such values; the table says that it is.
pub(in crate::kernels) fn prepare<V: Value>(
    weight: &WeightMatrix,
    _: &Problem,
    level: Supported,
    _: Params,
) -> Box<dyn Packed> {
    assert_eq!(weight.stored(), V::DTYPE, "checked by the table");
    let matrix = match weight {
        WeightMatrix::Narrow(matrix) => matrix.clone(),
        WeightMatrix::Csr(_) | WeightMatrix::Stored(_) => {
            let csr = weight.csr().expect("it is sparse");
            DenseMatrix::from_csr(csr).expect("narrow values, and memory for them")
        }
        WeightMatrix::Dense(_) => panic!("rows are of narrow values"),
    };
    // SAFETY: any level will do.
    Box::new(unsafe { Spmv::new(Rows::<V>(matrix.clone(), PhantomData), level, matrix.values()) })
}

struct Rows<V>(DenseMatrix, PhantomData<V>);

impl<V: Value> Multiply for Rows<V> {
    const PARALLEL: usize = 1 << 12;

    fn shape(&self) -> [usize; 2] {
        [self.0.rows(), self.0.cols()]
    }

    fn slots(&self, block: usize) -> usize {
        // A weight takes about a quarter of the time of a sparse one.
        self.0.rows().min(block * BLOCK) * self.0.cols() / 4
    }

    fn overread(&self) -> usize {
        WIDEST
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
        let rows = block * BLOCK..self.0.rows().min((block + 1) * BLOCK);
        let whole = rows.len() - rows.len() % ROWS;
        // SAFETY: by the caller; the rows are the block's.
        unsafe {
            for row in (0..whole).step_by(ROWS) {
                self.together::<S, ROWS, R>(simd, rows.start + row, columns, row, sums);
            }
            for row in whole..rows.len() {
                self.together::<S, 1, R>(simd, rows.start + row, columns, row, sums);
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.values().tensor().bytes().len()
    }
}

impl<V: Value> Rows<V> {
    /// `M` rows from `row` on times `R` columns; their sums go to `sums[..][at..]`.
    ///
    /// # Safety
    /// As [`Multiply::rows`]; the rows must be some of the block.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn together<S: Simd, const M: usize, const R: usize>(
        &self,
        simd: S,
        row: usize,
        columns: [*const f32; R],
        at: usize,
        sums: &mut [Line],
    ) {
        let ops = simd.f32();
        let k = self.0.cols();
        let values: &[V] = self.0.values().tensor().as_slice().expect("checked by prepare");
        let rows: [&[V]; M] = std::array::from_fn(|m| &values[(row + m) * k..][..k]);
        let mut totals = [[[zero(simd); 2]; R]; M];
        let pair = 2 * S::LANES;
        let even = k - k % pair;
        let mut i = 0;
        while i < even {
            let mut weights = [std::ptr::null(); M];
            let mut next = weights;
            for m in 0..M {
                weights[m] = rows[m][i..].as_ptr();
                next[m] = rows[m][i + S::LANES..].as_ptr();
            }
            // SAFETY: of each row `pair` elements are left, and as many of `X`.
            unsafe {
                step(simd, weights, columns.map(|x| x.add(i)), 0, &mut totals);
                step(simd, next, columns.map(|x| x.add(i + S::LANES)), 1, &mut totals);
            }
            i += pair;
        }
        // What is left of each row, followed by zeros.
        let mut rest = [[V::zeroed(); 2 * WIDEST]; M];
        if i < k {
            for m in 0..M {
                rest[m][..k - i].copy_from_slice(&rows[m][i..]);
            }
            let mut weights = [std::ptr::null(); M];
            for set in 0..(k - i).div_ceil(S::LANES) {
                for m in 0..M {
                    weights[m] = rest[m][set * S::LANES..].as_ptr();
                }
                let at = i + set * S::LANES;
                // SAFETY: `rest` holds two vectors of each row; `X` is followed by zeros.
                unsafe { step(simd, weights, columns.map(|x| x.add(at)), set, &mut totals) };
            }
        }
        for m in 0..M {
            for r in 0..R {
                let [a, b] = totals[m][r];
                sums[r][at + m] = simd.total(ops.add(a, b));
            }
        }
    }
}

/// Adds a vector of each of `M` rows times the same elements of `R` columns to set `set` of the sums. (A closure in its place
/// is not inlined, and then compiled without the instructions: 20 times slower.)
///
/// # Safety
/// A vector must be readable at each pointer.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
unsafe fn step<S: Simd, V: Value, const M: usize, const R: usize>(
    simd: S,
    weights: [*const V; M],
    columns: [*const f32; R],
    set: usize,
    totals: &mut [[[S::F32; 2]; R]; M],
) {
    let ops = simd.f32();
    // SAFETY: by the caller.
    unsafe {
        let mut x = [zero(simd); R];
        for r in 0..R {
            x[r] = ops.load_ptr(columns[r]);
        }
        for m in 0..M {
            let w = simd.load_values(weights[m]);
            for r in 0..R {
                totals[m][r][set] = ops.mul_add(w, x[r], totals[m][r][set]);
            }
        }
    }
}
