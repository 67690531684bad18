//! A bit for each element of a matrix, set where one is stored: u8 `[rows, ⌈cols / 8⌉]`, the first column of a byte in its
//! lowest bit. Above 6 % of stored elements this takes fewer bytes than 16-bit columns.

use std::ops::Range;

use bytemuck::cast_slice_mut;

use super::csr::{Csr, CsrMatrix, index_type};
use super::layout::Places;
use super::matrix::Matrix;
use super::{SparseError, Values};
use crate::dtype::{DataType, Element};
use crate::storage::{AlignedBytes, Storage};
use crate::tensor::{Tensor, TensorError};

/// The bits of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Bitmap {
    bits: Tensor,
}

/// Bytes of all rows.
pub(super) fn bytes([rows, cols]: [usize; 2]) -> usize {
    rows.saturating_mul(Bitmap::row_bytes(cols))
}

impl Bitmap {
    /// Takes bits u8 `[rows, ⌈cols / 8⌉]`.
    pub(super) fn new(bits: Tensor) -> Self {
        Self { bits }
    }

    /// Bytes of a row; at least one, so that few bytes never stand for many rows.
    pub fn row_bytes(cols: usize) -> usize {
        cols.div_ceil(8).max(1)
    }

    /// The bits, row by row, [`Bitmap::row_bytes`] each.
    pub fn bits(&self) -> &[u8] {
        self.bits.as_slice().expect("u8, checked when made")
    }

    /// The bits of a matrix.
    pub(super) fn of(matrix: &CsrMatrix) -> Self {
        let [rows, width] = [matrix.rows(), Bitmap::row_bytes(matrix.cols())];
        let mut bits = vec![0_u8; rows * width];
        for row in 0..rows {
            for col in matrix.row_columns(row) {
                bits[row * width + col as usize / 8] |= 1 << (col % 8);
            }
        }
        Self::new(Tensor::from_slice(&[rows, width], &bits))
    }

    /// The bytes of each row.
    fn rows(&self, cols: usize) -> impl Iterator<Item = &[u8]> {
        self.bits().chunks_exact(Bitmap::row_bytes(cols))
    }

    /// As columns of type `T`, written where they stay: who opens a model waits for this.
    fn places<T: Element>(&self, [rows, cols]: [usize; 2], stored: usize, column: impl Fn(u32) -> T) -> Csr {
        let mut indptr = Vec::with_capacity(rows + 1);
        let mut indices = AlignedBytes::zeroed(stored * size_of::<T>());
        let mut free = cast_slice_mut(&mut indices).iter_mut();
        indptr.push(0_u32);
        for bits in self.rows(cols) {
            columns(bits, |col| {
                // (There are as many as bits, which was checked.)
                if let Some(place) = free.next() {
                    *place = column(col);
                }
            });
            indptr.push((stored - free.len()) as u32);
        }
        let indices = Tensor::new(T::DTYPE, vec![stored], Storage::owned(indices));
        Csr::new(Tensor::from_slice(&[rows + 1], &indptr), indices.expect("as many bytes"))
    }
}

/// Calls `f` with each column whose bit is set, ascending.
fn columns(bits: &[u8], mut f: impl FnMut(u32)) {
    let (words, rest) = bits.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    for (at, &word) in words.iter().chain([&last]).enumerate() {
        let mut word = u64::from_le_bytes(word);
        while word != 0 {
            f(at as u32 * 64 + word.trailing_zeros());
            word &= word - 1;
        }
    }
}

fn count(bits: &[u8]) -> usize {
    let (words, rest) = bits.as_chunks();
    let words = words.iter().map(|&word| u64::from_le_bytes(word).count_ones() as usize).sum::<usize>();
    words + rest.iter().map(|byte| byte.count_ones() as usize).sum::<usize>()
}

impl Places for Bitmap {
    fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        vec![(".bitmap", &self.bits)]
    }

    fn private(&self) -> Result<Self, TensorError> {
        Ok(Self::new(self.bits.private()?))
    }

    fn check_sizes(&self, shape: [usize; 2], _: usize) -> Result<(), SparseError> {
        let (expected, found) = (bytes(shape), self.bits.as_slice::<u8>()?.len());
        if expected == found { Ok(()) } else { Err(SparseError::BitmapBytes { expected, found }) }
    }

    fn check(&self, [_, cols]: [usize; 2], values: usize) -> Result<(), SparseError> {
        let set: usize = self.rows(cols).map(count).sum();
        if set != values {
            return Err(SparseError::Bits { set, values });
        }
        for (row, bits) in self.rows(cols).enumerate() {
            // Only the last byte has bits beyond the last column.
            let last = bits[bits.len() - 1];
            if u16::from(last) >> (cols - (bits.len() - 1) * 8) != 0 {
                let col = (bits.len() * 8 - 1) as u32 - last.leading_zeros();
                return Err(SparseError::Column { row, col, cols });
            }
        }
        Ok(())
    }

    fn stored(&self, _: [usize; 2], values: usize) -> usize {
        values
    }

    fn runs(&self, [_, cols]: [usize; 2], f: &mut dyn FnMut(usize, Range<usize>)) {
        let mut start = 0;
        for (row, bits) in self.rows(cols).enumerate() {
            let end = start + count(bits);
            f(row, start..end);
            start = end;
        }
    }

    fn for_each(&self, [_, cols]: [usize; 2], f: &mut dyn FnMut(usize, usize, usize)) {
        let mut at = 0;
        for (row, bits) in self.rows(cols).enumerate() {
            columns(bits, |col| {
                f(row, col as usize, at);
                at += 1;
            });
        }
    }

    fn to_csr(&self, [rows, cols]: [usize; 2], values: &Values) -> CsrMatrix {
        let csr = match index_type(cols) {
            DataType::U16 => self.places::<u16>([rows, cols], values.len(), |col| col as u16),
            _ => self.places([rows, cols], values.len(), |col| col),
        };
        Matrix::new_unchecked([rows, cols], csr, values.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// About one element in `every` is kept.
    fn matrix(rows: usize, cols: usize, every: usize) -> CsrMatrix {
        let kept = |i: usize| (i * 7919 + i / 13).is_multiple_of(every);
        let dense: Vec<f32> = (0..rows * cols).map(|i| if kept(i) { i as f32 + 1.0 } else { 0.0 }).collect();
        CsrMatrix::from_dense(rows, cols, &dense)
    }

    #[test]
    fn bits_stand_for_the_same_matrix() {
        for (rows, cols) in [(1, 1), (3, 7), (3, 8), (2, 9), (5, 63), (5, 64), (5, 65), (0, 8), (2, 70_000)] {
            for every in [1, 2, 5, 1000] {
                let matrix = matrix(rows, cols, every);
                let bits = Bitmap::of(&matrix);
                let found = Matrix::checked([rows, cols], &bits, matrix.values().clone()).unwrap();
                assert_eq!(found.to_csr(), matrix, "{rows}x{cols} one in {every}");
            }
        }
    }

    #[test]
    fn the_smaller_form_is_taken() {
        for (every, layout) in [(2, "bitmap"), (10, "bitmap"), (30, "csr")] {
            let matrix = matrix(16, 640, every);
            let smallest = matrix.smallest();
            assert_eq!(smallest.places().name(), layout);
            assert!(smallest.bytes() <= matrix.bytes());
            assert_eq!(smallest.to_csr(), matrix);
        }
    }

    #[test]
    fn hostile_bits_are_refused() {
        let make = |shape: [usize; 2], bits: &[u8], values: usize| {
            let values = Tensor::from_slice(&[values], &vec![1.0_f32; values]);
            let bits = Bitmap::new(Tensor::from_slice(&[bits.len()], bits));
            Matrix::checked(shape, &bits, values.into())
        };
        let error = |shape, bits: &[u8], values| make(shape, bits, values).unwrap_err().to_string();
        assert!(make([2, 3], &[0b101, 0b010], 3).is_ok());
        assert_eq!(error([2, 3], &[0b101, 0b010], 2), "3 bits are set, but there are 2 values");
        assert_eq!(error([2, 3], &[0b101], 2), "expected 2 bytes of bits, found 1");
        assert!(error([2, 3], &[0b001, 0b1000], 2).contains("row 1: column 3 is out of range"));
        assert!(error([1, 8], &[0xff, 0], 8).contains("expected 1 bytes"));
        assert!(make([1, 8], &[0xff], 8).is_ok() && make([1, 9], &[0xff, 1], 9).is_ok());
        assert!(error([1, 9], &[0, 0b10], 1).contains("column 9 is out of range"));
        assert!(error([1, 0], &[1], 1).contains("column 0 is out of range"));
        assert!(error([1 << 31, 0], &[], 0).contains("bytes of bits, found 0"));
    }
}
