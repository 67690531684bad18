//! Poda's graph, its weights dense and sparse, and the files they are read from and written to.

pub mod artifact;
pub mod atomic;
pub mod dtype;
pub mod file;
mod float;
pub mod graph;
pub mod narrow;
pub mod onnx;
pub mod op;
pub mod safetensors;
pub mod sparse;
pub mod storage;
pub mod structured;
pub mod tensor;
pub mod values;
pub mod weight;

pub use dtype::{Boolean, DataType, Element};
pub use file::{FileFormat, OpenError, WriteError, WriteOptions, file_bytes, open, read_bytes, write};
pub use graph::{Dim, Graph, GraphError, Node, Value, ValueId};
pub use narrow::{NarrowMatrix, NarrowWeight, RoundedWeight};
pub use op::{MatrixForm, Op, OpClass};
pub use sparse::{
    BlockMatrix, CsrMatrix, CsrView, NmMatrix, Pattern, PatternError, StructuredMatrix, UncheckedUnstructured,
};
pub use structured::StructuredWeight;
pub use tensor::{Tensor, TensorView, TensorViewMut};
pub use values::{RoundingError, ValueType, Values};
pub use weight::{UnstructuredWeight, Weight};
