//! What follows from facts about a graph's inputs, node by node: types, shapes, constants. Control flow asks it of its bodies,
//! plans and passes of whole models.
//!
//! Nodes whose inputs are all known are computed, so that shape arithmetic and constant sub-graphs fold. A node that
//! would inflate memory (an expansion of a weight, a large fill) keeps its shape only. Nothing that depends on the
//! elements of an input runs.

use poda_formats::graph::Node;
use poda_formats::tensor::checked_bytes;
use poda_formats::{Graph, Op, Tensor, ValueId, Weight};

use super::{OpError, guard};
use crate::info::Info;
use crate::output::Output;

/// Facts about every value of a graph, for one set of input shapes.
#[derive(Debug, Clone)]
pub struct Analysis {
    /// By [`ValueId`]; `None` where nothing is known, because the node that makes the value failed or is not supported.
    pub infos: Vec<Option<Info>>,
    /// Nodes about which nothing could be said, in order, with the reason. Nodes that only follow from these are not listed.
    pub failures: Vec<(usize, OpError)>,
}

/// What follows from facts about the inputs of `graph`, in order.
pub(crate) fn analyze_from(graph: &Graph, inputs: Vec<Option<Info>>) -> Analysis {
    let mut analysis = Analysis::of_inputs(graph, inputs);
    for (index, node) in graph.nodes.iter().enumerate() {
        if let Err(error) = analysis.visit(node) {
            analysis.failures.push((index, error));
        }
    }
    analysis
}

impl Analysis {
    /// Facts about a value.
    pub fn info(&self, id: ValueId) -> Option<&Info> {
        self.infos.get(id.index())?.as_ref()
    }

    /// Concrete shape of a value, when known.
    pub fn shape(&self, id: ValueId) -> Option<&[usize]> {
        self.info(id)?.shape.as_deref()
    }

    /// Elements of a value, when they follow from weights and shapes alone.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.info(id)?.value.as_ref()
    }

    /// What weights and inputs are, in order; nodes are still to be visited.
    pub(crate) fn of_inputs(graph: &Graph, inputs: Vec<Option<Info>>) -> Self {
        let infos = graph.values.iter().map(|value| match &value.weight {
            Some(Weight::Tensor(tensor)) => Some(Info::constant(tensor.clone())),
            // Integers are no product's matrix yet: what they stand for is, which follows from all of them.
            Some(weight) if !weight.dtype().is_float() => weight.to_dense().ok().map(Info::constant),
            Some(weight) => Some(Info::new(weight.dtype(), weight.shape().to_vec())),
            None => None,
        });
        let mut analysis = Self { infos: infos.collect(), failures: Vec::new() };
        for (&id, info) in graph.inputs.iter().zip(inputs) {
            analysis.infos[id.index()] = info;
        }
        analysis
    }

    /// Takes note of what a node makes, once the nodes before it have been visited.
    ///
    /// # Errors
    /// When nothing can be said about it.
    pub(crate) fn visit(&mut self, node: &Node) -> Result<(), OpError> {
        for (output, info) in node.outputs.iter().zip(self.infer(node)?.into_iter().flatten()) {
            if let Some(id) = output {
                self.infos[id.index()] = Some(info);
            }
        }
        Ok(())
    }

    fn infer(&self, node: &Node) -> Result<Option<Vec<Info>>, OpError> {
        if let Op::Foreign(foreign) = &node.op {
            let op = format!("{}::{}", foreign.domain, foreign.op_type);
            return Err(OpError::Unsupported { op, reason: foreign.reason.clone() });
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            match input.map(|id| self.info(id)) {
                None => inputs.push(None),
                Some(Some(info)) => inputs.push(Some(info)),
                Some(None) => return Ok(None),
            }
        }
        let infos = guard(|| super::infer(&node.op, &inputs, node.outputs.len()))?;
        let unknown = infos.iter().zip(&node.outputs).any(|(i, o)| o.is_some() && i.value.is_none());
        let known: Option<Vec<_>> = inputs
            .iter()
            .map(|i| i.map(|info| info.value.as_ref()).map_or(Some(None), |v| v.map(Some)))
            .collect();
        match known {
            Some(tensors) if unknown && worth_folding(&node.op, &tensors, &infos) => {
                fold(node, &tensors).map(Some)
            }
            _ => Ok(Some(infos)),
        }
    }
}

/// Computes a node whose inputs are all known.
fn fold(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Info>, OpError> {
    let views: Vec<_> = inputs.iter().map(|i| i.map(Tensor::view)).collect();
    // Outputs that nobody asked for are computed too, so that every one has facts.
    let mut outputs: Vec<_> = node.outputs.iter().map(|_| Output::Fresh(None)).collect();
    guard(|| super::run(&node.op, &views, &mut outputs))?;
    outputs.into_iter().map(|output| Ok(Info::constant(output.into_tensor()?))).collect()
}

/// Results up to this many bytes always fold.
const SMALL: usize = 64 << 10;

/// Whether computing a constant node now costs no more memory than it saves time.
fn worth_folding(op: &Op, inputs: &[Option<&Tensor>], outputs: &[Info]) -> bool {
    let before: usize = inputs.iter().flatten().map(|t| t.bytes().len()).sum();
    let after = outputs.iter().try_fold(0_usize, |sum, info| {
        // A result whose size is not known from its inputs' sizes stays small in practice (NonZero, Unique, …).
        let bytes = info.shape.as_ref().map_or(Some(0), |shape| checked_bytes(info.dtype, shape))?;
        sum.checked_add(bytes)
    });
    let widens = matches!(op, Op::DequantizeLinear { .. } | Op::Cast { .. } | Op::CastLike);
    after.is_some_and(|after| after <= SMALL || after <= before.saturating_mul(if widens { 8 } else { 2 }))
}
