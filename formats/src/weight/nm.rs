//! N:M: of each `m` consecutive columns of a row exactly `n` are stored, so that no row needs a pointer.
//!
//! `values` `[rows, ⌈cols / m⌉ · n]`; `positions` u8 `[rows, bytes]`, where the place of each value within its group takes 2
//! bits (`m` up to 4) or 4 bits (up to 16), the first in the lowest bits, rows padded to whole bytes. Positions ascend within
//! a group. The last group may have fewer than `m` columns; positions that it lacks come last and mean nothing.
//!
//! Every stored element is kept, zeros too: such a zero times an infinite input is NaN, as in a dense product.

use std::ops::Range;

use super::csr::CsrMatrix;
use super::layout::Places;
use super::matrix::Matrix;
use super::{Pattern, SparseError};
use crate::tensor::{Tensor, TensorError};

/// Where the elements of an N:M matrix lie in their groups.
#[derive(Debug, Clone, PartialEq)]
pub struct NofM {
    n: usize,
    m: usize,
    positions: Tensor,
}

/// A matrix `[rows, cols]` with `n` stored elements in each group of `m` columns.
pub type NmMatrix = Matrix<NofM>;

/// Bits of a position.
fn bits(m: usize) -> usize {
    if m <= 4 { 2 } else { 4 }
}

impl NofM {
    /// Takes `positions`, u8.
    ///
    /// # Errors
    /// When there is no such N:M.
    pub(super) fn new([n, m]: [usize; 2], positions: Tensor) -> Result<Self, SparseError> {
        Pattern::n_of_m(n, m)?;
        Ok(Self { n, m, positions })
    }

    /// As a pattern.
    pub(super) fn pattern(&self) -> Pattern {
        Pattern::n_of_m(self.n, self.m).expect("checked when it was made")
    }

    /// Values of a row.
    fn slots(&self, cols: usize) -> usize {
        cols.div_ceil(self.m) * self.n
    }

    /// Bytes of a row.
    fn row_bytes(&self, cols: usize) -> usize {
        (self.slots(cols) * bits(self.m)).div_ceil(8)
    }

    /// Where within its group of columns value `slot` of row `row` lies.
    fn position(&self, cols: usize, row: usize, slot: usize) -> usize {
        let positions: &[u8] = self.positions.as_slice().expect("u8, checked when made");
        let bits = bits(self.m);
        let bit = slot * bits;
        usize::from(positions[row * self.row_bytes(cols) + bit / 8] >> (bit % 8)) & ((1 << bits) - 1)
    }
}

impl Places for NofM {
    fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        vec![(".positions", &self.positions)]
    }

    fn private(&self) -> Result<Self, TensorError> {
        Ok(Self { positions: self.positions.private()?, ..*self })
    }

    fn check_sizes(&self, [rows, cols]: [usize; 2], values: usize) -> Result<(), SparseError> {
        let slots = self.slots(cols);
        if rows.checked_mul(slots) != Some(values) {
            return Err(SparseError::Slots { rows, slots, values });
        }
        let (expected, found) = (rows * self.row_bytes(cols), self.positions.as_slice::<u8>()?.len());
        if expected == found { Ok(()) } else { Err(SparseError::Positions { expected, found }) }
    }

    fn check(&self, [rows, cols]: [usize; 2], _: usize) -> Result<(), SparseError> {
        let groups = cols.div_ceil(self.m);
        for row in 0..rows {
            for group in 0..groups {
                let width = self.m.min(cols - group * self.m);
                let mut above = None;
                for i in 0..self.n {
                    let position = self.position(cols, row, group * self.n + i);
                    let limit = if group + 1 == groups && i >= width { self.m } else { width };
                    if position >= limit || above.is_some_and(|last| last >= position) {
                        return Err(SparseError::Position { row, group, position });
                    }
                    above = Some(position);
                }
            }
        }
        Ok(())
    }

    /// Those of a last group with fewer columns than `n` are not counted.
    fn stored(&self, [rows, cols]: [usize; 2], _: usize) -> usize {
        rows * (cols / self.m * self.n + (cols % self.m).min(self.n))
    }

    fn runs(&self, [rows, cols]: [usize; 2], f: &mut dyn FnMut(usize, Range<usize>)) {
        let slots = self.slots(cols);
        (0..rows).for_each(|row| f(row, row * slots..(row + 1) * slots));
    }

    fn for_each(&self, [rows, cols]: [usize; 2], f: &mut dyn FnMut(usize, usize, usize)) {
        let slots = self.slots(cols);
        for row in 0..rows {
            for slot in 0..slots {
                let col = slot / self.n * self.m + self.position(cols, row, slot);
                if col < cols {
                    f(row, col, row * slots + slot);
                }
            }
        }
    }
}

impl NmMatrix {
    /// Checks the arrays and takes them: `values` `[rows, ⌈cols / m⌉ · n]` and `positions` u8, both of any shape with as many
    /// elements. The latter are copied if they are mapped.
    ///
    /// # Errors
    /// The first violation found.
    pub fn new(
        shape: [usize; 2],
        n_of_m: [usize; 2],
        values: impl Into<super::Values>,
        positions: Tensor,
    ) -> Result<Self, SparseError> {
        Self::checked(shape, &NofM::new(n_of_m, positions)?, values.into())
    }

    /// The elements of a CSR matrix, and as many zeros as groups lack. `None` when some group holds more than `n`.
    ///
    /// # Panics
    /// When not 0 < `n` < `m` ≤ 16.
    pub fn from_csr(csr: &CsrMatrix, [n, m]: [usize; 2]) -> Option<Self> {
        assert!(Pattern::n_of_m(n, m).is_ok(), "{n}:{m}");
        let (rows, cols) = (csr.rows(), csr.cols());
        let (groups, bits) = (cols.div_ceil(m), bits(m));
        let (slots, bytes) = (groups * n, (groups * n * bits).div_ceil(8));
        let mut to = Vec::with_capacity(csr.nnz());
        let mut positions = vec![0_u8; rows * bytes];
        for row in 0..rows {
            let mut columns = csr.row_columns(row).peekable();
            for group in 0..groups {
                let mut kept = [false; Pattern::MOST_M];
                let end = ((group + 1) * m) as u32;
                let mut count = 0;
                while let Some(col) = columns.next_if(|&col| col < end) {
                    kept[col as usize - group * m] = true;
                    count += 1;
                }
                let mut fill = n.checked_sub(count)?;
                let mut slot = group * n;
                for (position, &kept) in kept[..m].iter().enumerate() {
                    if kept {
                        to.push(row * slots + slot);
                    } else if fill == 0 {
                        continue;
                    } else {
                        fill -= 1;
                    }
                    let bit = slot * bits;
                    positions[row * bytes + bit / 8] |= (position as u8) << (bit % 8);
                    slot += 1;
                }
            }
        }
        let places = NofM { n, m, positions: Tensor::from_slice(&[rows, bytes], &positions) };
        Some(Self::new_unchecked([rows, cols], places, csr.values().scattered(&[rows, slots], &to)))
    }

    /// `[n, m]`
    pub fn sizes(&self) -> [usize; 2] {
        [self.places().n, self.places().m]
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.cols().div_ceil(self.places().m)
    }

    /// Where within its group of columns value `slot` of row `row` lies.
    pub fn position(&self, row: usize, slot: usize) -> usize {
        self.places().position(self.cols(), row, slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(rows: usize, cols: usize, kept: impl Fn(usize, usize) -> bool) -> Vec<f32> {
        (0..rows * cols).map(|i| if kept(i / cols, i % cols) { i as f32 + 1.0 } else { 0.0 }).collect()
    }

    #[test]
    fn groups_stand_for_the_dense_matrix() {
        // Groups that are full, that lack one, and last ones of 1, 2, 3 columns and of all.
        for cols in [0, 1, 2, 3, 4, 9, 16, 31] {
            for [n, m] in [[1, 2], [2, 4], [3, 4], [4, 8], [3, 7], [5, 16]] {
                let dense = dense(3, cols, |row, col| (col % m + row) % m < n - usize::from(col > 8));
                let csr = CsrMatrix::from_dense(3, cols, &dense);
                let matrix = NmMatrix::from_csr(&csr, [n, m]).unwrap();
                assert_eq!(matrix.places().check(matrix.shape(), matrix.values().len()), Ok(()));
                assert_eq!(matrix.values().tensor().shape(), [3, cols.div_ceil(m) * n]);
                let back = matrix.to_csr();
                assert_eq!(back.to_dense().unwrap(), dense, "{n}:{m} of {cols}");
                assert_eq!(back.nnz(), matrix.nnz());
                assert_eq!(NmMatrix::from_csr(&back, [n, m]).unwrap(), matrix);
                let theirs = sprs::CsMatI::from(back.view().unwrap());
                assert_eq!(CsrMatrix::try_from(&theirs).unwrap(), back);
            }
        }
        let full = CsrMatrix::from_dense(1, 4, &[1.0, 2.0, 3.0, 0.0]);
        assert_eq!(NmMatrix::from_csr(&full, [2, 4]), None);
    }

    #[test]
    fn positions_take_two_bits() {
        let csr = CsrMatrix::from_dense(1, 6, &[0.0, 5.0, 0.0, 6.0, 7.0, 8.0]);
        let matrix = NmMatrix::from_csr(&csr, [2, 4]).unwrap();
        assert_eq!(matrix.places().arrays()[0].1.as_slice::<u8>().unwrap(), [0b01_00_11_01]);
    }

    #[test]
    fn hostile_arrays_are_refused() {
        let make = |cols: usize, values: usize, positions: &[u8]| {
            let values = Tensor::from_slice(&[values], &vec![1.0_f32; values]);
            let positions = Tensor::from_slice(&[positions.len()], positions);
            NmMatrix::new([1, cols], [2, 4], values, positions).map(|_| ())
        };
        assert_eq!(make(8, 4, &[0b11_10_01_00]), Ok(()));
        let error = |cols, values, positions: &[u8]| make(cols, values, positions).unwrap_err().to_string();
        assert!(error(8, 3, &[0]).contains("1 rows of 4 slots, but 3 values"));
        assert!(error(8, 4, &[0, 0]).contains("1 bytes of positions, found 2"));
        assert!(error(8, 4, &[0b11_10_01_01]).contains("row 0: position 1 of group 0"));
        assert!(error(8, 4, &[0b10_11_01_00]).contains("row 0: position 2 of group 1"));
        // A last group of 3, of 1 (whose second slot means nothing) and a position beyond it.
        assert_eq!(make(7, 4, &[0b10_01_01_00]), Ok(()));
        assert_eq!(make(5, 4, &[0b11_00_01_00]), Ok(()));
        assert!(make(7, 4, &[0b11_01_01_00]).is_err() && make(5, 4, &[0b11_01_01_00]).is_err());
    }
}
