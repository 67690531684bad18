//! Which axis of each input and output counts samples, proved by what the graph makes of other sizes.
//!
//! A hypothesis names an axis of some inputs. It holds when the whole graph can be analysed at two sizes of these axes,
//! some output grows along one axis in the same proportion, and (unless the model calls the axis a batch) nothing mixes
//! what lies along it: no sum, softmax, window or recurrence. Where a graph fixes the size inside, so that no other can
//! be tried, declared shapes decide.

use poda_formats::graph::Node;
use poda_formats::{Dim, Graph, Op, ValueId};
use poda_runtime::Analysis;
use poda_runtime::analysis::{analyze, is_batch};
use poda_runtime::ops::OpError;

use crate::shapes::Shapes;

/// How a model takes several samples at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// For each input of the graph, the axis along which samples lie.
    pub inputs: Vec<Option<usize>>,
    /// For each output, the axis along which results of samples lie.
    pub outputs: Vec<Option<usize>>,
    /// The number of samples that every run takes, where the model fixes it.
    pub fixed: Option<usize>,
}

/// Two sizes to compare, in which the parts and multiples that graphs make of a batch are whole numbers.
const TRIED: [usize; 2] = [24, 48];

/// For each input, the axis that is supposed to count samples.
type Axes = Vec<Option<usize>>;

impl Batching {
    /// Of a model whose inputs have such shapes.
    pub fn of(graph: &Graph, shapes: &Shapes) -> Self {
        Self::find(graph, &|axes, size| {
            let mut shapes = shapes.clone();
            for (&id, axis) in graph.inputs.iter().zip(axes) {
                if let Some(axis) = axis {
                    *shapes.get_mut(&graph.value(id).name)?.get_mut(*axis)? = size;
                }
            }
            Some(shapes)
        })
    }

    /// Of a model, where `shapes` gives the shapes of its inputs with `size` along the supposed axes, or `None` where the
    /// supposition makes no sense.
    pub(crate) fn find(graph: &Graph, shapes: &dyn Fn(&[Option<usize>], usize) -> Option<Shapes>) -> Self {
        let named = named(graph);
        let hypotheses = hypotheses(graph, &named);
        let proved = hypotheses.iter().find_map(|axes| {
            let [first, second] = TRIED.map(|size| shapes(axes, size));
            let outputs = prove(graph, &first?, &second?, *axes != named)?;
            Some(Self { inputs: axes.clone(), outputs, fixed: fixed(graph, axes) })
        });
        let declared = || {
            hypotheses.iter().find_map(|axes| {
                shapes(axes, fixed(graph, axes).unwrap_or(1))?;
                let outputs = declared(graph, axes, *axes == named)?;
                Some(Self { inputs: axes.clone(), outputs, fixed: fixed(graph, axes) })
            })
        };
        proved.or_else(declared).unwrap_or_else(|| Self {
            inputs: vec![None; graph.inputs.len()],
            outputs: vec![None; graph.outputs.len()],
            fixed: Some(1),
        })
    }

    /// Samples in a run whose inputs have such shapes.
    pub fn samples(&self, graph: &Graph, shapes: &Shapes) -> usize {
        let size = |(&id, axis): (&ValueId, &Option<usize>)| {
            shapes.get(&graph.value(id).name)?.get((*axis)?).copied()
        };
        graph.inputs.iter().zip(&self.inputs).find_map(size).unwrap_or(1)
    }

    /// Whether a run takes samples along some axis; otherwise each run is one sample.
    pub fn is_batched(&self) -> bool {
        self.inputs.iter().any(Option::is_some)
    }
}

/// The axes that the model itself calls a batch.
fn named(graph: &Graph) -> Axes {
    let axis = |&id: &ValueId| {
        let dims = graph.value(id).shape.as_ref()?.iter().enumerate();
        dims.into_iter().find_map(|(axis, dim)| match dim {
            Dim::Symbol(symbol) if is_batch(symbol, axis) => Some(axis),
            Dim::Symbol(_) | Dim::Fixed(_) => None,
        })
    };
    graph.inputs.iter().map(axis).collect()
}

/// What to try, the likelier first: the named axes; in every input the first axis of the size that the first input begins
/// with (a state of a recurrence is `[layers, batch, size]`); the first of every input; the first of one input alone.
fn hypotheses(graph: &Graph, named: &Axes) -> Vec<Axes> {
    let shape = |id: ValueId| graph.value(id).shape.as_deref();
    let leads = |id: ValueId| shape(id).is_none_or(|dims| !dims.is_empty()).then_some(0);
    let first: Axes = graph.inputs.iter().map(|&id| leads(id)).collect();
    let size = graph.inputs.first().and_then(|&id| shape(id)?.first());
    let equal = |&id: &ValueId| size.and_then(|size| shape(id)?.iter().position(|dim| dim == size));
    let mut all = vec![named.clone(), graph.inputs.iter().map(equal).collect(), first.clone()];
    for (index, axis) in first.iter().enumerate() {
        let mut alone = vec![None; first.len()];
        alone[index] = *axis;
        all.push(alone);
    }
    all.retain(|axes| axes.iter().any(Option::is_some));
    let mut distinct: Vec<Axes> = Vec::new();
    for axes in all {
        if !distinct.contains(&axes) {
            distinct.push(axes);
        }
    }
    distinct
}

/// The size that the model fixes along some of these axes.
fn fixed(graph: &Graph, axes: &Axes) -> Option<usize> {
    let size = |(&id, axis): (&ValueId, &Option<usize>)| match graph.value(id).shape.as_ref()?.get((*axis)?) {
        Some(Dim::Fixed(size)) => Some(*size),
        Some(Dim::Symbol(_)) | None => None,
    };
    graph.inputs.iter().zip(axes).find_map(size)
}

/// The axis along which each output grows with the inputs; `None` where none does, or the graph does not take the sizes.
fn prove(graph: &Graph, first: &Shapes, second: &Shapes, strict: bool) -> Option<Axes> {
    let supported = |analysis: &Analysis| {
        analysis.failures.iter().all(|(_, error)| matches!(error, OpError::Unsupported { .. }))
    };
    let [first, second] = [first, second].map(|shapes| analyze(graph, shapes));
    if !supported(&first) || !supported(&second) {
        return None;
    }
    let pair = Pair { first: &first, second: &second };
    if strict && graph.nodes.iter().any(|node| pair.mixes(node)) {
        return None;
    }
    let outputs: Axes = graph.outputs.iter().map(|&id| pair.grows(id)).collect();
    outputs.iter().any(Option::is_some).then_some(outputs)
}

/// The axes of the outputs by their declared shapes alone: those of the same name as the batch, or, where its size is
/// fixed, first ones of that size. With `named`, the inputs' names are enough, even if outputs say nothing.
fn declared(graph: &Graph, axes: &Axes, named: bool) -> Option<Axes> {
    let dims = |(&id, axis): (&ValueId, &Option<usize>)| graph.value(id).shape.as_ref()?.get((*axis)?);
    let mut batches = graph.inputs.iter().zip(axes).filter_map(dims);
    let batch = batches.next()?;
    if batches.any(|dim| dim != batch) {
        return None;
    }
    let output = |&id: &ValueId| {
        let shape = graph.value(id).shape.as_ref()?;
        match batch {
            Dim::Fixed(_) => (shape.first() == Some(batch)).then_some(0),
            Dim::Symbol(symbol) if symbol.is_empty() => None,
            Dim::Symbol(_) => shape.iter().position(|dim| dim == batch),
        }
    };
    let outputs: Axes = graph.outputs.iter().map(output).collect();
    (named || outputs.iter().any(Option::is_some)).then_some(outputs)
}

/// What follows from two sizes.
struct Pair<'a> {
    first: &'a Analysis,
    second: &'a Analysis,
}

impl Pair<'_> {
    /// Both shapes of a value, where they are known and of one rank.
    fn shapes(&self, id: Option<ValueId>) -> Option<(&[usize], &[usize])> {
        let (a, b) = (self.first.shape(id?)?, self.second.shape(id?)?);
        (a.len() == b.len()).then_some((a, b))
    }

    /// Whether the size of an axis changes. Negative axes count from the end.
    fn changes(&self, id: Option<ValueId>, axis: i64) -> bool {
        self.shapes(id).is_some_and(|(a, b)| {
            let axis = if axis < 0 { axis + a.len() as i64 } else { axis };
            usize::try_from(axis).is_ok_and(|axis| a.get(axis) != b.get(axis))
        })
    }

    /// Whether the size of any axis from `from` on changes.
    fn changes_from(&self, id: Option<ValueId>, from: usize) -> bool {
        self.shapes(id).is_some_and(|(a, b)| a.iter().zip(b).skip(from).any(|(a, b)| a != b))
    }

    /// The one axis whose size changes, if it does so in proportion.
    fn grows(&self, id: ValueId) -> Option<usize> {
        let (a, b) = self.shapes(Some(id))?;
        let mut changed = (0..a.len()).filter(|&axis| a[axis] != b[axis]);
        let axis = changed.next()?;
        let whole = a[axis].is_multiple_of(TRIED[0]) && a[axis] * TRIED[1] == b[axis] * TRIED[0];
        (whole && changed.next().is_none()).then_some(axis)
    }

    /// Whether an operator mixes elements along an axis whose size changes.
    fn mixes(&self, node: &Node) -> bool {
        let x = node.input(0);
        match &node.op {
            Op::MatMul | Op::MatMulInteger | Op::QLinearMatMul => self.changes(x, -1),
            Op::Gemm { trans_a, .. } => self.changes(x, i64::from(!trans_a)),
            Op::Conv(_)
            | Op::ConvTranspose { .. }
            | Op::ConvInteger(_)
            | Op::QLinearConv(_)
            | Op::Pool(_)
            | Op::GlobalPool { .. }
            | Op::Resize(_)
            | Op::Attention(_) => self.changes_from(x, 1),
            Op::Recurrent(attributes) => self.changes(x, i64::from(attributes.batch_first)),
            Op::Softmax { axis, .. } => self.changes(x, *axis),
            Op::Reduce { .. } | Op::ArgReduce { .. } => {
                self.changes_from(x, 0) && !self.changes_from(node.output(0), 0)
            }
            Op::Cumulative { .. } => {
                let axis = node.input(1).and_then(|id| self.first.constant(id));
                let axis = axis.and_then(|axis| axis.as_slice::<i64>().ok()?.first().copied());
                self.changes(x, axis.unwrap_or(0))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use poda_formats::op::{Direction, RecurrentAttributes, RecurrentKind, SoftmaxKind};
    use poda_formats::{DataType, Tensor};

    use super::*;

    fn dims(text: &str) -> Vec<Dim> {
        let dim = |d: &str| d.parse().map_or_else(|_| Dim::Symbol(d.to_owned()), Dim::Fixed);
        text.split_whitespace().map(dim).collect()
    }

    fn shapes(of: &[(&str, &[usize])]) -> Shapes {
        of.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
    }

    /// `x · [8, 5]`.
    fn product(x: &str) -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, dims(x));
        let w = graph.add_weight("w", Tensor::zeros(DataType::F32, &[8, 5]));
        let y = graph.add_node(Op::MatMul, &[x, w], "y");
        graph.outputs.push(y);
        graph
    }

    #[test]
    fn the_batch_is_named_first_or_fixed() {
        for (declared, shape, axis, fixed, samples) in [
            ("batch 8", &[16, 8][..], Some(0), None, 16),
            ("rows 8", &[16, 8], Some(0), None, 16),
            ("4 8", &[4, 8], Some(0), Some(4), 4),
            ("seq batch 8", &[7, 3, 8], Some(1), None, 3),
            ("8", &[8], None, Some(1), 1),
        ] {
            let graph = product(declared);
            let shapes = shapes(&[("x", shape)]);
            let batching = Batching::of(&graph, &shapes);
            assert_eq!(batching, Batching { inputs: vec![axis], outputs: vec![axis], fixed }, "{declared}");
            assert_eq!(batching.samples(&graph, &shapes), samples);
        }
    }

    #[test]
    fn an_axis_along_which_something_mixes_is_no_batch() {
        let mut graph = product("9 8");
        let scores = graph.outputs[0];
        let op = Op::Softmax { kind: SoftmaxKind::Softmax, axis: 0 };
        let y = graph.add_node(op, &[scores], "over rows");
        graph.outputs = vec![y];
        assert!(!Batching::of(&graph, &shapes(&[("x", &[9, 8])])).is_batched());
    }

    /// A recurrence over `[steps, batch, 8]` with a state `[1, batch, 8]`: not the steps.
    #[test]
    fn a_state_has_its_batch_in_the_middle() {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, dims("6 2 8"));
        let state = graph.add_input("state", DataType::F32, dims("1 2 8"));
        let w = graph.add_weight("w", Tensor::zeros(DataType::F32, &[1, 8, 8]));
        let swapped = graph.add_node(Op::Transpose { perm: vec![1, 0, 2] }, &[x], "swapped");
        let op = Op::Recurrent(RecurrentAttributes {
            kind: RecurrentKind::Rnn,
            hidden_size: 8,
            direction: Direction::Forward,
            activations: Vec::new(),
            activation_alpha: Vec::new(),
            activation_beta: Vec::new(),
            clip: None,
            batch_first: false,
        });
        // The graph's own input is `[batch, steps, 8]`.
        let node = Node {
            name: "rnn".into(),
            op,
            inputs: vec![Some(swapped), Some(w), Some(w), None, None, Some(state)],
            outputs: Vec::new(),
        };
        let y = graph.add_value(poda_formats::Value { name: "y".into(), ..Default::default() });
        graph.nodes.push(Node { outputs: vec![Some(y)], ..node });
        graph.outputs.push(y);
        graph.value_mut(x).shape = Some(dims("2 6 8"));
        let batching = Batching::of(
            &graph,
            &BTreeMap::from([("x".to_owned(), vec![2, 6, 8]), ("state".to_owned(), vec![1, 2, 8])]),
        );
        assert_eq!(batching.inputs, [Some(0), Some(1)]);
        assert_eq!(batching.outputs, [Some(2)]);
        assert_eq!(batching.fixed, Some(2));
    }

    #[test]
    fn a_batch_that_a_graph_fixes_inside_is_known_by_the_declared_shapes() {
        let mut graph = product("4 8");
        let shape = graph.add_weight("shape", Tensor::from_slice(&[3], &[4_i64, 5, 1]));
        let y = graph.outputs[0];
        let z = graph.add_node(Op::Reshape { allow_zero: false }, &[y, shape], "z");
        graph.value_mut(z).shape = Some(dims("4 5 1"));
        graph.outputs = vec![z];
        let batching = Batching::of(&graph, &shapes(&[("x", &[4, 8])]));
        assert_eq!(
            (batching.inputs, batching.outputs, batching.fixed),
            (vec![Some(0)], vec![Some(0)], Some(4))
        );
    }
}
