//! Control flow: bodies become graphs of their own, and what they capture becomes inputs.

use super::builder::Builder;
use super::scan::Scan;
use super::{OnnxError, Reader};
use crate::graph::{Graph, Node, ValueId};
use crate::onnx::proto::NodeProto;
use crate::op::Op;

impl<'m> Reader<'m> {
    /// Reads a node `If`, `Loop` or `Scan`.
    pub(super) fn control(
        &mut self,
        node: &'m NodeProto,
        mut inputs: Vec<Option<ValueId>>,
        mut outputs: Vec<Option<ValueId>>,
    ) -> Result<(), OnnxError> {
        self.check_depth(node)?;
        let attributes = self.attributes(node)?;
        let wrong = |graph, what, expected, found| {
            let (node, op_type) = (node.name.clone(), node.op_type.clone());
            Err(OnnxError::Body { node, op_type, graph, what, expected, found })
        };
        let version = self.opset("").unwrap_or_default();
        if node.op_type == "Scan" {
            let scan = Scan::of(&attributes, version, inputs.len(), outputs.len());
            return match scan.and_then(|s| attributes.finish().map(|()| s)) {
                Ok(scan) => {
                    let body = self.graph(scan.body)?;
                    self.scan(node, &scan, body, &inputs, outputs)
                }
                Err(reason) => self.foreign(node, version, &reason, inputs, outputs),
            };
        }
        let op = if node.op_type == "If" {
            if inputs.len() != 1 {
                return wrong("the node", "inputs", 1, inputs.len());
            }
            let branches =
                attributes.graph("then_branch").and_then(|t| Ok((t, attributes.graph("else_branch")?)));
            let (then_branch, else_branch) = match branches.and_then(|b| attributes.finish().map(|()| b)) {
                Ok(branches) => branches,
                Err(reason) => return self.foreign(node, version, &reason, inputs, outputs),
            };
            let mut branches = [self.graph(then_branch)?, self.graph(else_branch)?];
            for (branch, name) in branches.iter().zip(["the then-branch", "the else-branch"]) {
                if !branch.graph.inputs.is_empty() {
                    return wrong(name, "inputs", 0, branch.graph.inputs.len());
                }
            }
            leave_out(&mut outputs, &branches[0].graph, 0);
            for (branch, name) in branches.iter().zip(["the then-branch", "the else-branch"]) {
                if branch.graph.outputs.len() != outputs.len() {
                    return wrong(name, "outputs", outputs.len(), branch.graph.outputs.len());
                }
            }
            inputs.extend(self.captures_to_inputs(&mut branches));
            let [then_branch, else_branch] = branches.map(|builder| Box::new(builder.graph));
            Op::If { then_branch, else_branch }
        } else {
            let body = match attributes.graph("body").and_then(|b| attributes.finish().map(|()| b)) {
                Ok(body) => body,
                Err(reason) => return self.foreign(node, version, &reason, inputs, outputs),
            };
            if inputs.len() < 2 {
                inputs.resize(2, None);
            }
            let carried = inputs.len() - 2;
            let mut body = [self.graph(body)?];
            leave_out(&mut outputs, &body[0].graph, 1);
            let Graph { inputs: formal, outputs: results, .. } = &body[0].graph;
            if formal.len() != 2 + carried {
                return wrong("the body", "inputs", 2 + carried, formal.len());
            }
            if results.len() != 1 + outputs.len() || outputs.len() < carried {
                return wrong("the body", "outputs", 1 + outputs.len().max(carried), results.len());
            }
            inputs.extend(self.captures_to_inputs(&mut body));
            let [body] = body.map(|builder| Box::new(builder.graph));
            Op::Loop { body, carried }
        };
        let name = self.node_name(node);
        self.builder().add_node(Node { name, op, inputs, outputs });
        Ok(())
    }

    /// Gives each body the captures of all of them as its last inputs; these are the values to feed there.
    pub(super) fn captures_to_inputs(&mut self, bodies: &mut [Builder]) -> Vec<Option<ValueId>> {
        let mut captured: Vec<ValueId> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (outer, _) in bodies.iter().flat_map(|body| &body.captures) {
            if seen.insert(*outer) {
                captured.push(*outer);
            }
        }
        for body in bodies {
            for &outer in &captured {
                let value = self.builder().graph.value(outer).clone();
                let inner = body.capture(outer, &value);
                body.graph.inputs.push(inner);
            }
        }
        captured.into_iter().map(Some).collect()
    }
}

/// Gives a node that names fewer outputs than its body makes the others too, unnamed. The body makes `own` more that are
/// none of the node's.
pub(super) fn leave_out(outputs: &mut Vec<Option<ValueId>>, body: &Graph, own: usize) {
    outputs.resize(outputs.len().max(body.outputs.len().saturating_sub(own)), None);
}
