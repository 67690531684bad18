//! Plans against the specification: every node on its own, in order, with fresh outputs.

mod attention;
mod chain;
mod control;
pub(crate) mod links;
mod narrow;
mod products;
mod quantised;
mod traps;

use std::collections::HashMap;

use poda_formats::op::{Binary, ConvAttributes, Padding, PoolAttributes, PoolKind, ReduceKind, Unary};
use poda_formats::{DataType, Dim, Graph, Op, Tensor, TensorView, ValueId};
use proptest::prelude::*;

use crate::executable::{Executable, PrepareError, RunError};
use crate::feeds::FeedError;
use crate::model::Model;
use crate::ops;
use crate::optimize::Passes;
use crate::options::{Options, RunOptions};
use crate::output::Output;

/// Runs every node with fresh outputs.
pub(crate) fn reference(graph: &Graph, feeds: &[(&str, Tensor)]) -> Vec<Tensor> {
    let mut values: HashMap<ValueId, Tensor> = HashMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        let id = ValueId(index as u32);
        if let Some(weight) = &value.weight {
            values.insert(id, weight.to_dense().unwrap());
        } else if let Some((_, tensor)) = feeds.iter().find(|(name, _)| *name == value.name) {
            values.insert(id, tensor.clone());
        }
    }
    for node in &graph.nodes {
        let inputs: Vec<_> = node.inputs.iter().map(|i| i.map(|id| values[&id].view())).collect();
        let mut outputs: Vec<_> = node.outputs.iter().map(|_| Output::Fresh(None)).collect();
        ops::run(&node.op, &inputs, &mut outputs).unwrap();
        for (id, output) in node.outputs.iter().zip(outputs) {
            values.insert(id.unwrap(), output.into_tensor().unwrap());
        }
    }
    graph.outputs.iter().map(|id| values[id].clone()).collect()
}

fn views<'a>(feeds: &'a [(&'a str, Tensor)]) -> Vec<(&'a str, TensorView<'a>)> {
    feeds.iter().map(|(name, tensor)| (*name, tensor.view())).collect()
}

fn prepare(graph: &Graph, threads: usize, fuse: bool) -> Executable {
    let passes = if fuse { Passes::all() } else { Passes::none() };
    let options = Options { threads: Some(threads), passes, tune: false, ..Options::default() };
    Model::from_graph(graph.clone()).unwrap().prepare(options).unwrap()
}

pub(crate) fn close(found: &Tensor, expected: &Tensor) -> bool {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        return false;
    }
    let (Ok(a), Ok(b)) = (found.as_slice::<f32>(), expected.as_slice::<f32>()) else {
        return found == expected;
    };
    let same =
        |a: f32, b: f32| (a - b).abs() <= 1e-4 + 1e-4 * b.abs() || a == b || (a.is_nan() && b.is_nan());
    a.iter().zip(b).all(|(&a, &b)| same(a, b))
}

/// Checks plans with and without fusion, on one thread and two.
fn check(graph: &Graph, feeds: &[(&str, Tensor)]) {
    let expected = reference(graph, feeds);
    for (threads, fuse) in [(1, false), (1, true), (2, true)] {
        let executable = prepare(graph, threads, fuse);
        for _ in 0..2 {
            let found = executable.run(&views(feeds)).unwrap();
            assert_eq!(found.len(), expected.len());
            for ((name, found), expected) in found.iter().zip(&expected) {
                assert!(close(found, expected), "{name}, fuse {fuse}: {found:?} is not {expected:?}");
            }
        }
    }
}

/// Numbers that look random, a fraction of them zero.
pub(crate) fn numbers(shape: &[usize], seed: usize, sparsity: f32) -> Tensor {
    let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| if next() < sparsity { 0.0 } else { next() * 2.0 - 1.0 })
        .collect();
    Tensor::from_slice(shape, &values)
}

fn batch_of(shape: &[usize]) -> Vec<Dim> {
    let rest = shape.iter().map(|&d| Dim::Fixed(d));
    std::iter::once(Dim::Symbol("batch".into())).chain(rest).collect()
}

/// A chain of nodes on one value.
pub(crate) struct Chain {
    pub(crate) graph: Graph,
    pub(crate) at: ValueId,
    pub(crate) count: usize,
}

impl Chain {
    pub(crate) fn new(input: &[usize]) -> Self {
        let mut graph = Graph::default();
        let at = graph.add_input("x", DataType::F32, batch_of(input));
        Self { graph, at, count: 0 }
    }

    /// A chain that starts with the first of these inputs, of fixed shapes; gives all of them.
    fn fed(feeds: &[(&str, Tensor)]) -> (Self, Vec<ValueId>) {
        let mut graph = Graph::default();
        let input = |(name, tensor): &(&str, Tensor)| {
            let dims = tensor.shape().iter().map(|&d| Dim::Fixed(d)).collect();
            graph.add_input(*name, tensor.dtype(), dims)
        };
        let inputs: Vec<ValueId> = feeds.iter().map(input).collect();
        (Self { graph, at: inputs[0], count: 0 }, inputs)
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("v{}", self.count)
    }

    pub(crate) fn weight(&mut self, tensor: Tensor) -> ValueId {
        let name = self.name();
        self.graph.add_weight(name, tensor)
    }

    fn scalar(&mut self, value: f32) -> ValueId {
        self.weight(Tensor::scalar(value))
    }

    pub(crate) fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = self.name();
        self.at = self.graph.add_node(op, inputs, name);
        self.at
    }

    pub(crate) fn unary(&mut self, f: Unary, x: ValueId) -> ValueId {
        self.node(Op::Unary(f), &[x])
    }

    pub(crate) fn binary(&mut self, f: Binary, a: ValueId, b: ValueId) -> ValueId {
        self.node(Op::Binary(f), &[a, b])
    }

    fn by(&mut self, f: Binary, a: ValueId, b: f32) -> ValueId {
        let b = self.scalar(b);
        self.binary(f, a, b)
    }

    pub(crate) fn finish(mut self) -> Graph {
        self.graph.outputs.push(self.at);
        self.graph
    }
}

fn conv(group: usize, stride: usize, pad: i64) -> Op {
    Op::Conv(ConvAttributes {
        group,
        kernel: vec![],
        strides: vec![stride; 2],
        dilations: vec![],
        padding: Padding::Explicit(vec![pad; 4]),
    })
}

/// Convolutions of every form with batch-norm, activations and a residual, then a pool and a Gemm.
fn cnn(sparsity: f32) -> Graph {
    let mut c = Chain::new(&[3, 9, 8]);
    let norm = |c: &mut Chain, x: ValueId, channels: usize, seed: usize| {
        let mut inputs = vec![x];
        for i in 0..4 {
            let positive = numbers(&[channels], seed + i, 0.0);
            let values: Vec<f32> =
                positive.as_slice::<f32>().unwrap().iter().map(|v| v.abs() + 0.1).collect();
            inputs.push(c.weight(Tensor::from_slice(&[channels], &values)));
        }
        c.node(Op::BatchNormalization { epsilon: 1e-3 }, &inputs)
    };
    let w = c.weight(numbers(&[8, 3, 3, 3], 1, sparsity));
    let b = c.weight(numbers(&[8], 2, 0.0));
    let x = c.at;
    let x = c.node(conv(1, 1, 1), &[x, w, b]);
    let x = norm(&mut c, x, 8, 10);
    let stem = c.unary(Unary::Relu, x);
    let w = c.weight(numbers(&[8, 1, 3, 3], 3, 0.0));
    let x = c.node(conv(8, 1, 1), &[stem, w]);
    let x = norm(&mut c, x, 8, 20);
    let x = c.unary(Unary::HardSwish, x);
    let w = c.weight(numbers(&[8, 8, 1, 1], 4, sparsity));
    let x = c.node(conv(1, 1, 0), &[x, w]);
    let x = norm(&mut c, x, 8, 30);
    let x = c.binary(Binary::Add, x, stem);
    let x = c.unary(Unary::Relu, x);
    let w = c.weight(numbers(&[16, 4, 3, 3], 5, sparsity));
    let x = c.node(conv(2, 2, 1), &[x, w]);
    let shift = c.weight(numbers(&[16, 1, 1], 6, 0.0));
    let x = c.binary(Binary::Add, x, shift);
    let low = c.scalar(0.0);
    let high = c.scalar(6.0);
    let x = c.node(Op::Clip, &[x, low, high]);
    let x = c.node(Op::GlobalPool { kind: PoolKind::Average }, &[x]);
    // Squeeze and excite.
    let w = c.weight(numbers(&[4, 16, 1, 1], 7, sparsity));
    let s = c.node(conv(1, 1, 0), &[x, w]);
    let gate = c.unary(Unary::Sigmoid, s);
    let s = c.binary(Binary::Mul, s, gate);
    let w = c.weight(numbers(&[16, 4, 1, 1], 8, sparsity));
    let s = c.node(conv(1, 1, 0), &[s, w]);
    let s = c.unary(Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }, s);
    let x = c.binary(Binary::Mul, x, s);
    let x = c.node(Op::Flatten { axis: 1 }, &[x]);
    let w = c.weight(numbers(&[16, 10], 9, sparsity));
    let b = c.weight(numbers(&[10], 40, 0.0));
    c.node(Op::Gemm { alpha: 0.5, beta: 2.0, trans_a: false, trans_b: false }, &[x, w, b]);
    c.finish()
}

#[test]
fn convolutions_and_their_epilogues() {
    for sparsity in [0.0, 0.8] {
        let graph = cnn(sparsity);
        for batch in [1, 3] {
            check(&graph, &[("x", numbers(&[batch, 3, 9, 8], 50, 0.0))]);
        }
    }
    let steps = |fuse| {
        let x = numbers(&[1, 3, 9, 8], 50, 0.0);
        prepare(&cnn(0.0), 1, fuse).profile(&[("x", x.view())], 1).unwrap().nodes.len()
    };
    // 7 products, the pool, and the multiplication with the gate.
    assert_eq!(steps(true), 9);
    assert!(steps(false) > 15);
}

#[test]
fn one_dimensional_and_padded_convolutions() {
    let mut c = Chain::new(&[4, 11]);
    let w = c.weight(numbers(&[6, 2, 3], 1, 0.5));
    let x = c.at;
    let attributes =
        |padding| ConvAttributes { group: 2, kernel: vec![3], strides: vec![2], dilations: vec![2], padding };
    let y = c.node(Op::Conv(attributes(Padding::SameUpper)), &[x, w]);
    let pads = c.weight(Tensor::from_slice(&[6], &[0_i64, 0, 2, 0, 0, 1]));
    let y = c.node(Op::Pad { mode: poda_formats::op::PadMode::Constant }, &[y, pads]);
    let w = c.weight(numbers(&[6, 3, 3], 2, 0.0));
    c.node(Op::Conv(attributes(Padding::Explicit(vec![1, 0]))), &[y, w]);
    check(&c.finish(), &[("x", numbers(&[2, 4, 11], 3, 0.0))]);
}

/// Functions of one value spelled out, and whether they are to be recognised.
fn spelled_out() -> Vec<(&'static str, bool, Graph)> {
    let chain = || {
        let c = Chain::new(&[5, 8]);
        let x = c.at;
        (c, x)
    };
    let mut cases = Vec::new();
    let (mut c, x) = chain();
    let e = c.by(Binary::Div, x, std::f32::consts::SQRT_2);
    let e = c.unary(Unary::Erf, e);
    let e = c.by(Binary::Add, e, 1.0);
    let y = c.binary(Binary::Mul, x, e);
    c.by(Binary::Mul, y, 0.5);
    cases.push(("gelu", true, c.finish()));

    let (mut c, x) = chain();
    let e = c.by(Binary::Mul, x, std::f32::consts::FRAC_1_SQRT_2);
    let e = c.unary(Unary::Erf, e);
    let e = c.by(Binary::Add, e, 1.0);
    let half = c.by(Binary::Mul, x, 0.5);
    c.binary(Binary::Mul, half, e);
    cases.push(("gelu, half first", true, c.finish()));

    let (mut c, x) = chain();
    let cube = c.by(Binary::Pow, x, 3.0);
    let cube = c.by(Binary::Mul, cube, 0.044_715);
    let t = c.binary(Binary::Add, x, cube);
    let t = c.by(Binary::Mul, t, 0.797_884_6);
    let t = c.unary(Unary::Tanh, t);
    let t = c.by(Binary::Add, t, 1.0);
    let half = c.by(Binary::Mul, x, 0.5);
    c.binary(Binary::Mul, half, t);
    cases.push(("gelu by tanh", true, c.finish()));

    let (mut c, x) = chain();
    let a = c.by(Binary::Mul, x, 0.044_715);
    let a = c.binary(Binary::Mul, a, x);
    let a = c.by(Binary::Add, a, 1.0);
    let b = c.by(Binary::Mul, x, 0.797_884_6);
    let t = c.binary(Binary::Mul, b, a);
    let t = c.unary(Unary::Tanh, t);
    let t = c.by(Binary::Add, t, 1.0);
    let half = c.by(Binary::Mul, x, 0.5);
    c.binary(Binary::Mul, half, t);
    cases.push(("gelu by tanh, factored", true, c.finish()));

    let (mut c, x) = chain();
    let s = c.by(Binary::Mul, x, 1.702);
    let s = c.unary(Unary::Sigmoid, s);
    c.binary(Binary::Mul, x, s);
    cases.push(("quick gelu", true, c.finish()));

    let (mut c, x) = chain();
    let s = c.by(Binary::Add, x, 3.0);
    let (low, high) = (c.scalar(0.0), c.scalar(6.0));
    let s = c.node(Op::Clip, &[s, low, high]);
    let s = c.binary(Binary::Mul, x, s);
    c.by(Binary::Div, s, 6.0);
    cases.push(("hard swish", true, c.finish()));

    let mean = |c: &mut Chain, x: ValueId| {
        let axes = c.weight(Tensor::from_slice(&[1], &[-1_i64]));
        let kind = ReduceKind::Mean;
        c.node(Op::Reduce { kind, keep_dims: true, noop_with_empty_axes: false }, &[x, axes])
    };
    let (mut c, x) = chain();
    let m = mean(&mut c, x);
    let d = c.binary(Binary::Sub, x, m);
    let v = c.by(Binary::Pow, d, 2.0);
    let v = mean(&mut c, v);
    let v = c.by(Binary::Add, v, 1e-5);
    let v = c.unary(Unary::Sqrt, v);
    let y = c.binary(Binary::Div, d, v);
    let (scale, bias) = (c.weight(numbers(&[8], 5, 0.0)), c.weight(numbers(&[8], 6, 0.0)));
    let y = c.binary(Binary::Mul, scale, y);
    c.binary(Binary::Add, y, bias);
    cases.push(("layer norm", true, c.finish()));

    let (mut c, x) = chain();
    let v = c.binary(Binary::Mul, x, x);
    let v = mean(&mut c, v);
    let v = c.by(Binary::Add, v, 1e-5);
    let v = c.unary(Unary::Sqrt, v);
    let v = c.unary(Unary::Reciprocal, v);
    let y = c.binary(Binary::Mul, x, v);
    let scale = c.weight(numbers(&[8], 5, 0.0));
    c.binary(Binary::Mul, y, scale);
    cases.push(("rms norm", true, c.finish()));

    // Not quite: a wrong constant, and a factor that someone else wants.
    let (mut c, x) = chain();
    let e = c.by(Binary::Div, x, 1.5);
    let e = c.unary(Unary::Erf, e);
    let e = c.by(Binary::Add, e, 1.0);
    let y = c.binary(Binary::Mul, x, e);
    c.by(Binary::Mul, y, 0.5);
    cases.push(("almost gelu", false, c.finish()));
    cases
}

#[test]
fn functions_spelled_out_are_recognised() {
    for (name, recognised, graph) in spelled_out() {
        let feeds = [("x", numbers(&[2, 5, 8], 7, 0.0))];
        check(&graph, &feeds);
        let profile = prepare(&graph, 1, true).profile(&views(&feeds), 1).unwrap();
        // Other functions in a row are one step as well, but named by what they are.
        let found = profile.nodes.len() == 1 && !profile.nodes[0].kernel.contains('+');
        assert_eq!(found, recognised, "{name}: {profile:?}");
    }
}

#[test]
fn a_multi_layer_perceptron_fuses_into_products() {
    let mut c = Chain::new(&[7, 12]);
    let x = c.at;
    let w = c.weight(numbers(&[12, 20], 1, 0.9));
    let y = c.node(Op::MatMul, &[x, w]);
    let b = c.weight(numbers(&[20], 2, 0.0));
    let y = c.binary(Binary::Add, b, y);
    let e = c.by(Binary::Div, y, std::f32::consts::SQRT_2);
    let e = c.unary(Unary::Erf, e);
    let e = c.by(Binary::Add, e, 1.0);
    let y = c.binary(Binary::Mul, y, e);
    let y = c.by(Binary::Mul, y, 0.5);
    let w = c.weight(numbers(&[20, 12], 3, 0.0));
    let y = c.node(Op::MatMul, &[y, w]);
    let b = c.weight(numbers(&[12], 4, 0.0));
    let y = c.binary(Binary::Add, y, b);
    c.binary(Binary::Add, y, x);
    let graph = c.finish();
    let feeds = [("x", numbers(&[2, 7, 12], 7, 0.0))];
    check(&graph, &feeds);
    let profile = prepare(&graph, 1, true).profile(&views(&feeds), 3).unwrap();
    assert_eq!(profile.nodes.len(), 2, "{profile:?}");
    assert_eq!(profile.nodes[0].macs, 2 * 7 * 12 * 20);
    assert!(profile.nodes[0].macs_nonzero < profile.nodes[0].macs / 4);
}

#[test]
fn results_may_be_inputs_weights_and_one_another() {
    let mut c = Chain::new(&[4]);
    let x = c.at;
    let w = c.weight(numbers(&[4], 1, 0.0));
    let y = c.binary(Binary::Add, x, w);
    let shape = c.weight(Tensor::from_slice(&[2], &[-1_i64, 2]));
    let z = c.node(Op::Reshape { allow_zero: false }, &[y, shape]);
    let r = c.node(Op::Reshape { allow_zero: false }, &[x, shape]);
    let t = c.unary(Unary::Neg, z);
    let mut graph = c.graph;
    graph.outputs.extend([x, w, y, z, y, r, t]);
    check(&graph, &[("x", numbers(&[3, 4], 2, 0.0))]);
}

#[test]
fn shapes_known_only_during_the_run() {
    let mut c = Chain::new(&[6]);
    let x = c.at;
    let y = c.unary(Unary::Relu, x);
    let at = c.node(Op::NonZero, &[y]);
    let found = c.node(Op::Transpose { perm: vec![1, 0] }, &[at]);
    let mut graph = c.graph;
    graph.outputs.extend([found, y]);
    check(&graph, &[("x", numbers(&[3, 6], 2, 0.3))]);
}

#[test]
fn an_empty_batch_gives_an_empty_result() {
    let feeds = [("x", Tensor::zeros(DataType::F32, &[0, 3, 9, 8]))];
    let found = prepare(&cnn(0.8), 2, true).run(&views(&feeds)).unwrap();
    assert_eq!(found[0].1.shape(), [0, 10]);
}

#[test]
fn intermediate_values_can_be_had() {
    let graph = cnn(0.5);
    let executable = prepare(&graph, 1, true);
    let x = numbers(&[1, 3, 9, 8], 50, 0.0);
    let mut all = graph.clone();
    let extra: Vec<ValueId> = graph.nodes.iter().filter_map(|n| n.output(0)).collect();
    all.outputs.extend(&extra);
    let expected = reference(&all, &[("x", x.clone())]);
    let found = executable
        .run_with(&[("x", x.view())], &RunOptions { extra: &extra, ..RunOptions::default() })
        .unwrap();
    assert_eq!(found.len(), expected.len());
    for ((name, found), expected) in found.iter().zip(&expected) {
        assert!(close(found, expected), "{name}");
    }
    let nowhere = RunOptions { extra: &[ValueId(9999)], ..RunOptions::default() };
    let missing = executable.run_with(&[("x", x.view())], &nowhere);
    assert!(matches!(missing, Err(RunError::NoSuchValue { index: 9999, .. })));
}

#[test]
fn many_threads_run_one_executable() {
    let graph = cnn(0.8);
    for threads in [1, 2] {
        let executable = prepare(&graph, threads, true);
        std::thread::scope(|scope| {
            for t in 0..4 {
                let (executable, graph) = (&executable, &graph);
                scope.spawn(move || {
                    for i in 0..6 {
                        let feeds = [("x", numbers(&[1 + (t + i) % 3, 3, 9, 8], 100 + t * 10 + i, 0.0))];
                        let found = executable.run(&views(&feeds)).unwrap();
                        assert!(close(&found[0].1, &reference(graph, &feeds)[0]));
                    }
                });
            }
        });
    }
}

#[test]
fn feeds_that_do_not_fit_are_refused() {
    let mut graph = Graph::default();
    let dims = |rest: usize| vec![Dim::Symbol("batch".into()), Dim::Fixed(rest)];
    let a = graph.add_input("a", DataType::F32, dims(2));
    let b = graph.add_input("b", DataType::F32, dims(2));
    let y = graph.add_node(Op::Binary(Binary::Add), &[a, b], "y");
    graph.outputs.push(y);
    let executable = prepare(&graph, 1, true);
    let f = |shape: &[usize]| Tensor::zeros(DataType::F32, shape);
    let run = |feeds: &[(&str, Tensor)]| match executable.run(&views(feeds)) {
        Err(RunError::Feed(error)) => error,
        other => panic!("{other:?}"),
    };
    let ok = || ("a", f(&[3, 2]));
    assert!(matches!(run(&[ok()]), FeedError::Missing { name } if name == "b"));
    assert!(matches!(run(&[ok(), ok()]), FeedError::Duplicate { name } if name == "a"));
    assert!(matches!(run(&[ok(), ("c", f(&[3, 2]))]), FeedError::Unknown { name, .. } if name == "c"));
    assert!(matches!(run(&[ok(), ("b", f(&[3]))]), FeedError::Rank { expected: 2, .. }));
    assert!(matches!(run(&[ok(), ("b", f(&[3, 4]))]), FeedError::Dimension { axis: 1, expected: 2, .. }));
    let wrong = Tensor::zeros(DataType::F64, &[3, 2]);
    assert!(matches!(run(&[ok(), ("b", wrong)]), FeedError::Type { .. }));
    assert!(executable.run(&views(&[ok(), ("b", f(&[3, 2]))])).is_ok());
}

#[test]
fn dimensions_of_one_name_may_differ() {
    let mut graph = Graph::default();
    let open = || Dim::Symbol("N".into());
    let a = graph.add_input("a", DataType::F32, vec![open(), Dim::Fixed(2)]);
    let b = graph.add_input("b", DataType::F32, vec![Dim::Fixed(2), open()]);
    let y = graph.add_node(Op::MatMul, &[a, b], "y");
    graph.outputs.push(y);
    let executable = prepare(&graph, 1, true);
    let ones = |shape: &[usize]| Tensor::from_slice(shape, &vec![1.0_f32; shape.iter().product()]);
    let outputs = executable.run(&views(&[("a", ones(&[3, 2])), ("b", ones(&[2, 5]))])).unwrap();
    assert_eq!(outputs[0].1, Tensor::from_slice(&[3, 5], &[2.0_f32; 15]));
    let shapes = [("a", &[3, 2][..]), ("b", &[2, 5])];
    let conflicts = crate::feeds::conflicts(&graph, shapes);
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].dims, [("a".to_owned(), 0, 3), ("b".to_owned(), 1, 5)]);
    assert!(crate::feeds::conflicts(&graph, [("a", &[3, 2][..]), ("b", &[2, 3])]).is_empty());
}

#[test]
fn another_value_may_be_fed_for_a_weight_that_allows_it() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(2)]);
    let w = graph.add_weight("w", Tensor::from_slice(&[2, 1], &[1.0_f32, 10.0]));
    let bias = graph.add_weight("bias", Tensor::from_slice(&[1], &[0.5_f32]));
    let product = graph.add_node(Op::MatMul, &[x, w], "product");
    let y = graph.add_node(Op::Binary(Binary::Add), &[product, bias], "y");
    graph.outputs.push(y);
    graph.value_mut(w).overridable = true;
    graph.value_mut(w).shape = Some(vec![Dim::Fixed(2), Dim::Symbol("n".into())]);
    let executable = prepare(&graph, 2, true);
    let f = |shape: &[usize], values: &[f32]| Tensor::from_slice(shape, values);
    let x = || ("x", f(&[1, 2], &[1.0, 2.0]));
    for _ in 0..2 {
        let y = executable.run(&views(&[x()])).unwrap();
        assert_eq!(y[0].1, f(&[1, 1], &[21.5]));
        let y = executable.run(&views(&[("w", f(&[2, 2], &[1.0, 0.0, 1.0, -1.0])), x()])).unwrap();
        assert_eq!(y[0].1, f(&[1, 2], &[3.5, -1.5]));
    }
    let refused = executable.run(&views(&[x(), ("bias", f(&[1], &[0.0]))])).unwrap_err();
    assert!(matches!(refused, RunError::Feed(FeedError::Unknown { name, .. }) if name == "bias"));
    let refused = executable.run(&views(&[x(), ("w", f(&[3, 2], &[0.0; 6]))])).unwrap_err();
    assert!(matches!(refused, RunError::Feed(FeedError::Dimension { axis: 0, .. })), "{refused}");
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let mut c = Chain::new(&[4]);
    let foreign = poda_formats::op::ForeignOp {
        domain: "com.example".into(),
        op_type: "Magic".into(),
        opset: 3,
        reason: "unknown operator".into(),
        attributes: vec![],
        captures: 0,
    };
    let x = c.at;
    c.node(Op::Foreign(foreign), &[x]);
    let error = Model::from_graph(c.finish()).unwrap().prepare(Options::default()).unwrap_err();
    assert!(matches!(error, PrepareError::Unsupported { opset: 3, .. }));
    let text = error.to_string();
    assert!(["v1", "Magic", "com.example", "3"].iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn more_memory_than_allowed_is_refused() {
    let mut c = Chain::new(&[1000]);
    let x = c.at;
    let y = c.unary(Unary::Exp, x);
    c.unary(Unary::Relu, y);
    let options = Options { memory_limit: Some(100_000), threads: Some(1), ..Options::default() };
    let executable = Model::from_graph(c.finish()).unwrap().prepare(options).unwrap();
    let run = |batch| executable.run(&[("x", Tensor::zeros(DataType::F32, &[batch, 1000]).view())]);
    assert!(run(10).is_ok());
    assert!(matches!(run(100), Err(RunError::Plan(crate::plan::PlanError::Memory { limit: 100_000 }))));
}

/// A random step on values of shape `[batch, 4, 6]`.
#[derive(Debug, Clone)]
enum Random {
    Unary(Unary, usize),
    Binary(Binary, usize, usize),
    Constant(Binary, usize, usize),
    MatMul(usize, bool),
    Turn(usize),
    Pool(usize),
}

fn random_step() -> impl Strategy<Value = Random> {
    let at = 0_usize..20;
    let unary = prop_oneof![
        Just(Unary::Relu),
        Just(Unary::Tanh),
        Just(Unary::Sigmoid),
        Just(Unary::Abs),
        Just(Unary::Neg)
    ];
    let binary = prop_oneof![Just(Binary::Add), Just(Binary::Sub), Just(Binary::Mul)];
    prop_oneof![
        (unary, at.clone()).prop_map(|(f, a)| Random::Unary(f, a)),
        (binary.clone(), at.clone(), at.clone()).prop_map(|(f, a, b)| Random::Binary(f, a, b)),
        (binary, at.clone(), 0_usize..3).prop_map(|(f, a, kind)| Random::Constant(f, a, kind)),
        (at.clone(), any::<bool>()).prop_map(|(a, sparse)| Random::MatMul(a, sparse)),
        at.clone().prop_map(Random::Turn),
        at.prop_map(Random::Pool),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_graphs_run_as_their_nodes_do(
        steps in prop::collection::vec(random_step(), 1..14),
        outputs in prop::collection::vec(0_usize..20, 1..4),
        batch in 1_usize..3,
    ) {
        let mut c = Chain::new(&[4, 6]);
        let mut values = vec![c.at];
        for (i, step) in steps.into_iter().enumerate() {
            let of = |a: usize| values[a % values.len()];
            let value = match step {
                Random::Unary(f, a) => c.unary(f, of(a)),
                Random::Binary(f, a, b) => c.binary(f, of(a), of(b)),
                Random::Constant(f, a, kind) => {
                    let shapes: [&[usize]; 3] = [&[], &[6], &[4, 1]];
                    let constant = c.weight(numbers(shapes[kind], i, 0.0));
                    if i % 2 == 0 { c.binary(f, of(a), constant) } else { c.binary(f, constant, of(a)) }
                }
                Random::MatMul(a, sparse) => {
                    let w = c.weight(numbers(&[6, 6], i, if sparse { 0.7 } else { 0.0 }));
                    c.node(Op::MatMul, &[of(a), w])
                }
                Random::Turn(a) => {
                    let shape = c.weight(Tensor::from_slice(&[3], &[0_i64, 6, 4]));
                    let turned = c.node(Op::Reshape { allow_zero: false }, &[of(a), shape]);
                    c.node(Op::Transpose { perm: vec![0, 2, 1] }, &[turned])
                }
                Random::Pool(a) => {
                    let pool = PoolAttributes {
                        kind: PoolKind::Max,
                        kernel: vec![3],
                        strides: vec![],
                        dilations: vec![],
                        padding: Padding::Explicit(vec![1, 1]),
                        ceil_mode: false,
                        count_include_pad: false,
                        column_major: false,
                    };
                    c.node(Op::Pool(pool), &[of(a)])
                }
            };
            values.push(value);
        }
        let mut graph = c.graph;
        graph.outputs.extend(outputs.iter().map(|&a| values[a % values.len()]));
        check(&graph, &[("x", numbers(&[batch, 4, 6], 99, 0.0))]);
    }
}
