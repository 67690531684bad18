//! Operators outside Poda's set, kept as they are.

use std::collections::HashSet;

use super::attributes::Unsupported;
use super::function::domain;
use super::scope::Binding;
use super::{OnnxError, Reader};
use crate::graph::{Graph, Node, ValueId};
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::op::{ForeignOp, Op};

impl<'m> Reader<'m> {
    /// Keeps a node as [`Op::Foreign`], for `reason`.
    pub(super) fn foreign(
        &mut self,
        node: &'m NodeProto,
        version: i64,
        reason: &Unsupported,
        mut inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
    ) -> Result<(), OnnxError> {
        let attributes = self.attributes(node)?;
        let bodies = || attributes.iter().flat_map(|(_, a)| a.g.as_deref().into_iter().chain(&a.graphs));
        let mut captures = 0;
        let mut free = Vec::new();
        bodies().for_each(|body| free_names(body, &mut free));
        if bodies().next().is_some() && (self.in_function() || self.graphs.len() > 1) {
            // The body's names are not those of the graph that it would end up in.
            let (node, op_type) = (node.name.clone(), node.op_type.clone());
            return Err(OnnxError::ForeignBody { node, op_type });
        }
        let mut seen = HashSet::new();
        for name in free.into_iter().filter(|name| seen.insert(*name)) {
            if let Some(Binding::Value(Some(id))) = self.lookup(name) {
                inputs.push(Some(id));
                captures += 1;
            }
        }
        let attributes = attributes.encode();
        let op = Op::Foreign(ForeignOp {
            domain: domain(&node.domain).to_owned(),
            op_type: node.op_type.clone(),
            opset: version,
            reason: reason.to_string(),
            attributes,
            captures,
        });
        let name = self.node_name(node);
        self.builder().add_node(Node { name, op, inputs, outputs });
        Ok(())
    }
}

/// Names that a body uses but does not define, in order of use.
fn free_names<'m>(body: &'m GraphProto, free: &mut Vec<&'m str>) {
    let sparse = body.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let weights = body.initializer.iter().chain(sparse).map(|t| t.name.as_str());
    let inputs = body.input.iter().map(|i| i.name.as_str());
    let made = body.node.iter().flat_map(|n| &n.output).map(String::as_str);
    let own: HashSet<&str> = weights.chain(inputs).chain(made).collect();
    let mut used: Vec<&str> = Vec::new();
    for node in &body.node {
        used.extend(node.input.iter().map(String::as_str));
        for attribute in &node.attribute {
            attribute
                .g
                .as_deref()
                .into_iter()
                .chain(&attribute.graphs)
                .for_each(|g| free_names(g, &mut used));
        }
    }
    used.extend(body.output.iter().map(|o| o.name.as_str()));
    free.extend(used.into_iter().filter(|name| !name.is_empty() && !own.contains(name)));
}

/// Removes the makers of sequences whose every use was rewritten.
pub(super) fn remove_unused_sequences(graph: &mut Graph) {
    let makes_sequence = |node: &Node| {
        matches!(&node.op, Op::Foreign(op)
            if op.domain.is_empty() && matches!(op.op_type.as_str(), "SplitToSequence" | "SequenceConstruct"))
    };
    if !graph.nodes.iter().any(makes_sequence) {
        return;
    }
    let mut used: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    used.extend(graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten()));
    graph.nodes.retain(|n| !makes_sequence(n) || n.outputs.iter().flatten().any(|id| used.contains(id)));
}
