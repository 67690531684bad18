//! Transposes move towards the results, past operators that do not mind, until they meet their inverse.
//!
//! Frameworks that compute channels last export a transpose on either side of each convolution. Instead of computing one, this pass
//! notes that a value is another one in other order ([`Moved`]); operators that can work in the other order do so, and only where one
//! cannot is the transpose written. A rewrite that would transpose no fewer elements is dropped.

use poda_formats::graph::{Node, Value};
use poda_formats::{Graph, Op, Tensor, ValueId};

use crate::analysis::Analysis;
use crate::ops;
use crate::output::Output;

/// A value whose dimension `i` is dimension `perm[i]` of `source`.
#[derive(Debug, Clone)]
struct Moved {
    source: ValueId,
    perm: Vec<usize>,
}

impl Moved {
    fn changes_nothing(&self) -> bool {
        self.perm.iter().enumerate().all(|(i, &p)| i == p)
    }
}

/// The graph with fewer elements to transpose, if there is one. `wanted` are values that it must give under their ids, beside its
/// outputs.
pub(crate) fn rewrite(graph: &Graph, analysis: &Analysis, wanted: &[ValueId]) -> Option<Graph> {
    let cost = |graph: &Graph| -> usize {
        let elements = |node: &Node| match (&node.op, node.output(0)) {
            (Op::Transpose { .. }, Some(id)) if analysis.constant(id).is_none() => {
                analysis.shape(id).map_or(0, |shape| shape.iter().product())
            }
            _ => 0,
        };
        graph.nodes.iter().map(elements).sum()
    };
    let before = cost(graph);
    if before == 0 {
        return None;
    }
    let mut sink = Sink {
        graph: Graph { nodes: Vec::with_capacity(graph.nodes.len()), ..graph.clone() },
        analysis,
        moved: vec![None; graph.values.len()],
        made: vec![true; graph.values.len()],
    };
    for node in &graph.nodes {
        if sink.node(node).is_none() {
            sink.keep(node);
        }
    }
    for &id in graph.outputs.iter().chain(wanted) {
        sink.make(id);
    }
    (cost(&sink.graph) < before).then_some(sink.graph)
}

struct Sink<'a> {
    graph: Graph,
    analysis: &'a Analysis,
    /// By value of the graph that is read.
    moved: Vec<Option<Moved>>,
    /// By value: whether something that is written already makes it, if anything does.
    made: Vec<bool>,
}

impl Sink<'_> {
    /// Takes a node over in another order; `None` where it has to stay as it is.
    fn node(&mut self, node: &Node) -> Option<()> {
        // Constants fold.
        if node.outputs.iter().flatten().any(|&id| self.analysis.constant(id).is_some()) {
            return None;
        }
        match &node.op {
            Op::Transpose { perm } => self.transpose(node, perm),
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Variadic(_)
            | Op::Clip
            | Op::Where
            | Op::Cast { .. }
            | Op::Identity => self.elementwise(node),
            Op::Pad { .. } => self.pad(node),
            Op::Reduce { keep_dims, .. } => self.reduce(node, *keep_dims),
            Op::Softmax { kind, axis } => {
                let (moved, rank) = self.moved_input(node, 0)?;
                let axis = moved.perm[front(*axis, rank)?] as i64;
                self.one(node, Op::Softmax { kind: *kind, axis }, vec![Some(moved.source)], moved.perm)
            }
            Op::Concat { axis } => {
                let (first, rank) = self.moved_input(node, 0)?;
                let sources = node.inputs.iter().map(|id| {
                    let moved = self.moved[id.as_ref()?.index()].as_ref()?;
                    (moved.perm == first.perm).then_some(Some(moved.source))
                });
                let sources: Option<Vec<_>> = sources.collect();
                let axis = first.perm[front(*axis, rank)?] as i64;
                self.one(node, Op::Concat { axis }, sources?, first.perm)
            }
            _ => None,
        }
    }

    /// Writes a node as it is, after the transposes that it needs.
    fn keep(&mut self, node: &Node) {
        let mut node = node.clone();
        for id in node.inputs.iter_mut().flatten() {
            match &self.moved[id.index()] {
                Some(moved) if moved.changes_nothing() => *id = moved.source,
                _ => self.make(*id),
            }
        }
        self.graph.nodes.push(node);
    }

    /// Writes the transpose that makes a value, unless something did so already.
    fn make(&mut self, id: ValueId) {
        if std::mem::replace(&mut self.made[id.index()], true) {
            return;
        }
        let Some(Moved { source, perm }) = self.moved[id.index()].clone() else { return };
        let name = self.graph.value(id).name.clone();
        let shape = self.analysis.shape(id);
        // Where only dimensions of 1 change places, no element does.
        let sizes = |shape: &[usize]| {
            let rest: Vec<usize> =
                perm.iter().enumerate().filter(|&(i, _)| shape[i] != 1).map(|(_, &p)| p).collect();
            rest.is_sorted().then(|| shape.iter().map(|&d| d as i64).collect::<Vec<_>>())
        };
        let (op, inputs) = match shape.and_then(sizes) {
            Some(sizes) if !sizes.contains(&0) => {
                let target = self.constant(&Tensor::from_slice(&[sizes.len()], &sizes));
                (Op::Reshape { allow_zero: false }, vec![Some(source), Some(target)])
            }
            _ => (Op::Transpose { perm }, vec![Some(source)]),
        };
        self.graph.nodes.push(Node { name, op, inputs, outputs: vec![Some(id)] });
    }

    /// Notes that the first output is a source in other order, and so is not made.
    fn note(&mut self, id: ValueId, moved: Moved) {
        self.moved[id.index()] = Some(moved);
        self.made[id.index()] = false;
    }

    /// Writes a node of one output in the order of its sources.
    fn one(&mut self, node: &Node, op: Op, inputs: Vec<Option<ValueId>>, perm: Vec<usize>) -> Option<()> {
        let [Some(output)] = node.outputs[..] else { return None };
        let old = self.graph.value(output);
        let name = self.graph.unique_name(&old.name);
        let value = Value { name, dtype: old.dtype, ..Value::default() };
        let source = self.graph.add_value(value);
        self.graph.nodes.push(Node { name: node.name.clone(), op, inputs, outputs: vec![Some(source)] });
        self.note(output, Moved { source, perm });
        Some(())
    }

    fn constant(&mut self, tensor: &Tensor) -> ValueId {
        let name = self.graph.unique_name("transposed");
        self.graph.add_weight(name, tensor.clone())
    }

    /// How an input was moved, with its rank.
    fn moved_input(&self, node: &Node, index: usize) -> Option<(Moved, usize)> {
        let moved =
            self.moved[node.input(index)?.index()].clone().filter(|moved| !moved.changes_nothing())?;
        let rank = moved.perm.len();
        Some((moved, rank))
    }

    /// The integers of a constant input, or `absent` where it is left out.
    fn integers(&self, node: &Node, index: usize, absent: Vec<i64>) -> Option<Vec<i64>> {
        match node.input(index) {
            Some(id) => Some(self.analysis.constant(id)?.as_slice::<i64>().ok()?.to_vec()),
            None => Some(absent),
        }
    }

    fn transpose(&mut self, node: &Node, perm: &[usize]) -> Option<()> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let rank = self.analysis.shape(input)?.len();
        let reversed: Vec<usize> = (0..rank).rev().collect();
        let perm = if perm.is_empty() { &reversed } else { perm };
        let moved = match &self.moved[input.index()] {
            Some(Moved { source, perm: inner }) => {
                Moved { source: *source, perm: perm.iter().map(|&p| inner[p]).collect() }
            }
            None => Moved { source: input, perm: perm.to_vec() },
        };
        self.note(output, moved);
        Some(())
    }

    /// All inputs are in the same other order, or constants.
    fn elementwise(&mut self, node: &Node) -> Option<()> {
        let rank = self.analysis.shape(node.output(0)?)?.len();
        let moved = |id: &ValueId| self.moved[id.index()].as_ref().filter(|moved| !moved.changes_nothing());
        let perm = node.inputs.iter().flatten().find_map(moved)?.perm.clone();
        if perm.len() != rank {
            return None;
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let mut constants = Vec::new();
        for id in &node.inputs {
            let Some(id) = id else {
                inputs.push(None);
                continue;
            };
            if let Some(moved) = &self.moved[id.index()] {
                if moved.perm != perm {
                    return None;
                }
                inputs.push(Some(moved.source));
                continue;
            }
            let shape = self.analysis.shape(*id)?;
            if shape.iter().any(|&dim| dim != 1) {
                constants.push((inputs.len(), moved_constant(self.analysis.constant(*id)?, &perm)?));
            } else if shape.len() > rank {
                return None;
            }
            inputs.push(Some(*id));
        }
        for (index, tensor) in constants {
            inputs[index] = Some(self.constant(&tensor));
        }
        self.one(node, node.op.clone(), inputs, perm)
    }

    fn pad(&mut self, node: &Node) -> Option<()> {
        let (moved, rank) = self.moved_input(node, 0)?;
        let pads = self.integers(node, 1, Vec::new())?;
        let axes = self.integers(node, 3, (0..rank as i64).collect())?;
        if pads.len() != 2 * axes.len() {
            return None;
        }
        let mut all = vec![0; 2 * rank];
        for (i, &axis) in axes.iter().enumerate() {
            let at = moved.perm[front(axis, rank)?];
            (all[at], all[rank + at]) = (pads[i], pads[axes.len() + i]);
        }
        let pads = self.constant(&Tensor::from_slice(&[all.len()], &all));
        let inputs = vec![Some(moved.source), Some(pads), node.input(2)];
        self.one(node, node.op.clone(), inputs, moved.perm)
    }

    fn reduce(&mut self, node: &Node, keep_dims: bool) -> Option<()> {
        let (moved, rank) = self.moved_input(node, 0)?;
        let axes = self.integers(node, 1, Vec::new())?;
        let axes: Option<Vec<usize>> =
            axes.iter().map(|&axis| Some(moved.perm[front(axis, rank)?])).collect();
        let axes = axes.filter(|axes| !axes.is_empty())?;
        let perm = if keep_dims {
            moved.perm
        } else {
            let place = |p: usize| (0..p).filter(|dim| !axes.contains(dim)).count();
            moved.perm.iter().filter(|p| !axes.contains(p)).map(|&p| place(p)).collect()
        };
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        let axes = self.constant(&Tensor::from_slice(&[axes.len()], &axes));
        self.one(node, node.op.clone(), vec![Some(moved.source), Some(axes)], perm)
    }
}

/// An axis counted from the front.
fn front(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|&axis| axis < rank)
}

/// A constant that broadcasts to a value in the order that the value's source has.
fn moved_constant(tensor: &Tensor, perm: &[usize]) -> Option<Tensor> {
    let missing = perm.len().checked_sub(tensor.rank())?;
    let shape: Vec<usize> = std::iter::repeat_n(1, missing).chain(tensor.shape().iter().copied()).collect();
    let tensor = tensor.reshaped(shape).ok()?;
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &p)| inverse[p] = i);
    let mut outputs = [Output::Fresh(None)];
    ops::run(&Op::Transpose { perm: inverse }, &[Some(tensor.view())], &mut outputs).ok()?;
    let [output] = outputs;
    output.into_tensor().ok()
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Binary, ConvAttributes, PadMode, Padding, ReduceKind, Unary};
    use proptest::prelude::*;

    use super::*;
    use crate::analysis;
    use crate::model::Model;
    use crate::plan::tests::links::chain;
    use crate::plan::tests::{Chain, close, numbers, reference};

    fn rewritten(graph: &Graph, x: &Tensor) -> Option<Graph> {
        let shapes = [("x".to_owned(), x.shape().to_vec())].into();
        rewrite(graph, &analysis::analyze(graph, &shapes), &[])
    }

    fn transposes(graph: &Graph) -> usize {
        graph.nodes.iter().filter(|node| matches!(node.op, Op::Transpose { .. })).count()
    }

    /// A block as converters of channels-last frameworks write it.
    fn channels_last() -> Graph {
        let mut c = Chain::new(&[6, 5, 4]);
        let conv = |c: &mut Chain, seed: usize, size: usize, relu: bool| {
            let pads = c.weight(Tensor::from_slice(&[8], &[0_i64, 1, 0, 0, 0, 0, size as i64 - 1, 0]));
            let x = c.at;
            let y = c.node(Op::Pad { mode: PadMode::Constant }, &[x, pads]);
            let y = c.node(Op::Transpose { perm: vec![0, 3, 1, 2] }, &[y]);
            let w = c.weight(numbers(&[4, 4, size, size], seed, 0.0));
            let padding = Padding::SameUpper;
            let conv =
                ConvAttributes { group: 1, kernel: vec![], strides: vec![], dilations: vec![], padding };
            let y = c.node(Op::Conv(conv), &[y, w]);
            let y = c.node(Op::Transpose { perm: vec![0, 2, 3, 1] }, &[y]);
            let [mean, scale, bias] = [1, 2, 3].map(|i| c.weight(numbers(&[4], seed + i, 0.0)));
            let y = c.binary(Binary::Sub, y, mean);
            let y = c.binary(Binary::Mul, y, scale);
            let y = c.binary(Binary::Add, bias, y);
            if relu { c.unary(Unary::Relu, y) } else { y }
        };
        let x = c.at;
        conv(&mut c, 1, 1, true);
        let y = conv(&mut c, 5, 2, false);
        let w = c.weight(numbers(&[4], 20, 0.0));
        let z = c.binary(Binary::Mul, y, w);
        let axes = c.weight(Tensor::from_slice(&[2], &[1_i64, 2]));
        let reduce =
            |keep_dims| Op::Reduce { kind: ReduceKind::Mean, keep_dims, noop_with_empty_axes: false };
        let mean = c.node(reduce(true), &[z, axes]);
        let sum = c.binary(Binary::Add, z, mean);
        let y = c.node(reduce(false), &[sum, axes]);
        let x = c.node(reduce(false), &[x, axes]);
        c.binary(Binary::Sub, y, x);
        c.finish()
    }

    #[test]
    fn transposes_around_convolutions_go() {
        let (graph, x) = (channels_last(), numbers(&[2, 6, 5, 4], 9, 0.0));
        let better = rewritten(&graph, &x).unwrap();
        Model::from_graph(better.clone()).unwrap();
        // What is left brings the input into the order of convolutions.
        assert_eq!((transposes(&graph), transposes(&better)), (4, 1));
        let feeds = [("x", x)];
        let (found, expected) = (reference(&better, &feeds), reference(&graph, &feeds));
        assert!(close(&found[0], &expected[0]), "{:?} is not {:?}", found[0], expected[0]);
        assert!(rewritten(&better, &feeds[0].1).is_none(), "nothing more to gain");
    }

    #[test]
    fn transposes_that_stay_are_left_alone() {
        let mut c = Chain::new(&[3, 4]);
        let x = c.at;
        let y = c.node(Op::Transpose { perm: vec![0, 2, 1] }, &[x]);
        let y = c.unary(Unary::Relu, y);
        c.binary(Binary::Add, y, y);
        assert!(rewritten(&c.finish(), &numbers(&[2, 3, 4], 1, 0.0)).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn values_stay_what_they_are(
            dims in prop::collection::vec(1_usize..4, 1..3),
            links in prop::collection::vec((
                prop::sample::select(vec![0_u8, 1, 2, 2, 2, 2, 3, 5, 6, 7, 8, 9, 12, 14, 15, 16]),
                [0_usize..12, 0_usize..12, 0_usize..12],
            ), 2..9),
        ) {
            let graph = chain(&dims, 2, &links);
            let shape: Vec<usize> = std::iter::once(2).chain(dims.iter().copied()).collect();
            let x = numbers(&shape, 5, 0.0);
            if let Some(better) = rewritten(&graph, &x) {
                Model::from_graph(better.clone()).unwrap();
                let feeds = [("x", x)];
                let (found, expected) = (reference(&better, &feeds), reference(&graph, &feeds));
                prop_assert!(close(&found[0], &expected[0]), "{:?} is not {:?}", found[0], expected[0]);
            }
        }
    }
}
