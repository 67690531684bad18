//! Branches of `If` whose condition is known take the node's place.

use std::collections::HashMap;

use poda_formats::graph::{Node, Value};
use poda_formats::{Boolean, Graph, Op, ValueId};

use crate::analysis::Analysis;

/// The graph with every `If` of known condition replaced by the branch that is taken; `None` when there is none. Ids of
/// values stay; those of the branches come after them.
pub(super) fn branches(graph: &Graph, analysis: &Analysis) -> Option<Graph> {
    let taken = |node: &Node| {
        let Op::If { then_branch, else_branch } = &node.op else { return None };
        let [condition] = analysis.constant(node.input(0)?)?.as_slice::<Boolean>().ok()? else { return None };
        Some(if condition.get() { (**then_branch).clone() } else { (**else_branch).clone() })
    };
    if !graph.nodes.iter().any(|node| matches!(node.op, Op::If { .. }) && taken(node).is_some()) {
        return None;
    }
    let mut inlined = graph.clone();
    inlined.nodes.clear();
    for node in &graph.nodes {
        match taken(node) {
            Some(branch) => splice(&mut inlined, node, branch),
            None => inlined.nodes.push(node.clone()),
        }
    }
    Some(inlined)
}

/// Appends the nodes of a branch. Its inputs are the inputs of `node` after the condition.
fn splice(graph: &mut Graph, node: &Node, branch: Graph) {
    let mut ids: HashMap<ValueId, Option<ValueId>> =
        branch.inputs.iter().copied().zip(node.inputs.iter().skip(1).copied()).collect();
    for (index, value) in branch.values.into_iter().enumerate() {
        let id = ValueId(index as u32);
        ids.entry(id).or_insert_with(|| {
            let name = format!("{}/{}", node.name, value.name);
            Some(graph.add_value(Value { name, ..value }))
        });
    }
    let map = |id: &Option<ValueId>| id.and_then(|id| ids[&id]);
    for inner in branch.nodes {
        let name = format!("{}/{}", node.name, inner.name);
        let inputs = inner.inputs.iter().map(map).collect();
        let outputs = inner.outputs.iter().map(map).collect();
        graph.nodes.push(Node { name, op: inner.op, inputs, outputs });
    }
    for (output, id) in node.outputs.iter().zip(&branch.outputs) {
        if output.is_some() {
            let (name, inputs) = (node.name.clone(), vec![map(&Some(*id))]);
            graph.nodes.push(Node { name, op: Op::Identity, inputs, outputs: vec![*output] });
        }
    }
}
