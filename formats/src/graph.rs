//! The one graph that everything shares: values, weights among them, and nodes in topological order.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dtype::DataType;
use crate::op::Op;
use crate::weight::Weight;

/// Index of a value in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueId(pub u32);

impl ValueId {
    /// As an index into [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One dimension of a declared shape.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// A size known in the file.
    Fixed(usize),
    /// A size that each run chooses; equal names mean equal sizes. The name may be empty.
    Symbol(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbol(name) if name.is_empty() => f.write_str("?"),
            Self::Symbol(name) => write!(f, "{}", name.escape_debug()),
        }
    }
}

/// As shown to people, so that a shape reads `[batch, 3]`.
impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tensor that flows through the graph, or a weight.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Value {
    /// Unique among the values of a graph.
    pub name: String,
    /// Declared element type; `None` where the file says nothing.
    pub dtype: Option<DataType>,
    /// Declared shape; `None` where the file says nothing.
    pub shape: Option<Vec<Dim>>,
    /// Declared type where that is none of a tensor, or of elements that Poda has not, as an encoded ONNX `TypeProto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_type: Option<Vec<u8>>,
    /// The constant value, of weights.
    #[serde(skip)]
    pub weight: Option<Weight>,
    /// Of a weight: whether a run may be fed another value in its place, within the declared shape. In ONNX, an input that
    /// is an initializer as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overridable: bool,
}

/// An operator applied to values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// As in the file; may be empty, need not be unique.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Omitted optional inputs are `None`.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs that nobody asked for are `None`.
    pub outputs: Vec<Option<ValueId>>,
}

impl Node {
    /// Input `index`, when present.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Output `index`, when present.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }
}

impl Node {
    /// Checks the numbers of inputs and outputs against [`Op::arity`].
    fn check_arity(&self) -> Result<(), GraphError> {
        let arity = self.op.arity();
        let (node, op) = (|| self.name.clone(), || self.op.name().to_owned());
        let counts =
            [("inputs", arity.inputs, self.inputs.len()), ("outputs", arity.outputs, self.outputs.len())];
        if let Some((what, most, found)) = counts.into_iter().find(|(_, most, found)| found > most) {
            return Err(GraphError::Arity { node: node(), op: op(), what, most, found });
        }
        match (0..arity.required).find(|&index| self.input(index).is_none()) {
            Some(input) => Err(GraphError::MissingInput { node: node(), op: op(), input }),
            None => Ok(()),
        }
    }

    /// Checks the numbers of inputs and outputs against those of the bodies; see [`Op::If`] and [`Op::Loop`].
    fn check_bodies(&self) -> Result<(), GraphError> {
        let (inputs, outputs) = (self.inputs.len(), self.outputs.len());
        // What the operator takes for itself, and what the body gives before the node's outputs.
        let (own, before) = if let Op::Loop { carried, .. } = &self.op { (0, 1 + carried) } else { (1, 0) };
        let fits =
            self.op.bodies().into_iter().all(|body| {
                inputs == own + body.inputs.len() && outputs + before.min(1) <= body.outputs.len()
            });
        let fits = fits && (before == 0 || before < inputs);
        if fits {
            return Ok(());
        }
        Err(GraphError::Body { node: self.name.clone(), inputs, outputs })
    }
}

/// A computation: values, and nodes that make values from values. Nodes are in topological order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Graph {
    /// As in the file.
    pub name: String,
    /// Values by [`ValueId`].
    pub values: Vec<Value>,
    /// In topological order.
    pub nodes: Vec<Node>,
    /// What a run is fed. Never weights.
    pub inputs: Vec<ValueId>,
    /// What a run gives.
    pub outputs: Vec<ValueId>,
    /// Free-form notes carried along, such as the producer's name. Keys are sorted.
    pub metadata: BTreeMap<String, String>,
}

/// Why a graph is not well formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GraphError {
    #[error("value number {index} does not exist (the graph has {count})")]
    NoSuchValue { index: usize, count: usize },
    #[error("value name {name:?} is used twice")]
    DuplicateName { name: String },
    #[error("value {name:?} is made by more than one node, or by a node and as a weight or an input")]
    SeveralProducers { name: String },
    #[error("value {name:?} is used but no node makes it, and it is neither an input nor a weight")]
    NoProducer { name: String },
    #[error("node {node:?} ({op}) has {found} {what}, {most} at most")]
    Arity { node: String, op: String, what: &'static str, most: usize, found: usize },
    #[error("node {node:?} ({op}) lacks input {input}")]
    MissingInput { node: String, op: String, input: usize },
    #[error("nodes form a cycle through {name:?}")]
    Cycle { name: String },
    #[error("bodies of control flow are nested more than {} deep", Graph::MAX_NESTING)]
    Nesting,
    #[error("node {node:?}: its {inputs} inputs and {outputs} outputs are not those of its body")]
    Body { node: String, inputs: usize, outputs: usize },
}

impl Graph {
    /// How deep bodies of control flow may be nested: well within what readers of protobuf and JSON recurse.
    pub const MAX_NESTING: usize = 16;

    /// Adds a value.
    ///
    /// # Panics
    /// When there are more than 2³² values.
    pub fn add_value(&mut self, value: Value) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("fewer than 2^32 values"));
        self.values.push(value);
        id
    }

    /// Adds a weight with its type and shape.
    pub fn add_weight(&mut self, name: impl Into<String>, weight: impl Into<Weight>) -> ValueId {
        let weight = weight.into();
        self.add_value(Value {
            name: name.into(),
            dtype: Some(weight.dtype()),
            shape: Some(weight.shape().iter().map(|&d| Dim::Fixed(d)).collect()),
            weight: Some(weight),
            ..Value::default()
        })
    }

    /// Adds an input with its type and shape.
    pub fn add_input(&mut self, name: impl Into<String>, dtype: DataType, shape: Vec<Dim>) -> ValueId {
        let id = self.add_value(Value {
            name: name.into(),
            dtype: Some(dtype),
            shape: Some(shape),
            ..Value::default()
        });
        self.inputs.push(id);
        id
    }

    /// Appends a node with one new output named `output`, and gives that output.
    pub fn add_node(&mut self, op: Op, inputs: &[ValueId], output: impl Into<String>) -> ValueId {
        let name: String = output.into();
        let id = self.add_value(Value { name: name.clone(), ..Value::default() });
        let inputs = inputs.iter().copied().map(Some).collect();
        self.nodes.push(Node { name, op, inputs, outputs: vec![Some(id)] });
        id
    }

    /// Makes an input of a weight, as the last, which each run is then fed like any other; gives the weight. What is
    /// computed from it, such as a product, follows it from run to run. `None` where the value is no weight.
    ///
    /// # Panics
    /// When the id is of another graph.
    pub fn make_input(&mut self, id: ValueId) -> Option<Weight> {
        let value = self.value_mut(id);
        let weight = value.weight.take()?;
        value.dtype = Some(weight.dtype());
        value.overridable = false;
        if value.shape.as_ref().is_none_or(|declared| !weight.fits(declared)) {
            value.shape = Some(weight.shape().iter().map(|&d| Dim::Fixed(d)).collect());
        }
        self.inputs.push(id);
        Some(weight)
    }

    /// A name that no value has yet: `base`, or `base` with a number.
    pub fn unique_name(&self, base: &str) -> String {
        let taken: HashSet<&str> = self.values.iter().map(|v| v.name.as_str()).collect();
        if !taken.contains(base) {
            return base.to_owned();
        }
        (1..=taken.len())
            .map(|i| format!("{base}_{i}"))
            .find(|name| !taken.contains(name.as_str()))
            .unwrap_or_else(|| format!("{base}_{}", taken.len() + 1))
    }

    /// The value with this id.
    ///
    /// # Panics
    /// When the id is of another graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The value with this id, to change.
    ///
    /// # Panics
    /// When the id is of another graph.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.index()]
    }

    /// The weight of a value, if it is one.
    pub fn weight(&self, id: ValueId) -> Option<&Weight> {
        self.value(id).weight.as_ref()
    }

    /// The id of the value with this name. Linear in the number of values.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name).map(|i| ValueId(i as u32))
    }

    /// For each value the index of the node that makes it.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().flatten() {
                producers[output.index()] = Some(index);
            }
        }
        producers
    }

    /// For each value the indices of the nodes that use it, ascending, once for each use.
    pub fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for input in node.inputs.iter().flatten() {
                consumers[input.index()].push(index);
            }
        }
        consumers
    }

    /// Checks ids, names, producers and the numbers of inputs and outputs, and puts nodes in topological order (keeping the given order where it is one).
    /// Linear time. Bodies of control flow are checked too. An output named again, which no file can hold, becomes a
    /// copy with a name of its own.
    ///
    /// # Errors
    /// The first violation found.
    pub fn normalize(&mut self) -> Result<(), GraphError> {
        self.normalize_nested(0)?;
        self.copy_repeated_outputs();
        Ok(())
    }

    fn copy_repeated_outputs(&mut self) {
        let mut seen = HashSet::with_capacity(self.outputs.len());
        let repeated: Vec<usize> =
            (0..self.outputs.len()).filter(|&at| !seen.insert(self.outputs[at])).collect();
        if repeated.is_empty() {
            return;
        }
        let taken: HashSet<String> = self.values.iter().map(|value| value.name.clone()).collect();
        let mut number = 0;
        for at in repeated {
            let output = self.outputs[at];
            let Value { name: base, dtype, shape, .. } = self.value(output).clone();
            let name = loop {
                number += 1;
                let name = format!("{base}_{number}");
                if !taken.contains(&name) {
                    break name;
                }
            };
            let copy = self.add_node(Op::Identity, &[output], name);
            *self.value_mut(copy) = Value { dtype, shape, ..std::mem::take(self.value_mut(copy)) };
            self.outputs[at] = copy;
        }
    }

    fn normalize_nested(&mut self, depth: usize) -> Result<(), GraphError> {
        if depth > Self::MAX_NESTING {
            return Err(GraphError::Nesting);
        }
        self.check_values()?;
        self.sort()?;
        for node in &mut self.nodes {
            node.check_arity()?;
            node.check_bodies()?;
            node.op.bodies_mut().into_iter().try_for_each(|body| body.normalize_nested(depth + 1))?;
        }
        Ok(())
    }

    /// Calls `visit` with this graph, then with each body of control flow in the order of nodes, nested ones too.
    ///
    /// # Errors
    /// The first that `visit` gives.
    pub fn visit_mut<E>(&mut self, visit: &mut impl FnMut(&mut Self) -> Result<(), E>) -> Result<(), E> {
        visit(self)?;
        let bodies = self.nodes.iter_mut().flat_map(|node| node.op.bodies_mut());
        bodies.into_iter().try_for_each(|body| body.visit_mut(visit))
    }

    /// This graph and its bodies, in the order of [`Graph::visit_mut`].
    pub fn with_bodies(&self) -> Vec<&Self> {
        let bodies = self.nodes.iter().flat_map(|node| node.op.bodies());
        std::iter::once(self).chain(bodies.flat_map(Self::with_bodies)).collect()
    }

    /// Lets the pages of mapped weights go until they are read again, bodies' too.
    pub fn release(&self) {
        let weights = self.with_bodies().into_iter().flat_map(|graph| &graph.values);
        weights.filter_map(|value| value.weight.as_ref()).for_each(Weight::release);
    }

    fn check_values(&self) -> Result<(), GraphError> {
        let count = self.values.len();
        let ids = self.nodes.iter().flat_map(|n| n.inputs.iter().chain(&n.outputs).flatten());
        if let Some(id) = ids.chain(&self.inputs).chain(&self.outputs).find(|id| id.index() >= count) {
            return Err(GraphError::NoSuchValue { index: id.index(), count });
        }
        let mut names = HashSet::with_capacity(count);
        for value in &self.values {
            if !names.insert(value.name.as_str()) {
                return Err(GraphError::DuplicateName { name: value.name.clone() });
            }
        }
        let mut made: Vec<bool> = self.values.iter().map(|v| v.weight.is_some()).collect();
        let outputs = self.nodes.iter().flat_map(|n| n.outputs.iter().flatten());
        for id in self.inputs.iter().chain(outputs) {
            if std::mem::replace(&mut made[id.index()], true) {
                return Err(GraphError::SeveralProducers { name: self.value(*id).name.clone() });
            }
        }
        let used = self.nodes.iter().flat_map(|n| n.inputs.iter().flatten()).chain(&self.outputs);
        match used.into_iter().find(|id| !made[id.index()]) {
            Some(id) => Err(GraphError::NoProducer { name: self.value(*id).name.clone() }),
            None => Ok(()),
        }
    }

    fn sort(&mut self) -> Result<(), GraphError> {
        let producers = self.producers();
        let consumers = self.consumers();
        let mut waiting: Vec<usize> = self
            .nodes
            .iter()
            .map(|n| n.inputs.iter().flatten().filter(|id| producers[id.index()].is_some()).count())
            .collect();
        let ready = waiting.iter().enumerate().filter(|&(_, &n)| n == 0).map(|(i, _)| std::cmp::Reverse(i));
        let mut ready: std::collections::BinaryHeap<_> = ready.collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(std::cmp::Reverse(index)) = ready.pop() {
            order.push(index);
            for output in self.nodes[index].outputs.iter().flatten() {
                for &consumer in &consumers[output.index()] {
                    waiting[consumer] -= 1;
                    if waiting[consumer] == 0 {
                        ready.push(std::cmp::Reverse(consumer));
                    }
                }
            }
        }
        if order.len() < self.nodes.len() {
            let stuck = waiting.iter().position(|&n| n > 0).expect("some node waits");
            let name = self.nodes[stuck].outputs.iter().flatten().next();
            let name = name.map_or_else(|| self.nodes[stuck].name.clone(), |id| self.value(*id).name.clone());
            return Err(GraphError::Cycle { name });
        }
        if order.iter().enumerate().any(|(i, &at)| i != at) {
            let mut nodes: Vec<Option<Node>> =
                std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
            self.nodes = order.iter().map(|&i| nodes[i].take().expect("each node once")).collect();
        }
        Ok(())
    }

    /// Removes nodes whose outputs nobody uses, and values that nothing refers to. Ids change.
    pub fn remove_unused(&mut self) {
        let mut used = vec![false; self.values.len()];
        for id in self.outputs.iter().chain(&self.inputs) {
            used[id.index()] = true;
        }
        let mut keep = vec![false; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            if node.outputs.iter().flatten().any(|id| used[id.index()]) {
                keep[index] = true;
                node.inputs.iter().chain(&node.outputs).flatten().for_each(|id| used[id.index()] = true);
            }
        }
        let mut keep = keep.into_iter();
        self.nodes.retain(|_| keep.next().expect("one flag for each node"));

        let mut next = 0;
        let renumber: Vec<ValueId> = used
            .iter()
            .map(|&kept| {
                let id = ValueId(next);
                next += u32::from(kept);
                id
            })
            .collect();
        let mut used = used.into_iter();
        self.values.retain(|_| used.next().expect("one flag for each value"));
        let node_ids =
            self.nodes.iter_mut().flat_map(|n| n.inputs.iter_mut().chain(&mut n.outputs).flatten());
        for id in node_ids.chain(&mut self.inputs).chain(&mut self.outputs) {
            *id = renumber[id.index()];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Binary, Unary};

    fn diamond() -> Graph {
        let mut g = Graph::default();
        let x = g.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]);
        let a = g.add_node(Op::Unary(Unary::Relu), &[x], "a");
        let b = g.add_node(Op::Unary(Unary::Neg), &[x], "b");
        let unused = g.add_node(Op::Unary(Unary::Exp), &[a], "unused");
        assert_eq!(g.value(unused).name, "unused");
        let y = g.add_node(Op::Binary(Binary::Add), &[a, b], "y");
        g.outputs.push(y);
        g
    }

    #[test]
    fn nodes_are_sorted_and_cycles_refused() {
        let mut g = diamond();
        g.nodes.reverse();
        g.normalize().unwrap();
        let at = |name: &str| g.nodes.iter().position(|n| n.name == name).unwrap();
        assert!(at("y") > at("a") && at("y") > at("b") && at("unused") > at("a"));
        let first = at("a");
        g.nodes[first].inputs[0] = g.find("y");
        assert!(matches!(g.normalize(), Err(GraphError::Cycle { .. })));
    }

    #[test]
    fn bad_references_are_refused() {
        let mut g = diamond();
        g.outputs.push(ValueId(99));
        assert_eq!(g.normalize(), Err(GraphError::NoSuchValue { index: 99, count: 5 }));
        let mut g = diamond();
        g.value_mut(ValueId(1)).name = "x".into();
        assert_eq!(g.normalize(), Err(GraphError::DuplicateName { name: "x".into() }));
        let mut g = diamond();
        g.inputs.clear();
        assert_eq!(g.normalize(), Err(GraphError::NoProducer { name: "x".into() }));
        let mut g = diamond();
        g.nodes[1].outputs[0] = Some(ValueId(1));
        assert_eq!(g.normalize(), Err(GraphError::SeveralProducers { name: "a".into() }));
    }

    #[test]
    fn bodies_must_fit_their_node_and_not_nest_too_deep() {
        let nest = |depth: usize| {
            let mut graph = diamond();
            for _ in 0..depth {
                let mut outer = Graph::default();
                let condition = outer.add_input("condition", DataType::Bool, vec![]);
                let x = outer.add_input("x", DataType::F32, vec![]);
                let body = || Box::new(graph.clone());
                let op = Op::If { then_branch: body(), else_branch: Box::new(diamond()) };
                let y = outer.add_node(op, &[condition, x], "y");
                outer.outputs.push(y);
                outer.inputs.remove(0);
                outer.value_mut(condition).weight = Some(crate::Tensor::scalar(crate::Boolean(1)).into());
                graph = outer;
            }
            graph
        };
        assert_eq!(nest(2).normalize(), Ok(()));
        assert_eq!(nest(2).with_bodies().len(), 5);
        assert_eq!(nest(Graph::MAX_NESTING + 1).normalize(), Err(GraphError::Nesting));
        let mut g = nest(1);
        g.nodes[0].inputs.pop();
        assert_eq!(g.normalize(), Err(GraphError::Body { node: "y".into(), inputs: 1, outputs: 1 }));
    }

    #[test]
    fn unused_nodes_and_values_go() {
        let mut g = diamond();
        g.remove_unused();
        g.normalize().unwrap();
        assert_eq!(g.nodes.len(), 3);
        let names: Vec<_> = g.values.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["x", "a", "b", "y"]);
    }
}
