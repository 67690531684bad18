//! A matrix of stored values in some layout, checked.

use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};

use super::block::Block;
use super::csr::CsrMatrix;
use super::dense::Dense;
use super::layout::{Layout, Places};
use super::nm::NofM;
use super::{Pattern, SparseError, Values, ValuesError};
use crate::op::MatrixForm;
use crate::storage::{AlignedBytes, Storage};
use crate::tensor::{Tensor, TensorError, checked_bytes};

/// A matrix `[rows, cols]` of stored values, whose places are `L`. Valid by construction, and for good: the places lie in
/// memory that no other process can change. The values may lie in a mapped file.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix<L = Layout> {
    rows: usize,
    cols: usize,
    places: L,
    values: Values,
}

/// What can be said of sizes without reading anything.
pub(super) fn check_sizes(
    places: &impl Places,
    [rows, cols]: [usize; 2],
    values: &Values,
) -> Result<(), SparseError> {
    let nnz = values.len();
    if !places.is_dense() && [rows, cols, nnz].into_iter().any(|n| u32::try_from(n).is_err()) {
        return Err(SparseError::TooLarge { rows, cols, nnz });
    }
    places.check_sizes([rows, cols], nnz)?;
    match values.scales().map(<[f32]>::len).filter(|&found| found != rows) {
        Some(found) => Err(ValuesError::ScaleCount { rows, found }.into()),
        None => Ok(()),
    }
}

impl<L: Places> Matrix<L> {
    /// Checks arrays and takes them, in memory of its own where they are mapped.
    pub(super) fn checked(shape: [usize; 2], places: &L, values: Values) -> Result<Self, SparseError> {
        check_sizes(places, shape, &values)?;
        let places = places.private()?;
        places.check(shape, values.len())?;
        Ok(Self::new_unchecked(shape, places, values))
    }

    /// Of places that are right because they were made here.
    pub(super) fn new_unchecked([rows, cols]: [usize; 2], places: L, values: Values) -> Self {
        Self { rows, cols, places, values }
    }

    pub(super) fn map_values(
        self,
        f: impl FnOnce(Values) -> Result<Values, SparseError>,
    ) -> Result<Self, SparseError> {
        Ok(Self { values: f(self.values)?, ..self })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Where the values lie.
    pub fn places(&self) -> &L {
        &self.places
    }

    /// The stored values.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The values, which are stored as f32.
    ///
    /// # Errors
    /// When they are of another type.
    pub fn values_f32(&self) -> Result<&[f32], TensorError> {
        self.values.tensor().as_slice()
    }

    /// Stored elements within the matrix.
    pub fn nnz(&self) -> usize {
        self.places.stored(self.shape(), self.values.len())
    }

    /// Bytes of all arrays.
    pub fn bytes(&self) -> usize {
        self.places.arrays().iter().map(|(_, array)| array.bytes().len()).sum::<usize>() + self.values.bytes()
    }

    /// Calls `f` with row, column and place among the values of each stored element within the matrix: row by row, columns
    /// ascending.
    pub fn for_each(&self, mut f: impl FnMut(usize, usize, usize)) {
        self.places.for_each(self.shape(), &mut f);
    }

    /// As CSR: every stored element, zeros too (but those of a dense matrix); shares what it can.
    pub fn to_csr(&self) -> CsrMatrix {
        self.places.to_csr(self.shape(), &self.values)
    }

    /// The same matrix with values stored as f32; shares everything else.
    ///
    /// # Errors
    /// When values do not stand for f32, or memory does not hold them.
    pub fn widened(&self) -> Result<Self, TensorError> {
        let values = self.values.widened(|f| self.runs(f))?.into();
        Ok(Self { places: self.places.clone(), values, ..*self })
    }

    /// The same matrix with row `i` multiplied by `factors[i]`; shares everything but f32 values.
    ///
    /// # Errors
    /// When values do not stand for f32.
    pub fn scaled(&self, factors: &[f32]) -> Result<Self, TensorError> {
        let values = self.values.scaled(factors, |f| self.runs(f))?;
        Ok(Self { places: self.places.clone(), values, ..*self })
    }

    fn runs(&self, f: &mut dyn FnMut(usize, Range<usize>)) {
        self.places.runs(self.shape(), f);
    }

    /// All elements, `[rows, cols]`; narrow values are widened.
    ///
    /// # Errors
    /// When memory does not hold them.
    pub fn to_tensor(&self) -> Result<Tensor, TensorError> {
        self.spread(MatrixForm { parts: 1, rows: self.rows, cols: self.cols, transposed: false })
    }

    /// All elements of the tensor that lies so, in its order but in the shape `[rows, cols]`.
    pub(super) fn spread(&self, form: MatrixForm) -> Result<Tensor, TensorError> {
        let (dtype, shape) = (self.values.dtype(), vec![self.rows, self.cols]);
        let wide = match self.values.rounding_error() {
            Some(_) => self.values.widened(|f| self.runs(f))?,
            None => self.values.tensor().clone(),
        };
        if self.places.is_dense() && !form.transposed {
            return wide.reshaped(shape);
        }
        let bytes = checked_bytes(dtype, &shape)
            .ok_or_else(|| TensorError::TooLarge { shape: shape.clone(), dtype })?;
        let mut dense = AlignedBytes::try_zeroed(bytes).ok_or(TensorError::Memory { bytes })?;
        let (size, from) = (dtype.size(), wide.bytes());
        match (self.places.is_dense(), size) {
            (true, 1) => form.tensor_of(from, &mut dense),
            (true, 2) => form.tensor_of::<u16>(cast_slice(from), cast_slice_mut(&mut dense)),
            (true, 4) => form.tensor_of::<u32>(cast_slice(from), cast_slice_mut(&mut dense)),
            (true, _) => form.tensor_of::<u64>(cast_slice(from), cast_slice_mut(&mut dense)),
            (false, _) => self.for_each(|row, col, at| {
                dense[form.at(row, col) * size..][..size].copy_from_slice(&from[at * size..][..size]);
            }),
        }
        Tensor::new(dtype, shape, Storage::owned(dense))
    }
}

impl Matrix {
    pub(super) fn into_parts(self) -> (Layout, Values) {
        (self.places, self.values)
    }

    /// The pattern that it is stored by.
    pub fn pattern(&self) -> Option<Pattern> {
        self.places.pattern()
    }

    /// The matrix where every element is stored; shares the values.
    pub fn dense(&self) -> Option<Matrix<Dense>> {
        let Layout::Dense(dense) = self.places else { return None };
        Some(Matrix::new_unchecked(self.shape(), dense, self.values.clone()))
    }

    /// The matrix where it is stored in blocks; shares the arrays.
    pub fn blocks(&self) -> Option<Matrix<Block>> {
        let Layout::Block(block) = &self.places else { return None };
        Some(Matrix::new_unchecked(self.shape(), block.clone(), self.values.clone()))
    }

    /// The matrix where it is stored as N:M; shares the arrays.
    pub fn n_of_m(&self) -> Option<Matrix<NofM>> {
        let Layout::NofM(nm) = &self.places else { return None };
        Some(Matrix::new_unchecked(self.shape(), nm.clone(), self.values.clone()))
    }

    /// The same places with the elements of a dense row-major matrix, which are zero elsewhere.
    pub(super) fn refilled(&self, dense: &Values) -> Self {
        let (size, from) = (dense.stored().size(), dense.tensor().bytes());
        let mut stored = AlignedBytes::zeroed(self.values.len() * size);
        self.for_each(|row, col, at| {
            let element = &from[(row * self.cols + col) * size..][..size];
            stored[at * size..][..size].copy_from_slice(element);
        });
        let shape = self.values.tensor().shape().to_vec();
        let tensor = Tensor::new(dense.stored(), shape, Storage::owned(stored)).expect("as many elements");
        Self { values: dense.with_tensor(tensor), ..self.clone() }
    }
}

macro_rules! any {
    ($($places:ty),*) => {
        $(impl From<Matrix<$places>> for Matrix {
            fn from(matrix: Matrix<$places>) -> Self {
                let Matrix { rows, cols, places, values } = matrix;
                Self { rows, cols, places: places.into(), values }
            }
        })*
    };
}
any!(Dense, super::csr::Csr, super::bitmap::Bitmap, Block, NofM);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DataType;
    use crate::weight::{DenseMatrix, ValueType};

    /// `[5, 9]`, in which each row keeps two columns of three.
    fn dense() -> Vec<f32> {
        (0..45).map(|i| if i % 3 == i / 9 % 3 { 0.0 } else { (i as f32 - 20.0) / 7.0 }).collect()
    }

    /// Every layout with every type of values.
    fn all() -> Vec<(Matrix, Vec<f32>)> {
        let mut all = Vec::new();
        for to in ValueType::ALL {
            let values = Values::round(&dense(), [5, 9], to).unwrap();
            let matrix = DenseMatrix::new(5, 9, values).unwrap();
            let rounded = matrix.to_tensor().unwrap().as_slice::<f32>().unwrap().to_vec();
            let csr = matrix.to_csr();
            let mut layouts: Vec<Matrix> = vec![matrix.into(), csr.clone().into(), csr.with_bitmap().into()];
            for pattern in ["block:2x1", "block:1x4", "block:3x2", "nm:2:3", "nm:3:4"] {
                layouts.push(csr.by_pattern(pattern.parse().unwrap()).expect(pattern));
            }
            all.extend(layouts.into_iter().map(|matrix| (matrix, rounded.clone())));
        }
        all
    }

    #[test]
    fn layouts_and_types_of_values_go_together() {
        for (matrix, dense) in all() {
            let what = format!("{} {}", matrix.places().name(), matrix.values().stored());
            let slice = |tensor: Tensor| tensor.as_slice::<f32>().unwrap().to_vec();
            assert_eq!(slice(matrix.to_tensor().unwrap()), dense, "{what}");
            let form = MatrixForm::of(&[9, 5], true).unwrap();
            let across = slice(matrix.spread(form).unwrap());
            assert_eq!(form.rows_of(&across), dense, "{what}");
            assert_eq!(slice(matrix.widened().unwrap().to_tensor().unwrap()), dense, "{what}");
            assert_eq!(matrix.widened().unwrap().values().stored(), DataType::F32);
            assert_eq!(matrix.to_csr().to_dense().unwrap(), dense, "{what}");
            assert_eq!(matrix.to_csr().values().stored(), matrix.values().stored());
            let factors = [1.0, -2.0, 0.5, 0.0, 4.0];
            let scaled = slice(matrix.scaled(&factors).unwrap().to_tensor().unwrap());
            let expected = dense.iter().enumerate().map(|(i, w)| w * factors[i / 9]);
            let near = |(a, b): (f32, f32)| (a - b).abs() <= 1e-6 * b.abs();
            assert!(expected.zip(scaled).all(|(a, b)| near((a, b))), "{what}");
            let again = Matrix::checked([5, 9], matrix.places(), matrix.values().clone());
            assert_eq!(again.as_ref(), Ok(&matrix), "{what}");
            let mut last = None;
            let mut nnz = 0;
            matrix.for_each(|row, col, at| {
                assert!(last < Some((row, col)) && at < matrix.values().len(), "{what}");
                (last, nnz) = (Some((row, col)), nnz + 1);
            });
            assert_eq!(nnz, matrix.nnz(), "{what}");
        }
    }
}
