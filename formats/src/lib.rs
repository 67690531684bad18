//! Poda's graph, its weights dense and sparse, and the files they are read from and written to.

pub mod dtype;
pub mod sparse;
pub mod storage;
pub mod tensor;

pub use dtype::{Boolean, DataType, Element};
pub use sparse::{CsrMatrix, CsrView};
pub use tensor::{Tensor, TensorView};
