//! DynamicQuantizeLinear whose integers are only read as floats, as those of products are ([`super::integer`]): floats from the start.

use poda_formats::{Op, TensorView};

use super::call::{Call, Lowered, Preparation};
use crate::ops::OpError;
use crate::ops::quantize::{round_dynamically, scalar};
use crate::output::Output;
use crate::plan::draft::{Draft, DraftNode, Explanation, Kind};
use crate::threads::Threads;

/// The integers of DynamicQuantizeLinear less their zero point, as floats; the scale; and the zero point.
#[derive(Debug, Clone)]
pub(crate) struct DynamicRounding;

/// Joins every such node with the nodes that make floats of its integers.
pub(super) fn lower(draft: &mut Draft<'_>) {
    let mut at = 0;
    while let Some(node) = draft.nodes.get(at) {
        at += 1;
        let (Some(Op::DynamicQuantizeLinear), Some(y)) = (node.op(), node.output(0)) else { continue };
        let reads = |node: &DraftNode| node.inputs.contains(&Some(y));
        let widens = |other: &DraftNode| {
            matches!(other.op(), Some(Op::DequantizeLinear { block_size: 0, .. }))
                && other.input(0) == Some(y)
                && other.input(2).is_some_and(|zero| node.output(2) == Some(zero))
                && other.input(1).and_then(|scale| draft.scalar(scale)) == Some(1.0)
        };
        let known = node.input(0).is_some_and(|x| draft.shape(x).is_some());
        let all = draft.nodes.iter().filter(|node| reads(node)).all(widens);
        let first = draft.nodes.iter().find(|node| reads(node)).and_then(|node| node.output(0));
        let (Some(first), true) = (first, known && all && !draft.wanted.contains(&y)) else { continue };
        for node in draft.nodes.iter_mut().filter(|node| reads(node)) {
            (node.kind, node.inputs) = (Kind::Op(Op::Identity), vec![Some(first)]);
        }
        // (What made the first of them goes, for it is made here now.)
        draft.nodes.retain(|node| node.output(0) != Some(first));
        let node = &mut draft.nodes[at - 1];
        (node.kind, node.outputs[0]) = (Kind::lowered(DynamicRounding), Some(first));
    }
}

impl Lowered for DynamicRounding {
    fn prepare(&self, _: &Preparation<'_>) -> Result<Box<dyn Call>, OpError> {
        Ok(Box::new(self.clone()))
    }
}

impl Call for DynamicRounding {
    fn explain(&self) -> Explanation {
        Explanation { name: "dynamic rounding".into(), ..Explanation::default() }
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        _: &Threads,
    ) -> Result<(), OpError> {
        let x = inputs.first().copied().flatten().ok_or(OpError::MissingInput { index: 0 })?;
        let (scale, zero) = round_dynamically(x.as_slice()?, outputs[0].alloc::<f32>(x.shape())?);
        scalar(outputs, 1, scale)?;
        scalar(outputs, 2, zero)
    }
}
