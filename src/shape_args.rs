//! Options of the commands that need to know the shapes of a model's inputs.

use anyhow::Result;
use poda::Graph;
use poda::feeds::Feeds;
use poda::shapes::{NamedShape, Resolved, Sizes};

use crate::table::escaped;

/// What makes open dimensions concrete.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ShapeArgs {
    /// Size of open dimensions that are named like a batch
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) batch: usize,
    /// Shape of an input, such as ids=1x128, or size of an open dimension, such as sequence=128; may be repeated
    #[arg(long, value_name = "NAME=DIMS")]
    pub(crate) shape: Vec<NamedShape>,
}

impl ShapeArgs {
    /// The concrete shape of each input of `graph`.
    pub(crate) fn resolve(&self, graph: &Graph) -> Result<Resolved> {
        Ok(self.sizes().resolve(graph)?)
    }

    /// The sizes that they stand for.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes { batch: self.batch, given: self.shape.clone() }
    }

    /// The same, as flags for another process.
    pub(crate) fn flags(&self) -> Vec<String> {
        let shapes = self.shape.iter().map(|shape| format!("--shape={shape}"));
        std::iter::once(format!("--batch={}", self.batch)).chain(shapes).collect()
    }
}

/// Says on standard error which dimensions of one name have different sizes.
pub(crate) fn warn_of_conflicts(graph: &Graph, feeds: &Feeds) {
    let shapes = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.shape()));
    for conflict in poda_runtime::feeds::conflicts(graph, shapes) {
        eprintln!("poda: warning: {}", escaped(&conflict.to_string()));
    }
}
