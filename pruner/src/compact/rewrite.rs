//! A graph under change: nodes are inserted before and after others without moving any.

use std::collections::HashSet;

use poda_formats::{Graph, Node, Op, Tensor, Value, ValueId};

/// Names of a graph's values and nodes, and of those that are added.
pub(crate) struct UniqueNames(HashSet<String>);

impl UniqueNames {
    pub(crate) fn of(graph: &Graph) -> Self {
        let nodes = graph.nodes.iter().map(|node| node.name.clone());
        Self(graph.values.iter().map(|value| value.name.clone()).chain(nodes).collect())
    }

    /// `base`, or `base` with a number.
    pub(crate) fn unique(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut number = 1;
        while !self.0.insert(name.clone()) {
            number += 1;
            name = format!("{base}_{number}");
        }
        name
    }
}

pub(crate) struct Rewrite {
    pub(crate) graph: Graph,
    names: UniqueNames,
    before: Vec<(usize, Node)>,
    after: Vec<(usize, Node)>,
}

impl Rewrite {
    pub(crate) fn new(graph: Graph) -> Self {
        let names = UniqueNames::of(&graph);
        Self { graph, names, before: Vec::new(), after: Vec::new() }
    }

    /// A new constant.
    pub(crate) fn constant(&mut self, base: &str, value: Tensor) -> ValueId {
        let name = self.names.unique(base);
        self.graph.add_weight(name, value)
    }

    fn value_like(&mut self, base: &str, like: ValueId) -> ValueId {
        let name = self.names.unique(base);
        let like = self.graph.value(like);
        let value = Value { name, dtype: like.dtype, shape: like.shape.clone(), ..Value::default() };
        self.graph.add_value(value)
    }

    /// A new node before `node`, whose result has the type and shape of `like`.
    pub(crate) fn insert_before(
        &mut self,
        node: usize,
        op: Op,
        inputs: &[ValueId],
        base: &str,
        like: ValueId,
    ) -> ValueId {
        let output = self.value_like(base, like);
        let made = self.make(op, inputs, output);
        self.before.push((node, made));
        output
    }

    /// Lets `node` write its first output elsewhere, to be turned into the old output by [`Rewrite::insert_after`].
    pub(crate) fn divert(&mut self, node: usize, base: &str) -> Option<(ValueId, ValueId)> {
        let old = self.graph.nodes[node].output(0)?;
        let raw = self.value_like(base, old);
        self.graph.nodes[node].outputs[0] = Some(raw);
        Some((raw, old))
    }

    /// A new node after `node` that makes `output`.
    pub(crate) fn insert_after(&mut self, node: usize, op: Op, inputs: &[ValueId], output: ValueId) {
        let made = self.make(op, inputs, output);
        self.after.push((node, made));
    }

    /// A new node after `node` with a new output like `like`.
    pub(crate) fn chain_after(
        &mut self,
        node: usize,
        op: Op,
        inputs: &[ValueId],
        base: &str,
        like: ValueId,
    ) -> ValueId {
        let output = self.value_like(base, like);
        self.insert_after(node, op, inputs, output);
        output
    }

    fn make(&mut self, op: Op, inputs: &[ValueId], output: ValueId) -> Node {
        let base = format!("{}.{}", self.graph.value(output).name, op.name());
        let name = self.names.unique(&base);
        Node { name, op, inputs: inputs.iter().copied().map(Some).collect(), outputs: vec![Some(output)] }
    }

    pub(crate) fn finish(mut self) -> Graph {
        if self.before.is_empty() && self.after.is_empty() {
            return self.graph;
        }
        let old = std::mem::take(&mut self.graph.nodes);
        let mut nodes = Vec::with_capacity(old.len() + self.before.len() + self.after.len());
        self.before.sort_by_key(|(at, _)| *at);
        self.after.sort_by_key(|(at, _)| *at);
        let (mut before, mut after) = (self.before.into_iter().peekable(), self.after.into_iter().peekable());
        for (index, node) in old.into_iter().enumerate() {
            while let Some((_, node)) = before.next_if(|(at, _)| *at == index) {
                nodes.push(node);
            }
            nodes.push(node);
            while let Some((_, node)) = after.next_if(|(at, _)| *at == index) {
                nodes.push(node);
            }
        }
        self.graph.nodes = nodes;
        self.graph
    }
}
