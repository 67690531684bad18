//! Weights stored by a pattern of their zeros: blocks, N:M.

use std::sync::{Arc, OnceLock};

use crate::dtype::DataType;
use crate::op::MatrixForm;
use crate::sparse::{Pattern, SparseError, StructuredMatrix, Unchecked};
use crate::storage::{AlignedBytes, Storage};
use crate::tensor::{Tensor, TensorError, checked_bytes};
use crate::weight::{MatrixShapeError, UnstructuredWeight};

/// A tensor of rank 2 or more stored by a [`Pattern`]. Its shape relates to its matrix as in [`UnstructuredWeight::new`].
///
/// Its arrays may come from a file that nobody has read yet: they are checked when [`StructuredWeight::matrix`] is first
/// asked for. Cloning shares the arrays and the outcome of the check.
#[derive(Debug, Clone)]
pub struct StructuredWeight {
    shape: Vec<usize>,
    form: MatrixForm,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    arrays: Unchecked<StructuredMatrix>,
    checked: OnceLock<Result<(), SparseError>>,
}

impl StructuredWeight {
    /// A tensor of `shape` whose elements are those of a matrix.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn new(
        shape: Vec<usize>,
        form: MatrixForm,
        matrix: impl Into<Unchecked<StructuredMatrix>>,
    ) -> Result<Self, MatrixShapeError> {
        let arrays = matrix.into();
        MatrixShapeError::check(arrays.arrays().shape(), form, &shape)?;
        Ok(Self { shape, form, inner: Arc::new(Inner { arrays, checked: OnceLock::new() }) })
    }

    /// Shape of the tensor that the matrix stands for.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the tensor lies as the matrix.
    pub fn form(&self) -> MatrixForm {
        self.form
    }

    /// The pattern that it is stored by.
    pub fn pattern(&self) -> Pattern {
        self.inner.arrays.arrays().pattern()
    }

    /// The arrays and their names, perhaps not checked yet.
    pub fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        self.inner.arrays.arrays().arrays()
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        self.inner.arrays.arrays().values().dtype()
    }

    /// Bytes of the arrays.
    pub fn bytes(&self) -> usize {
        self.inner.arrays.arrays().bytes()
    }

    /// Stored elements that are not zero.
    pub fn nnz(&self) -> usize {
        let values = self.inner.arrays.arrays().values();
        let nonzeros = match values.as_slice::<f32>() {
            Ok(values) => values.iter().filter(|&&w| w != 0.0).count(),
            Err(_) => values.len(),
        };
        // (A file may hold anything in what its blocks have beyond the matrix.)
        nonzeros.min(self.shape.iter().product())
    }

    /// The matrix. The first call reads all but the values through to check them, at memory speed.
    ///
    /// # Errors
    /// When the arrays do not form a matrix.
    pub fn matrix(&self) -> Result<&StructuredMatrix, SparseError> {
        let Inner { arrays, checked } = &*self.inner;
        let matrix = arrays.arrays();
        checked.get_or_init(|| matrix.check()).clone().map(|()| matrix)
    }

    /// The same tensor as CSR: every stored element, zeros too.
    ///
    /// # Errors
    /// When the arrays do not form a matrix.
    pub fn to_csr(&self) -> Result<UnstructuredWeight, SparseError> {
        let csr = self.matrix()?.to_csr();
        Ok(UnstructuredWeight::new(self.shape.clone(), self.form, csr).expect("of the same shape"))
    }

    /// The dense tensor.
    ///
    /// # Errors
    /// When the arrays do not form a matrix.
    pub fn to_dense(&self) -> Result<Tensor, SparseError> {
        let matrix = self.matrix()?;
        let dtype = self.dtype();
        let bytes = checked_bytes(dtype, &self.shape)
            .ok_or_else(|| TensorError::TooLarge { shape: self.shape.clone(), dtype })?;
        let mut dense = AlignedBytes::try_zeroed(bytes).ok_or(TensorError::Memory { bytes })?;
        let (size, values) = (dtype.size(), matrix.values().bytes());
        matrix.for_each(|row, col, at| {
            let to = self.form.at(row, col);
            dense[to * size..][..size].copy_from_slice(&values[at * size..][..size]);
        });
        Ok(Tensor::new(dtype, self.shape.clone(), Storage::owned(dense))?)
    }
}

impl PartialEq for StructuredWeight {
    fn eq(&self, other: &Self) -> bool {
        (&self.shape, self.form, &self.inner.arrays) == (&other.shape, other.form, &other.inner.arrays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::CsrMatrix;

    #[test]
    fn a_transposed_weight_gives_the_tensor_back() {
        let csr = CsrMatrix::from_dense(2, 4, &[1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
        for pattern in ["block:2x2", "nm:2:4", "block:3x3", "block:1x2"] {
            let matrix = StructuredMatrix::from_csr(csr.view().unwrap(), pattern.parse().unwrap()).unwrap();
            let form = MatrixForm::of(&[4, 2], true).unwrap();
            let weight = StructuredWeight::new(vec![4, 2], form, matrix.clone()).unwrap();
            let dense = weight.to_dense().unwrap();
            assert_eq!(dense.as_slice::<f32>().unwrap(), [1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
            assert_eq!((weight.nnz(), weight.pattern().to_string().as_str()), (3, pattern));
            assert!(StructuredWeight::new(vec![2, 5], form, matrix).is_err());
        }
    }

    #[test]
    fn arrays_are_checked_before_their_first_use() {
        let arrays = [
            Tensor::from_slice(&[2], &[0_u32, 1]),
            Tensor::from_slice(&[1], &[7_u16]),
            Tensor::from_slice(&[2], &[1.0_f32; 2]),
        ];
        let pattern = "block:1x2".parse().unwrap();
        let matrix = Unchecked::<StructuredMatrix>::new([1, 6], pattern, &arrays).unwrap();
        let form = MatrixForm::of(&[1, 6], false).unwrap();
        let weight = StructuredWeight::new(vec![1, 6], form, matrix).unwrap();
        assert_eq!(weight.to_dense(), Err(SparseError::Column { row: 0, col: 7, cols: 3 }));
        let error = Unchecked::<StructuredMatrix>::new([1, 6], pattern, &arrays[..2]).unwrap_err();
        assert_eq!(error, SparseError::Arrays { pattern, found: 2 });
    }
}
