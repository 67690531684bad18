//! Why a file cannot be read.

use std::io;
use std::path::PathBuf;

use super::tensor::TensorProblem;
use crate::graph::GraphError;
use crate::onnx::{NEWEST_OPSET, OLDEST_OPSET};

/// Why an ONNX file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum OnnxError {
    #[error("cannot read {path:?}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("not an ONNX model: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("not an ONNX model: it has no graph")]
    NoGraph,
    #[error(
        "the model does not say which operator set of domain {domain:?} node {node:?} ({op_type:?}) is of"
    )]
    NoOpset { domain: String, node: String, op_type: String },
    #[error("the model is of ONNX operator set {found}; {OLDEST_OPSET} to {NEWEST_OPSET} are supported")]
    Opset { found: i64 },
    #[error("tensor {name:?}: {problem}")]
    Tensor { name: String, problem: TensorProblem },
    #[error("value {name:?} is defined twice")]
    Duplicate { name: String },
    #[error("an input or initializer of graph {graph:?} has no name")]
    Unnamed { graph: String },
    #[error("node {node:?} ({op_type:?}) uses {name:?}, which nothing defines before")]
    Undefined { name: String, node: String, op_type: String },
    #[error("graph {graph:?} has output {name:?}, which nothing defines")]
    UndefinedOutput { name: String, graph: String },
    #[error("node {node:?} uses {name:?}, a value of type {dtype}, which is not supported")]
    ElementType { name: String, node: String, dtype: &'static str },
    #[error("node {node:?} is a constant without a value")]
    NoValue { node: String },
    #[error("function {function:?} is defined twice")]
    DuplicateFunction { function: String },
    #[error("node {node:?} calls function {function:?} with {found} {what}, which has {expected}")]
    Call { node: String, function: String, what: &'static str, expected: usize, found: usize },
    #[error("attribute {name:?} of node {node:?} refers to a function's attribute outside a function")]
    Reference { node: String, name: String },
    #[error("functions and nested graphs are more than {limit} deep at node {node:?}")]
    Depth { node: String, limit: usize },
    #[error(
        "the model's messages take {bytes} bytes, more than the {limit} that a file of this size may take"
    )]
    Messages { bytes: usize, limit: usize },
    #[error(
        "the model's functions and bodies expand to more than the {limit} bytes that a file of this size may take"
    )]
    Expansion { limit: usize },
    #[error("node {node:?} ({op_type:?}): {graph} has {found} {what}, expected {expected}")]
    Body {
        node: String,
        op_type: String,
        graph: &'static str,
        what: &'static str,
        expected: usize,
        found: usize,
    },
    #[error("node {node:?} ({op_type:?}) holds graphs in a function, and the operator is not supported")]
    ForeignBody { node: String, op_type: String },
    #[error(transparent)]
    Graph(#[from] GraphError),
}
