//! A model as it was read, before it is made ready to run.

use std::path::Path;
use std::sync::Arc;

use poda_formats::file::OpenError;
use poda_formats::graph::Node;
use poda_formats::{Graph, GraphError, Op};

use crate::executable::Executable;
use crate::options::Options;
use crate::plan::PlanError;
use crate::threads::ThreadsError;

/// A graph with its weights.
#[derive(Debug, Clone)]
pub struct Model {
    graph: Arc<Graph>,
}

/// Why a file does not give a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum LoadError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Why a model cannot be made ready to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PrepareError {
    #[error("node {node:?}: operator {op} (domain {domain:?}, opset {opset}) is not supported: {reason}")]
    Unsupported { node: String, op: String, domain: String, opset: i64, reason: String },
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Threads(#[from] ThreadsError),
}

impl Model {
    /// Opens an ONNX file or an artifact. Weights stay in the mapped file until they are needed.
    ///
    /// # Errors
    /// When the file cannot be read or is not a valid model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Ok(Self::from_graph(poda_formats::open(path)?)?)
    }

    /// A model from a graph, which is put in order.
    ///
    /// # Errors
    /// When the graph is not well formed.
    pub fn from_graph(mut graph: Graph) -> Result<Self, GraphError> {
        graph.normalize()?;
        Ok(Self { graph: Arc::new(graph) })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Makes the model ready to run: starts threads, packs weights, and plans for the declared shapes. Symbolic dimensions
    /// are planned for when a run first gives them sizes.
    ///
    /// # Errors
    /// When an operator is not supported, naming it, or the system has no threads to give.
    pub fn prepare(&self, options: Options) -> Result<Executable, PrepareError> {
        check_supported(&self.graph)?;
        Executable::new(Arc::clone(&self.graph), options)
    }
}

/// Refuses the first operator outside the set, in bodies of control flow too.
fn check_supported(graph: &Graph) -> Result<(), PrepareError> {
    for Node { name, op, .. } in &graph.nodes {
        if let Op::Foreign(foreign) = op {
            let foreign = foreign.clone();
            return Err(PrepareError::Unsupported {
                node: name.clone(),
                op: foreign.op_type,
                domain: foreign.domain,
                opset: foreign.opset,
                reason: foreign.reason,
            });
        }
        if let Op::If { then_branch, else_branch } = op {
            check_supported(then_branch)?;
            check_supported(else_branch)?;
        }
        if let Op::Loop { body, .. } = op {
            check_supported(body)?;
        }
    }
    Ok(())
}
