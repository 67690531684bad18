//! Every rule against numeric differences, in f64: `(L(x + h) − L(x − h)) / 2h` for `L` a sum of the outputs with fixed
//! factors.

mod cases;

use std::collections::BTreeMap;

use poda_formats::{DataType, Dim, Graph, Node, Op, Tensor, Value, ValueId};
use poda_runtime::{Executable, Model, Options, analyze};

use super::*;
use poda_formats::op::{Binary, ReduceKind};

/// An input of the operator under test.
#[derive(Clone)]
enum In {
    /// Numbers away from 0, whose gradient is checked.
    X(&'static [usize]),
    /// As these, from 0.2 to 1.2.
    Positive(&'static [usize]),
    /// Between −0.9 and 0.9.
    Small(&'static [usize]),
    /// Integers or other constants.
    Constant(Tensor),
    /// Integers that a run is fed.
    Fed(Tensor),
    Absent,
}

fn ints(values: &[i64]) -> In {
    In::Constant(Tensor::from_slice(&[values.len()], values))
}

fn noise(i: usize, seed: usize) -> f64 {
    // Different numbers in −1..1, none next to another or to 0.
    let value = ((i * 7919 + seed * 104_729 + 13) % 1009) as f64 / 504.5 - 1.0;
    if value.abs() < 0.02 { value + 0.05 } else { value }
}

fn random(shape: &[usize], seed: usize, map: impl Fn(f64) -> f64) -> Tensor {
    let values: Vec<f64> = (0..shape.iter().product()).map(|i| map(noise(i, seed))).collect();
    Tensor::from_slice(shape, &values)
}

struct Check {
    graph: Graph,
    feeds: Vec<(String, Tensor)>,
    /// Inputs whose gradients are checked.
    checked: Vec<ValueId>,
    loss: ValueId,
}

impl Check {
    /// The operator alone, its outputs multiplied by fixed factors and added up.
    fn new(op: &Op, inputs: &[In], outputs: usize) -> Self {
        let mut graph = Graph::default();
        let (mut feeds, mut checked, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for (i, input) in inputs.iter().enumerate() {
            let name = format!("x{i}");
            let (tensor, check) = match input {
                In::X(shape) => (random(shape, i, |v| 1.5 * v), true),
                In::Positive(shape) => (random(shape, i, |v| 0.7 + 0.5 * v), true),
                In::Small(shape) => (random(shape, i, |v| 0.9 * v), true),
                In::Fed(tensor) => (tensor.clone(), false),
                In::Constant(tensor) => {
                    ids.push(Some(graph.add_weight(name, tensor.clone())));
                    continue;
                }
                In::Absent => {
                    ids.push(None);
                    continue;
                }
            };
            let shape = tensor.shape().iter().map(|&d| Dim::Fixed(d)).collect();
            let id = graph.add_input(name.clone(), tensor.dtype(), shape);
            feeds.push((name, tensor));
            if check {
                checked.push(id);
            }
            ids.push(Some(id));
        }
        let made: Vec<ValueId> = (0..outputs)
            .map(|i| graph.add_value(Value { name: format!("y{i}"), ..Value::default() }))
            .collect();
        let all = made.iter().copied().map(Some).collect();
        graph.nodes.push(Node { name: "tested".into(), op: op.clone(), inputs: ids, outputs: all });
        let analysis = analyze(&graph, &BTreeMap::new());
        assert!(analysis.failures.is_empty(), "{op:?}: {:?}", analysis.failures);
        let mut terms = Vec::new();
        for (i, &y) in made.iter().enumerate() {
            let info = analysis.info(y).expect("analysed");
            if info.dtype != DataType::F64 {
                continue;
            }
            let factors = random(info.shape.as_ref().expect("a shape"), 50 + i, |v| v);
            let factors = graph.add_weight(format!("factors{i}"), factors);
            let product = graph.add_node(Op::Binary(Binary::Mul), &[y, factors], format!("product{i}"));
            let sum = Op::Reduce { kind: ReduceKind::Sum, keep_dims: false, noop_with_empty_axes: false };
            terms.push(graph.add_node(sum, &[product], format!("term{i}")));
        }
        let loss = graph.add_node(Op::Variadic(Variadic::Sum), &terms, "loss");
        Self { graph, feeds, checked, loss }
    }

    fn run(graph: &Graph, feeds: &[(String, Tensor)]) -> Vec<Tensor> {
        let executable = prepare(graph);
        outputs(&executable, feeds)
    }

    /// Compares gradients with differences of the loss.
    fn assert(self, what: &str) {
        let Self { graph, mut feeds, checked, loss } = self;
        let mut forward = graph.clone();
        forward.outputs = vec![loss];
        let forward = prepare(&forward);
        let mut backward = graph;
        let gradients = differentiate(&mut backward, &BTreeMap::new(), loss, &checked);
        let gradients = gradients.unwrap_or_else(|error| panic!("{what}: {error}"));
        let names: Vec<String> = checked.iter().map(|&id| backward.value(id).name.clone()).collect();
        backward.outputs = gradients.iter().flatten().copied().collect();
        let found = Self::run(&backward, &feeds);
        let mut found = found.into_iter();
        for (name, gradient) in names.iter().zip(&gradients) {
            let at = feeds.iter().position(|(feed, _)| feed == name).expect("fed");
            let x = feeds[at].1.clone();
            let zeros = Tensor::zeros(DataType::F64, x.shape());
            let gradient = if gradient.is_some() { found.next().expect("asked for") } else { zeros };
            assert_eq!(gradient.shape(), x.shape(), "{what}: gradient of {name}");
            let gradient = gradient.as_slice::<f64>().expect("f64");
            let values = x.as_slice::<f64>().expect("f64").to_vec();
            let step = values.len().div_ceil(24).max(1);
            for i in (0..values.len()).step_by(step) {
                const H: f64 = 1e-5;
                let mut side = |h: f64| {
                    let mut moved = values.clone();
                    moved[i] += h;
                    feeds[at].1 = Tensor::from_slice(x.shape(), &moved);
                    outputs(&forward, &feeds)[0].as_slice::<f64>().expect("f64")[0]
                };
                let numeric = (side(H) - side(-H)) / (2.0 * H);
                let close = (numeric - gradient[i]).abs() <= 2e-6 * (1.0 + numeric.abs());
                assert!(
                    close,
                    "{what}: element {i} of {name} is {}, differences give {numeric}",
                    gradient[i]
                );
            }
            feeds[at].1 = x;
        }
    }
}

fn prepare(graph: &Graph) -> Executable {
    let options = Options { threads: Some(1), tune: false, ..Options::default() };
    Model::from_graph(graph.clone()).expect("well formed").prepare(options).expect("runs")
}

fn outputs(executable: &Executable, feeds: &[(String, Tensor)]) -> Vec<Tensor> {
    let views: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    executable.run(&views).expect("runs").into_iter().map(|(_, tensor)| tensor).collect()
}

/// Checks the rule of an operator with one output.
fn check(op: &Op, inputs: &[In]) {
    check_of(op, inputs, 1);
}

fn check_of(op: &Op, inputs: &[In], outputs: usize) {
    let shapes: Vec<Option<&[usize]>> = inputs
        .iter()
        .map(|input| match input {
            In::X(shape) | In::Positive(shape) | In::Small(shape) => Some(*shape),
            In::Constant(tensor) | In::Fed(tensor) => Some(tensor.shape()),
            In::Absent => None,
        })
        .collect();
    Check::new(op, inputs, outputs).assert(&format!("{op:?} of {shapes:?}"));
}

#[test]
fn what_has_no_rule_is_refused_by_name() {
    let op = Op::RotaryEmbedding { interleaved: false, num_heads: 0, rotary_embedding_dim: 0 };
    let Check { mut graph, checked, loss, .. } =
        Check::new(&op, &[In::X(&[1, 2, 3, 4]), In::X(&[1, 3, 2]), In::X(&[1, 3, 2])], 1);
    let error = differentiate(&mut graph, &BTreeMap::new(), loss, &checked).unwrap_err().to_string();
    assert!(
        error.starts_with("node \"tested\" (RotaryEmbedding) has no gradient: the operator has no rule"),
        "{error}"
    );
}

#[test]
fn integers_end_a_gradient_and_uses_add_up() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(3)]);
    let square = graph.add_node(Op::Binary(Binary::Mul), &[x, x], "square");
    let whole = graph.add_node(Op::Cast { to: DataType::I32 }, &[square], "whole");
    let back = graph.add_node(Op::Cast { to: DataType::F32 }, &[whole], "back");
    let sum = Op::Reduce { kind: ReduceKind::Sum, keep_dims: false, noop_with_empty_axes: false };
    let all = graph.add_node(Op::Variadic(Variadic::Sum), &[square, x, back], "all");
    let loss = graph.add_node(sum.clone(), &[all], "loss");
    let other = graph.add_node(sum, &[back], "other");
    let mut only = graph.clone();
    let gradients = differentiate(&mut graph, &BTreeMap::new(), loss, &[x]).unwrap();
    graph.outputs = gradients.into_iter().flatten().collect();
    let feeds = [("x".to_owned(), Tensor::from_slice(&[3], &[1.0_f32, -2.0, 0.5]))];
    let found = Check::run(&graph, &feeds);
    assert_eq!(found[0].as_slice::<f32>().unwrap(), [3.0, -3.0, 2.0]);
    assert_eq!(differentiate(&mut only, &BTreeMap::new(), other, &[x]).unwrap(), [None]);
    assert!(matches!(
        differentiate(&mut only, &BTreeMap::new(), back, &[x]),
        Err(GradientError::NotScalar { .. })
    ));
}
