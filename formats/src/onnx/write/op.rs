//! A node in ONNX's words.

use prost::Message;

use super::WriteError;
use super::attributes::Form;
use crate::graph::{Graph, Node};
use crate::onnx::ops;
use crate::onnx::proto::{AttributeProto, GraphProto};
use crate::op::Op;

/// The operator of `node` with its attributes; `bodies` are those of [`Op::bodies`].
pub(super) fn form(graph: &Graph, node: &Node, bodies: Vec<GraphProto>) -> Result<Form, WriteError> {
    let f = Form::new(node.op.name());
    match &node.op {
        Op::If { .. } => {
            let branches = ["then_branch", "else_branch"].into_iter().zip(bodies);
            Ok(branches.fold(f, |f, (name, body)| f.graph(name, body)))
        }
        Op::Loop { .. } => Ok(bodies.into_iter().fold(f, |f, body| f.graph("body", body))),
        Op::Foreign(foreign) => {
            let attributes = foreign.attributes.iter().map(|bytes| AttributeProto::decode(&bytes[..]));
            let attributes = attributes
                .collect::<Result<_, _>>()
                .map_err(|error| WriteError::Attribute { node: node.name.clone(), error })?;
            let (domain, op_type) = (foreign.domain.clone(), foreign.op_type.clone());
            Ok(Form { domain, op_type, opset: foreign.opset, attributes })
        }
        op => ops::write(op, &f, &ops::Around::of(graph, node))
            .ok_or_else(|| WriteError::NotOnnx { node: node.name.clone(), op: op.name().to_owned() }),
    }
}
