//! From [`Graph`] to messages: names, bodies of control flow, declared types.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use prost::Message;

use super::WriteError;
use super::op::form;
use crate::graph::{Dim, Graph, Node, Value, ValueId};
use crate::onnx::proto::{
    Dimension, DimensionValue, GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorType, TypeProto,
    TypeValue, ValueInfoProto, data_type_code,
};
use crate::op::Op;
use crate::tensor::Tensor;
use crate::weight::Weight;

/// Weights smaller than this, in bytes, keep a name of their own where another has the same elements.
const SHARED_FROM: usize = 1024;

/// The state of writing one model.
#[derive(Default)]
pub(super) struct Writer {
    /// Names of the graphs being written, outermost first. A body may not define a name of those around it.
    taken: HashSet<String>,
    /// For each domain the version of its operator set that the nodes so far need.
    pub(super) opsets: BTreeMap<String, i64>,
}

/// The main graph's message, and its weights by name, which are not in the message.
pub(super) struct Main<'g> {
    pub(super) graph: GraphProto,
    pub(super) weights: Vec<(String, &'g Weight)>,
}

impl Writer {
    pub(super) fn main<'g>(&mut self, graph: &'g Graph) -> Result<Main<'g>, WriteError> {
        let untyped = |value: &&Value| value.dtype.is_none() && value.other_type.is_none();
        if let Some(input) = graph.inputs.iter().map(|&id| graph.value(id)).find(untyped) {
            return Err(WriteError::InputType { name: input.name.clone() });
        }
        let mut names = self.names(graph, &HashMap::new());
        let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
        let mut shared: HashMap<_, usize> = HashMap::new();
        let mut weights = Vec::new();
        for (index, value) in graph.values.iter().enumerate() {
            let Some(weight) = &value.weight else { continue };
            let id = ValueId(index as u32);
            let own_name = weight.bytes() < SHARED_FROM || outputs.contains(&id) || value.overridable;
            let first = if own_name { index } else { *shared.entry(weight.identity()).or_insert(index) };
            if first == index {
                weights.push((names[index].clone(), weight));
            } else {
                let (before, after) = names.split_at_mut(index);
                after[0].clone_from(&before[first]);
            }
        }
        let overridable =
            (0..graph.values.len() as u32).map(ValueId).filter(|&id| graph.value(id).overridable);
        let inputs: Vec<ValueId> = graph.inputs.iter().copied().chain(overridable).collect();
        let graph = self.graph(graph, &names, &inputs)?;
        Ok(Main { graph, weights })
    }

    /// The names to write for the values of `graph`: those in `given`, or their own made unique.
    fn names(&mut self, graph: &Graph, given: &HashMap<ValueId, String>) -> Vec<String> {
        let mut names = Vec::with_capacity(graph.values.len());
        for (index, value) in graph.values.iter().enumerate() {
            names.push(match given.get(&ValueId(index as u32)) {
                Some(name) => name.clone(),
                None => self.unique(&value.name),
            });
        }
        names
    }

    fn unique(&mut self, base: &str) -> String {
        unique(&mut self.taken, base)
    }

    /// The message of a graph without its weights.
    fn graph(
        &mut self,
        graph: &Graph,
        names: &[String],
        inputs: &[ValueId],
    ) -> Result<GraphProto, WriteError> {
        let mut known = vec![true; graph.values.len()];
        let ends = graph.inputs.iter().chain(&graph.outputs);
        ends.for_each(|id| known[id.index()] = false);
        let inner = graph.values.iter().zip(names).zip(known);
        let declared = inner
            .filter(|((value, _), inner)| {
                let tensor = value.dtype.is_some() && value.shape.is_some();
                *inner && value.weight.is_none() && (tensor || value.other_type.is_some())
            })
            .map(|((value, name), _)| value_info(value, name));
        // Other engines refuse two nodes of one name in a graph.
        let mut nodes = HashSet::new();
        let nodes: Result<_, WriteError> = (graph.nodes.iter())
            .map(|node| {
                let mut proto = self.node(graph, node, names)?;
                if !proto.name.is_empty() {
                    proto.name = unique(&mut nodes, &proto.name);
                }
                Ok(proto)
            })
            .collect();
        let ends =
            |ids: &[ValueId]| ids.iter().map(|&id| value_info(graph.value(id), &names[id.index()])).collect();
        Ok(GraphProto {
            name: if graph.name.is_empty() { "graph".to_owned() } else { graph.name.clone() },
            input: ends(inputs),
            output: ends(&graph.outputs),
            value_info: declared.collect(),
            node: nodes?,
            ..GraphProto::default()
        })
    }

    fn node(&mut self, graph: &Graph, node: &Node, names: &[String]) -> Result<NodeProto, WriteError> {
        let mut own = node.inputs.len();
        if let Op::If { .. } = &node.op {
            own = 1;
        } else if let Op::Loop { carried, .. } = &node.op {
            own = 2 + carried;
        } else if let Op::Foreign(foreign) = &node.op {
            own = own.saturating_sub(foreign.captures);
            // Graphs among the attributes name these values.
            let mut captured = node.inputs[own..].iter().flatten();
            if let Some(id) = captured.find(|id| graph.value(**id).name != names[id.index()]) {
                let (node, value) = (node.name.clone(), graph.value(*id).name.clone());
                return Err(WriteError::ForeignCapture { node, value });
            }
        }
        let mut bodies = Vec::new();
        for body in node.op.bodies() {
            // The body's last inputs are what it captures: the node's inputs from `own` on.
            let formal = body.inputs.len() - (node.inputs.len() - own);
            let captured = body.inputs[formal..].iter().zip(&node.inputs[own..]);
            let captured: HashMap<ValueId, String> = captured
                .filter_map(|(&inner, outer)| Some((inner, names[(*outer)?.index()].clone())))
                .collect();
            bodies.push(self.body(body, formal, &captured)?);
        }
        let form = form(graph, node, bodies)?;
        let opset = self.opsets.entry(form.domain.clone()).or_default();
        *opset = form.opset.max(*opset);
        let name = |id: &Option<ValueId>| id.map_or_else(String::new, |id| names[id.index()].clone());
        let (mut input, mut output): (Vec<_>, Vec<_>) =
            (node.inputs[..own].iter().map(name).collect(), node.outputs.iter().map(name).collect());
        if !matches!(node.op, Op::Foreign(_)) {
            let named = required_outputs(&node.op, output.len());
            output.resize(output.len().max(named), String::new());
            for left_out in output[..named].iter_mut().filter(|name| name.is_empty()) {
                *left_out = self.unique(if node.name.is_empty() { "unused" } else { &node.name });
            }
            let inputs = if let Op::Loop { .. } = node.op { own } else { 0 };
            for (list, least) in [(&mut input, inputs), (&mut output, named)] {
                let end = list.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
                list.truncate(end.max(least));
            }
        }
        Ok(NodeProto {
            input,
            output,
            name: node.name.clone(),
            op_type: form.op_type,
            domain: form.domain,
            attribute: form.attributes,
            overload: String::new(),
        })
    }

    /// A body of control flow: its first `formal` inputs are its own, the others have the names in `captured`.
    fn body(
        &mut self,
        body: &Graph,
        formal: usize,
        captured: &HashMap<ValueId, String>,
    ) -> Result<GraphProto, WriteError> {
        let names = self.names(body, captured);
        let mut proto = self.graph(body, &names, &body.inputs[..formal])?;
        for (value, name) in body.values.iter().zip(&names) {
            if let Some(weight) = &value.weight {
                proto.initializer.push(TensorProto {
                    raw_data: Some(Bytes::from_owner(dense(name, weight)?.storage().clone())),
                    ..tensor_header(name, weight)
                });
            }
        }
        // A body's output must be made by a node of the body, and be named once.
        let mut made: HashSet<&str> = proto.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        let mut copies = Vec::new();
        for output in &mut proto.output {
            if !made.remove(output.name.as_str()) {
                let copy = self.unique(&output.name);
                let input = vec![std::mem::replace(&mut output.name, copy.clone())];
                let op_type = "Identity".to_owned();
                copies.push(NodeProto { input, output: vec![copy], op_type, ..NodeProto::default() });
            }
        }
        for name in copies.iter().flat_map(|n| &n.output) {
            self.taken.remove(name);
        }
        proto.node.extend(copies);
        for (index, name) in names.iter().enumerate() {
            if !captured.contains_key(&ValueId(index as u32)) {
                self.taken.remove(name);
            }
        }
        Ok(proto)
    }
}

/// How many leading outputs of a node with `outputs` must be there and named, wanted or not.
fn required_outputs(op: &Op, outputs: usize) -> usize {
    match op {
        // Each stands for a part or for an output of the bodies.
        Op::Split { .. } | Op::If { .. } | Op::Loop { .. } => outputs,
        Op::Recurrent(_) => 0,
        Op::TopK { .. } => 2,
        Op::DynamicQuantizeLinear => 3,
        _ => 1,
    }
}

/// `base`, or `base` and a number, which is not among `taken`; it is from now on.
fn unique(taken: &mut HashSet<String>, base: &str) -> String {
    let mut name = base.to_owned();
    let mut number = 0;
    while name.is_empty() || !taken.insert(name.clone()) {
        number += 1;
        name = format!("{base}~{number}");
    }
    name
}

/// The dense form of a weight.
pub(super) fn dense(name: &str, weight: &Weight) -> Result<Tensor, WriteError> {
    weight.to_dense().map_err(|error| WriteError::Weight { weight: name.to_owned(), error })
}

/// The message of a dense tensor without its elements.
pub(super) fn tensor_header(name: &str, weight: &Weight) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: weight.shape().iter().map(|&d| d as i64).collect(),
        data_type: data_type_code(weight.dtype()),
        ..TensorProto::default()
    }
}

fn value_info(value: &Value, name: &str) -> ValueInfoProto {
    let dim = |dim: &Dim| Dimension {
        value: match dim {
            Dim::Fixed(size) => Some(DimensionValue::DimValue(*size as i64)),
            Dim::Symbol(name) if name.is_empty() => None,
            Dim::Symbol(name) => Some(DimensionValue::DimParam(name.clone())),
        },
    };
    let shape = value.shape.as_ref().map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = value.dtype.map(|dtype| TensorType { elem_type: data_type_code(dtype), shape });
    let r#type = tensor.map(|tensor| TypeProto { value: Some(TypeValue::Tensor(tensor)) });
    let other_type = || value.other_type.as_ref().and_then(|bytes| TypeProto::decode(&bytes[..]).ok());
    ValueInfoProto { name: name.to_owned(), r#type: r#type.or_else(other_type) }
}
