//! Removes units for real: every weight that has them shrinks, and what depends on sizes follows.
//!
//! Shape arithmetic is kept simple by one rule: *whoever computes with sizes goes on seeing those of the dense model.*
//! A Shape node's result is corrected back to them, and an operand that lists sizes (of Reshape, Expand, …) is
//! corrected to the new ones where it is used. Most of it is constant and vanishes.

mod fixes;
mod rewrite;

use poda_formats::weight::SparseError;
use poda_formats::{DataType, Dim, Graph, GraphError, Tensor, Weight};

use crate::dependency::{DependencyGraph, Facts, Removal};
use crate::slice::slice_dims;
use fixes::Context;
pub(crate) use rewrite::{Rewrite, UniqueNames};

/// Why units cannot be removed from a graph.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CompactError {
    #[error("weight {name:?}: {source}")]
    Weight { name: String, source: SparseError },
    #[error("nothing would be left of dimension {dim} of {name:?}")]
    Empty { name: String, dim: usize },
    #[error("node {node:?}: a mean of {dtype} cannot be rescaled")]
    Rescale { node: String, dtype: DataType },
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// The graph without the units in `removal`. Names stay.
///
/// # Errors
/// When a dimension would become empty, or a weight that must shrink is of a layout that cannot be sliced.
pub fn compact(
    graph: &Graph,
    dependencies: &DependencyGraph,
    facts: Facts<'_>,
    removal: &Removal,
) -> Result<Graph, CompactError> {
    let mut compacted = compact_in_place(graph, dependencies, facts, removal)?;
    compacted.remove_unused();
    compacted.normalize()?;
    Ok(compacted)
}

/// As [`compact`], with the ids of all values as in `graph`; values may be unused.
pub(crate) fn compact_in_place(
    graph: &Graph,
    dependencies: &DependencyGraph,
    facts: Facts<'_>,
    removal: &Removal,
) -> Result<Graph, CompactError> {
    let mut compacted = graph.clone();
    for (index, value) in compacted.values.iter_mut().enumerate() {
        let id = poda_formats::ValueId(index as u32);
        let Some(layout) = dependencies.layout(id) else { continue };
        let kept: Vec<Option<Vec<bool>>> =
            layout.axes.iter().map(|&axis| dependencies.kept(axis, removal)).collect();
        if kept.iter().all(Option::is_none) {
            continue;
        }
        if let Some(dim) = kept.iter().position(|k| k.as_ref().is_some_and(|k| !k.contains(&true))) {
            return Err(CompactError::Empty { name: value.name.clone(), dim });
        }
        for (dim, kept) in value.shape.iter_mut().flatten().zip(&kept) {
            if let (Dim::Fixed(size), Some(kept)) = (dim, kept) {
                *size = kept.iter().filter(|&&k| k).count();
            }
        }
        if let Some(weight) = &value.weight {
            let dense = weight.to_dense();
            let dense = dense.map_err(|source| CompactError::Weight { name: value.name.clone(), source })?;
            value.weight = Some(Weight::Tensor(slice_dims(&dense, &kept)));
        }
    }
    let context = Context { dependencies, facts, removal, producers: graph.producers() };
    let mut rewrite = Rewrite::new(compacted);
    for (node, fix) in dependencies.fixes() {
        fixes::apply(&mut rewrite, &context, *node, fix)?;
    }
    Ok(rewrite.finish())
}

/// A constant i64 vector.
fn vector(values: &[i64]) -> Tensor {
    Tensor::from_slice(&[values.len()], values)
}
