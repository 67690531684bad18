//! Nodes that change nothing at any shape: Identity, a cast to the type that a value has, a transpose to the order that it
//! has.

use poda_formats::{Op, ValueId};

use crate::optimize::Rewriter;
use crate::optimize::matching::input;

/// Lets users of such a node read its input instead. A result keeps the node that makes it.
pub(in crate::optimize) fn apply(r: &mut Rewriter<'_>) {
    let mut target: Vec<ValueId> = (0..r.graph.values.len() as u32).map(ValueId).collect();
    for at in 0..r.graph.nodes.len() {
        if r.is_dead(at) {
            continue;
        }
        let inputs: Vec<_> = r.node(at).inputs.iter().map(|i| i.map(|id| target[id.index()])).collect();
        if inputs != r.node(at).inputs {
            r.read(at, inputs);
        }
        let node = r.node(at);
        if let (Some(from), Some(output)) = (input(&node.inputs, 0), node.output(0))
            && changes_nothing(r, &node.op, from, output)
        {
            target[output.index()] = from;
        }
    }
}

fn changes_nothing(r: &Rewriter<'_>, op: &Op, from: ValueId, output: ValueId) -> bool {
    if let Op::Transpose { perm } = op {
        return !perm.is_empty() && perm.iter().enumerate().all(|(i, &p)| i == p);
    }
    let same_type = || r.facts.dtype(from).is_some() && r.facts.dtype(from) == r.facts.dtype(output);
    matches!(op, Op::Identity) || (matches!(op, Op::Cast { .. } | Op::CastLike) && same_type())
}
