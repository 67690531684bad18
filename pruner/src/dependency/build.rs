//! Walks the nodes in order and lets each operator's rule couple, block and note what removal must fix.

use poda_formats::{Graph, Node, Op, ValueId};

use super::axis::{AxisId, AxisTable, ONE};
use super::facts::Facts;
use super::reason::{Reason, Why};
use super::rules;

/// The axes of a value.
#[derive(Debug, Clone)]
pub struct Layout {
    /// One for each dimension.
    pub axes: Vec<AxisId>,
    /// For each dimension whether a removed unit's slice is exactly zero in the masked model.
    pub zero: Vec<bool>,
}

/// What a node needs when units have gone, beside smaller weights.
#[derive(Debug, Clone)]
pub enum Fix {
    /// The number of groups of a convolution.
    Group(AxisId),
    /// The number of groups of a group normalisation.
    NumGroups(AxisId),
    /// The hidden size of a recurrent layer.
    Hidden(AxisId),
    /// Head counts of an Attention node; its scale must stay what the head size was.
    #[allow(missing_docs)]
    Heads { query: AxisId, key: AxisId, size: AxisId },
    /// Head count and rotated dimensions of a RotaryEmbedding node.
    #[allow(missing_docs)]
    Rotary { heads: Option<AxisId>, rotated: Option<AxisId> },
    /// An input that lists sizes, one for each of `axes`. `dims` are the output's dimensions that they become.
    #[allow(missing_docs)]
    Sizes { input: usize, axes: Vec<AxisId>, dims: Vec<usize> },
    /// A Shape node, from dimension `start`: whoever computes with sizes goes on seeing those of the dense model.
    #[allow(missing_docs)]
    Shape { start: usize, axes: Vec<AxisId> },
    /// The sizes of a Split node's outputs.
    Split(Vec<AxisId>),
    /// The indices of a Gather node with constant indices.
    Gather(Selection),
    /// The bounds of a Slice node, by position in its list of axes.
    Slice(Vec<(usize, Selection)>),
    /// Means over these axes divide by fewer units.
    Mean(Vec<AxisId>),
    /// As [`Fix::Mean`], for a root-mean-square normalisation.
    RootMeanSquare(Vec<AxisId>),
}

/// Constant indices taken along one dimension.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The dimension.
    pub dim: usize,
    /// Its axis.
    pub source: AxisId,
    /// The axis of the result.
    pub result: AxisId,
    /// The indices.
    pub indices: Vec<usize>,
}

/// A place where an axis ends: its units are summed there.
#[derive(Debug, Clone)]
pub struct Contraction {
    /// Index of the node.
    pub node: usize,
    /// What is summed over.
    pub axis: AxisId,
    /// The operands and their dimension that holds the axis; the same one twice for a reduction.
    pub operands: [(ValueId, usize); 2],
}

/// State of the walk.
pub(crate) struct Builder<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) facts: Facts<'a>,
    pub(crate) table: AxisTable,
    pub(crate) layouts: Vec<Option<Layout>>,
    pub(crate) fixes: Vec<(usize, Fix)>,
    pub(crate) contractions: Vec<Contraction>,
    /// Axes that must keep two units, because one alone would mean something else.
    pub(crate) wide: Vec<AxisId>,
    /// Index of the current node.
    pub(crate) at: usize,
    producers: Vec<Option<usize>>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(graph: &'a Graph, facts: Facts<'a>) -> Self {
        let layouts = vec![None; graph.values.len()];
        let (table, fixes, contractions) = (AxisTable::default(), Vec::new(), Vec::new());
        let producers = graph.producers();
        Self { graph, facts, table, layouts, fixes, contractions, wide: Vec::new(), at: 0, producers }
    }

    pub(crate) fn walk(&mut self) {
        for (index, value) in self.graph.values.iter().enumerate() {
            if let Some(weight) = &value.weight {
                let axes: Vec<AxisId> = weight.shape().iter().map(|&size| self.table.leaf(size)).collect();
                let zero = vec![true; axes.len()];
                self.layouts[index] = Some(Layout { axes, zero });
            }
        }
        for &input in &self.graph.inputs {
            self.layouts[input.index()] =
                self.fresh_blocked(input, Reason { node: None, why: Why::GraphInput });
        }
        for node in 0..self.graph.nodes.len() {
            self.at = node;
            self.visit();
        }
        for &output in &self.graph.outputs {
            self.block_value(output, Reason { node: None, why: Why::GraphOutput });
        }
    }

    fn visit(&mut self) {
        let node = self.node();
        let known = node.inputs.iter().flatten().all(|id| self.layouts[id.index()].is_some())
            && node.outputs.iter().flatten().all(|&id| self.facts.shape(id).is_some());
        if known {
            rules::apply(self, &node.op);
        } else {
            self.opaque(Why::DynamicShape);
        }
    }

    /// The current node.
    pub(crate) fn node(&self) -> &'a Node {
        &self.graph.nodes[self.at]
    }

    pub(crate) fn reason(&self, why: Why) -> Reason {
        Reason { node: Some(self.at as u32), why }
    }

    fn fresh_blocked(&mut self, id: ValueId, reason: Reason) -> Option<Layout> {
        let shape = self.facts.shape(id)?;
        let axes = shape.iter().map(|&size| self.table.blocked(size, reason)).collect();
        Some(Layout { axes, zero: vec![true; shape.len()] })
    }

    pub(crate) fn block_value(&mut self, id: ValueId, reason: Reason) {
        if let Some(layout) = &self.layouts[id.index()] {
            for &axis in &layout.axes {
                self.table.block(axis, reason);
            }
        }
    }

    /// Nothing may change around the current node.
    pub(crate) fn opaque(&mut self, why: Why) {
        let (node, reason) = (self.node(), self.reason(why));
        for &input in node.inputs.iter().flatten() {
            self.block_value(input, reason);
        }
        self.fresh_outputs(why);
    }

    /// Gives every output new axes whose units stay.
    pub(crate) fn fresh_outputs(&mut self, why: Why) {
        let reason = self.reason(why);
        for &output in self.node().outputs.iter().flatten() {
            self.layouts[output.index()] = self.fresh_blocked(output, reason);
        }
    }

    /// Blocks an input that is no data but a parameter of the operator.
    pub(crate) fn parameter(&mut self, input: usize) {
        if let Some(id) = self.node().input(input) {
            let reason = self.reason(Why::Parameter);
            self.block_value(id, reason);
        }
    }

    /// The layout of an input of the current node.
    pub(crate) fn input(&self, index: usize) -> Option<Layout> {
        self.layouts[self.node().input(index)?.index()].clone()
    }

    /// The shape of an output of the current node.
    pub(crate) fn output_shape(&self, index: usize) -> Option<&'a [usize]> {
        self.facts.shape(self.node().output(index)?)
    }

    pub(crate) fn set(&mut self, output: usize, axes: Vec<AxisId>, zero: Vec<bool>) {
        if let Some(id) = self.node().output(output) {
            debug_assert_eq!(Some(axes.len()), self.facts.shape(id).map(<[usize]>::len));
            self.layouts[id.index()] = Some(Layout { axes, zero });
        }
    }

    pub(crate) fn fix(&mut self, fix: Fix) {
        self.fixes.push((self.at, fix));
    }

    pub(crate) fn unify(&mut self, a: AxisId, b: AxisId) {
        let reason = self.reason(Why::Coupled);
        self.table.unify(a, b, reason);
    }

    pub(crate) fn block(&mut self, axis: AxisId, why: Why) {
        let reason = self.reason(why);
        self.table.block(axis, reason);
    }

    /// A new axis for a dimension of an output that no input has.
    pub(crate) fn fresh(&mut self, output: usize, dim: usize) -> AxisId {
        let Some(id) = self.node().output(output) else { return ONE };
        let size = self.facts.shape(id).map_or(1, |shape| shape[dim]);
        if self.facts.is_fixed(id, dim) {
            self.table.leaf(size)
        } else {
            self.table.blocked(size, self.reason(Why::DynamicShape))
        }
    }

    /// Whether a value is zero everywhere. CastLike of a constant is not known to be constant where its type follows a
    /// value that is not.
    pub(crate) fn is_zero(&self, id: ValueId) -> bool {
        let source = self.producers[id.index()].map(|n| &self.graph.nodes[n]);
        let source = source.filter(|node| matches!(node.op, Op::CastLike | Op::Identity));
        self.facts.is_zero(id) || source.and_then(|node| node.input(0)).is_some_and(|id| self.is_zero(id))
    }

    pub(crate) fn is_blocked(&self, axis: AxisId) -> bool {
        self.table.leaves(axis).iter().all(|&leaf| self.table.block_of(leaf).is_some())
    }

    /// Sums over a dimension of two inputs of the current node.
    pub(crate) fn contract(&mut self, left: (usize, usize), right: (usize, usize)) {
        let node = self.node();
        let (Some(a), Some(b)) = (node.input(left.0), node.input(right.0)) else { return };
        let (Some(x), Some(y)) = (self.input(left.0), self.input(right.0)) else { return };
        self.unify(x.axes[left.1], y.axes[right.1]);
        if !(x.zero[left.1] || y.zero[right.1]) {
            self.block(x.axes[left.1], Why::NotZero);
        }
        self.sums(x.axes[left.1], [(a, left.1), (b, right.1)]);
    }

    /// Notes that the current node sums over an axis.
    pub(crate) fn sums(&mut self, axis: AxisId, operands: [(ValueId, usize); 2]) {
        if axis != ONE {
            self.contractions.push(Contraction { node: self.at, axis, operands });
        }
    }
}
