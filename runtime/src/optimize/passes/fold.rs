//! Constants that follow from weights alone, computed once a model.
//!
//! Only small ones: a large one (a dequantised weight) would stay in memory beside its packed form, and is computed where it
//! is packed.

use poda_formats::{Tensor, ValueId, Weight};

use crate::optimize::Rewriter;

/// Bytes of a constant that is kept.
const MOST: usize = 64 << 10;

pub(in crate::optimize) fn apply(r: &mut Rewriter<'_>) {
    let folded: Vec<bool> = (0..r.graph.nodes.len()).map(|at| fold(r, at).is_some()).collect();
    r.remove(&folded);
}

/// Makes every output of a node a weight, if all are small constants.
fn fold(r: &mut Rewriter<'_>, at: usize) -> Option<()> {
    let small = |id: ValueId| r.facts.constant(id).filter(|tensor| tensor.bytes().len() <= MOST).cloned();
    let outputs: Vec<ValueId> = r.node(at).outputs.iter().flatten().copied().collect();
    let tensors: Vec<Tensor> = outputs.iter().map(|&id| small(id)).collect::<Option<_>>()?;
    for (id, tensor) in outputs.into_iter().zip(tensors) {
        let value = r.graph.value_mut(id);
        value.dtype = Some(tensor.dtype());
        value.weight = Some(Weight::Tensor(tensor));
    }
    Some(())
}
