//! The masked model: as large as the dense one, with removed units at zero wherever they are summed.
//!
//! That is all that removal means: what a unit is worth before, and whether it divides, has its logarithm taken or is
//! infinite, does not matter once nobody adds it up. So the mask lies on the values that are summed, not on the weights
//! that make them, where a zero could divide zero.

use std::collections::HashMap;

use poda_formats::{Boolean, Graph, Op, Tensor, ValueId};

use crate::compact::Rewrite;
use crate::dependency::{Contraction, DependencyGraph, Facts, Removal};

/// `dense` with a zero for each unit of `removal` in every sum over it.
///
/// `graph` is what `dependencies` and `facts` are about: `dense` itself, or one whose nodes that sum are those of `dense`
/// and make values of the same ids.
pub fn masked(
    dense: &Graph,
    graph: &Graph,
    dependencies: &DependencyGraph,
    facts: Facts<'_>,
    removal: &Removal,
) -> Graph {
    let producers = dense.producers();
    let mut rewrite = Rewrite::new(dense.clone());
    let mut latest: HashMap<(usize, ValueId), ValueId> = HashMap::new();
    for contraction in dependencies.contractions() {
        let output = graph.nodes[contraction.node].outputs.iter().flatten().next();
        let Some(node) = output.and_then(|id| producers.get(id.index()).copied().flatten()) else { continue };
        for (id, dim) in summed(facts, contraction) {
            let Some(layout) = dependencies.layout(id) else { continue };
            let Some(kept) = dependencies.kept(layout.axes[dim], removal) else { continue };
            let Some(dtype) = facts.info(id).map(|info| info.dtype) else { continue };
            let base = format!("{}.masked", graph.value(id).name);
            let mut shape = vec![kept.len()];
            shape.resize(layout.axes.len() - dim, 1);
            let kept: Vec<Boolean> = kept.into_iter().map(|k| Boolean(u8::from(k))).collect();
            let kept = rewrite.constant(&base, Tensor::from_slice(&shape, &kept));
            let zero = rewrite.constant(&base, Tensor::zeros(dtype, &[]));
            // Another mask may lie there already.
            let operand = latest.get(&(node, id)).copied().unwrap_or(id);
            let masked = rewrite.insert_before(node, Op::Where, &[kept, operand, zero], &base, id);
            latest.insert((node, id), masked);
            for input in rewrite.graph.nodes[node].inputs.iter_mut().filter(|i| **i == Some(operand)) {
                *input = Some(masked);
            }
        }
    }
    rewrite.finish()
}

/// The operands of a sum that follow the inputs of a run; the first when none does, as in a norm of a weight.
pub(crate) fn summed(facts: Facts<'_>, contraction: &Contraction) -> Vec<(ValueId, usize)> {
    let [a, b] = contraction.operands;
    let mut varying: Vec<_> = [a, b].into_iter().filter(|(id, _)| facts.constant(*id).is_none()).collect();
    varying.dedup();
    if varying.is_empty() { vec![a] } else { varying }
}
