//! N:M: of each `m` consecutive columns of a row exactly `n` are stored, so that no row needs a pointer.
//!
//! `values` `[rows, ⌈cols / m⌉ · n]`; `positions` u8 `[rows, bytes]`, where the place of each value within its group takes 2
//! bits (`m` up to 4) or 4 bits (up to 16), the first in the lowest bits, rows padded to whole bytes. Positions ascend within
//! a group. The last group may have fewer than `m` columns; positions that it lacks come last and mean nothing.
//!
//! Every stored element is kept, zeros too: such a zero times an infinite input is NaN, as in a dense product.

use super::{CsrMatrix, CsrView, Pattern, SparseError, Unchecked};
use crate::tensor::{Tensor, TensorError};

/// A matrix `[rows, cols]` with `n` stored elements in each group of `m` columns, whose arrays may lie in a mapped file. Valid
/// by construction.
#[derive(Debug, Clone, PartialEq)]
pub struct NmMatrix {
    rows: usize,
    cols: usize,
    n: usize,
    m: usize,
    values: Tensor,
    positions: Tensor,
}

/// Bits of a position.
fn bits(m: usize) -> usize {
    if m <= 4 { 2 } else { 4 }
}

impl NmMatrix {
    /// Takes `values` `[rows, ⌈cols / m⌉ · n]` and `positions` u8, both of any shape with as many elements. Sizes and types
    /// are checked here, what the arrays hold by [`Unchecked::check`].
    ///
    /// # Errors
    /// When a size or a type does not fit.
    pub fn new(
        [rows, cols]: [usize; 2],
        [n, m]: [usize; 2],
        values: Tensor,
        positions: Tensor,
    ) -> Result<Unchecked<Self>, SparseError> {
        Pattern::n_of_m(n, m)?;
        let nnz = values.len();
        if [rows, cols, nnz].into_iter().any(|n| u32::try_from(n).is_err()) {
            return Err(SparseError::TooLarge { rows, cols, nnz });
        }
        let slots = cols.div_ceil(m) * n;
        let expected = rows.checked_mul(slots);
        if expected != Some(nnz) {
            return Err(SparseError::Slots { rows, slots, values: nnz });
        }
        let (expected, found) = (rows * (slots * bits(m)).div_ceil(8), positions.as_slice::<u8>()?.len());
        if expected != found {
            return Err(SparseError::Positions { expected, found });
        }
        Ok(Unchecked(Self { rows, cols, n, m, values, positions }))
    }

    pub(super) fn check(&self) -> Result<(), SparseError> {
        let last = self.groups().saturating_sub(1);
        for row in 0..self.rows {
            for group in 0..self.groups() {
                let width = self.m.min(self.cols - group * self.m);
                let mut above = None;
                for i in 0..self.n {
                    let position = self.position(row, group * self.n + i);
                    let limit = if group == last && i >= width { self.m } else { width };
                    if position >= limit || above.is_some_and(|last| last >= position) {
                        return Err(SparseError::Position { row, group, position });
                    }
                    above = Some(position);
                }
            }
        }
        Ok(())
    }

    /// The elements of a CSR matrix, and as many zeros as groups lack. `None` when some group holds more than `n`.
    ///
    /// # Panics
    /// When not 0 < `n` < `m` ≤ 16.
    pub fn from_csr(csr: CsrView<'_>, [n, m]: [usize; 2]) -> Option<Self> {
        assert!(Pattern::n_of_m(n, m).is_ok(), "{n}:{m}");
        let matrix = csr.matrix();
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let (groups, bits) = (cols.div_ceil(m), bits(m));
        let (slots, bytes) = (groups * n, (groups * n * bits).div_ceil(8));
        let mut values = vec![0.0_f32; rows * slots];
        let mut positions = vec![0_u8; rows * bytes];
        for row in 0..rows {
            let mut stored = csr.row(row).peekable();
            for group in 0..groups {
                let mut kept = [None; Pattern::MOST_M];
                let end = ((group + 1) * m) as u32;
                let mut count = 0;
                while let Some((col, w)) = stored.next_if(|&(col, _)| col < end) {
                    kept[col as usize - group * m] = Some(w);
                    count += 1;
                }
                let mut fill = n.checked_sub(count)?;
                let mut slot = group * n;
                for (position, kept) in kept[..m].iter().enumerate() {
                    if kept.is_none() {
                        if fill == 0 {
                            continue;
                        }
                        fill -= 1;
                    }
                    values[row * slots + slot] = kept.unwrap_or(0.0);
                    let bit = slot * bits;
                    positions[row * bytes + bit / 8] |= (position as u8) << (bit % 8);
                    slot += 1;
                }
            }
        }
        Some(Self {
            rows,
            cols,
            n,
            m,
            values: Tensor::from_slice(&[rows, slots], &values),
            positions: Tensor::from_slice(&[rows, bytes], &positions),
        })
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

    /// `[n, m]`
    pub fn n_of_m(&self) -> [usize; 2] {
        [self.n, self.m]
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(self.m)
    }

    /// The arrays, and what follows the weight's name in theirs.
    pub fn arrays(&self) -> [(&'static str, &Tensor); 2] {
        [(".values", &self.values), (".positions", &self.positions)]
    }

    /// `[rows, groups · n]`
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Values as f32, `[rows][groups · n]`.
    ///
    /// # Errors
    /// When they are of another type.
    pub fn values_f32(&self) -> Result<&[f32], TensorError> {
        self.values.as_slice()
    }

    /// Where within its group of columns value `slot` of row `row` lies.
    pub fn position(&self, row: usize, slot: usize) -> usize {
        let positions: &[u8] = self.positions.as_slice().expect("checked in new");
        let (bits, bytes) = (bits(self.m), positions.len() / self.rows.max(1));
        let bit = slot * bits;
        usize::from(positions[row * bytes + bit / 8] >> (bit % 8)) & ((1 << bits) - 1)
    }

    /// Elements stored within the matrix: those of a last group with fewer columns than `n` are not counted.
    pub fn nnz(&self) -> usize {
        let rest = self.cols % self.m;
        self.rows * (self.cols / self.m * self.n + rest.min(self.n))
    }

    /// Calls `f` with row, column and place among `values` of each stored element within the matrix: row by row, columns
    /// ascending.
    pub fn for_each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let slots = self.groups() * self.n;
        for row in 0..self.rows {
            for slot in 0..slots {
                let col = slot / self.n * self.m + self.position(row, slot);
                if col < self.cols {
                    f(row, col, row * slots + slot);
                }
            }
        }
    }
}

impl From<&NmMatrix> for CsrMatrix {
    /// Every stored element, zeros too.
    fn from(matrix: &NmMatrix) -> Self {
        Self::from_elements([matrix.rows, matrix.cols], &matrix.values, |f| matrix.for_each(f))
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
                let matrix = NmMatrix::from_csr(csr.view().unwrap(), [n, m]).unwrap();
                assert_eq!(matrix.check(), Ok(()));
                assert_eq!(matrix.values().shape(), [3, cols.div_ceil(m) * n]);
                let back = CsrMatrix::from(&matrix);
                assert_eq!(back.to_dense().unwrap(), dense, "{n}:{m} of {cols}");
                assert_eq!(back.nnz(), matrix.nnz());
                assert_eq!(NmMatrix::from_csr(back.view().unwrap(), [n, m]).unwrap(), matrix);
                let theirs = sprs::CsMatI::from(back.view().unwrap());
                assert_eq!(CsrMatrix::try_from(&theirs).unwrap(), back);
            }
        }
        let full = CsrMatrix::from_dense(1, 4, &[1.0, 2.0, 3.0, 0.0]);
        assert_eq!(NmMatrix::from_csr(full.view().unwrap(), [2, 4]), None);
    }

    #[test]
    fn positions_take_two_bits() {
        let csr = CsrMatrix::from_dense(1, 6, &[0.0, 5.0, 0.0, 6.0, 7.0, 8.0]);
        let matrix = NmMatrix::from_csr(csr.view().unwrap(), [2, 4]).unwrap();
        assert_eq!(matrix.arrays()[1].1.as_slice::<u8>().unwrap(), [0b01_00_11_01]);
    }

    #[test]
    fn hostile_arrays_are_refused() {
        let make = |cols: usize, values: usize, positions: &[u8]| {
            let values = Tensor::from_slice(&[values], &vec![1.0_f32; values]);
            let positions = Tensor::from_slice(&[positions.len()], positions);
            NmMatrix::new([1, cols], [2, 4], values, positions)?.check().map(|_| ())
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
