//! Nodes that do nothing, and pads that the next node can do.

use poda_formats::op::{PadMode, Padding};
use poda_formats::{Op, ValueId};

use super::{Rewrite, Rewriter};
use crate::plan::draft::{Draft, DraftNode, Kind};

/// Lets users of a node that changes nothing read its input instead.
pub(super) fn forward(draft: &mut Draft<'_>) {
    let mut target: Vec<ValueId> = (0..draft.infos.len() as u32).map(ValueId).collect();
    for at in 0..draft.nodes.len() {
        for input in draft.nodes[at].inputs.iter_mut().flatten() {
            *input = target[input.index()];
        }
        let node = &draft.nodes[at];
        if let (Some(input), Some(output)) = (node.input(0), node.output(0))
            && changes_nothing(draft, node, input, output)
        {
            target[output.index()] = input;
        }
    }
    // A result keeps its own id, and with it the node that makes it.
    draft.remove_unused();
}

fn changes_nothing(draft: &Draft<'_>, node: &DraftNode, input: ValueId, output: ValueId) -> bool {
    let Some(op) = node.op() else { return false };
    let same_type = draft.dtype(input).is_some() && draft.dtype(input) == draft.dtype(output);
    let same_shape = draft.shape(input).is_some() && draft.shape(input) == draft.shape(output);
    if let Op::Transpose { perm } = op {
        return same_shape && !perm.is_empty() && perm.iter().enumerate().all(|(i, &p)| i == p);
    }
    let reshapes =
        matches!(op, Op::Expand | Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze);
    let casts = matches!(op, Op::Cast { .. } | Op::CastLike);
    matches!(op, Op::Identity) || (casts && same_type) || (reshapes && same_shape)
}

/// Zero pads of an image before a convolution become the convolution's.
pub(super) fn pad(rewriter: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let node = rewriter.node(at);
    let Op::Conv(attributes) = node.op()? else { return None };
    let (op, padding) = rewriter.op(node.input(0)?)?;
    let zero = padding.input(2).is_none_or(|value| rewriter.draft.scalar(value) == Some(0.0));
    if !matches!(op, Op::Pad { mode: PadMode::Constant }) || !zero || padding.input(3).is_some() {
        return None;
    }
    let pads = rewriter.draft.constant(padding.input(1)?)?.as_slice::<i64>().ok()?;
    let rank = pads.len() / 2;
    let spatial = rank.checked_sub(2)?;
    let mut own = match &attributes.padding {
        Padding::Explicit(own) if own.is_empty() => vec![0; 2 * spatial],
        Padding::Explicit(own) => own.clone(),
        Padding::Valid => vec![0; 2 * spatial],
        Padding::SameUpper | Padding::SameLower => return None,
    };
    let outside = [0, 1, rank, rank + 1];
    if own.len() != 2 * spatial || outside.iter().any(|&i| pads[i] != 0) || pads.iter().any(|&p| p < 0) {
        return None;
    }
    for axis in 0..spatial {
        own[axis] = own[axis].checked_add(pads[2 + axis])?;
        own[spatial + axis] = own[spatial + axis].checked_add(pads[rank + 2 + axis])?;
    }
    let mut attributes = attributes.clone();
    attributes.padding = Padding::Explicit(own);
    let mut inputs = node.inputs.clone();
    inputs[0] = padding.input(0);
    Some(Rewrite::new(Kind::Op(Op::Conv(attributes)), inputs))
}
