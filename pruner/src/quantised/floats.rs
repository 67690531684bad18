//! A graph without its integers.

use std::collections::{BTreeMap, HashMap};

use poda_formats::{DataType, Graph, Node, Op, Tensor, Value, ValueId, Weight};

use poda_runtime::analysis::analyze;

use super::groups::{Groups, Scale, Scaled};
use super::{Made, Quantised, Stored, Was};
use crate::canonical::drop_unused_nodes;
use crate::compact::UniqueNames;

/// `graph` with floats in place of the integers that stand for them, and what puts these back.
pub(crate) fn separate(graph: &Graph) -> (Graph, Quantised) {
    let mut stored = graph.clone();
    store_quantised(&mut stored);
    let groups = Groups::find(&stored);
    let mut quantised = Quantised::default();
    if groups.all.is_empty() {
        return (graph.clone(), quantised);
    }
    let names = UniqueNames::of(&stored);
    let mut graph = stored;
    let nodes = std::mem::take(&mut graph.nodes);
    let scaled = groups.scaled.values().map(|scaled| (scaled.mul, *scaled)).collect();
    let mut floats =
        Floats { graph, groups: &groups, scaled, names, nodes: Vec::new(), same: HashMap::new() };
    for (at, node) in nodes.into_iter().enumerate() {
        floats.node(at, node, &mut quantised);
    }
    let Floats { mut graph, nodes, same, .. } = floats;
    graph.nodes = nodes;
    for input in graph.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().flatten()) {
        *input = same.get(input).copied().unwrap_or(*input);
    }
    // What computed with scales.
    drop_unused_nodes(&mut graph);
    for (id, group) in groups.members() {
        let value = graph.value_mut(id);
        value.dtype = Some(DataType::F32);
        if let (Some(weight), Scale::Constant(steps)) = (&value.weight, &groups.all[group].of)
            && let Ok(tensor) = weight.to_dense()
        {
            value.weight = steps.floats(&tensor).map(Weight::Tensor);
            quantised.weights.insert(value.name.clone(), Stored { tensor, steps: steps.clone() });
        }
        quantised.members.insert(value.name.clone(), group);
    }
    let was = |group: &super::groups::Group| Was {
        dtype: group.dtype,
        names: group.names.clone(),
        steps: match &group.of {
            Scale::Constant(steps) => Ok(steps.clone()),
            Scale::Dynamic { quantised } => Err(graph.value(*quantised).name.clone()),
        },
    };
    quantised.groups = groups.all.iter().map(was).collect();
    (graph, quantised)
}

/// Makes weights of integers of those that are stored as floats and quantised in each run, as tools for training with
/// quantisation leave them.
fn store_quantised(graph: &mut Graph) {
    let of_weight = |node: &Node| {
        matches!(node.op, Op::QuantizeLinear { .. })
            && node.input(0).is_some_and(|x| graph.weight(x).is_some())
    };
    let nodes: Vec<usize> = (0..graph.nodes.len()).filter(|&at| of_weight(&graph.nodes[at])).collect();
    if nodes.is_empty() {
        return;
    }
    let analysis = analyze(graph, &BTreeMap::new());
    let mut gone = vec![false; graph.nodes.len()];
    for at in nodes {
        let output = graph.nodes[at].output(0).filter(|id| !graph.outputs.contains(id));
        if let Some((id, tensor)) = output.and_then(|id| Some((id, analysis.constant(id)?))) {
            let value = graph.value_mut(id);
            value.dtype = Some(tensor.dtype());
            value.weight = Some(Weight::Tensor(tensor.clone()));
            gone[at] = true;
        }
    }
    let mut gone = gone.into_iter();
    graph.nodes.retain(|_| !gone.next().unwrap_or(false));
}

struct Floats<'a> {
    graph: Graph,
    groups: &'a Groups,
    /// By index of the last Mul of a product of integers.
    scaled: HashMap<usize, Scaled>,
    names: UniqueNames,
    nodes: Vec<Node>,
    /// By what was dequantised, what it is in floats.
    same: HashMap<ValueId, ValueId>,
}

impl Floats<'_> {
    fn node(&mut self, at: usize, mut node: Node, quantised: &mut Quantised) {
        let made = node.output(0).map(|id| self.graph.value(id).name.clone()).unwrap_or_default();
        let taken = |id: Option<ValueId>| self.groups.of(id).is_some();
        match node.op.clone() {
            op @ Op::QuantizeLinear { .. } if taken(node.output(0)) => {
                quantised.made.insert(made, Made::Quantised(op));
                self.clip(node);
            }
            Op::DynamicQuantizeLinear if taken(node.output(0)) => {
                quantised.made.insert(made, Made::Dynamic);
                node.op = Op::Identity;
                node.outputs.truncate(1);
                self.nodes.push(node);
            }
            op @ Op::DequantizeLinear { .. } if taken(node.input(0)) => {
                let (Some(from), Some(to)) = (node.input(0), node.output(0)) else { return };
                let name = self.graph.value(from).name.clone();
                quantised.floats.entry(name).or_insert_with(|| (node.name.clone(), made.clone()));
                if self.graph.outputs.contains(&to) {
                    quantised.made.insert(made, Made::Dequantised(op));
                    node.op = Op::Identity;
                    node.inputs.truncate(1);
                    self.nodes.push(node);
                } else {
                    self.same.insert(to, from);
                }
            }
            Op::QLinearConv(attributes) if taken(node.output(0)) => {
                self.whole(node, Op::Conv(attributes), &[0, 3, 8]);
                quantised.made.insert(made, Made::Whole);
            }
            Op::QLinearMatMul if taken(node.output(0)) => {
                self.whole(node, Op::MatMul, &[0, 3]);
                quantised.made.insert(made, Made::Whole);
            }
            op @ (Op::MatMulInteger | Op::ConvInteger(_)) if self.groups.scaled.contains_key(&at) => {
                quantised.made.insert(made, Made::Integers);
                if let Some(id) = node.output(0) {
                    self.graph.value_mut(id).dtype = Some(DataType::F32);
                }
                node.op =
                    if let Op::ConvInteger(attributes) = op { Op::Conv(attributes) } else { Op::MatMul };
                node.inputs.truncate(2);
                self.nodes.push(node);
            }
            Op::Binary(_) if self.scaled.contains_key(&at) => {
                let product = self.scaled[&at].product;
                let scales = node.input(1 - product).map(|id| self.graph.value(id).name.clone());
                quantised.made.insert(made, Made::Scaled { product, scales: scales.unwrap_or_default() });
                node.op = Op::Identity;
                node.inputs = vec![node.input(product)];
                self.nodes.push(node);
            }
            _ => self.nodes.push(node),
        }
    }

    /// A product of integers that are quantised again, as one of floats and a Clip.
    fn whole(&mut self, node: Node, op: Op, operands: &[usize]) {
        let Some(output) = node.output(0) else { return };
        let like = self.graph.value(output);
        let (base, shape) = (format!("{}.sum", like.name), like.shape.clone());
        let name = self.names.unique(&base);
        let sum = self.graph.add_value(Value { name, dtype: Some(DataType::F32), shape, ..Value::default() });
        let mut inputs: Vec<Option<ValueId>> = operands.iter().map(|&at| node.input(at)).collect();
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let clipped = self.names.unique(&format!("{}.clip", node.name));
        self.nodes.push(Node { name: node.name, op, inputs, outputs: vec![Some(sum)] });
        self.clip(Node { name: clipped, op: Op::Clip, inputs: vec![Some(sum)], outputs: vec![Some(output)] });
    }

    /// A quantisation as a Clip to what its type can hold.
    fn clip(&mut self, node: Node) {
        let group = self.groups.of(node.output(0)).map(|group| &self.groups.all[group]);
        let bounds = group.and_then(|group| match &group.of {
            Scale::Constant(steps) => steps.bounds(group.dtype),
            Scale::Dynamic { .. } => None,
        });
        let mut inputs = vec![node.input(0)];
        for (name, bound) in ["low", "high"].into_iter().zip(bounds.into_iter().flatten()) {
            let name = self.names.unique(&format!("{}.{name}", node.name));
            inputs.push(Some(self.graph.add_weight(name, Tensor::scalar(bound))));
        }
        self.nodes.push(Node { op: Op::Clip, inputs, ..node });
    }
}
