//! Poda's graph, its weights dense and sparse, and the files they are read from and written to.

pub mod artifact;
pub mod atomic;
pub mod dtype;
pub mod file;
mod float;
pub mod graph;
#[cfg_attr(not(feature = "onnx"), path = "without_onnx.rs")]
pub mod onnx;
pub mod op;
mod parameters;
pub mod safetensors;
pub mod storage;
pub mod tensor;
pub mod weight;

pub use dtype::{Boolean, DataType, Element};
pub use file::{
    FileFormat, OpenError, WriteError, WriteOptions, file_bytes, open, open_with, read_bytes, write,
};
pub use graph::{Dim, Graph, GraphError, Node, Value, ValueId};
pub use op::{MatrixForm, Op, OpClass};
pub use parameters::Parameters;
pub use storage::Load;
pub use tensor::{Tensor, TensorView, TensorViewMut};
pub use weight::{
    BlockMatrix, CsrMatrix, CsrView, DenseMatrix, Layout, Matrix, MatrixWeight, NmMatrix, Packing, Pattern,
    PatternError, Places, RoundedWeight, RoundingError, SparseError, ValueType, Values, Weight,
};
