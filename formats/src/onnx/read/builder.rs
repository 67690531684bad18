//! A graph being built: fresh names, facts about values, and what a body captures.

use std::collections::HashMap;

use super::facts::{Facts, infer};
use crate::graph::{Dim, Graph, Node, Value, ValueId};
use crate::onnx::ops::Sequence;
use crate::weight::Weight;

/// What a value takes, beyond its name and shape: itself, its facts, its names' entries.
const VALUE_BYTES: usize = size_of::<Value>() + size_of::<Facts>() + 2 * size_of::<(String, usize)>();

/// A graph being built.
#[derive(Default)]
pub(in crate::onnx) struct Builder {
    pub(in crate::onnx) graph: Graph,
    facts: Vec<Facts>,
    /// Names in use, each with the number to try next when it is asked for again.
    names: HashMap<String, usize>,
    /// Values of the enclosing graph that this one uses, each with its stand-in here, in order of first use.
    pub(in crate::onnx) captures: Vec<(ValueId, ValueId)>,
    captured: HashMap<ValueId, ValueId>,
    /// Bytes that values and nodes take, roughly; those that were forgotten again count too.
    bytes: usize,
    /// Sequences that nodes of this graph make.
    pub(in crate::onnx) sequences: HashMap<ValueId, Sequence>,
}

/// How much of a graph there was at some moment.
pub(in crate::onnx) struct Mark {
    nodes: usize,
    values: usize,
}

impl Builder {
    /// Adds a value named `base`, or `base` and a number if that is taken.
    pub(in crate::onnx) fn add_value(&mut self, base: &str, value: Value) -> ValueId {
        let mut name = base.to_owned();
        while self.names.contains_key(&name) {
            let next = self.names.get_mut(base).expect("the base is taken before any number is tried");
            name = format!("{base}_{next}");
            *next += 1;
        }
        let symbols = value.shape.iter().flatten().map(|dim| match dim {
            Dim::Fixed(_) => size_of::<Dim>(),
            Dim::Symbol(name) => size_of::<Dim>() + name.len(),
        });
        self.bytes += VALUE_BYTES
            + 2 * name.len()
            + symbols.sum::<usize>()
            + value.other_type.as_ref().map_or(0, Vec::len);
        self.names.insert(name.clone(), 1);
        self.facts.push(Facts::of(&value));
        self.graph.add_value(Value { name, ..value })
    }

    /// Makes a value a weight.
    pub(in crate::onnx) fn set_weight(&mut self, id: ValueId, weight: Weight) {
        let value = self.graph.value_mut(id);
        value.dtype = Some(weight.dtype());
        value.shape = Some(weight.shape().iter().map(|&d| Dim::Fixed(d)).collect());
        value.weight = Some(weight);
        value.other_type = None;
        self.facts[id.index()] = Facts::of(value);
    }

    /// Appends a node and notes what follows for its first output.
    pub(in crate::onnx) fn add_node(&mut self, node: Node) {
        if let Some(id) = node.output(0) {
            let inputs: Vec<Facts> =
                node.inputs.iter().map(|id| id.map_or_else(Facts::default, |id| self.facts(id))).collect();
            self.facts[id.index()] = self.facts[id.index()].or(infer(&node.op, &inputs));
        }
        let ids = node.inputs.len() + node.outputs.len();
        self.bytes += size_of::<Node>() + node.name.len() + ids * size_of::<Option<ValueId>>();
        self.graph.nodes.push(node);
    }

    /// Bytes that the graph takes, roughly, without its weights and what operators hold.
    pub(in crate::onnx) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is known of a value.
    pub(in crate::onnx) fn facts(&self, id: ValueId) -> Facts {
        self.facts[id.index()]
    }

    /// The integers of an i64 or i32 weight.
    pub(in crate::onnx) fn integers(&self, id: ValueId) -> Option<Vec<i64>> {
        let Some(Weight::Tensor(tensor)) = self.graph.weight(id) else { return None };
        let narrow = |values: &[i32]| values.iter().map(|&i| i64::from(i)).collect();
        tensor.as_slice::<i64>().map(<[i64]>::to_vec).or_else(|_| tensor.as_slice().map(narrow)).ok()
    }

    /// The stand-in for a value of the enclosing graph: a copy of a weight, which shares its elements, or a capture.
    pub(in crate::onnx) fn capture(&mut self, outer: ValueId, value: &Value) -> ValueId {
        if let Some(&inner) = self.captured.get(&outer) {
            return inner;
        }
        let inner = self.add_value(&value.name, value.clone());
        self.captured.insert(outer, inner);
        if value.weight.is_none() {
            self.captures.push((outer, inner));
        }
        inner
    }

    /// The present extent, to go back to with [`Builder::rewind`].
    pub(in crate::onnx) fn mark(&self) -> Mark {
        Mark { nodes: self.graph.nodes.len(), values: self.graph.values.len() }
    }

    /// Forgets nodes and values added since `mark`.
    pub(in crate::onnx) fn rewind(&mut self, mark: &Mark) {
        self.graph.nodes.truncate(mark.nodes);
        for value in self.graph.values.drain(mark.values..) {
            self.names.remove(&value.name);
        }
        self.facts.truncate(mark.values);
    }
}
