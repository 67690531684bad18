//! Weights as they are stored: dense, or in one of the sparse layouts.

use crate::dtype::DataType;
use crate::sparse::CsrMatrix;
use crate::tensor::{Tensor, TensorError};

/// A constant tensor of a graph.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Weight {
    /// Every element is stored.
    Dense(Tensor),
    /// Elements that are not zero are stored.
    Csr(CsrWeight),
}

/// A tensor of rank 2 or more stored as CSR.
#[derive(Debug, Clone, PartialEq)]
pub struct CsrWeight {
    shape: Vec<usize>,
    transposed: bool,
    matrix: CsrMatrix,
}

/// Why a CSR matrix does not stand for a tensor of some shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {rows}x{cols} matrix (transposed: {transposed}) cannot stand for a tensor of shape {shape:?}")]
#[allow(missing_docs)]
pub struct CsrShapeError {
    pub rows: usize,
    pub cols: usize,
    pub transposed: bool,
    pub shape: Vec<usize>,
}

impl CsrWeight {
    /// A tensor of `shape` whose elements are those of `matrix`.
    ///
    /// Not transposed, the matrix is `[shape[0], product of the rest]`: a convolution's or a Gemm's
    /// `[out, in]`. Transposed, `shape` is `[k, m]` and the matrix `[m, k]`: a MatMul's right-hand weight, stored so
    /// that a row of the matrix is one output.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn new(shape: Vec<usize>, transposed: bool, matrix: CsrMatrix) -> Result<Self, CsrShapeError> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let fits = match (&shape[..], transposed) {
            (&[k, m], true) => (m, k) == (rows, cols),
            (&[m, ref rest @ ..], false) if !rest.is_empty() => {
                m == rows && rest.iter().try_fold(1_usize, |p, &d| p.checked_mul(d)) == Some(cols)
            }
            _ => false,
        };
        if fits {
            Ok(Self { shape, transposed, matrix })
        } else {
            Err(CsrShapeError { rows, cols, transposed, shape })
        }
    }

    /// Whether the matrix is the transpose of the tensor.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// The matrix.
    pub fn matrix(&self) -> &CsrMatrix {
        &self.matrix
    }
}

impl Weight {
    /// Shape of the tensor that it stands for.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dense(tensor) => tensor.shape(),
            Self::Csr(csr) => &csr.shape,
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        match self {
            Self::Dense(tensor) => tensor.dtype(),
            Self::Csr(csr) => csr.matrix.values().dtype(),
        }
    }

    /// Number of elements, zeros included.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of elements that are not zero.
    pub fn nnz(&self) -> usize {
        match self {
            Self::Dense(tensor) => {
                let size = tensor.dtype().size();
                match tensor.as_slice::<f32>() {
                    Ok(values) => values.iter().filter(|&&w| w != 0.0).count(),
                    Err(_) => tensor.bytes().chunks_exact(size).filter(|e| e.iter().any(|&b| b != 0)).count(),
                }
            }
            Self::Csr(csr) => csr.matrix.nnz(),
        }
    }

    /// Bytes as stored.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.bytes().len(),
            Self::Csr(csr) => csr.matrix.bytes(),
        }
    }

    /// The dense tensor, shared if it is dense already.
    ///
    /// # Errors
    /// When a sparse weight's values are not f32.
    pub fn to_dense(&self) -> Result<Tensor, TensorError> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Csr(csr) => {
                let (rows, cols) = (csr.matrix.rows(), csr.matrix.cols());
                let mut dense = csr.matrix.to_dense()?;
                if csr.transposed {
                    dense = (0..cols)
                        .flat_map(|c| (0..rows).map(move |r| r * cols + c))
                        .map(|i| dense[i])
                        .collect();
                }
                Ok(Tensor::from_slice(&csr.shape, &dense))
            }
        }
    }
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl From<CsrWeight> for Weight {
    fn from(csr: CsrWeight) -> Self {
        Self::Csr(csr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_csr_weight_gives_the_tensor_back() {
        let matrix = CsrMatrix::from_dense(2, 3, &[1.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
        let weight = Weight::from(CsrWeight::new(vec![3, 2], true, matrix.clone()).unwrap());
        let dense = weight.to_dense().unwrap();
        assert_eq!(dense.shape(), [3, 2]);
        assert_eq!(dense.as_slice::<f32>().unwrap(), [1.0, 0.0, 0.0, 3.0, 2.0, 0.0]);
        assert_eq!(weight.nnz(), 3);
        assert!(CsrWeight::new(vec![2, 3], true, matrix.clone()).is_err());
        assert!(CsrWeight::new(vec![2, 1, 3], false, matrix).is_ok());
    }
}
