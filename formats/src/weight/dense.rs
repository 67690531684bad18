//! Every element, row-major: `values` `[rows, cols]`. What a matrix of narrow values is stored as when it has few zeros.

use std::ops::Range;

use half::{bf16, f16};

use super::csr::CsrMatrix;
use super::layout::Places;
use super::matrix::Matrix;
use super::{SparseError, Values};
use crate::storage::{AlignedBytes, Storage};
use crate::tensor::{Tensor, TensorError, checked_bytes};

/// All places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dense;

/// A row-major matrix `[rows, cols]`.
pub type DenseMatrix = Matrix<Dense>;

impl Places for Dense {
    fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        Vec::new()
    }

    fn private(&self) -> Result<Self, TensorError> {
        Ok(*self)
    }

    fn check_sizes(&self, [rows, cols]: [usize; 2], values: usize) -> Result<(), SparseError> {
        if rows.checked_mul(cols) == Some(values) {
            return Ok(());
        }
        Err(SparseError::DenseValues { rows, cols, values })
    }

    fn check(&self, _: [usize; 2], _: usize) -> Result<(), SparseError> {
        Ok(())
    }

    fn stored(&self, _: [usize; 2], values: usize) -> usize {
        values
    }

    fn is_dense(&self) -> bool {
        true
    }

    fn runs(&self, [rows, cols]: [usize; 2], f: &mut dyn FnMut(usize, Range<usize>)) {
        (0..rows).for_each(|row| f(row, row * cols..(row + 1) * cols));
    }

    fn for_each(&self, [rows, cols]: [usize; 2], f: &mut dyn FnMut(usize, usize, usize)) {
        for row in 0..rows {
            (0..cols).for_each(|col| f(row, col, row * cols + col));
        }
    }

    /// Only the elements that are not zero.
    fn to_csr(&self, shape: [usize; 2], values: &Values) -> CsrMatrix {
        let tensor = values.tensor();
        let wrap = |tensor| values.with_tensor(tensor);
        if let Ok(dense) = tensor.as_slice::<f32>() {
            CsrMatrix::gather(shape, dense, wrap)
        } else if let Ok(dense) = tensor.as_slice::<bf16>() {
            CsrMatrix::gather(shape, dense, wrap)
        } else if let Ok(dense) = tensor.as_slice::<f16>() {
            CsrMatrix::gather(shape, dense, wrap)
        } else if let Ok(dense) = tensor.as_slice::<i8>() {
            CsrMatrix::gather(shape, dense, wrap)
        } else {
            CsrMatrix::from_elements(shape, values, |f| self.for_each(shape, f))
        }
    }
}

impl DenseMatrix {
    /// A matrix of `rows · cols` values.
    ///
    /// # Errors
    /// When there are more or fewer, or scales for another number of rows.
    pub fn new(rows: usize, cols: usize, values: Values) -> Result<Self, SparseError> {
        let values = Self::checked([rows, cols], &Dense, values)?;
        values.map_values(|values| Ok(values.reshaped(vec![rows, cols])?))
    }

    /// A sparse matrix with its zeros.
    ///
    /// # Errors
    /// When memory does not hold it.
    pub fn from_csr(csr: &CsrMatrix) -> Result<Self, SparseError> {
        let ([rows, cols], dtype) = (csr.shape(), csr.values().stored());
        let too_large = || TensorError::TooLarge { shape: vec![rows, cols], dtype };
        let (size, bytes) = (dtype.size(), checked_bytes(dtype, &[rows, cols]).ok_or_else(too_large)?);
        let mut dense = AlignedBytes::try_zeroed(bytes).ok_or(TensorError::Memory { bytes })?;
        let mut stored = csr.values().tensor().bytes().chunks_exact(size);
        for row in 0..rows {
            for (col, value) in csr.row_columns(row).zip(&mut stored) {
                dense[(row * cols + col as usize) * size..][..size].copy_from_slice(value);
            }
        }
        let tensor = Tensor::new(dtype, vec![rows, cols], Storage::owned(dense))?;
        Self::new(rows, cols, csr.values().with_tensor(tensor))
    }

    /// Some of the rows; shares the elements.
    ///
    /// # Panics
    /// When there are no such rows.
    #[must_use]
    pub fn row_range(&self, rows: Range<usize>) -> Self {
        let cols = self.cols();
        let values = self.values().slice(rows.start * cols..rows.end * cols, rows.clone());
        Self::new(rows.len(), cols, values).expect("as many values and scales as these rows have")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::MatrixForm;
    use crate::weight::ValueType;

    #[test]
    fn sizes_must_fit() {
        let values = Values::round(&[1.0; 6], [2, 3], ValueType::Int8).unwrap();
        assert!(DenseMatrix::new(2, 3, values.clone()).is_ok());
        assert!(matches!(DenseMatrix::new(3, 3, values.clone()), Err(SparseError::DenseValues { .. })));
        let error = DenseMatrix::new(3, 2, values).unwrap_err().to_string();
        assert_eq!(error, "2 scales for 3 rows");
        let exact = Values::from(Tensor::from_slice(&[1], &[1.0_f32]));
        assert!(DenseMatrix::new(1, 1, exact).is_ok());
    }

    #[test]
    fn any_type_is_transposed() {
        fn check<T: crate::dtype::Element>(of: impl Fn(u8) -> T) {
            let values: Vec<T> = (0..51).map(&of).collect();
            let across: Vec<T> = (0..51).map(|i| of(i % 3 * 17 + i / 3)).collect();
            let matrix = DenseMatrix::new(3, 17, Tensor::from_slice(&[51], &values).into()).unwrap();
            let turned = matrix.spread(MatrixForm::of(&[17, 3], true).unwrap()).unwrap();
            assert_eq!(turned.as_slice::<T>().unwrap(), across);
        }
        check(|i| i);
        check(u16::from);
        check(f32::from);
        check(f64::from);
    }

    #[test]
    fn data_types_of_any_size_lose_their_zeros() {
        let values = Values::from(Tensor::from_slice(&[4], &[1_i32, 0, 2, 3]));
        let csr = DenseMatrix::new(2, 2, values).unwrap().to_csr();
        assert_eq!(csr.values().tensor().as_slice::<i32>().unwrap(), [1, 0, 2, 3]);
        let values = Values::from(Tensor::from_slice(&[4], &[1.0_f32, 0.0, 2.0, 3.0]));
        assert_eq!(DenseMatrix::new(2, 2, values).unwrap().to_csr().nnz(), 3);
    }
}
