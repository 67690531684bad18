//! A matrix stored by its pattern, whichever it is.

use super::{BlockMatrix, CsrMatrix, CsrView, NmMatrix, Pattern, SparseError};
use crate::tensor::{Tensor, TensorError};

/// Arrays that claim to be a matrix: sizes and types are checked, what the arrays hold is not yet.
///
/// Making one touches no element, so a mapped file's pages stay on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Unchecked<M>(pub(super) M);

impl Unchecked<BlockMatrix> {
    /// Reads the indices through, and gives the matrix that the arrays form.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(self) -> Result<BlockMatrix, SparseError> {
        self.0.check().map(|()| self.0)
    }
}

impl Unchecked<NmMatrix> {
    /// Reads the positions through, and gives the matrix that the arrays form.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(self) -> Result<NmMatrix, SparseError> {
        self.0.check().map(|()| self.0)
    }
}

impl Unchecked<StructuredMatrix> {
    /// The matrix that `arrays`, in the order of [`StructuredMatrix::arrays`], claim to be.
    ///
    /// # Errors
    /// When their number, a size or a type does not fit.
    pub fn new(shape: [usize; 2], pattern: Pattern, arrays: &[Tensor]) -> Result<Self, SparseError> {
        let numbers = pattern.numbers();
        match (pattern, arrays) {
            (Pattern::Block { .. }, [indptr, indices, values]) => {
                let [indptr, indices, values] = [indptr, indices, values].map(Clone::clone);
                let matrix = BlockMatrix::new(shape, numbers, indptr, indices, values)?;
                Ok(Self(StructuredMatrix::Block(matrix.0)))
            }
            (Pattern::NofM { .. }, [values, positions]) => {
                let matrix = NmMatrix::new(shape, numbers, values.clone(), positions.clone())?;
                Ok(Self(StructuredMatrix::NofM(matrix.0)))
            }
            (_, arrays) => Err(SparseError::Arrays { pattern, found: arrays.len() }),
        }
    }
}

/// A sparse matrix `[rows, cols]` stored by a [`Pattern`]. Valid by construction.
#[derive(Debug, Clone, PartialEq)]
pub enum StructuredMatrix {
    /// Blocks.
    Block(BlockMatrix),
    /// N:M.
    NofM(NmMatrix),
}

impl StructuredMatrix {
    /// The stored elements of a CSR matrix by `pattern`. `None` when they do not keep to it.
    pub fn from_csr(csr: CsrView<'_>, pattern: Pattern) -> Option<Self> {
        match pattern {
            Pattern::Block { .. } => Some(Self::Block(BlockMatrix::from_csr(csr, pattern.numbers()))),
            Pattern::NofM { .. } => NmMatrix::from_csr(csr, pattern.numbers()).map(Self::NofM),
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Block(matrix) => [matrix.rows(), matrix.cols()],
            Self::NofM(matrix) => [matrix.rows(), matrix.cols()],
        }
    }

    /// The pattern that it is stored by.
    pub fn pattern(&self) -> Pattern {
        let pattern = match self {
            Self::Block(matrix) => Pattern::block(matrix.block()[0], matrix.block()[1]),
            Self::NofM(matrix) => Pattern::n_of_m(matrix.n_of_m()[0], matrix.n_of_m()[1]),
        };
        pattern.expect("checked when it was made")
    }

    /// The arrays, and what follows the weight's name in theirs.
    pub fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Block(matrix) => matrix.arrays().to_vec(),
            Self::NofM(matrix) => matrix.arrays().to_vec(),
        }
    }

    /// The stored values.
    pub fn values(&self) -> &Tensor {
        match self {
            Self::Block(matrix) => matrix.values(),
            Self::NofM(matrix) => matrix.values(),
        }
    }

    /// Bytes of the arrays.
    pub fn bytes(&self) -> usize {
        self.arrays().iter().map(|(_, tensor)| tensor.bytes().len()).sum()
    }

    /// Stored elements within the matrix, zeros too.
    pub fn nnz(&self) -> usize {
        match self {
            Self::Block(matrix) => {
                let mut nnz = 0;
                matrix.for_each(|_, _, _| nnz += 1);
                nnz
            }
            Self::NofM(matrix) => matrix.nnz(),
        }
    }

    /// Calls `f` with row, column and place among [`StructuredMatrix::values`] of each stored element within the matrix: row
    /// by row, columns ascending.
    pub fn for_each(&self, f: impl FnMut(usize, usize, usize)) {
        match self {
            Self::Block(matrix) => matrix.for_each(f),
            Self::NofM(matrix) => matrix.for_each(f),
        }
    }

    /// The same with row `i` multiplied by `factors[i]`.
    ///
    /// # Errors
    /// When values are not `f32`.
    pub fn scaled(&self, factors: &[f32]) -> Result<Self, TensorError> {
        let mut values = self.values().as_slice::<f32>()?.to_vec();
        self.for_each(|row, _, at| values[at] *= factors[row]);
        let values = Tensor::from_slice(self.values().shape(), &values);
        Ok(match self {
            Self::Block(matrix) => Self::Block(matrix.with_values(values)),
            Self::NofM(matrix) => Self::NofM(matrix.with_values(values)),
        })
    }

    /// As CSR: every stored element, zeros too.
    pub fn to_csr(&self) -> CsrMatrix {
        match self {
            Self::Block(matrix) => matrix.into(),
            Self::NofM(matrix) => matrix.into(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), SparseError> {
        match self {
            Self::Block(matrix) => matrix.check(),
            Self::NofM(matrix) => matrix.check(),
        }
    }
}

impl From<StructuredMatrix> for Unchecked<StructuredMatrix> {
    fn from(matrix: StructuredMatrix) -> Self {
        Self(matrix)
    }
}

impl<M> Unchecked<M> {
    pub(crate) fn arrays(&self) -> &M {
        &self.0
    }
}
