//! A matrix of which single elements are stored, by no pattern: their places as compressed sparse rows or as a bitmap, whichever
//! is smaller.

use super::csr::{check_columns, check_index_type, check_indptr};
use super::{CsrMatrix, SparseError, bitmap};
use crate::tensor::Tensor;
use crate::values::{Values, ValuesError};

/// Where the stored elements of a matrix lie.
#[derive(Debug, Clone, PartialEq)]
enum Places {
    /// u32 `[rows + 1]`, and u16 or u32 `[nnz]`.
    Indices { indptr: Tensor, indices: Tensor },
    /// As [`bitmap`] says.
    Bitmap(Tensor),
}

/// Arrays that claim to be a sparse matrix, the places of its elements as CSR or as a bitmap: sizes and types are checked, what
/// the arrays hold is not yet.
///
/// Making one touches no element, so a mapped file's pages stay on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct UncheckedUnstructured {
    rows: usize,
    cols: usize,
    places: Places,
    values: Values,
}

impl UncheckedUnstructured {
    /// Takes `indptr` u32 `[rows + 1]`, `indices` u16 or u32 `[nnz]`, `values` `[nnz]`.
    ///
    /// # Errors
    /// When a size or a type does not fit.
    pub fn new(
        rows: usize,
        cols: usize,
        indptr: Tensor,
        indices: Tensor,
        values: impl Into<Values>,
    ) -> Result<Self, SparseError> {
        let values = values.into();
        check_sizes([rows, cols], &values)?;
        if indices.len() != values.len() {
            return Err(SparseError::Lengths { indices: indices.len(), values: values.len() });
        }
        if indptr.as_slice::<u32>()?.len() != rows + 1 {
            return Err(SparseError::IndptrLength { expected: rows + 1, found: indptr.len() });
        }
        check_index_type(&indices)?;
        Ok(Self { rows, cols, places: Places::Indices { indptr, indices }, values })
    }

    /// Takes bits u8 `[rows, ⌈cols / 8⌉]`, set where an element is stored, the first column of a byte in its lowest bit; and
    /// `values` `[nnz]`.
    ///
    /// # Errors
    /// When a size or a type does not fit.
    pub fn from_bitmap(
        [rows, cols]: [usize; 2],
        bits: Tensor,
        values: impl Into<Values>,
    ) -> Result<Self, SparseError> {
        let values = values.into();
        check_sizes([rows, cols], &values)?;
        let (expected, found) = (bitmap::bytes([rows, cols]), bits.as_slice::<u8>()?.len());
        if expected != found {
            return Err(SparseError::BitmapBytes { expected, found });
        }
        Ok(Self { rows, cols, places: Places::Bitmap(bits), values })
    }

    /// A matrix in the form that takes fewer bytes.
    pub fn smallest(matrix: CsrMatrix) -> Self {
        let CsrMatrix { rows, cols, .. } = matrix;
        if bitmap::bytes([rows, cols]) < matrix.indptr.bytes().len() + matrix.indices.bytes().len() {
            return Self { rows, cols, places: Places::Bitmap(bitmap::of(&matrix)), values: matrix.values };
        }
        matrix.into()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Name of the layout: `csr` or `bitmap`.
    pub fn layout(&self) -> &'static str {
        match self.places {
            Places::Indices { .. } => "csr",
            Places::Bitmap(_) => "bitmap",
        }
    }

    /// Whether the places are bits, which [`UncheckedUnstructured::check`] turns into indices anew each time.
    pub(crate) fn has_bitmap(&self) -> bool {
        matches!(self.places, Places::Bitmap(_))
    }

    /// The arrays, and what follows the weight's name in theirs.
    pub fn arrays(&self) -> Vec<(&'static str, &Tensor)> {
        let values = self.values.tensor();
        match &self.places {
            Places::Indices { indptr, indices } => {
                vec![(".indptr", indptr), (".indices", indices), (".values", values)]
            }
            Places::Bitmap(bits) => vec![(".bitmap", bits), (".values", values)],
        }
    }

    /// Bytes of the arrays.
    pub fn bytes(&self) -> usize {
        let places = match &self.places {
            Places::Indices { indptr, indices } => indptr.bytes().len() + indices.bytes().len(),
            Places::Bitmap(bits) => bits.bytes().len(),
        };
        places + self.values.bytes()
    }

    /// `values`, `[nnz]`.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Reads the places through, and gives the matrix that they form; it shares the arrays, but for a bitmap.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(self) -> Result<CsrMatrix, SparseError> {
        let Self { rows, cols, places, values } = self;
        let [indptr, indices] = match places {
            Places::Indices { indptr, indices } => {
                let ptr = indptr.as_slice::<u32>()?;
                check_indptr(ptr, values.len())?;
                check_columns(ptr, &indices, cols)?;
                [indptr, indices]
            }
            Places::Bitmap(bits) => bitmap::places(bits.as_slice()?, [rows, cols], values.len())?,
        };
        Ok(CsrMatrix { rows, cols, indptr, indices, values })
    }
}

fn check_sizes([rows, cols]: [usize; 2], values: &Values) -> Result<(), SparseError> {
    let nnz = values.len();
    if [rows, cols, nnz].into_iter().any(|n| u32::try_from(n).is_err()) {
        return Err(SparseError::TooLarge { rows, cols, nnz });
    }
    match values.scales().map(<[f32]>::len).filter(|&found| found != rows) {
        Some(found) => Err(ValuesError::ScaleCount { rows, found }.into()),
        None => Ok(()),
    }
}

impl From<CsrMatrix> for UncheckedUnstructured {
    fn from(matrix: CsrMatrix) -> Self {
        let CsrMatrix { rows, cols, indptr, indices, values } = matrix;
        Self { rows, cols, places: Places::Indices { indptr, indices }, values }
    }
}
