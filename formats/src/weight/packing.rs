//! What a runtime keeps beside a weight.

use super::Weight;
use crate::graph::Graph;
use crate::tensor::Tensor;

/// A weight as some kernel reads it, in a file beside the weight itself, so that it need not be made at every start.
///
/// Nothing here says what is in it: the runtime that made it knows it by its label, and checks the arrays before it trusts them; any
/// other leaves it alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    /// What it is: kernel, CPU, use.
    pub label: String,
    /// In an order that the label defines.
    pub arrays: Vec<Tensor>,
}

impl Graph {
    /// Key of the metadata under which a runtime keeps what it knows of its kernels for this model, beside packings.
    pub const KERNELS: &'static str = "poda.kernels";

    /// Lets go of all that runtimes keep in the model for themselves; it computes the same.
    pub fn drop_packings(&mut self) {
        self.metadata.remove(Self::KERNELS);
        let Ok(()) = self.visit_mut(&mut |graph| {
            for weight in graph.values.iter_mut().filter_map(|value| value.weight.as_mut()) {
                if let Weight::Matrix(matrix) = weight
                    && !matrix.packings().is_empty()
                {
                    *matrix = matrix.clone().with_packings(Vec::new());
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
}
