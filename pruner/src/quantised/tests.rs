use std::collections::BTreeMap;

use poda_formats::op::{Binary, ConvAttributes, Padding, Unary};
use poda_formats::{DataType, Dim, Graph, Op, Tensor, ValueId};
use poda_runtime::{Model, Options};

use super::*;
use crate::{Granularity, Recipe, prune};

/// Adds weights as integers in steps of one scale for each index of a dimension.
struct Made {
    graph: Graph,
}

impl Made {
    fn new() -> Self {
        let mut graph = Graph::default();
        graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(8)]);
        Self { graph }
    }

    fn weight(&mut self, name: &str, shape: &[usize], scales: usize) -> [ValueId; 3] {
        let count: usize = shape.iter().product();
        let integers: Vec<i8> = (0..count).map(|i| ((i * 37 + shape[0]) % 251) as u8 as i8).collect();
        let scale: Vec<f32> = (0..scales).map(|i| 0.01 + i as f32 * 0.003).collect();
        let shape_of_scale: &[usize] = if scales == 1 { &[] } else { &[scales] };
        let zero = vec![0_i8; scales];
        [
            self.graph.add_weight(name, Tensor::from_slice(shape, &integers)),
            self.graph.add_weight(format!("{name}.s"), Tensor::from_slice(shape_of_scale, &scale)),
            self.graph.add_weight(format!("{name}.z"), Tensor::from_slice(shape_of_scale, &zero)),
        ]
    }

    fn steps(&mut self, name: &str, scale: f32, zero: u8) -> [ValueId; 2] {
        [
            self.graph.add_weight(format!("{name}.s"), Tensor::scalar(scale)),
            self.graph.add_weight(format!("{name}.z"), Tensor::scalar(zero)),
        ]
    }

    fn dequantise(&mut self, of: &[ValueId], axis: i64, name: &str) -> ValueId {
        self.graph.add_node(Op::DequantizeLinear { axis, block_size: 0 }, of, name)
    }

    fn quantise(&mut self, x: ValueId, [scale, zero]: [ValueId; 2], name: &str) -> ValueId {
        let op = Op::QuantizeLinear { axis: 1, block_size: 0, saturate: true, to: None };
        self.graph.add_node(op, &[x, scale, zero], name)
    }

    fn product(&mut self, a: ValueId, b: ValueId, name: &str) -> ValueId {
        self.graph.add_node(Op::MatMul, &[a, b], name)
    }

    fn done(mut self, y: ValueId) -> Graph {
        self.graph.outputs.push(y);
        self.graph.normalize().unwrap();
        self.graph
    }
}

/// `x [batch, 8] → 12 → 5`, with QuantizeLinear and DequantizeLinear around each product.
fn pairs() -> Graph {
    let mut m = Made::new();
    let x = ValueId(0);
    let (first, hidden) = (m.steps("first", 0.02, 128), m.steps("hidden", 0.05, 0));
    let x = m.quantise(x, first, "x.q");
    let x = m.dequantise(&[x, first[0], first[1]], 1, "x.f");
    let a = m.weight("a", &[8, 12], 12);
    let a = m.dequantise(&a, 1, "a.f");
    let h = m.product(x, a, "h");
    let h = m.graph.add_node(Op::Unary(Unary::Relu), &[h], "h.r");
    let h = m.quantise(h, hidden, "h.q");
    let h = m.dequantise(&[h, hidden[0], hidden[1]], 1, "h.f");
    let b = m.weight("b", &[12, 5], 1);
    let b = m.dequantise(&b, 1, "b.f");
    let y = m.product(h, b, "y");
    m.done(y)
}

/// The same by operators on integers.
fn whole() -> Graph {
    let mut m = Made::new();
    let (first, hidden, last) =
        (m.steps("first", 0.02, 128), m.steps("hidden", 0.05, 0), m.steps("last", 0.1, 100));
    let x = m.quantise(ValueId(0), first, "x.q");
    let a = m.weight("a", &[8, 12], 12);
    let inputs = [&[x, first[0], first[1]], &a[..], &hidden].concat();
    let h = m.graph.add_node(Op::QLinearMatMul, &inputs, "h.q");
    let b = m.weight("b", &[12, 5], 1);
    let inputs = [&[h, hidden[0], hidden[1]], &b[..], &last].concat();
    let y = m.graph.add_node(Op::QLinearMatMul, &inputs, "y.q");
    let y = m.dequantise(&[y, last[0], last[1]], 1, "y");
    m.done(y)
}

/// The same, quantised in each run.
fn dynamic() -> Graph {
    let mut m = Made::new();
    let mut x = ValueId(0);
    for (name, shape, scales) in [("a", [8, 12], 12), ("b", [12, 5], 1)] {
        let q = m.graph.add_node(Op::DynamicQuantizeLinear, &[x], format!("{name}.x"));
        let [scale, zero] = ["s", "z"].map(|part| {
            let name = format!("{name}.x.{part}");
            m.graph.add_value(poda_formats::Value { name, ..Default::default() })
        });
        m.graph.nodes.last_mut().unwrap().outputs.extend([Some(scale), Some(zero)]);
        let w = m.weight(name, &shape, scales);
        let sum = m.graph.add_node(Op::MatMulInteger, &[q, w[0], zero, w[2]], format!("{name}.sum"));
        let sum = m.graph.add_node(Op::Cast { to: DataType::F32 }, &[sum], format!("{name}.wide"));
        let both = m.graph.add_node(Op::Binary(Binary::Mul), &[scale, w[1]], format!("{name}.both"));
        x = m.graph.add_node(Op::Binary(Binary::Mul), &[sum, both], format!("{name}.y"));
        if name == "a" {
            x = m.graph.add_node(Op::Unary(Unary::Relu), &[x], "h");
        }
    }
    m.done(x)
}

/// `[batch, 8] → [batch, 2, 2, 2] → 6 channels → 4`, with biases of i32.
fn convolutions(integers: bool) -> Graph {
    let mut m = Made::new();
    let attributes = || ConvAttributes {
        group: 1,
        kernel: vec![1, 1],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        padding: Padding::Valid,
    };
    let shape = m.graph.add_weight("shape", Tensor::from_slice(&[4], &[-1_i64, 2, 2, 2]));
    let x = m.graph.add_node(Op::Reshape { allow_zero: false }, &[ValueId(0), shape], "image");
    let first = m.steps("x.q", 0.02, 128);
    let mut x = m.quantise(x, first, "x.q");
    let mut steps = first;
    for (name, shape, zero) in [("a", [6, 2, 1, 1], 0_u8), ("b", [4, 6, 1, 1], 110)] {
        let w = m.weight(name, &shape, shape[0]);
        let bias: Vec<i32> = (0..shape[0] as i32).map(|i| i * 321 - 700).collect();
        let bias = m.graph.add_weight(format!("{name}.bias"), Tensor::from_slice(&[shape[0]], &bias));
        let next = m.steps(&format!("{name}.y"), 0.05, zero);
        if integers {
            let inputs = [&[x, steps[0], steps[1]], &w[..], &next, &[bias]].concat();
            x = m.graph.add_node(Op::QLinearConv(attributes()), &inputs, format!("{name}.y"));
        } else {
            let of =
                |m: &Graph, id| m.weight(id).unwrap().to_dense().unwrap().as_slice::<f32>().unwrap().to_vec();
            let (input, scales) = (of(&m.graph, steps[0])[0], of(&m.graph, w[1]));
            let scales: Vec<f32> = scales.iter().map(|s| s * input).collect();
            let scale = Tensor::from_slice(&[shape[0]], &scales);
            let scale = m.graph.add_weight(format!("{name}.bias.s"), scale);
            let bias = m.dequantise(&[bias, scale], 0, &format!("{name}.bias.f"));
            let from = m.dequantise(&[x, steps[0], steps[1]], 1, &format!("{name}.x.f"));
            let w = m.dequantise(&w, 0, &format!("{name}.f"));
            let y = m.graph.add_node(Op::Conv(attributes()), &[from, w, bias], format!("{name}.c"));
            x = m.quantise(y, next, &format!("{name}.y"));
        }
        steps = next;
    }
    let y = m.dequantise(&[x, steps[0], steps[1]], 1, "y");
    m.done(y)
}

fn all() -> [(&'static str, Graph); 5] {
    [
        ("pairs", pairs()),
        ("whole", whole()),
        ("dynamic", dynamic()),
        ("integer convolutions", convolutions(true)),
        ("convolutions", convolutions(false)),
    ]
}

/// The outputs for a batch of three.
fn outputs(graph: &Graph) -> Vec<f32> {
    let model = Model::from_graph(graph.clone())
        .unwrap()
        .prepare(Options { tune: false, ..Options::default() })
        .unwrap();
    let x: Vec<f32> = (0..24).map(|i| (i as f32 * 1.7).sin() * 2.0).collect();
    let found = model.run(&[("x", Tensor::from_slice(&[3, 8], &x).view())]).unwrap();
    found[0].1.as_slice::<f32>().unwrap().to_vec()
}

/// The name, bytes and scale (in order) of each weight of integers.
fn integers(graph: &Graph) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let weights = graph.values.iter().filter_map(|value| Some((&value.name, value.weight.as_ref()?)));
    weights
        .filter(|(_, weight)| matches!(weight.dtype(), DataType::I8 | DataType::I32))
        .map(|(name, weight)| {
            (name.clone(), (weight.shape().to_vec(), weight.to_dense().unwrap().bytes().to_vec()))
        })
        .collect()
}

fn count(graph: &Graph) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    graph.nodes.iter().for_each(|node| *count.entry(node.op.name().to_owned()).or_default() += 1);
    count
}

#[test]
fn what_is_separated_has_no_integers_and_comes_back() {
    for (name, graph) in all() {
        let (floats, quantised) = separate(&graph);
        let ops = count(&floats);
        assert!(!ops.keys().any(|op| op.contains("Linear") || op.contains("Integer")), "{name}: {ops:?}");
        let mut used = floats.clone();
        used.remove_unused();
        assert_eq!(integers(&used), BTreeMap::new(), "{name}");
        let (near, exact) = (outputs(&floats), outputs(&graph));
        let greatest = exact.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        assert!(
            near.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 0.05 * greatest),
            "{name}: {near:?} {exact:?}"
        );
        let back = quantised.restore(&floats).unwrap();
        assert_eq!(count(&back), count(&graph), "{name}");
        assert_eq!(integers(&back), integers(&graph), "{name}");
        assert_eq!(outputs(&back), exact, "{name}");
    }
}

#[test]
fn weights_that_go_are_their_zero_points() {
    for (name, graph) in all() {
        let recipe = Recipe { sparsity: Some(0.5), ..Recipe::default() };
        let (pruned, report) = prune(&graph, &recipe, &BTreeMap::new(), &mut |_| (), None).unwrap();
        assert_eq!(count(&pruned), count(&graph), "{name}");
        for (weight, (shape, bytes)) in integers(&graph) {
            let (found, left) = &integers(&pruned)[&weight];
            assert_eq!(*found, shape, "{name} {weight}");
            let changed = bytes.iter().zip(left).filter(|(a, b)| a != b);
            let (changed, zeros): (usize, bool) =
                changed.fold((0, true), |(count, zeros), (_, &left)| (count + 1, zeros && left == 0));
            assert!(zeros && (changed > bytes.len() / 3) == (shape.len() > 1), "{name} {weight}: {changed}");
        }
        assert!(report.after.nnz + 12 < report.before.nnz, "{name}");
        let bytes: usize =
            graph.values.iter().filter_map(|v| v.weight.as_ref()).map(poda_formats::Weight::bytes).sum();
        assert_eq!((report.before.bytes, report.after.bytes), (bytes as u64, bytes as u64), "{name}");
    }
}

/// As the masked model: what is left of the dense one with what multiplied removed units at its zero point.
#[test]
fn channels_go_with_their_scales_and_biases() {
    for (name, graph) in all() {
        let recipe = Recipe {
            granularity: Granularity::Channel,
            sparsity: Some(0.5),
            round_to: Some(1),
            ..Recipe::default()
        };
        let (pruned, report) = prune(&graph, &recipe, &BTreeMap::new(), &mut |_| (), None).unwrap();
        assert_eq!(count(&pruned), count(&graph), "{name}");
        let kept = report.kept.iter().find(|kept| kept.weight == "b").expect(name);
        assert_eq!(kept.indices.len() * 2, kept.of, "{name}");
        let mut masked = graph.clone();
        let b = masked.find("b").unwrap();
        let dense = masked.weight(b).unwrap().to_dense().unwrap();
        let inner: usize = dense.shape()[kept.dim + 1..].iter().product();
        let values: Vec<i8> = dense.as_slice::<i8>().unwrap().to_vec();
        let stays = |i: usize| kept.indices.contains(&(i / inner % kept.of));
        let zeroed: Vec<i8> = values.iter().enumerate().map(|(i, &v)| if stays(i) { v } else { 0 }).collect();
        masked.value_mut(b).weight = Some(Tensor::from_slice(dense.shape(), &zeroed).into());
        let (want, found) = (outputs(&masked), outputs(&pruned));
        // A dynamic scale follows the greatest of what is left.
        let tolerance = if name == "dynamic" { 0.1 } else { 1e-5 };
        assert!(
            want.iter().zip(&found).all(|(a, b)| (a - b).abs() <= tolerance * (1.0 + a.abs())),
            "{name}: {want:?} {found:?}"
        );
    }
}

/// As tools for training with quantisation leave them.
#[test]
fn weights_that_each_run_quantises_become_integers() {
    let mut graph = pairs();
    for name in ["a", "b"] {
        let [w, scale, zero] = [name.to_owned(), format!("{name}.s"), format!("{name}.z")]
            .map(|name| graph.find(&name).unwrap());
        let axis = i64::from(graph.weight(scale).unwrap().len() > 1);
        let stored = graph.weight(w).unwrap().to_dense().unwrap();
        let floats: Vec<f32> =
            stored.as_slice::<i8>().unwrap().iter().map(|&q| f32::from(q) * 0.02).collect();
        let floats = graph.add_weight(format!("{name}.floats"), Tensor::from_slice(stored.shape(), &floats));
        graph.value_mut(w).weight = None;
        let op = Op::QuantizeLinear { axis, block_size: 0, saturate: true, to: None };
        let inputs = [floats, scale, zero].map(Some).to_vec();
        graph.nodes.push(poda_formats::Node { name: name.into(), op, inputs, outputs: vec![Some(w)] });
    }
    graph.normalize().unwrap();
    for granularity in [Granularity::Unstructured, Granularity::Channel] {
        let recipe = Recipe { granularity, sparsity: Some(0.5), round_to: Some(1), ..Recipe::default() };
        let (pruned, _) = prune(&graph, &recipe, &BTreeMap::new(), &mut |_| (), None).unwrap();
        assert_eq!(count(&pruned), count(&pairs()));
        assert!(["a", "b"].iter().all(|name| integers(&pruned).contains_key(*name)));
        assert!(outputs(&pruned).iter().all(|y| y.is_finite()));
    }
    let (floats, quantised) = separate(&graph);
    assert_eq!(outputs(&quantised.restore(&floats).unwrap()), outputs(&graph));
}

#[test]
fn what_floats_cannot_take_over_stays() {
    // Integers that a run is given, and a scale that it computes.
    let mut graph = pairs();
    let q = graph.find("h.q").unwrap();
    graph.outputs.push(q);
    let (floats, quantised) = separate(&graph);
    assert_eq!(count(&floats)["QuantizeLinear"], 1);
    assert_eq!(quantised.restore(&floats).map(|back| outputs(&back)), Ok(outputs(&graph)));
    let (same, nothing) = separate(&Graph::default());
    assert!(nothing.is_empty() && same == Graph::default());
}
