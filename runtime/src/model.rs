//! A model as it was read, before it is made ready to run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use poda_formats::file::OpenError;
use poda_formats::{DataType, Dim, Graph, GraphError, Load, ValueId};

use crate::executable::{Executable, PrepareError};
use crate::options::Options;
use crate::trace::span;

/// A graph with its weights.
#[derive(Debug, Clone)]
pub struct Model {
    graph: Arc<Graph>,
}

/// An input or output, as the model declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Element type; `None` where the model says nothing.
    pub dtype: Option<DataType>,
    /// Shape, with names for open dimensions; `None` where the model says nothing.
    pub shape: Option<Vec<Dim>>,
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

impl Model {
    /// Opens an ONNX file or an artifact. Weights stay in the mapped file until they are needed.
    ///
    /// # Errors
    /// When the file cannot be read or is not a valid model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::open_with(path, Load::default())
    }

    /// As [`Model::open`], with the file taken as `load` says: [`Load::Read`] where others may cut it off while it runs.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with(path: impl AsRef<Path>, load: Load) -> Result<Self, LoadError> {
        span!(INFO, "load", path = %path.as_ref().display());
        Ok(Self::from_graph(poda_formats::open_with(path, load)?)?)
    }

    /// A model from the bytes of an ONNX file or an artifact, which are copied: for models within a program
    /// (`include_bytes!`), or from a store of one's own.
    ///
    /// # Errors
    /// When they are not those of a valid model.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        span!(INFO, "load", bytes = bytes.len());
        Ok(Self::from_graph(poda_formats::read_bytes(bytes)?)?)
    }

    /// A model from a graph, which is put in order.
    ///
    /// # Errors
    /// When the graph is not well formed.
    pub fn from_graph(mut graph: Graph) -> Result<Self, GraphError> {
        graph.normalize()?;
        Ok(Self { graph: Arc::new(graph) })
    }

    /// What a run is fed, in order.
    pub fn inputs(&self) -> Vec<Port> {
        self.ports(&self.graph.inputs)
    }

    /// What a run gives, in order.
    pub fn outputs(&self) -> Vec<Port> {
        self.ports(&self.graph.outputs)
    }

    fn ports(&self, ids: &[ValueId]) -> Vec<Port> {
        let port = |&id: &ValueId| {
            let value = self.graph.value(id);
            Port { name: value.name.clone(), dtype: value.dtype, shape: value.shape.clone() }
        };
        ids.iter().map(port).collect()
    }

    /// What the file says of itself, such as its producer.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.graph.metadata
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
        Executable::new(Arc::clone(&self.graph), options)
    }
}
