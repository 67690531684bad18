//! A bit for each element of a matrix, set where one is stored: u8 `[rows, ⌈cols / 8⌉]`, the first column of a byte in its
//! lowest bit. Above 6 % of stored elements this takes fewer bytes than 16-bit columns.

use super::csr::narrow;
use super::{CsrMatrix, SparseError};
use crate::tensor::Tensor;

/// Bytes of a row; at least one, so that few bytes never stand for many rows.
pub(super) fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(8).max(1)
}

/// Bytes of all rows.
pub(crate) fn bytes([rows, cols]: [usize; 2]) -> usize {
    rows.saturating_mul(row_bytes(cols))
}

/// The bits of a matrix.
pub(super) fn of(matrix: &CsrMatrix) -> Tensor {
    let [rows, width] = [matrix.rows(), row_bytes(matrix.cols())];
    let mut bits = vec![0_u8; rows * width];
    for row in 0..rows {
        for col in matrix.row_columns(row) {
            bits[row * width + col as usize / 8] |= 1 << (col % 8);
        }
    }
    Tensor::from_slice(&[rows, width], &bits)
}

/// `indptr` and `indices` of `nnz` elements.
///
/// # Errors
/// When the bits are not as many, or one lies beyond the last column.
///
/// # Panics
/// When there are not [`bytes`] bytes.
pub(super) fn places(bits: &[u8], [rows, cols]: [usize; 2], nnz: usize) -> Result<[Tensor; 2], SparseError> {
    assert_eq!(bits.len(), bytes([rows, cols]));
    let set: usize = bits.iter().map(|byte| byte.count_ones() as usize).sum();
    if set != nnz {
        return Err(SparseError::Bits { set, values: nnz });
    }
    let mut indptr = Vec::with_capacity(rows + 1);
    let mut indices: Vec<u32> = Vec::with_capacity(nnz);
    indptr.push(0_u32);
    for (row, bits) in bits.chunks_exact(row_bytes(cols)).enumerate() {
        for (at, bytes) in bits.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            let mut word = u64::from_le_bytes(word);
            while word != 0 {
                indices.push(at as u32 * 64 + word.trailing_zeros());
                word &= word - 1;
            }
        }
        let start = indptr[row] as usize;
        if let Some(&col) = indices[start..].last().filter(|&&col| col as usize >= cols) {
            return Err(SparseError::Column { row, col, cols });
        }
        indptr.push(indices.len() as u32);
    }
    Ok([Tensor::from_slice(&[rows + 1], &indptr), narrow(cols, &indices)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::UncheckedUnstructured;

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
                let arrays =
                    UncheckedUnstructured::from_bitmap([rows, cols], of(&matrix), matrix.values().clone())
                        .unwrap();
                assert_eq!(arrays.check().unwrap(), matrix, "{rows}x{cols} one in {every}");
            }
        }
    }

    #[test]
    fn the_smaller_form_is_taken() {
        for (every, layout) in [(2, "bitmap"), (10, "bitmap"), (30, "csr")] {
            let matrix = matrix(16, 640, every);
            let arrays = UncheckedUnstructured::smallest(matrix.clone());
            assert_eq!(arrays.layout(), layout);
            assert!(arrays.bytes() <= matrix.bytes());
            assert_eq!(arrays.check().unwrap(), matrix);
        }
    }

    #[test]
    fn hostile_bits_are_refused() {
        let make = |shape: [usize; 2], bits: &[u8], values: usize| {
            let values = Tensor::from_slice(&[values], &vec![1.0_f32; values]);
            UncheckedUnstructured::from_bitmap(shape, Tensor::from_slice(&[bits.len()], bits), values)?
                .check()
        };
        let error = |shape, bits: &[u8], values| make(shape, bits, values).unwrap_err().to_string();
        assert!(make([2, 3], &[0b101, 0b010], 3).is_ok());
        assert_eq!(error([2, 3], &[0b101, 0b010], 2), "3 bits are set, but there are 2 values");
        assert_eq!(error([2, 3], &[0b101], 2), "expected 2 bytes of bits, found 1");
        assert!(error([2, 3], &[0b001, 0b1000], 2).contains("row 1: column 3 is out of range"));
        assert!(error([1 << 31, 0], &[], 0).contains("bytes of bits, found 0"));
    }
}
