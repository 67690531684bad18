//! ONNX: the way in, and the way back out.
//!
//! [`read`] takes files of operator sets [`OLDEST_OPSET`] to [`NEWEST_OPSET`] and gives one form, that of the newest
//! set: see [`Op`](crate::Op). Nodes `Constant` become weights, model-local functions are inlined, and what graphs of
//! control flow capture becomes explicit. Weights stay in the mapped file where they are aligned for their type.
//! An operator outside Poda's set is kept as [`Op::Foreign`](crate::Op::Foreign) with the reason. [`save`] goes back.
//!
//! [`Graph::metadata`](crate::Graph::metadata) holds the model's `metadata_props`, and its own properties under keys
//! that start with [`METADATA_PREFIX`]: `onnx.ir_version`, `onnx.opset` (of ONNX's own domain), `onnx.opset.DOMAIN`,
//! `onnx.producer_name`, `onnx.producer_version`, `onnx.domain`, `onnx.model_version`. Empty ones are left out.

mod ops;
pub mod proto;
mod read;
mod write;

pub(crate) use read::read_file;
pub use read::{ExternalError, OnnxError, TensorProblem, external_locations, read, read_storage};
pub use write::{OnnxOptions, WriteError, save, write};

/// The oldest version of ONNX's own operator set that is read. Before 7, some operators meant something else than they
/// do now; those that cannot be rewritten stay foreign.
pub const OLDEST_OPSET: i64 = 1;

/// The newest version of ONNX's own operator set that is read.
pub const NEWEST_OPSET: i64 = 28;

/// Start of the metadata keys that hold properties of the ONNX file.
pub const METADATA_PREFIX: &str = "onnx.";
