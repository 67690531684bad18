//! A tensor stored as a matrix: its layout and the type of its values, each chosen for itself.

use std::sync::Arc;

use super::csr::CsrMatrix;
use super::dense::DenseMatrix;
use super::layout::{Layout, Places};
use super::matrix::{self, Matrix};
use super::{Packing, SparseError, Values};
use crate::op::MatrixForm;
use crate::tensor::Tensor;

/// A tensor of rank 2 or more that is stored as a matrix, in which a row is one output: in some layout, with values as the graph has
/// them or narrower.
///
/// Its arrays may come from a file that nobody has read yet, and that others may write to: only sizes and types are checked
/// when it is made, so that opening a model touches headers only. [`MatrixWeight::matrix`] gives what kernels may read.
/// Cloning shares the arrays.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixWeight {
    shape: Vec<usize>,
    form: MatrixForm,
    stored: Arc<(Layout, Values)>,
    /// (Other values, other packings: there is no way to change the ones and keep the others.)
    packings: Arc<[Packing]>,
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

impl MatrixWeight {
    /// A tensor of `shape` whose elements are those of a matrix, in which it lies as `form` says.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn new(
        shape: Vec<usize>,
        form: MatrixForm,
        matrix: impl Into<Matrix>,
    ) -> Result<Self, MatrixShapeError> {
        let matrix = matrix.into();
        if !form.fits(&shape) || form.size() != matrix.shape() {
            let [rows, cols] = matrix.shape();
            return Err(MatrixShapeError { rows, cols, form: Box::new(form), shape });
        }
        Ok(Self { shape, form, stored: Arc::new(matrix.into_parts()), packings: Arc::default() })
    }

    /// The same of arrays whose sizes and types alone are checked.
    ///
    /// # Errors
    /// When one does not fit, or `shape` is that of no such matrix.
    pub fn from_arrays(
        shape: Vec<usize>,
        form: MatrixForm,
        layout: Layout,
        values: Values,
    ) -> Result<Self, SparseError> {
        if !form.fits(&shape) {
            return Err(SparseError::Shape { form, shape });
        }
        matrix::check_sizes(&layout, form.size(), &values)?;
        Ok(Self { shape, form, stored: Arc::new((layout, values)), packings: Arc::default() })
    }

    /// The same with these packings in place of those that it has.
    #[must_use]
    pub fn with_packings(self, packings: Vec<Packing>) -> Self {
        Self { packings: packings.into(), ..self }
    }

    /// What is kept beside it for kernels: nothing here depends on it.
    pub fn packings(&self) -> &[Packing] {
        &self.packings
    }

    /// Shape of the tensor that the matrix stands for.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the tensor lies as the matrix.
    pub fn form(&self) -> MatrixForm {
        self.form
    }

    /// Rows and columns of the matrix.
    pub fn size(&self) -> [usize; 2] {
        self.form.size()
    }

    /// Where its values lie, perhaps not checked yet.
    pub fn layout(&self) -> &Layout {
        &self.stored.0
    }

    /// The stored values.
    pub fn values(&self) -> &Values {
        &self.stored.1
    }

    /// The matrix. Each call reads the places through to check them, at memory speed, and copies those that lie in a mapped
    /// file; the values are shared.
    ///
    /// # Errors
    /// When the arrays do not form a matrix.
    pub fn matrix(&self) -> Result<Matrix, SparseError> {
        Matrix::checked(self.size(), self.layout(), self.values().clone())
    }

    /// As [`MatrixWeight::matrix`], as CSR.
    ///
    /// # Errors
    /// When the arrays do not form a matrix.
    pub fn csr(&self) -> Result<CsrMatrix, SparseError> {
        Ok(self.matrix()?.to_csr())
    }

    /// The matrix where it is dense; shares the elements.
    pub(super) fn dense(&self) -> Option<DenseMatrix> {
        let [rows, cols] = self.size();
        if self.layout().is_dense() { DenseMatrix::new(rows, cols, self.values().clone()).ok() } else { None }
    }

    /// Stored elements that are not zero; in CSR and with a bitmap all count that are stored.
    pub fn nnz(&self) -> usize {
        match self.layout() {
            Layout::Csr(_) | Layout::Bitmap(_) => self.values().len(),
            // (A file may hold anything in what its blocks have beyond the matrix.)
            Layout::Dense(_) | Layout::Block(_) | Layout::NofM(_) => {
                self.values().nonzeros().min(self.shape.iter().product())
            }
        }
    }

    /// All arrays, and what follows the weight's name in theirs: places, values, scales.
    pub fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        // The values of a dense weight are the tensor of its name.
        let values = if self.layout().is_dense() { "" } else { ".values" };
        let scales = self.values().scales_tensor().map(|scales| (".scales", scales));
        let values = [(values, self.values().tensor())].into_iter().chain(scales);
        self.layout().arrays().into_iter().chain(values).collect()
    }

    /// A number that other places or other values would hardly give: a hash of all arrays, at memory speed. It tells a weight that was
    /// changed by mistake, not one that somebody forged.
    pub fn checksum(&self) -> u64 {
        self.arrays().iter().fold(0, |sum, (_, array)| checksum(sum, array.bytes()))
    }

    /// Bytes of all arrays.
    pub fn bytes(&self) -> usize {
        self.arrays().iter().map(|(_, array)| array.bytes().len()).sum()
    }

    /// The dense tensor; narrower values are widened.
    ///
    /// # Errors
    /// When the arrays do not form a matrix, or memory does not hold it.
    pub fn to_dense(&self) -> Result<Tensor, SparseError> {
        Ok(self.matrix()?.spread(self.form)?.reshaped(self.shape.clone())?)
    }
}

/// A hash of `bytes` after others: FNV-1a (Fowler, Noll and Vo) of 32-bit words in lanes, which vectors hold, and of the lanes.
fn checksum(before: u64, bytes: &[u8]) -> u64 {
    const LANES: usize = 64;
    const PRIME: u32 = 0x0100_0193;
    let step = |hash: u32, word: u32| (hash ^ word).wrapping_mul(PRIME);
    let mut lanes = [0x811c_9dc5_u32; LANES];
    let (whole, rest) = bytes.as_chunks::<{ 4 * LANES }>();
    for chunk in whole {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks().0) {
            *lane = step(*lane, u32::from_le_bytes(*word));
        }
    }
    let fold = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    let lanes = lanes.into_iter().map(u64::from);
    let rest = rest.iter().copied().map(u64::from);
    lanes.chain(rest).chain([bytes.len() as u64]).fold(before ^ 0xcbf2_9ce4_8422_2325, fold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::csr::Csr;

    #[test]
    fn a_transposed_weight_gives_the_tensor_back() {
        let csr = CsrMatrix::from_dense(2, 4, &[1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
        let mut matrices: Vec<Matrix> = vec![csr.clone().into(), csr.with_bitmap().into()];
        for pattern in ["block:2x2", "nm:2:4", "block:3x3", "block:1x2"] {
            let matrix = csr.by_pattern(pattern.parse().unwrap()).unwrap();
            assert_eq!(matrix.places().name(), pattern);
            matrices.push(matrix);
        }
        for matrix in matrices {
            let form = MatrixForm::of(&[4, 2], true).unwrap();
            let weight = MatrixWeight::new(vec![4, 2], form, matrix.clone()).unwrap();
            let dense = weight.to_dense().unwrap();
            assert_eq!(dense.shape(), [4, 2]);
            assert_eq!(dense.as_slice::<f32>().unwrap(), [1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
            assert_eq!(weight.nnz(), 3);
            assert!(MatrixWeight::new(vec![2, 5], form, matrix.clone()).is_err());
            let across = MatrixForm::of(&[4, 2], false).unwrap();
            assert!(MatrixWeight::new(vec![4, 2], across, matrix.clone()).is_err());
            let flat = MatrixForm::of(&[2, 1, 4], false).unwrap();
            assert!(MatrixWeight::new(vec![2, 1, 4], flat, matrix.clone()).is_ok());
            // Two parts, [4, 1] each.
            let parts = MatrixForm { parts: 2, rows: 1, cols: 4, transposed: true };
            let dense = MatrixWeight::new(vec![2, 4, 1], parts, matrix).unwrap().to_dense().unwrap();
            assert_eq!(dense.as_slice::<f32>().unwrap(), [1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn a_checksum_tells_values_and_places_apart() {
        let weight = |values: &[f32]| {
            let csr = CsrMatrix::from_dense(8, 40, values);
            MatrixWeight::new(vec![8, 40], MatrixForm::of(&[8, 40], false).unwrap(), csr).unwrap().checksum()
        };
        let mut values: Vec<f32> = (0..320).map(|i| if i % 3 == 0 { i as f32 } else { 0.0 }).collect();
        let before = weight(&values);
        assert_eq!(weight(&values), before);
        for (at, value) in [(300, 1.0), (3, 3.000_000_2), (1, 7.0)] {
            let old = std::mem::replace(&mut values[at], value);
            assert_ne!(weight(&values), before, "{at}");
            values[at] = old;
        }
        values.swap(300, 301);
        assert_ne!(weight(&values), before);
    }

    #[test]
    fn arrays_are_checked_before_their_first_use() {
        let csr = Csr::new(Tensor::from_slice(&[2], &[0_u32, 1]), Tensor::from_slice(&[1], &[7_u16]));
        let values = || Tensor::from_slice(&[1], &[1.0_f32]).into();
        let form = MatrixForm::of(&[1, 2], false).unwrap();
        let weight = MatrixWeight::from_arrays(vec![1, 2], form, csr.clone().into(), values()).unwrap();
        let error = SparseError::Column { row: 0, col: 7, cols: 2 };
        assert_eq!(weight.matrix(), Err(error.clone()));
        assert_eq!(weight.to_dense(), Err(error));
        let error = MatrixWeight::from_arrays(vec![2], form, csr.into(), values()).unwrap_err();
        assert!(matches!(error, SparseError::Shape { .. }));
    }
}
