//! Block compressed sparse rows (BCSR): CSR whose elements are blocks of `r` × `c`.
//!
//! `indptr` `[⌈rows / r⌉ + 1]` and `indices` `[blocks]` (block columns, ascending within a block row) as in CSR; `values`
//! `[blocks, r, c]`. Blocks at the lower and right edges may reach beyond the matrix; what they hold there means nothing.
//!
//! Every element of a stored block is kept, zeros too: such a zero times an infinite input is NaN, as in a dense product.

use super::csr::{check_columns, check_index_type, check_indptr, narrow};
use super::{CsrMatrix, CsrView, Pattern, SparseError, Unchecked};
use crate::dtype::DataType;
use crate::tensor::{Tensor, TensorError};

/// A matrix `[rows, cols]` in blocks, whose arrays may lie in a mapped file. Valid by construction.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockMatrix {
    rows: usize,
    cols: usize,
    block: [usize; 2],
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
}

impl BlockMatrix {
    /// Takes `indptr` u32 `[⌈rows / r⌉ + 1]`, `indices` u16 or u32 `[blocks]`, `values` `[blocks, r, c]` of any shape with as
    /// many elements. Sizes and types are checked here, what the arrays hold by [`Unchecked::check`].
    ///
    /// # Errors
    /// When a size or a type does not fit.
    pub fn new(
        [rows, cols]: [usize; 2],
        block: [usize; 2],
        indptr: Tensor,
        indices: Tensor,
        values: Tensor,
    ) -> Result<Unchecked<Self>, SparseError> {
        Pattern::block(block[0], block[1])?;
        let nnz = values.len();
        if [rows, cols, nnz].into_iter().any(|n| u32::try_from(n).is_err()) {
            return Err(SparseError::TooLarge { rows, cols, nnz });
        }
        let blocks = indices.len();
        if blocks.checked_mul(block[0] * block[1]) != Some(nnz) {
            return Err(SparseError::BlockValues { blocks, rows: block[0], cols: block[1], values: nnz });
        }
        let expected = rows.div_ceil(block[0]) + 1;
        if indptr.as_slice::<u32>()?.len() != expected {
            return Err(SparseError::IndptrLength { expected, found: indptr.len() });
        }
        check_index_type(&indices)?;
        Ok(Unchecked(Self { rows, cols, block, indptr, indices, values }))
    }

    pub(super) fn check(&self) -> Result<(), SparseError> {
        check_indptr(self.row_offsets(), self.indices.len())?;
        let across = self.cols.div_ceil(self.block[1]);
        check_columns(self.row_offsets(), &self.indices, across)
    }

    /// The blocks of a CSR matrix that hold a stored element.
    ///
    /// # Panics
    /// When a block has no element or 32 bits do not count the values.
    pub fn from_csr(csr: CsrView<'_>, block: [usize; 2]) -> Self {
        let ([r, c], matrix) = (block, csr.matrix());
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let (mut indptr, mut indices, mut values) = (vec![0_u32], Vec::new(), Vec::new());
        // Where the block of a block column begins in `values`, for the block row at hand.
        let mut place = vec![usize::MAX; cols.div_ceil(c)];
        for first in (0..rows).step_by(r) {
            let strip = first..rows.min(first + r);
            let mut used: Vec<u32> =
                strip.clone().flat_map(|row| matrix.row_columns(row)).map(|col| col / c as u32).collect();
            used.sort_unstable();
            used.dedup();
            for &col in &used {
                place[col as usize] = values.len();
                values.resize(values.len() + r * c, 0.0_f32);
            }
            for row in strip {
                for (col, w) in csr.row(row) {
                    let col = col as usize;
                    values[place[col / c] + (row - first) * c + col % c] = w;
                }
            }
            indices.extend(used);
            indptr.push(u32::try_from(indices.len()).expect("blocks fit 32 bits"));
        }
        assert!(u32::try_from(values.len()).is_ok(), "values fit 32 bits");
        Self {
            rows,
            cols,
            block,
            indptr: Tensor::from_slice(&[indptr.len()], &indptr),
            values: Tensor::from_slice(&[indices.len(), r, c], &values),
            indices: narrow(cols.div_ceil(c), &indices),
        }
    }

    /// The same places with other values, as many.
    pub(super) fn with_values(&self, values: Tensor) -> Self {
        assert_eq!(values.len(), self.values.len());
        Self { values, ..self.clone() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows and columns of a block.
    pub fn block(&self) -> [usize; 2] {
        self.block
    }

    /// Number of stored blocks.
    pub fn blocks(&self) -> usize {
        self.indices.len()
    }

    /// The arrays, and what follows the weight's name in theirs.
    pub fn arrays(&self) -> [(&'static str, &Tensor); 3] {
        [(".indptr", &self.indptr), (".indices", &self.indices), (".values", &self.values)]
    }

    /// `[blocks, r, c]`
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Values as f32, `[blocks][r][c]`.
    ///
    /// # Errors
    /// When they are of another type.
    pub fn values_f32(&self) -> Result<&[f32], TensorError> {
        self.values.as_slice()
    }

    /// Offsets of block rows in `indices`.
    pub fn row_offsets(&self) -> &[u32] {
        self.indptr.as_slice().expect("indptr is u32, checked in new")
    }

    /// The block columns of block row `row`, ascending; their blocks start at `row_offsets()[row]`.
    pub fn row_columns(&self, row: usize) -> impl ExactSizeIterator<Item = u32> + '_ {
        let ptr = self.row_offsets();
        let range = ptr[row] as usize..ptr[row + 1] as usize;
        let wide = self.indices.dtype() == DataType::U32;
        let narrow: &[u16] = if wide { &[] } else { self.indices.as_slice().expect("checked in new") };
        let full: &[u32] = if wide { self.indices.as_slice().expect("checked in new") } else { &[] };
        range.map(move |i| if wide { full[i] } else { u32::from(narrow[i]) })
    }

    /// Calls `f` with row, column and place among `values` of each stored element within the matrix: row by row, columns
    /// ascending.
    pub fn for_each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let [r, c] = self.block;
        for row in 0..self.rows {
            let (strip, within) = (row / r, row % r);
            let first = self.row_offsets()[strip] as usize;
            for (i, col) in self.row_columns(strip).enumerate() {
                let start = col as usize * c;
                for col in start..self.cols.min(start + c) {
                    f(row, col, ((first + i) * r + within) * c + col - start);
                }
            }
        }
    }
}

impl From<&BlockMatrix> for CsrMatrix {
    /// Every element of a block, zeros too.
    fn from(matrix: &BlockMatrix) -> Self {
        Self::from_elements([matrix.rows, matrix.cols], &matrix.values, |f| matrix.for_each(f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[5, 7]` in blocks of 2 × 3, of which the second block row holds none.
    fn sample() -> (Vec<f32>, BlockMatrix) {
        let mut dense = vec![0.0; 35];
        for (row, col) in [(0, 0), (1, 2), (1, 6), (4, 3), (4, 4), (4, 6)] {
            dense[row * 7 + col] = (row * 7 + col) as f32 + 1.0;
        }
        let csr = CsrMatrix::from_dense(5, 7, &dense);
        (dense, BlockMatrix::from_csr(csr.view().unwrap(), [2, 3]))
    }

    #[test]
    fn blocks_stand_for_the_dense_matrix() {
        let (dense, matrix) = sample();
        assert_eq!((matrix.blocks(), matrix.row_offsets()), (4, &[0, 2, 2, 4][..]));
        assert_eq!(matrix.values().shape(), [4, 2, 3]);
        let csr = CsrMatrix::from(&matrix);
        assert_eq!(csr.to_dense().unwrap(), dense);
        // Two blocks of 2 × 3 and 2 × 1, and two of one row, 3 and 1 wide.
        assert_eq!(csr.nnz(), 6 + 2 + 3 + 1);
        assert_eq!(BlockMatrix::from_csr(csr.view().unwrap(), [2, 3]), matrix);
        let theirs = sprs::CsMatI::from(csr.view().unwrap());
        let back = CsrMatrix::try_from(&theirs).unwrap();
        assert_eq!(BlockMatrix::from_csr(back.view().unwrap(), [2, 3]), matrix);
    }

    #[test]
    fn hostile_arrays_are_refused() {
        let make = |indptr: &[u32], indices: &[u32], values: usize, block: [usize; 2]| {
            let u32s = |values: &[u32]| Tensor::from_slice(&[values.len()], values);
            let values = Tensor::from_slice(&[values], &vec![1.0_f32; values]);
            BlockMatrix::new([5, 7], block, u32s(indptr), u32s(indices), values)?.check()
        };
        assert!(make(&[0, 1, 1, 2], &[2, 0], 12, [2, 3]).is_ok());
        let error = |indptr: &[u32], indices: &[u32], values| {
            make(indptr, indices, values, [2, 3]).unwrap_err().to_string()
        };
        assert!(error(&[0, 1, 2], &[0, 0], 12).contains("3 entries, expected rows + 1 = 4"));
        assert!(error(&[0, 1, 1, 2], &[0, 0], 11).contains("2 blocks of 2x3 need 12 values, found 11"));
        assert!(error(&[0, 2, 1, 2], &[0, 1], 12).contains("falls at row 1"));
        assert!(error(&[0, 1, 1, 3], &[0, 1], 12).contains("end at nnz = 2"));
        assert!(error(&[0, 1, 1, 2], &[3, 0], 12).contains("column 3 is out of range"));
        assert!(error(&[0, 2, 2, 2], &[1, 1], 12).contains("out of order"));
        assert!(make(&[0], &[], 0, [0, 3]).is_err() && make(&[0], &[], 0, [300, 1]).is_err());
    }
}
