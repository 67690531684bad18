//! Nodes that change nothing at the shapes at hand: reshapes to the shape that a value has.

use poda_formats::{Op, ValueId};

use crate::plan::draft::{Draft, DraftNode};

/// Lets users of such a node read its input instead; gives how many such nodes there are.
pub(super) fn forward(draft: &mut Draft<'_>) -> usize {
    let mut target: Vec<ValueId> = (0..draft.infos.len() as u32).map(ValueId).collect();
    let mut passed = 0;
    for at in 0..draft.nodes.len() {
        for input in draft.nodes[at].inputs.iter_mut().flatten() {
            *input = target[input.index()];
        }
        let node = &draft.nodes[at];
        if let (Some(input), Some(output)) = (node.input(0), node.output(0))
            && changes_nothing(draft, node, input, output)
        {
            target[output.index()] = input;
            passed += 1;
        }
    }
    // A result keeps its own id, and with it the node that makes it.
    draft.remove_unused();
    passed
}

fn changes_nothing(draft: &Draft<'_>, node: &DraftNode, input: ValueId, output: ValueId) -> bool {
    let reshapes = |op: &Op| {
        matches!(op, Op::Expand | Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze)
    };
    let same_shape = draft.shape(input).is_some() && draft.shape(input) == draft.shape(output);
    same_shape && node.op().is_some_and(reshapes)
}
