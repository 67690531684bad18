//! What a pass works on: a graph, with what holds for its values.

use poda_formats::graph::Node;
use poda_formats::{Graph, Op, Tensor, ValueId};

use super::facts::Facts;
use super::matching::View;

/// What a node becomes: an operator, and its inputs.
pub(super) type Rewrite = (Op, Vec<Option<ValueId>>);

/// A graph with what holds for its values, and with who makes and how many use each.
pub(super) struct Rewriter<'g> {
    pub(super) graph: &'g mut Graph,
    pub(super) facts: Facts,
    /// Values that are read beside the graph's outputs.
    wanted: &'g [ValueId],
    /// By value: the node that makes it.
    producers: Vec<Option<usize>>,
    /// By value: number of uses by nodes that are read, or as a result.
    uses: Vec<u32>,
    /// By node: nothing that it makes is read.
    dead: Vec<bool>,
    /// Nodes changed so far.
    changes: usize,
}

/// By value the number of uses by nodes that are read, or as a result; by node whether nothing that it makes is read.
pub(super) fn uses(graph: &Graph, wanted: &[ValueId]) -> (Vec<u32>, Vec<bool>) {
    let mut uses = vec![0; graph.values.len()];
    graph.outputs.iter().chain(wanted).for_each(|id| uses[id.index()] += 1);
    let mut dead = vec![true; graph.nodes.len()];
    for (node, dead) in graph.nodes.iter().zip(&mut dead).rev() {
        if node.outputs.iter().flatten().any(|id| uses[id.index()] > 0) {
            *dead = false;
            node.inputs.iter().flatten().for_each(|id| uses[id.index()] += 1);
        }
    }
    (uses, dead)
}

impl<'g> Rewriter<'g> {
    pub(super) fn new(graph: &'g mut Graph, facts: Facts, wanted: &'g [ValueId]) -> Self {
        let (producers, (uses, dead)) = (graph.producers(), uses(graph, wanted));
        Self { graph, facts, wanted, producers, uses, dead, changes: 0 }
    }

    /// Nodes changed so far.
    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    /// Number of nodes that are read.
    pub(super) fn live(&self) -> usize {
        self.dead.iter().filter(|&&dead| !dead).count()
    }

    pub(super) fn is_dead(&self, at: usize) -> bool {
        self.dead[at]
    }

    /// Tries a pattern at every node that is read, in order.
    pub(super) fn sweep(&mut self, pattern: fn(&mut Self, usize) -> Option<Rewrite>) {
        for at in 0..self.graph.nodes.len() {
            while !self.dead[at] {
                let Some((op, inputs)) = pattern(self, at) else { break };
                self.graph.nodes[at].op = op;
                self.read(at, inputs);
            }
        }
    }

    /// Lets a node read other values.
    pub(super) fn read(&mut self, at: usize, inputs: Vec<Option<ValueId>>) {
        self.changes += 1;
        inputs.iter().flatten().for_each(|id| self.uses[id.index()] += 1);
        let old = std::mem::replace(&mut self.graph.nodes[at].inputs, inputs);
        let mut released: Vec<ValueId> = old.into_iter().flatten().collect();
        while let Some(id) = released.pop() {
            self.uses[id.index()] -= 1;
            let Some(maker) = self.producers[id.index()].filter(|&maker| !self.dead[maker]) else { continue };
            let node = &self.graph.nodes[maker];
            if node.outputs.iter().flatten().all(|id| self.uses[id.index()] == 0) {
                self.dead[maker] = true;
                released.extend(node.inputs.iter().flatten());
            }
        }
    }

    /// Takes nodes out, by a flag for each.
    pub(super) fn remove(&mut self, nodes: &[bool]) {
        self.changes += nodes.iter().filter(|&&removed| removed).count();
        let mut removed = nodes.iter();
        self.graph.nodes.retain(|_| !removed.next().expect("one flag for each node"));
        self.producers = self.graph.producers();
        (self.uses, self.dead) = uses(self.graph, self.wanted);
    }

    /// A further constant.
    pub(super) fn add_constant(&mut self, tensor: Tensor) -> ValueId {
        let name = self.graph.unique_name("constant");
        self.facts.add(tensor.clone());
        self.uses.push(0);
        self.producers.push(None);
        self.graph.add_weight(name, tensor)
    }

    pub(super) fn node(&self, at: usize) -> &Node {
        &self.graph.nodes[at]
    }

    /// Whether two values have the same shape, where one is made of the other by functions of it alone, scalars, and means
    /// that keep dimensions: then broadcasting cannot change sizes, only a scalar of higher rank the rank.
    pub(super) fn same_rank(&self, a: ValueId, b: ValueId) -> bool {
        self.facts.rank(a).is_some() && self.facts.rank(a) == self.facts.rank(b)
    }
}

impl View for Rewriter<'_> {
    fn made_by(&self, id: ValueId) -> Option<(&Op, &[Option<ValueId>])> {
        let node = &self.graph.nodes[self.producers[id.index()]?];
        (node.output(0) == Some(id)).then_some((&node.op, &node.inputs[..]))
    }

    fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.facts.constant(id)
    }

    fn once(&self, id: ValueId) -> bool {
        self.uses[id.index()] == 1
    }
}
