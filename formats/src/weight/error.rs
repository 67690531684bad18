//! What can be wrong with the arrays of a sparse matrix.

use super::{PatternError, ValuesError};
use crate::dtype::DataType;
use crate::op::MatrixForm;
use crate::tensor::TensorError;

/// Why arrays do not form a valid sparse matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum SparseError {
    #[error("indptr has {found} entries, expected rows + 1 = {expected}")]
    IndptrLength { expected: usize, found: usize },
    #[error("indptr must start at 0 and end at nnz = {nnz}, found {first} and {last}")]
    IndptrEnds { first: usize, last: usize, nnz: usize },
    #[error("indptr falls at row {row}")]
    IndptrOrder { row: usize },
    #[error("row {row}: column {col} is out of range or out of order ({cols} columns)")]
    Column { row: usize, col: u32, cols: usize },
    #[error("{indices} indices but {values} values")]
    Lengths { indices: usize, values: usize },
    #[error("indices must be u16 or u32, found {found}")]
    IndexType { found: DataType },
    #[error("{rows} rows or {cols} columns or {nnz} values are more than 32 bits count")]
    TooLarge { rows: usize, cols: usize, nnz: usize },
    #[error("{rows} rows of {cols} columns, but {values} values")]
    DenseValues { rows: usize, cols: usize, values: usize },
    #[error("a tensor of shape {shape:?} is no matrix ({form:?})")]
    Shape { form: MatrixForm, shape: Vec<usize> },
    #[error("{blocks} blocks of {rows}x{cols} need {} values, found {values}", blocks * rows * cols)]
    BlockValues { blocks: usize, rows: usize, cols: usize, values: usize },
    #[error("{rows} rows of {slots} slots, but {values} values")]
    Slots { rows: usize, slots: usize, values: usize },
    #[error("expected {expected} bytes of positions, found {found}")]
    Positions { expected: usize, found: usize },
    #[error("row {row}: position {position} of group {group} is out of range or out of order")]
    Position { row: usize, group: usize, position: usize },
    #[error("expected {expected} bytes of bits, found {found}")]
    BitmapBytes { expected: usize, found: usize },
    #[error("{set} bits are set, but there are {values} values")]
    Bits { set: usize, values: usize },
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Values(#[from] ValuesError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
