//! Compressed sparse rows: `indptr` `[rows + 1]`, `indices` and `values` `[nnz]`, columns ascending within a row.

use std::ops::Range;

use bytemuck::Zeroable;

use super::bitmap::{self, Bitmap};
use super::layout::Places;
use super::matrix::Matrix;
use super::{BlockMatrix, NmMatrix, Pattern, SparseError, Values};
use crate::dtype::{DataType, Element};
use crate::tensor::{Tensor, TensorError};

/// Where the elements of a CSR matrix lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Csr {
    indptr: Tensor,
    indices: Tensor,
}

/// A sparse matrix `[rows, cols]` of single elements.
pub type CsrMatrix = Matrix<Csr>;

impl Csr {
    /// Takes `indptr` u32 `[rows + 1]` and `indices` u16 or u32 `[nnz]`.
    pub(super) fn new(indptr: Tensor, indices: Tensor) -> Self {
        Self { indptr, indices }
    }

    /// As many as `indptr` rises from 0 to, `[rows + 1]`, and the columns, below `cols`.
    pub(super) fn from_vecs(cols: usize, indptr: &[u32], indices: &[u32]) -> Self {
        Self::new(Tensor::from_slice(&[indptr.len()], indptr), narrow(cols, indices))
    }

    /// The offsets of rows in indices and values.
    pub(super) fn row_offsets(&self) -> &[u32] {
        self.indptr.as_slice().expect("indptr is u32, checked when made")
    }

    /// The columns of row `row`, ascending.
    pub(super) fn row_columns(&self, row: usize) -> impl ExactSizeIterator<Item = u32> + '_ {
        let ptr = self.row_offsets();
        let range = ptr[row] as usize..ptr[row + 1] as usize;
        let wide = self.indices.dtype() == DataType::U32;
        let narrow: &[u16] = if wide { &[] } else { self.indices.as_slice().expect("checked when made") };
        let full: &[u32] = if wide { self.indices.as_slice().expect("checked when made") } else { &[] };
        range.map(move |i| if wide { full[i] } else { u32::from(narrow[i]) })
    }

    /// The columns of all rows, one after the other.
    fn columns(&self) -> Vec<u32> {
        match self.indices.dtype() {
            DataType::U16 => {
                let narrow: &[u16] = self.indices.as_slice().expect("checked when made");
                narrow.iter().map(|&column| u32::from(column)).collect()
            }
            _ => self.indices.as_slice().expect("checked when made").to_vec(),
        }
    }

    /// Checks sizes and types for `rows` rows and so many indices.
    pub(super) fn check_lengths(&self, rows: usize, stored: usize) -> Result<(), SparseError> {
        if self.indices.len() != stored {
            return Err(SparseError::Lengths { indices: self.indices.len(), values: stored });
        }
        if self.indptr.as_slice::<u32>()?.len() != rows + 1 {
            return Err(SparseError::IndptrLength { expected: rows + 1, found: self.indptr.len() });
        }
        match self.indices.dtype() {
            DataType::U16 | DataType::U32 => Ok(()),
            found => Err(SparseError::IndexType { found }),
        }
    }

    /// Number of indices.
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }
}

impl Places for Csr {
    fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        vec![(".indptr", &self.indptr), (".indices", &self.indices)]
    }

    fn private(&self) -> Result<Self, TensorError> {
        Ok(Self::new(self.indptr.private()?, self.indices.private()?))
    }

    fn check_sizes(&self, [rows, _]: [usize; 2], values: usize) -> Result<(), SparseError> {
        self.check_lengths(rows, values)
    }

    fn check(&self, [_, cols]: [usize; 2], values: usize) -> Result<(), SparseError> {
        check_indptr(self.row_offsets(), values)?;
        match self.indices.dtype() {
            DataType::U16 => check_columns(self.row_offsets(), self.indices.as_slice::<u16>()?, cols),
            _ => check_columns(self.row_offsets(), self.indices.as_slice::<u32>()?, cols),
        }
    }

    fn stored(&self, _: [usize; 2], values: usize) -> usize {
        values
    }

    fn runs(&self, _: [usize; 2], f: &mut dyn FnMut(usize, Range<usize>)) {
        for (row, pair) in self.row_offsets().windows(2).enumerate() {
            f(row, pair[0] as usize..pair[1] as usize);
        }
    }

    fn for_each(&self, [rows, _]: [usize; 2], f: &mut dyn FnMut(usize, usize, usize)) {
        for row in 0..rows {
            let start = self.row_offsets()[row] as usize;
            self.row_columns(row).enumerate().for_each(|(i, col)| f(row, col as usize, start + i));
        }
    }

    fn to_csr(&self, shape: [usize; 2], values: &Values) -> CsrMatrix {
        Matrix::new_unchecked(shape, self.clone(), values.clone())
    }
}

impl CsrMatrix {
    /// Checks the three arrays and takes them: `indptr` u32 `[rows + 1]`, `indices` u16 or u32 `[nnz]`, `values` `[nnz]`. The
    /// first two are copied if they are mapped.
    ///
    /// # Errors
    /// The first violation found; see [`SparseError`].
    pub fn new(
        rows: usize,
        cols: usize,
        indptr: Tensor,
        indices: Tensor,
        values: impl Into<Values>,
    ) -> Result<Self, SparseError> {
        Self::checked([rows, cols], &Csr::new(indptr, indices), values.into())
    }

    /// Keeps the elements of a dense row-major f32 matrix that are not zero (NaN is kept).
    /// Columns take 16 bits where `cols` allows.
    ///
    /// # Panics
    /// When `dense` does not hold `rows * cols` elements, or 32 bits do not count them.
    pub fn from_dense(rows: usize, cols: usize, dense: &[f32]) -> Self {
        Self::gather([rows, cols], dense, Values::from)
    }

    /// The same for elements of any type; `wrap` makes the values.
    pub(super) fn gather<T: Element + Zeroable>(
        [rows, cols]: [usize; 2],
        dense: &[T],
        wrap: impl FnOnce(Tensor) -> Values,
    ) -> Self {
        assert_eq!(dense.len(), rows * cols, "[{rows}, {cols}]");
        let nnz = dense.iter().filter(|&&w| w != T::zeroed()).count();
        let mut indptr = Vec::with_capacity(rows + 1);
        let mut indices = Vec::with_capacity(nnz);
        let mut values = Vec::with_capacity(nnz);
        indptr.push(0_u32);
        for row in 0..rows {
            for (col, &w) in dense[row * cols..][..cols].iter().enumerate() {
                if w != T::zeroed() {
                    indices.push(col as u32);
                    values.push(w);
                }
            }
            indptr.push(u32::try_from(values.len()).expect("nnz fits 32 bits"));
        }
        let values = wrap(Tensor::from_slice(&[nnz], &values));
        Self::new_unchecked([rows, cols], Csr::from_vecs(cols, &indptr, &indices), values)
    }

    /// The same for the transpose `[rows, cols]` of a dense row-major f32 matrix `[cols, rows]`.
    ///
    /// # Panics
    /// As [`CsrMatrix::from_dense`].
    pub fn from_dense_transposed(rows: usize, cols: usize, dense: &[f32]) -> Self {
        assert_eq!(dense.len(), rows * cols, "[{cols}, {rows}]");
        let stored = || {
            (0..cols).flat_map(|col| {
                let line = &dense[col * rows..][..rows];
                line.iter().enumerate().filter(|&(_, &w)| w != 0.0).map(move |(row, &w)| (row, col, w))
            })
        };
        let mut indptr = vec![0_u32; rows + 1];
        stored().for_each(|(row, _, _)| indptr[row + 1] += 1);
        for row in 0..rows {
            indptr[row + 1] = indptr[row].checked_add(indptr[row + 1]).expect("nnz fits 32 bits");
        }
        let nnz = indptr[rows] as usize;
        let mut next = indptr.clone();
        let mut indices = vec![0_u32; nnz];
        let mut values = vec![0.0_f32; nnz];
        for (row, col, w) in stored() {
            let at = next[row] as usize;
            next[row] += 1;
            indices[at] = col as u32;
            values[at] = w;
        }
        let values = Tensor::from_slice(&[nnz], &values).into();
        Self::new_unchecked([rows, cols], Csr::from_vecs(cols, &indptr, &indices), values)
    }

    /// The elements that `visit` names, row by row with ascending columns: row, column, and place among `values`. It is
    /// called twice, and must do the same.
    pub(super) fn from_elements(
        [rows, cols]: [usize; 2],
        values: &Values,
        visit: impl Fn(&mut dyn FnMut(usize, usize, usize)),
    ) -> Self {
        let mut indptr = vec![0_u32; rows + 1];
        visit(&mut |row, _, _| indptr[row + 1] += 1);
        for row in 0..rows {
            indptr[row + 1] = indptr[row].checked_add(indptr[row + 1]).expect("nnz fits 32 bits");
        }
        let nnz = indptr[rows] as usize;
        let mut indices = Vec::with_capacity(nnz);
        let mut from = Vec::with_capacity(nnz);
        visit(&mut |_, col, at| {
            indices.push(col as u32);
            from.push(at);
        });
        Self::new_unchecked([rows, cols], Csr::from_vecs(cols, &indptr, &indices), values.gathered(&from))
    }

    /// The same with the places as bits; shares the values.
    pub(crate) fn with_bitmap(&self) -> Matrix<Bitmap> {
        Matrix::new_unchecked(self.shape(), Bitmap::of(self), self.values().clone())
    }

    /// In whichever of the two forms takes fewer bytes.
    pub(super) fn smallest(&self) -> Matrix {
        let arrays = self.places().arrays();
        let bytes: usize = arrays.iter().map(|(_, array)| array.bytes().len()).sum();
        if bitmap::bytes(self.shape()) < bytes { self.with_bitmap().into() } else { self.clone().into() }
    }

    /// The elements stored by `pattern`. `None` when they do not keep to it.
    ///
    /// # Panics
    /// When 32 bits do not count the values.
    pub fn by_pattern(&self, pattern: Pattern) -> Option<Matrix> {
        match pattern {
            Pattern::Block { .. } => Some(BlockMatrix::from_csr(self, pattern.numbers()).into()),
            Pattern::NofM { .. } => NmMatrix::from_csr(self, pattern.numbers()).map(Matrix::from),
        }
    }

    /// `indptr`, u32 `[rows + 1]`.
    pub fn indptr(&self) -> &Tensor {
        &self.places().indptr
    }

    /// `indices`, u16 or u32 `[nnz]`.
    pub fn indices(&self) -> &Tensor {
        &self.places().indices
    }

    /// The offsets of rows in `indices` and `values`.
    pub fn row_offsets(&self) -> &[u32] {
        self.places().row_offsets()
    }

    /// The columns of all rows, one after the other: `[nnz]`.
    pub fn columns(&self) -> Vec<u32> {
        self.places().columns()
    }

    /// The columns of row `row`, ascending.
    pub fn row_columns(&self, row: usize) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.places().row_columns(row)
    }

    /// A typed view, when values are stored as `f32`.
    ///
    /// # Errors
    /// When values are of another type.
    pub fn view(&self) -> Result<CsrView<'_>, TensorError> {
        self.stored()
    }

    /// A view of the values as they are stored; scales are not applied.
    ///
    /// # Errors
    /// When `T` is not the stored type.
    pub fn stored<T: Element>(&self) -> Result<CsrView<'_, T>, TensorError> {
        Ok(CsrView { matrix: self, values: self.values().tensor().as_slice()? })
    }

    /// Some of the rows; shares indices and values.
    ///
    /// # Panics
    /// When there are no such rows.
    #[must_use]
    pub fn row_range(&self, rows: Range<usize>) -> Self {
        let offsets = &self.row_offsets()[rows.start..=rows.end];
        let (first, last) = (offsets[0], offsets[rows.len()]);
        let range = first as usize..last as usize;
        let indices = self.indices();
        let size = indices.dtype().size();
        let storage = indices.storage().slice(range.start * size..range.end * size);
        let storage = storage.expect("within the tensor");
        let indptr: Vec<u32> = offsets.iter().map(|offset| offset - first).collect();
        let places = Csr::new(
            Tensor::from_slice(&[indptr.len()], &indptr),
            Tensor::new(indices.dtype(), vec![range.len()], storage).expect("as many bytes"),
        );
        let shape = [rows.len(), self.cols()];
        Self::new_unchecked(shape, places, self.values().slice(range, rows))
    }

    /// The dense row-major matrix `[rows, cols]`, when values stand for `f32`.
    ///
    /// # Errors
    /// When values are of another type.
    pub fn to_dense(&self) -> Result<Vec<f32>, TensorError> {
        let wide = self.widened()?;
        let view = wide.view()?;
        let mut dense = vec![0.0; self.rows() * self.cols()];
        for row in 0..self.rows() {
            for (col, w) in view.row(row) {
                dense[row * self.cols() + col as usize] = w;
            }
        }
        Ok(dense)
    }
}

/// A CSR matrix whose values are known to be stored as `T`.
#[derive(Debug, Clone, Copy)]
pub struct CsrView<'a, T = f32> {
    matrix: &'a CsrMatrix,
    values: &'a [T],
}

impl<'a, T: Copy> CsrView<'a, T> {
    /// The matrix.
    pub fn matrix(&self) -> &'a CsrMatrix {
        self.matrix
    }

    /// All stored values, row by row.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// Column and value of each stored element of a row.
    pub fn row(&self, row: usize) -> impl ExactSizeIterator<Item = (u32, T)> + 'a {
        let start = self.matrix.row_offsets()[row] as usize;
        let values = &self.values[start..];
        self.matrix.row_columns(row).enumerate().map(move |(i, col)| (col, values[i]))
    }
}

/// The type of indices for so many columns.
pub(super) fn index_type(cols: usize) -> DataType {
    if cols <= 1 << 16 { DataType::U16 } else { DataType::U32 }
}

/// Indices below `cols`, in 16 bits where these do.
fn narrow(cols: usize, indices: &[u32]) -> Tensor {
    if index_type(cols) == DataType::U16 {
        let indices: Vec<u16> = indices.iter().map(|&i| i as u16).collect();
        Tensor::from_slice(&[indices.len()], &indices)
    } else {
        Tensor::from_slice(&[indices.len()], indices)
    }
}

/// Whether `ptr`, not empty, rises from 0 to `nnz`.
fn check_indptr(ptr: &[u32], nnz: usize) -> Result<(), SparseError> {
    let (first, last) = (ptr[0] as usize, ptr[ptr.len() - 1] as usize);
    if first != 0 || last != nnz {
        return Err(SparseError::IndptrEnds { first, last, nnz });
    }
    match ptr.windows(2).position(|pair| pair[0] > pair[1]) {
        Some(row) => Err(SparseError::IndptrOrder { row }),
        None => Ok(()),
    }
}

/// Whether indices ascend within each row and are less than `cols`.
fn check_columns<I: Element + Into<u32>>(
    indptr: &[u32],
    indices: &[I],
    cols: usize,
) -> Result<(), SparseError> {
    for (row, pair) in indptr.windows(2).enumerate() {
        let mut above = None;
        for &index in &indices[pair[0] as usize..pair[1] as usize] {
            let col: u32 = index.into();
            if col as usize >= cols || above.is_some_and(|last| last >= col) {
                return Err(SparseError::Column { row, col, cols });
            }
            above = Some(col);
        }
    }
    Ok(())
}

/// Shares nothing: `sprs` owns its arrays.
#[cfg(feature = "sprs")]
impl From<CsrView<'_>> for sprs::CsMatI<f32, u32> {
    fn from(view: CsrView<'_>) -> Self {
        let m = view.matrix;
        let indices = m.columns();
        sprs::CsMatI::new((m.rows(), m.cols()), m.row_offsets().to_vec(), indices, view.values.to_vec())
    }
}

#[cfg(feature = "sprs")]
impl TryFrom<&sprs::CsMatI<f32, u32>> for CsrMatrix {
    type Error = SparseError;

    /// Takes CSR and CSC matrices; a CSC one is converted first.
    fn try_from(matrix: &sprs::CsMatI<f32, u32>) -> Result<Self, SparseError> {
        let matrix = matrix.to_csr();
        let (rows, cols) = matrix.shape();
        let indptr = matrix.indptr().to_proper().to_vec();
        Self::new(
            rows,
            cols,
            Tensor::from_slice(&[indptr.len()], &indptr),
            narrow(cols, matrix.indices()),
            Tensor::from_slice(&[matrix.nnz()], matrix.data()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csr(rows: usize, cols: usize, indptr: &[u32], indices: &[u32]) -> Result<CsrMatrix, SparseError> {
        CsrMatrix::new(
            rows,
            cols,
            Tensor::from_slice(&[indptr.len()], indptr),
            Tensor::from_slice(&[indices.len()], indices),
            Tensor::from_slice(&[indices.len()], &vec![1.0_f32; indices.len()]),
        )
    }

    #[test]
    fn invalid_arrays_are_refused() {
        assert!(csr(2, 3, &[0, 1, 2], &[2, 0]).is_ok());
        assert!(matches!(csr(2, 3, &[0, 2], &[0, 1]), Err(SparseError::IndptrLength { .. })));
        assert!(matches!(csr(2, 3, &[1, 1, 2], &[0, 1]), Err(SparseError::IndptrEnds { .. })));
        assert!(matches!(csr(3, 3, &[0, 2, 1, 2], &[0, 1]), Err(SparseError::IndptrOrder { row: 1 })));
        assert!(matches!(csr(1, 3, &[0, 2], &[1, 1]), Err(SparseError::Column { .. })));
        assert!(matches!(csr(1, 3, &[0, 2], &[2, 1]), Err(SparseError::Column { .. })));
        assert!(matches!(csr(1, 3, &[0, 1], &[3]), Err(SparseError::Column { row: 0, col: 3, cols: 3 })));
    }

    #[test]
    fn indices_that_were_checked_cannot_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("indices");
        std::fs::write(&path, bytemuck::cast_slice::<u32, u8>(&[0, 2, 0, 1])).unwrap();
        let file = crate::storage::Storage::map(&path).unwrap();
        let part = |range: Range<usize>| {
            let tensor = Tensor::new(DataType::U32, vec![range.len()], {
                file.slice(range.start * 4..range.end * 4).unwrap()
            });
            tensor.unwrap()
        };
        let values = Tensor::from_slice(&[2], &[1.0_f32, 2.0]);
        let matrix = CsrMatrix::new(1, 2, part(0..2), part(2..4), values.clone()).unwrap();
        // As `cp` over it does.
        std::fs::write(&path, [0xff; 16]).unwrap();
        assert_eq!(matrix.to_dense().unwrap(), [1.0, 2.0]);
        assert!(CsrMatrix::new(1, 2, part(0..2), part(2..4), values).is_err());
    }

    #[test]
    fn rows_can_be_taken() {
        let dense = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, -2.0, 4.0, 0.0, 0.0];
        let matrix = CsrMatrix::from_dense(4, 3, &dense);
        for rows in [0..4, 1..3, 2..4, 2..2] {
            let part = matrix.row_range(rows.clone());
            assert_eq!(part, CsrMatrix::from_dense(rows.len(), 3, &dense[rows.start * 3..rows.end * 3]));
        }
    }

    #[test]
    fn dense_and_sprs_round_trip() {
        let dense = [0.0, 1.0, 0.0, f32::NAN, 0.0, -2.0];
        let matrix = CsrMatrix::from_dense(2, 3, &dense);
        assert_eq!(matrix.nnz(), 3);
        assert_eq!(matrix.indices().dtype(), DataType::U16);
        let back = matrix.to_dense().unwrap();
        assert!(back.iter().zip(&dense).all(|(a, b)| a.to_bits() == b.to_bits()));
        let across = [0.0, f32::NAN, 1.0, 0.0, 0.0, -2.0];
        assert_eq!(CsrMatrix::from_dense_transposed(2, 3, &across), matrix);

        let theirs = sprs::CsMatI::from(matrix.view().unwrap());
        assert_eq!(CsrMatrix::try_from(&theirs).unwrap(), matrix);
        assert_eq!(CsrMatrix::try_from(&theirs.to_csc()).unwrap(), matrix);
    }
}
