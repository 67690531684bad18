//! Block compressed sparse rows (BCSR): CSR whose elements are blocks of `r` × `c`.
//!
//! `indptr` `[⌈rows / r⌉ + 1]` and `indices` `[blocks]` (block columns, ascending within a block row) as in CSR; `values`
//! `[blocks, r, c]`. Blocks at the lower and right edges may reach beyond the matrix; what they hold there means nothing.
//!
//! Every element of a stored block is kept, zeros too: such a zero times an infinite input is NaN, as in a dense product.

use std::ops::Range;

use super::csr::{Csr, CsrMatrix};
use super::layout::Places;
use super::matrix::Matrix;
use super::{Pattern, SparseError};
use crate::tensor::{Tensor, TensorError};

/// Where the blocks of a matrix lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    block: [usize; 2],
    /// Those of the matrix whose elements are the blocks.
    blocks: Csr,
}

/// A matrix `[rows, cols]` in blocks.
pub type BlockMatrix = Matrix<Block>;

impl Block {
    /// Takes `indptr` u32 `[⌈rows / r⌉ + 1]` and `indices` u16 or u32 `[blocks]`.
    ///
    /// # Errors
    /// When there are no blocks of such sides.
    pub(super) fn new(block: [usize; 2], indptr: Tensor, indices: Tensor) -> Result<Self, SparseError> {
        Pattern::block(block[0], block[1])?;
        Ok(Self { block, blocks: Csr::new(indptr, indices) })
    }

    /// As a pattern.
    pub(super) fn pattern(&self) -> Pattern {
        Pattern::block(self.block[0], self.block[1]).expect("checked when it was made")
    }

    /// Rows and columns of blocks.
    fn grid(&self, [rows, cols]: [usize; 2]) -> [usize; 2] {
        [rows.div_ceil(self.block[0]), cols.div_ceil(self.block[1])]
    }
}

impl Places for Block {
    fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        self.blocks.arrays()
    }

    fn private(&self) -> Result<Self, TensorError> {
        Ok(Self { blocks: self.blocks.private()?, ..*self })
    }

    fn check_sizes(&self, shape: [usize; 2], values: usize) -> Result<(), SparseError> {
        let (blocks, [rows, cols]) = (self.blocks.len(), self.block);
        if blocks.checked_mul(rows * cols) != Some(values) {
            return Err(SparseError::BlockValues { blocks, rows, cols, values });
        }
        self.blocks.check_lengths(self.grid(shape)[0], blocks)
    }

    fn check(&self, shape: [usize; 2], _: usize) -> Result<(), SparseError> {
        self.blocks.check(self.grid(shape), self.blocks.len())
    }

    fn stored(&self, shape: [usize; 2], _: usize) -> usize {
        let ([r, c], [rows, cols], mut stored) = (self.block, shape, 0);
        self.blocks.for_each(self.grid(shape), &mut |row, col, _| {
            stored += r.min(rows - row * r) * c.min(cols - col * c);
        });
        stored
    }

    fn runs(&self, shape: [usize; 2], f: &mut dyn FnMut(usize, Range<usize>)) {
        let [r, c] = self.block;
        self.blocks.for_each(self.grid(shape), &mut |row, _, block| {
            for within in 0..r.min(shape[0] - row * r) {
                let start = (block * r + within) * c;
                f(row * r + within, start..start + c);
            }
        });
    }

    fn for_each(&self, [rows, cols]: [usize; 2], f: &mut dyn FnMut(usize, usize, usize)) {
        let [r, c] = self.block;
        for row in 0..rows {
            let (strip, within) = (row / r, row % r);
            let first = self.blocks.row_offsets()[strip] as usize;
            for (i, col) in self.blocks.row_columns(strip).enumerate() {
                let start = col as usize * c;
                for col in start..cols.min(start + c) {
                    f(row, col, ((first + i) * r + within) * c + col - start);
                }
            }
        }
    }
}

impl BlockMatrix {
    /// Checks the arrays and takes them: `indptr` u32 `[⌈rows / r⌉ + 1]`, `indices` u16 or u32 `[blocks]`, `values`
    /// `[blocks, r, c]` of any shape with as many elements. The first two are copied if they are mapped.
    ///
    /// # Errors
    /// The first violation found.
    pub fn new(
        shape: [usize; 2],
        block: [usize; 2],
        indptr: Tensor,
        indices: Tensor,
        values: impl Into<super::Values>,
    ) -> Result<Self, SparseError> {
        Self::checked(shape, &Block::new(block, indptr, indices)?, values.into())
    }

    /// The blocks of a CSR matrix that hold a stored element.
    ///
    /// # Panics
    /// When a block has no element or 32 bits do not count the values.
    pub fn from_csr(csr: &CsrMatrix, block: [usize; 2]) -> Self {
        let ([r, c], [rows, cols]) = (block, csr.shape());
        let (mut indptr, mut indices, mut slots) = (vec![0_u32], Vec::new(), 0_usize);
        // Where the block of a block column begins in the values, for the block row at hand.
        let mut place = vec![usize::MAX; cols.div_ceil(c)];
        let mut to = Vec::with_capacity(csr.nnz());
        for first in (0..rows).step_by(r) {
            let strip = first..rows.min(first + r);
            let mut used: Vec<u32> =
                strip.clone().flat_map(|row| csr.row_columns(row)).map(|col| col / c as u32).collect();
            used.sort_unstable();
            used.dedup();
            for &col in &used {
                place[col as usize] = slots;
                slots += r * c;
            }
            for row in strip {
                for col in csr.row_columns(row).map(|col| col as usize) {
                    to.push(place[col / c] + (row - first) * c + col % c);
                }
            }
            indices.extend(used);
            indptr.push(u32::try_from(indices.len()).expect("blocks fit 32 bits"));
        }
        assert!(u32::try_from(slots).is_ok(), "values fit 32 bits");
        let values = csr.values().scattered(&[indices.len(), r, c], &to);
        let blocks = Csr::from_vecs(cols.div_ceil(c), &indptr, &indices);
        Self::new_unchecked([rows, cols], Block { block, blocks }, values)
    }

    /// Rows and columns of a block.
    pub fn block(&self) -> [usize; 2] {
        self.places().block
    }

    /// Number of stored blocks.
    pub fn blocks_stored(&self) -> usize {
        self.places().blocks.len()
    }

    /// Offsets of block rows among the blocks.
    pub fn row_offsets(&self) -> &[u32] {
        self.places().blocks.row_offsets()
    }

    /// The block columns of block row `row`, ascending; their blocks start at `row_offsets()[row]`.
    pub fn row_columns(&self, row: usize) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.places().blocks.row_columns(row)
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
        (dense, BlockMatrix::from_csr(&csr, [2, 3]))
    }

    #[test]
    fn blocks_stand_for_the_dense_matrix() {
        let (dense, matrix) = sample();
        assert_eq!((matrix.blocks_stored(), matrix.row_offsets()), (4, &[0, 2, 2, 4][..]));
        assert_eq!(matrix.values().tensor().shape(), [4, 2, 3]);
        let csr = matrix.to_csr();
        assert_eq!(csr.to_dense().unwrap(), dense);
        // Two blocks of 2 × 3 and 2 × 1, and two of one row, 3 and 1 wide.
        assert_eq!(csr.nnz(), 6 + 2 + 3 + 1);
        assert_eq!(BlockMatrix::from_csr(&csr, [2, 3]), matrix);
        let theirs = sprs::CsMatI::from(csr.view().unwrap());
        let back = CsrMatrix::try_from(&theirs).unwrap();
        assert_eq!(BlockMatrix::from_csr(&back, [2, 3]), matrix);
    }

    #[test]
    fn hostile_arrays_are_refused() {
        let make = |indptr: &[u32], indices: &[u32], values: usize, block: [usize; 2]| {
            let u32s = |values: &[u32]| Tensor::from_slice(&[values.len()], values);
            let values = Tensor::from_slice(&[values], &vec![1.0_f32; values]);
            BlockMatrix::new([5, 7], block, u32s(indptr), u32s(indices), values)
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
