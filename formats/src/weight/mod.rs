//! Weights as they are stored: a dense tensor as the graph has it, or a matrix.
//!
//! How a matrix is stored has two sides that know nothing of each other: where its elements lie ([`Layout`]: all of them,
//! CSR, a bitmap, blocks, N:M), and what they are stored as ([`Values`]: as they are, or bf16, f16, int8 that stand for f32).
//! What a kernel wants (panels, lanes, strips) is made from these by the runtime.

mod bitmap;
mod block;
mod csr;
mod dense;
mod error;
mod layout;
mod matrix;
mod nm;
mod packing;
mod pattern;
mod round;
mod smallest;
mod stored;
mod values;

use std::borrow::Cow;

use crate::dtype::DataType;
use crate::graph::Dim;
use crate::op::MatrixForm;
use crate::tensor::Tensor;

pub use bitmap::Bitmap;
pub use block::{Block, BlockMatrix};
pub use csr::{Csr, CsrMatrix, CsrView};
pub use dense::{Dense, DenseMatrix};
pub use error::SparseError;
pub use layout::{Layout, Places};
pub use matrix::Matrix;
pub use nm::{NmMatrix, NofM};
pub use packing::Packing;
pub use pattern::{Pattern, PatternError};
pub use round::{RoundWeightError, RoundedWeight};
pub use stored::{MatrixShapeError, MatrixWeight};
pub use values::{RoundError, RoundingError, ValueType, Values, ValuesError};

/// A constant tensor of a graph.
#[derive(Debug, Clone, PartialEq)]
pub enum Weight {
    /// Every element is stored, as it is.
    Tensor(Tensor),
    /// Stored as a matrix.
    Matrix(MatrixWeight),
}

impl Weight {
    /// Shape of the tensor that it stands for.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => tensor.shape(),
            Self::Matrix(weight) => weight.shape(),
        }
    }

    /// Element type, to the graph.
    pub fn dtype(&self) -> DataType {
        match self {
            Self::Tensor(tensor) => tensor.dtype(),
            Self::Matrix(weight) => weight.values().dtype(),
        }
    }

    /// Type of the stored values: that of the elements, or a narrower one that stands for f32.
    pub fn values_type(&self) -> DataType {
        match self {
            Self::Tensor(tensor) => tensor.dtype(),
            Self::Matrix(weight) => weight.values().stored(),
        }
    }

    /// How far narrower values are from the f32 that they were rounded from; `None` where none were.
    pub fn rounding_error(&self) -> Option<RoundingError> {
        match self {
            Self::Tensor(_) => None,
            Self::Matrix(weight) => weight.values().rounding_error(),
        }
    }

    /// Name of the layout: `dense`, `csr`, `bitmap`, `block:4x1`, `nm:2:4` and the like.
    pub fn layout(&self) -> Cow<'static, str> {
        match self {
            Self::Tensor(_) => "dense".into(),
            Self::Matrix(weight) => weight.layout().name(),
        }
    }

    /// Whether it stores fewer elements than there are.
    pub fn is_sparse(&self) -> bool {
        match self {
            Self::Tensor(_) => false,
            Self::Matrix(weight) => !weight.layout().is_dense(),
        }
    }

    /// How the tensor lies as the matrix that it is stored as; `None` where it lies as it is.
    pub fn form(&self) -> Option<MatrixForm> {
        match self {
            Self::Tensor(_) => None,
            Self::Matrix(weight) => Some(weight.form()),
        }
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

    /// Number of elements that are not zero (of CSR and with a bitmap: that are stored).
    pub fn nnz(&self) -> usize {
        match self {
            Self::Tensor(tensor) => Values::from(tensor.clone()).nonzeros(),
            Self::Matrix(weight) => weight.nnz(),
        }
    }

    /// The tensors that it is stored in.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Tensor(tensor) => vec![tensor],
            Self::Matrix(weight) => weight.arrays().into_iter().map(|(_, tensor)| tensor).collect(),
        }
    }

    /// Lets the pages of a mapped weight go until it is read again; see [`crate::storage::Storage::release`].
    pub fn release(&self) {
        self.tensors().into_iter().for_each(|tensor| tensor.storage().release());
    }

    /// What is kept beside it for kernels.
    pub fn packings(&self) -> &[Packing] {
        match self {
            Self::Tensor(_) => &[],
            Self::Matrix(weight) => weight.packings(),
        }
    }

    /// What two weights have in common that are the same tensors used in the same way.
    #[cfg(feature = "onnx")]
    pub(crate) fn identity(&self) -> (Vec<(*const u8, usize)>, DataType, &[usize], Option<MatrixForm>) {
        let place = |tensor: &Tensor| (tensor.bytes().as_ptr(), tensor.bytes().len());
        let places = self.tensors().into_iter().map(place).collect();
        (places, self.values_type(), self.shape(), self.form())
    }

    /// Bytes as stored.
    pub fn bytes(&self) -> usize {
        self.tensors().iter().map(|tensor| tensor.bytes().len()).sum()
    }

    /// The dense tensor, shared if it is dense already; narrower values are widened.
    ///
    /// # Errors
    /// When a sparse weight's arrays do not form a matrix, or memory does not hold it.
    pub fn to_dense(&self) -> Result<Tensor, SparseError> {
        match self {
            Self::Tensor(tensor) => Ok(tensor.clone()),
            Self::Matrix(weight) => weight.to_dense(),
        }
    }
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl From<MatrixWeight> for Weight {
    fn from(weight: MatrixWeight) -> Self {
        Self::Matrix(weight)
    }
}
