//! Weights as they are stored: dense, or in one of the sparse layouts.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use crate::dtype::DataType;
use crate::graph::Dim;
use crate::narrow::NarrowWeight;
use crate::op::MatrixForm;
use crate::sparse::{CsrMatrix, SparseError, UncheckedUnstructured};
use crate::storage::{AlignedBytes, Storage};
use crate::structured::StructuredWeight;
use crate::tensor::{Tensor, TensorError, checked_bytes};
use crate::values::RoundingError;

/// A constant tensor of a graph.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Weight {
    /// Every element is stored.
    Dense(Tensor),
    /// Elements that are not zero are stored; the values may be narrower than f32.
    Unstructured(UnstructuredWeight),
    /// Every element is stored, narrower than f32.
    Narrow(NarrowWeight),
    /// Blocks that are not all zero, or N of each M elements, are stored.
    Structured(StructuredWeight),
}

/// A tensor of rank 2 or more of which only some elements are stored, as CSR or with a bitmap.
///
/// Its arrays may come from a file that nobody has read yet: they are checked when [`UnstructuredWeight::matrix`] is first
/// asked for, so that opening a model touches headers only and still no kernel ever sees an unchecked index.
/// Cloning shares the arrays and the outcome of the check.
#[derive(Debug, Clone)]
pub struct UnstructuredWeight {
    shape: Vec<usize>,
    form: MatrixForm,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    arrays: UncheckedUnstructured,
    matrix: OnceLock<Result<CsrMatrix, SparseError>>,
}

/// Why a matrix does not stand for a tensor of some shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {rows}x{cols} matrix ({form:?}) cannot stand for a tensor of shape {shape:?}")]
#[allow(missing_docs)]
pub struct MatrixShapeError {
    pub rows: usize,
    pub cols: usize,
    pub form: Box<MatrixForm>,
    pub shape: Vec<usize>,
}

impl MatrixShapeError {
    /// Whether a matrix of `rows` and `cols` may stand for a tensor of `shape` that lies as `form` says.
    pub(crate) fn check([rows, cols]: [usize; 2], form: MatrixForm, shape: &[usize]) -> Result<(), Self> {
        if form.fits(shape) && form.size() == [rows, cols] {
            return Ok(());
        }
        Err(Self { rows, cols, form: Box::new(form), shape: shape.to_vec() })
    }
}

impl UnstructuredWeight {
    /// A tensor of `shape` whose elements are those of a matrix, in which a row is one output.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn new(
        shape: Vec<usize>,
        form: MatrixForm,
        matrix: impl Into<UncheckedUnstructured>,
    ) -> Result<Self, MatrixShapeError> {
        let arrays = matrix.into();
        MatrixShapeError::check([arrays.rows(), arrays.cols()], form, &shape)?;
        Ok(Self { shape, form, inner: Arc::new(Inner { arrays, matrix: OnceLock::new() }) })
    }

    /// Shape of the tensor that the matrix stands for.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the tensor lies as the matrix.
    pub fn form(&self) -> MatrixForm {
        self.form
    }

    /// The arrays, perhaps not checked yet.
    pub fn arrays(&self) -> &UncheckedUnstructured {
        &self.inner.arrays
    }

    /// The matrix; it shares the arrays, but for the places that a bitmap gives, which are made anew by each call. The first
    /// call reads the places through to check them, at memory speed.
    ///
    /// # Errors
    /// When they do not form a matrix.
    pub fn matrix(&self) -> Result<CsrMatrix, SparseError> {
        let Inner { arrays, matrix } = &*self.inner;
        // Kept, the indices of a bitmap would stay in memory beside what kernels make of them.
        if arrays.has_bitmap() {
            return arrays.clone().check();
        }
        matrix.get_or_init(|| arrays.clone().check()).clone()
    }

    /// The dense tensor.
    ///
    /// # Errors
    /// When the arrays do not form a matrix.
    pub fn to_dense(&self) -> Result<Tensor, SparseError> {
        let matrix = self.matrix()?;
        let dtype = matrix.values().dtype();
        let values = match matrix.values().rounding_error() {
            Some(_) => matrix.values().widened(matrix.row_ends())?,
            None => matrix.values().tensor().clone(),
        };
        let size = dtype.size();
        let bytes = checked_bytes(dtype, &self.shape)
            .ok_or_else(|| TensorError::TooLarge { shape: self.shape.clone(), dtype })?;
        let mut dense = AlignedBytes::try_zeroed(bytes).ok_or(TensorError::Memory { bytes })?;
        let mut values = values.bytes().chunks_exact(size);
        for row in 0..matrix.rows() {
            for (col, value) in matrix.row_columns(row).zip(&mut values) {
                let at = self.form.at(row, col as usize);
                dense[at * size..][..size].copy_from_slice(value);
            }
        }
        Ok(Tensor::new(dtype, self.shape.clone(), Storage::owned(dense))?)
    }
}

impl PartialEq for UnstructuredWeight {
    fn eq(&self, other: &Self) -> bool {
        (&self.shape, self.form, self.arrays()) == (&other.shape, other.form, other.arrays())
    }
}

impl Weight {
    /// Shape of the tensor that it stands for.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dense(tensor) => tensor.shape(),
            Self::Unstructured(csr) => &csr.shape,
            Self::Narrow(narrow) => narrow.shape(),
            Self::Structured(weight) => weight.shape(),
        }
    }

    /// How the tensor lies as the matrix that it is stored as; `None` of a dense one, which lies as it is.
    pub fn form(&self) -> Option<MatrixForm> {
        match self {
            Self::Dense(_) => None,
            Self::Unstructured(csr) => Some(csr.form),
            Self::Narrow(narrow) => Some(narrow.form()),
            Self::Structured(weight) => Some(weight.form()),
        }
    }

    /// Element type, to the graph.
    pub fn dtype(&self) -> DataType {
        match self {
            Self::Dense(tensor) => tensor.dtype(),
            Self::Unstructured(csr) => csr.arrays().values().dtype(),
            Self::Narrow(narrow) => narrow.matrix().values().dtype(),
            Self::Structured(weight) => weight.dtype(),
        }
    }

    /// Type of the stored values: that of the elements, or a narrower one that stands for f32.
    pub fn values_type(&self) -> DataType {
        match self {
            Self::Dense(tensor) => tensor.dtype(),
            Self::Unstructured(csr) => csr.arrays().values().stored(),
            Self::Narrow(narrow) => narrow.matrix().values().stored(),
            Self::Structured(weight) => weight.dtype(),
        }
    }

    /// How far narrower values are from the f32 that they were rounded from; `None` where none were.
    pub fn rounding_error(&self) -> Option<RoundingError> {
        match self {
            Self::Dense(_) | Self::Structured(_) => None,
            Self::Unstructured(csr) => csr.arrays().values().rounding_error(),
            Self::Narrow(narrow) => narrow.matrix().values().rounding_error(),
        }
    }

    /// Name of the layout: `dense`, `csr`, `bitmap`, `block:4x1`, `nm:2:4` and the like.
    pub fn layout(&self) -> Cow<'static, str> {
        match self {
            Self::Dense(_) | Self::Narrow(_) => "dense".into(),
            Self::Unstructured(csr) => csr.arrays().layout().into(),
            Self::Structured(weight) => weight.pattern().to_string().into(),
        }
    }

    /// Whether it stores fewer elements than there are.
    pub fn is_sparse(&self) -> bool {
        matches!(self, Self::Unstructured(_) | Self::Structured(_))
    }

    /// Whether its shape is one of those that `declared` allows.
    pub(crate) fn fits(&self, declared: &[Dim]) -> bool {
        let allowed = |(dim, size): (&Dim, &usize)| match dim {
            Dim::Fixed(declared) => declared == size,
            Dim::Symbol(_) => true,
        };
        declared.len() == self.shape().len() && declared.iter().zip(self.shape()).all(allowed)
    }

    /// Number of elements, zeros included.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of elements that are not zero (of a sparse weight: that are stored).
    pub fn nnz(&self) -> usize {
        match self {
            Self::Dense(tensor) => {
                let size = tensor.dtype().size();
                match tensor.as_slice::<f32>() {
                    Ok(values) => values.iter().filter(|&&w| w != 0.0).count(),
                    Err(_) => tensor.bytes().chunks_exact(size).filter(|e| e.iter().any(|&b| b != 0)).count(),
                }
            }
            Self::Unstructured(csr) => csr.arrays().values().len(),
            Self::Narrow(narrow) => narrow.matrix().values().nonzeros(),
            Self::Structured(weight) => weight.nnz(),
        }
    }

    /// The tensors that it is stored in.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Dense(tensor) => vec![tensor],
            Self::Unstructured(csr) => {
                let arrays = csr.arrays().arrays().into_iter().map(|(_, tensor)| tensor);
                arrays.chain(csr.arrays().values().scales_tensor()).collect()
            }
            Self::Narrow(narrow) => {
                let values = narrow.matrix().values();
                [values.tensor()].into_iter().chain(values.scales_tensor()).collect()
            }
            Self::Structured(weight) => weight.arrays().into_iter().map(|(_, tensor)| tensor).collect(),
        }
    }

    /// Bytes as stored.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.bytes().len(),
            Self::Unstructured(csr) => csr.arrays().bytes(),
            Self::Narrow(narrow) => narrow.matrix().values().bytes(),
            Self::Structured(weight) => weight.bytes(),
        }
    }

    /// The dense tensor, shared if it is dense already; narrower values are widened.
    ///
    /// # Errors
    /// When a sparse weight's arrays do not form a matrix, or memory does not hold it.
    pub fn to_dense(&self) -> Result<Tensor, SparseError> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Unstructured(csr) => csr.to_dense(),
            Self::Narrow(narrow) => Ok(narrow.to_dense()?),
            Self::Structured(weight) => weight.to_dense(),
        }
    }
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl From<NarrowWeight> for Weight {
    fn from(narrow: NarrowWeight) -> Self {
        Self::Narrow(narrow)
    }
}

impl From<StructuredWeight> for Weight {
    fn from(weight: StructuredWeight) -> Self {
        Self::Structured(weight)
    }
}

impl From<UnstructuredWeight> for Weight {
    fn from(csr: UnstructuredWeight) -> Self {
        Self::Unstructured(csr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(parts: usize, rows: usize, cols: usize, transposed: bool) -> MatrixForm {
        MatrixForm { parts, rows, cols, transposed }
    }

    #[test]
    fn a_transposed_csr_weight_gives_the_tensor_back() {
        let matrix = CsrMatrix::from_dense(2, 3, &[1.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
        let weight =
            Weight::from(UnstructuredWeight::new(vec![3, 2], form(1, 2, 3, true), matrix.clone()).unwrap());
        let dense = weight.to_dense().unwrap();
        assert_eq!(dense.shape(), [3, 2]);
        assert_eq!(dense.as_slice::<f32>().unwrap(), [1.0, 0.0, 0.0, 3.0, 2.0, 0.0]);
        assert_eq!(weight.nnz(), 3);
        assert!(UnstructuredWeight::new(vec![2, 4], form(1, 2, 3, true), matrix.clone()).is_err());
        assert!(UnstructuredWeight::new(vec![3, 2], form(1, 3, 2, false), matrix.clone()).is_err());
        assert!(UnstructuredWeight::new(vec![2, 1, 3], form(1, 2, 3, false), matrix.clone()).is_ok());
        // Two parts, [3, 1] each.
        let weight = UnstructuredWeight::new(vec![2, 3, 1], form(2, 1, 3, true), matrix).unwrap();
        let dense = Weight::from(weight).to_dense().unwrap();
        assert_eq!(dense.as_slice::<f32>().unwrap(), [1.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
    }

    #[test]
    fn arrays_are_checked_before_their_first_use() {
        let arrays = UncheckedUnstructured::new(
            1,
            2,
            Tensor::from_slice(&[2], &[0_u32, 1]),
            Tensor::from_slice(&[1], &[7_u16]),
            Tensor::from_slice(&[1], &[1.0_f32]),
        );
        let weight = UnstructuredWeight::new(vec![1, 2], form(1, 1, 2, false), arrays.unwrap()).unwrap();
        let error = SparseError::Column { row: 0, col: 7, cols: 2 };
        assert_eq!(weight.matrix(), Err(error.clone()));
        assert_eq!(Weight::from(weight).to_dense(), Err(error));
    }
}
