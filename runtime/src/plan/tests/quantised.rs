//! Models with QuantizeLinear and DequantizeLinear around products compute exactly what their operators do, in fewer steps.

use poda_formats::graph::{Node, Value};
use poda_formats::op::{Binary, ConvAttributes, Padding, PoolAttributes, PoolKind, Unary};
use poda_formats::{DataType, Dim, Element, Graph, Op, Tensor, ValueId};

use super::{numbers, prepare, reference, views};
use crate::kernels::sums_bytes;
use crate::{Model, Options, Passes};

fn quantize() -> Op {
    Op::QuantizeLinear { axis: 1, block_size: 0, saturate: true, to: None }
}

fn dequantize() -> Op {
    Op::DequantizeLinear { axis: 1, block_size: 0 }
}

/// Appends a pair of the two.
fn pair<T: Element>(graph: &mut Graph, x: ValueId, name: &str, scale: f32, zero: T) -> ValueId {
    let scale = graph.add_weight(format!("{name}.scale"), Tensor::scalar(scale));
    let zero = graph.add_weight(format!("{name}.zero"), Tensor::scalar(zero));
    let q = graph.add_node(quantize(), &[x, scale, zero], format!("{name}.q"));
    graph.add_node(dequantize(), &[q, scale, zero], format!("{name}.dq"))
}

/// Runs with fusion, on one thread and two; gives the kernels. The results must be those of the operators, bit for bit.
fn kernels(graph: &Graph, feeds: &[(&str, Tensor)]) -> Vec<String> {
    let expected = reference(graph, feeds);
    for threads in [1, 2] {
        let found = prepare(graph, threads, true).run(&views(feeds)).unwrap();
        for ((name, found), expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
    }
    let steps = prepare(graph, 1, true).profile(&views(feeds), 1).unwrap().nodes;
    steps.into_iter().map(|step| step.kernel).collect()
}

#[test]
fn a_pair_is_one_rounding() {
    let mut values: Vec<f32> = (-40_000..40_000).map(|i| i as f32 * 0.003_7).collect();
    values.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.125, -0.125, 0.375, -0.0, f32::MAX, 1e-40]);
    let x = Tensor::from_slice(&[1, values.len()], &values);
    let mut graph = Graph::default();
    let input = graph.add_input("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(values.len())]);
    let outputs = [
        pair(&mut graph, input, "a", 0.25, 100_u8),
        pair(&mut graph, input, "b", 0.071, -3_i8),
        pair(&mut graph, input, "c", 0.001, 1_u16),
        pair(&mut graph, input, "d", 1e-3, -200_i16),
        pair(&mut graph, input, "e", 0.25, 0_u8),
    ];
    graph.outputs.extend(outputs);
    assert_eq!(kernels(&graph, &[("x", x)]), ["activation"; 5]);
}

#[test]
fn a_product_takes_the_rounding_after_it() {
    for between in 0..3 {
        let mut graph = Graph::default();
        // Sums of few products of small integers are exact, whatever their order.
        let exact = |shape: &[usize], seed: usize| {
            let values = numbers(shape, seed, 0.0);
            let values = values.as_slice::<f32>().unwrap().iter().map(|v| (v * 8.0).round());
            Tensor::from_slice(shape, &values.collect::<Vec<f32>>())
        };
        let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(5), Dim::Fixed(12)]);
        let rounded = pair(&mut graph, x, "in", 0.5, 128_u8);
        let w = graph
            .add_weight("w", Tensor::from_slice(&[12, 7], &(0..84).map(|i| i as i8).collect::<Vec<_>>()));
        let scale = graph.add_weight("w.scale", Tensor::from_slice(&[7], &[0.5_f32; 7]));
        let zero = graph.add_weight("w.zero", Tensor::from_slice(&[7], &[40_i8; 7]));
        let w = graph.add_node(dequantize(), &[w, scale, zero], "w.f32");
        let y = graph.add_node(Op::MatMul, &[rounded, w], "product");
        let bias = graph.add_weight("bias", exact(&[7], 3));
        let mut y = graph.add_node(Op::Binary(Binary::Add), &[y, bias], "sum");
        match between {
            0 => {}
            1 => y = graph.add_node(Op::Unary(Unary::Relu), &[y], "relu"),
            // As quantisers leave a clamp that they do not know: rounded before it as well.
            _ => {
                let rounded = pair(&mut graph, y, "sum", 1.7, 100_u8);
                let [low, high] =
                    [0.0_f32, 60.0].map(|bound| graph.add_weight(format!("{bound}"), Tensor::scalar(bound)));
                y = graph.add_node(Op::Clip, &[rounded, low, high], "clip");
            }
        }
        let y = pair(&mut graph, y, "out", 4.0, 3_u8);
        graph.outputs.push(y);
        let found = kernels(&graph, &[("x", exact(&[5, 12], 1))]);
        assert_eq!(found.len(), 2, "{between}: {found:?}");
    }
}

/// Convolutions, a pool and a linear layer, all between roundings by powers of two, so that sums of floats are exact, too.
#[test]
fn products_between_roundings_are_of_bytes() {
    let mut graph = Graph::default();
    let weight = |graph: &mut Graph, name: &str, shape: &[usize], axis: usize| {
        let q = graph.add_weight(name, signed(shape, shape.len()));
        let scales: Vec<f32> = (0..shape[axis]).map(|i| [0.25, 0.5, 0.015_625][i % 3]).collect();
        let scale = graph.add_weight(format!("{name}.scale"), Tensor::from_slice(&[shape[axis]], &scales));
        let op = Op::DequantizeLinear { axis: axis as i64, block_size: 0 };
        graph.add_node(op, &[q, scale], format!("{name}.dq"))
    };
    let x = graph.add_input("x", DataType::F32, [2, 6, 12, 13].map(Dim::Fixed).to_vec());
    let x = pair(&mut graph, x, "in", 0.5, 100_u8);
    let w = weight(&mut graph, "w", &[16, 6, 3, 3], 0);
    let y = graph.add_node(Op::Conv(conv()), &[x, w], "y");
    let y = pair(&mut graph, y, "sum", 64.0, 128_u8);
    let y = graph.add_node(Op::Unary(Unary::Relu), &[y], "relu");
    let y = pair(&mut graph, y, "bounded", 32.0, 7_u8);
    let v = weight(&mut graph, "v", &[20, 16, 3, 3], 0);
    let z = graph.add_node(Op::Conv(conv()), &[y, v], "z");
    let z = pair(&mut graph, z, "out", 16.0, -3_i8);
    let z = graph.add_node(Op::Flatten { axis: 2 }, &[z], "rows");
    let u = weight(&mut graph, "u", &[12 * 13, 40], 1);
    let z = graph.add_node(Op::MatMul, &[z, u], "linear");
    graph.outputs.push(z);
    let feeds = [("x", numbers(&[2, 6, 12, 13], 1, 0.0))];
    let found = kernels(&graph, &feeds);
    // A clamp between two roundings goes with them.
    assert_eq!(found.len(), 4, "{found:?}");
    let bytes = found.iter().filter(|kernel| kernel.starts_with("gemm_u8i8")).count();
    assert_eq!(bytes, if sums_bytes(1) { 3 } else { 0 }, "{found:?}");
    let passes = Passes::all().with("bytes", false).unwrap();
    let options = Options { threads: Some(1), passes, tune: false, ..Options::default() };
    let floats = Model::from_graph(graph).unwrap().prepare(options).unwrap();
    let steps = floats.profile(&views(&feeds), 1).unwrap().nodes;
    assert!(steps.iter().all(|step| !step.kernel.starts_with("gemm_u8i8")), "{steps:?}");
}

/// A rounding to 8 bits and one to 16 give few values, but multiples far beyond what 8 bits tell apart.
#[test]
fn multiples_beyond_a_byte_are_no_bytes() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, [40, 12].map(Dim::Fixed).to_vec());
    let x = pair(&mut graph, x, "in", 0.5, 100_u8);
    let w = graph.add_weight("w", signed(&[12, 24], 1));
    let v = graph.add_weight("v", signed(&[24, 64], 2));
    let scale = graph.add_weight("scale", Tensor::scalar(1.0_f32));
    let w = graph.add_node(dequantize(), &[w, scale], "w.f32");
    let v = graph.add_node(dequantize(), &[v, scale], "v.f32");
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    let y = pair(&mut graph, y, "narrow", 32.0, 0_u8);
    let y = pair(&mut graph, y, "wide", 8.0, 0_u16);
    let z = graph.add_node(Op::MatMul, &[y, v], "z");
    graph.outputs.push(z);
    let found = kernels(&graph, &[("x", numbers(&[40, 12], 3, 0.0))]);
    assert!(found[1].contains("requantized") && !found[2].starts_with("gemm_u8i8"), "{found:?}");
}

#[test]
fn what_is_no_pair_stays() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(2), Dim::Fixed(3)]);
    let scalar = |graph: &mut Graph, name: &str, value: f32| graph.add_weight(name, Tensor::scalar(value));
    let a = scalar(&mut graph, "a", 0.5);
    let zero = graph.add_weight("zero", Tensor::scalar(3_u8));
    let other = graph.add_weight("other", Tensor::scalar(4_u8));
    let each = graph.add_weight("each", Tensor::from_slice(&[3], &[0.5_f32, 0.25, 1.0]));
    let q = graph.add_node(quantize(), &[x, a, zero], "q");
    let zeros = graph.add_node(dequantize(), &[q, a, other], "zeros");
    let q = graph.add_node(quantize(), &[x, each], "each.q");
    let lines = graph.add_node(dequantize(), &[q, each], "lines");
    graph.outputs.extend([zeros, lines]);
    assert_eq!(kernels(&graph, &[("x", numbers(&[2, 3], 1, 0.0))]).len(), 4);
}

#[test]
fn a_pair_may_change_the_scale() {
    let values: Vec<f32> = (-40_000..40_000).map(|i| i as f32 * 0.003_7).chain([f32::NAN, -0.0]).collect();
    let x = Tensor::from_slice(&[1, values.len()], &values);
    let mut graph = Graph::default();
    let input = graph.add_input("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(values.len())]);
    for (i, [from, to]) in [[0.071, 1.0], [1.0, 0.033], [0.25, 0.3], [1e-3, 7.7]].into_iter().enumerate() {
        let scales = [from, to].map(|s: f32| graph.add_weight(format!("{i}.{s}"), Tensor::scalar(s)));
        let zero = graph.add_weight(format!("{i}.zero"), Tensor::scalar(100_u8));
        let q = graph.add_node(quantize(), &[input, scales[0], zero], format!("{i}.q"));
        let y = graph.add_node(dequantize(), &[q, scales[1], zero], format!("{i}.y"));
        graph.outputs.push(y);
    }
    assert_eq!(kernels(&graph, &[("x", x)]), ["activation"; 4]);
}

/// What quantisers write where floats come between two products of integers.
#[test]
fn floats_between_integer_products_are_rounded_once() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::U8, [6, 33].map(Dim::Fixed).to_vec());
    let mut scalar = |name: &str, value: f32| graph.add_weight(name, Tensor::scalar(value));
    let [xs, ys, zs, ws] = [scalar("xs", 0.02), scalar("ys", 0.05), scalar("zs", 0.013), scalar("ws", 0.007)];
    let zero = graph.add_weight("zero", Tensor::scalar(120_u8));
    let w_zero = graph.add_weight("wz", Tensor::scalar(0_i8));
    let (w, v) = (graph.add_weight("w", signed(&[33, 16], 3)), graph.add_weight("v", signed(&[16, 5], 4)));
    let y = graph.add_node(Op::QLinearMatMul, &[x, xs, zero, w, ws, w_zero, ys, zero], "y");
    let floats = graph.add_node(dequantize(), &[y, ys, zero], "floats");
    let active = graph.add_node(Op::Unary(Unary::Tanh), &[floats], "active");
    let q = graph.add_node(quantize(), &[active, zs, zero], "q");
    let z = graph.add_node(Op::QLinearMatMul, &[q, zs, zero, v, ws, w_zero, ys, zero], "z");
    graph.outputs.push(z);
    let found = kernels(&graph, &[("x", bytes(&[6, 33], 1))]);
    // In, product, its rounding; the function with the next rounding; product, its rounding, and out.
    assert_eq!(found.len(), 7, "{found:?}");
    assert_eq!(found[3], "Tanh+activation");
}

#[test]
fn products_of_computed_integers_are_exact_in_floats() {
    for (k, exact) in [(33, true), (600, false)] {
        let mut graph = Graph::default();
        let a = graph.add_input("a", DataType::U8, [2, 6, k].map(Dim::Fixed).to_vec());
        let b = graph.add_input("b", DataType::U8, [2, k, 5].map(Dim::Fixed).to_vec());
        let [zero, b_zero] = [7_u8, 130].map(|z| graph.add_weight(format!("z{z}"), Tensor::scalar(z)));
        let [s, y_scale] = [0.02_f32, 3.1].map(|s| graph.add_weight(format!("s{s}"), Tensor::scalar(s)));
        let y = graph.add_node(Op::QLinearMatMul, &[a, s, zero, b, s, b_zero, y_scale, zero], "y");
        let z = graph.add_node(Op::MatMulInteger, &[a, b, zero, b_zero], "z");
        graph.outputs.extend([y, z]);
        let found = kernels(&graph, &[("a", bytes(&[2, 6, k], 1)), ("b", bytes(&[2, k, 5], 2))]);
        let general = found.iter().filter(|kernel| kernel.contains("Integer") || kernel.contains("QLinear"));
        assert_eq!(general.count(), if exact { 0 } else { 2 }, "{found:?}");
    }
}

fn bytes(shape: &[usize], seed: usize) -> Tensor {
    let values = numbers(shape, seed, 0.3);
    let values: Vec<u8> = values.as_slice::<f32>().unwrap().iter().map(|v| (v.abs() * 255.0) as u8).collect();
    Tensor::from_slice(shape, &values)
}

fn signed(shape: &[usize], seed: usize) -> Tensor {
    let values = numbers(shape, seed, 0.3);
    let values: Vec<i8> = values.as_slice::<f32>().unwrap().iter().map(|v| (v * 127.0) as i8).collect();
    Tensor::from_slice(shape, &values)
}

fn conv() -> poda_formats::op::ConvAttributes {
    poda_formats::op::ConvAttributes {
        group: 1,
        kernel: vec![],
        strides: vec![],
        dilations: vec![],
        padding: poda_formats::op::Padding::Explicit(vec![1, 1, 1, 1]),
    }
}

#[test]
fn integer_products_are_exact_in_floats() {
    let mut graph = Graph::default();
    let shape = |dims: &[usize]| dims.iter().map(|&d| Dim::Fixed(d)).collect::<Vec<_>>();
    let a = graph.add_input("a", DataType::U8, shape(&[6, 33]));
    let zero = graph.add_input("zero", DataType::U8, vec![]);
    let x = graph.add_input("x", DataType::U8, shape(&[2, 3, 8, 9]));
    let w = graph.add_weight("w", signed(&[33, 10], 3));
    let w_zero = graph.add_weight("w.zero", signed(&[10], 4));
    let kernel = graph.add_weight("kernel", signed(&[5, 3, 3, 3], 5));
    let y = graph.add_node(Op::MatMulInteger, &[a, w, zero, w_zero], "y");
    let f = graph.add_node(Op::Cast { to: DataType::F32 }, &[y], "f");
    let z = graph.add_node(Op::ConvInteger(conv()), &[x, kernel, zero], "z");
    graph.outputs.extend([y, f, z]);
    let zero = Tensor::scalar(120_u8);
    let feeds = [("a", bytes(&[6, 33], 1)), ("zero", zero), ("x", bytes(&[2, 3, 8, 9], 2))];
    let found = kernels(&graph, &feeds);
    assert!(found.iter().all(|kernel| !kernel.contains("Integer")), "{found:?}");
    // Two results are integers; floats are made of the floats that they come from.
    assert_eq!(found.iter().filter(|kernel| kernel.contains("Cast")).count(), 2, "{found:?}");
}

#[test]
fn layers_of_integers_stay_floats_in_between() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::U8, [1, 3, 8, 9].map(Dim::Fixed).to_vec());
    let mut scalar = |name: &str, value: f32| graph.add_weight(name, Tensor::scalar(value));
    let [x_scale, y_scale, z_scale] = [scalar("xs", 0.02), scalar("ys", 0.05), scalar("zs", 0.11)];
    let x_zero = graph.add_weight("xz", Tensor::scalar(3_u8));
    let y_zero = graph.add_weight("yz", Tensor::scalar(120_u8));
    let z_zero = graph.add_weight("zz", Tensor::scalar(-5_i8));
    let w_zero = graph.add_weight("wz", Tensor::scalar(0_i8));
    let mut weight = |name: &str, inputs: usize, outputs: usize, seed: usize| {
        let w = graph.add_weight(name, signed(&[outputs, inputs, 3, 3], seed));
        let scales: Vec<f32> = (0..outputs).map(|c| 0.001 + c as f32 * 0.000_3).collect();
        let scales = graph.add_weight(format!("{name}.s"), Tensor::from_slice(&[outputs], &scales));
        let bias: Vec<i32> = (0..outputs).map(|c| c as i32 * 100 - 300).collect();
        let bias = graph.add_weight(format!("{name}.b"), Tensor::from_slice(&[outputs], &bias));
        [w, scales, bias]
    };
    let ([w, ws, wb], [v, vs, vb]) = (weight("w", 3, 6, 1), weight("v", 6, 4, 2));
    let op = || Op::QLinearConv(conv());
    let y = graph.add_node(op(), &[x, x_scale, x_zero, w, ws, w_zero, y_scale, y_zero, wb], "y");
    let z = graph.add_node(op(), &[y, y_scale, y_zero, v, vs, w_zero, z_scale, z_zero, vb], "z");
    let flat = graph.add_node(Op::Flatten { axis: 2 }, &[z], "flat");
    let m = graph.add_weight("m", signed(&[72, 10], 7));
    let ms = graph.add_weight("ms", Tensor::scalar(0.003_f32));
    let last =
        graph.add_node(Op::QLinearMatMul, &[flat, z_scale, z_zero, m, ms, w_zero, y_scale, y_zero], "last");
    graph.outputs.push(last);
    graph.nodes[2].op = Op::Reshape { allow_zero: false };
    let to = graph.add_weight("to", Tensor::from_slice(&[2], &[4_i64, 72]));
    graph.nodes[2].inputs.push(Some(to));
    let found = kernels(&graph, &[("x", bytes(&[1, 3, 8, 9], 9))]);
    assert!(found.iter().all(|kernel| !kernel.contains("QLinear")), "{found:?}");
    // In, three products each with its rounding, and out; an integer matrix between the last two.
    assert!(found.len() <= 10, "{found:?}");
}

#[test]
fn sums_beyond_what_floats_hold_are_integers_where_the_cpu_sums_those() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::U8, [1, 70, 5, 6].map(Dim::Fixed).to_vec());
    let mut scalar = |name: &str, value: f32| graph.add_weight(name, Tensor::scalar(value));
    let [xs, ws, ys] = [scalar("xs", 0.02), scalar("ws", 0.01), scalar("ys", 13.1)];
    let zero = graph.add_weight("zero", Tensor::scalar(1_u8));
    let w_zero = graph.add_weight("wz", Tensor::scalar(0_i8));
    // Nine times 70 products of 254 and 127: odd sums beyond 2²⁴.
    let weights: Vec<i8> = (0..3 * 70 * 9).map(|i| if i % 7 == 0 { 126 } else { 127 }).collect();
    let w = graph.add_weight("w", Tensor::from_slice(&[3, 70, 3, 3], &weights));
    let y = graph.add_node(Op::QLinearConv(conv()), &[x, xs, zero, w, ws, w_zero, ys, zero], "y");
    graph.outputs.push(y);
    let values: Vec<u8> = (0..70 * 30).map(|i| 255 - (i % 3) as u8).collect();
    let found = kernels(&graph, &[("x", Tensor::from_slice(&[1, 70, 5, 6], &values))]);
    let general = found.iter().any(|kernel| kernel.contains("QLinear"));
    assert_eq!(general, !sums_bytes(1), "{found:?}");
    assert_eq!(found.iter().any(|kernel| kernel.starts_with("gemm_u8i8")), sums_bytes(1), "{found:?}");
}

#[test]
fn integers_that_are_stored_sparse_are_constants() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, [2, 64].map(Dim::Fixed).to_vec());
    let sparse: Vec<i8> = (0..64 * 8).map(|i| if i % 5 == 0 { (i % 90) as i8 } else { 0 }).collect();
    let w = graph.add_weight("w", Tensor::from_slice(&[64, 8], &sparse));
    let scale = graph.add_weight("scale", Tensor::scalar(0.25_f32));
    let f = graph.add_node(dequantize(), &[w, scale], "f");
    let y = graph.add_node(Op::MatMul, &[x, f], "y");
    graph.outputs.push(y);
    let feeds = [("x", numbers(&[2, 64], 1, 0.0))];
    let dense = kernels(&graph, &feeds);
    assert_eq!(graph.store_sparse(), 1);
    assert_eq!(kernels(&graph, &feeds), dense);
    assert_eq!(dense.len(), 1, "{dense:?}");
}

#[test]
fn a_bias_beyond_what_floats_hold_is_added_in_two_parts() {
    for group in [1, 6] {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::U8, [1, 6, 5, 6].map(Dim::Fixed).to_vec());
        let mut scalar = |name: &str, value: f32| graph.add_weight(name, Tensor::scalar(value));
        let [xs, ys] = [scalar("xs", 0.02), scalar("ys", 0.01)];
        let zero = graph.add_weight("zero", Tensor::scalar(1_u8));
        let w_zero = graph.add_weight("wz", Tensor::scalar(0_i8));
        let w = graph.add_weight("w", signed(&[6, 6 / group, 3, 3], 3));
        // Steps of 1/100 of each sum, whose last bits then count.
        let bias = [i32::MAX - 8_000_000, -(1 << 30) + 77, (1 << 25) + 3, -(1 << 24) - 1, 255, -70_001];
        let scales = bias.map(|b| 1.0 / (b as f32).abs());
        let ws = graph.add_weight("ws", Tensor::from_slice(&[6], &scales));
        let bias = graph.add_weight("bias", Tensor::from_slice(&[6], &bias));
        let op = Op::QLinearConv(ConvAttributes { group, ..conv() });
        let y = graph.add_node(op, &[x, xs, zero, w, ws, w_zero, ys, zero, bias], "y");
        graph.outputs.push(y);
        let found = kernels(&graph, &[("x", bytes(&[1, 6, 5, 6], 4))]);
        assert!(found.iter().all(|kernel| !kernel.contains("QLinear")), "{found:?}");
    }
}

#[test]
fn a_pool_of_integers_is_one_of_floats() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::U8, [1, 3, 12, 12].map(Dim::Fixed).to_vec());
    let mut scalar = |name: &str, value: f32| graph.add_weight(name, Tensor::scalar(value));
    let [xs, ws, ys] = [scalar("xs", 0.02), scalar("ws", 0.01), scalar("ys", 0.05)];
    let zero = graph.add_weight("zero", Tensor::scalar(100_u8));
    let w_zero = graph.add_weight("wz", Tensor::scalar(0_i8));
    let pool = || {
        Op::Pool(PoolAttributes {
            kind: PoolKind::Max,
            kernel: vec![3, 3],
            strides: vec![2, 2],
            dilations: vec![1, 1],
            padding: Padding::Explicit(vec![1, 0, 0, 1]),
            ceil_mode: false,
            count_include_pad: false,
            column_major: false,
        })
    };
    let mut y = x;
    for (i, channels) in [3, 5].into_iter().enumerate() {
        let w = graph.add_weight(format!("w{i}"), signed(&[5, channels, 3, 3], i));
        let scale = if i == 0 { xs } else { ys };
        y = graph.add_node(
            Op::QLinearConv(conv()),
            &[y, scale, zero, w, ws, w_zero, ys, zero],
            format!("y{i}"),
        );
        y = graph.add_node(pool(), &[y], format!("p{i}"));
    }
    let y = graph.add_node(dequantize(), &[y, ys, zero], "y");
    graph.outputs.push(y);
    let found = kernels(&graph, &[("x", bytes(&[1, 3, 12, 12], 5))]);
    assert!(found.iter().all(|kernel| !kernel.contains("QuantizeLinear")), "{found:?}");
    assert_eq!(found.iter().filter(|kernel| kernel.contains("MaxPool")).count(), 2, "{found:?}");
}

#[test]
fn sums_beyond_what_floats_hold_are_made_in_parts() {
    for (k, lowered) in [(600, true), (3136, true), (5200, false)] {
        let mut graph = Graph::default();
        let a = graph.add_input("a", DataType::U8, [2, k].map(Dim::Fixed).to_vec());
        let w = graph.add_weight("w", Tensor::from_slice(&[k, 3], &vec![127_i8; 3 * k]));
        let zero = graph.add_weight("zero", Tensor::scalar(3_u8));
        let y = graph.add_node(Op::MatMulInteger, &[a, w, zero], "y");
        let f = graph.add_node(Op::Cast { to: DataType::F32 }, &[y], "f");
        graph.outputs.extend([y, f]);
        let values: Vec<u8> = (0..2 * k).map(|i| if i % 5 == 0 { 254 } else { 255 }).collect();
        let found = kernels(&graph, &[("a", Tensor::from_slice(&[2, k], &values))]);
        assert_eq!(!found.iter().any(|kernel| kernel == "MatMulInteger"), lowered, "{k}: {found:?}");
    }
}

#[test]
fn integers_that_are_only_moved_stay_floats() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::U8, [1, 3, 8, 8].map(Dim::Fixed).to_vec());
    let mut scalar = |name: &str, value: f32| graph.add_weight(name, Tensor::scalar(value));
    let [xs, ws, ys] = [scalar("xs", 0.02), scalar("ws", 0.01), scalar("ys", 0.05)];
    let zero = graph.add_weight("zero", Tensor::scalar(100_u8));
    let w_zero = graph.add_weight("wz", Tensor::scalar(0_i8));
    let w = graph.add_weight("w", signed(&[5, 3, 3, 3], 1));
    let y = graph.add_node(Op::QLinearConv(conv()), &[x, xs, zero, w, ws, w_zero, ys, zero], "y");
    let y = graph.add_node(Op::Transpose { perm: vec![0, 2, 3, 1] }, &[y], "last");
    let shape = graph.add_weight("shape", Tensor::from_slice(&[2], &[64_i64, 5]));
    let y = graph.add_node(Op::Reshape { allow_zero: false }, &[y, shape], "rows");
    let v = graph.add_weight("v", signed(&[5, 7], 2));
    let z = graph.add_node(Op::QLinearMatMul, &[y, ys, zero, v, ws, w_zero, xs, zero], "z");
    let z = graph.add_node(Op::Transpose { perm: vec![1, 0] }, &[z], "turned");
    let z = graph.add_node(dequantize(), &[z, xs, zero], "floats");
    graph.outputs.push(z);
    let found = kernels(&graph, &[("x", bytes(&[1, 3, 8, 8], 5))]);
    assert!(found.iter().all(|kernel| !kernel.contains("QuantizeLinear")), "{found:?}");
}

#[test]
fn what_is_quantised_by_its_range_stays_floats_between_products() {
    for read in [false, true] {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, [9, 40].map(Dim::Fixed).to_vec());
        let [q, scale, zero] = ["x.q", "x.scale", "x.zero"]
            .map(|name| graph.add_value(Value { name: name.into(), ..Value::default() }));
        graph.nodes.push(Node {
            name: "x.q".into(),
            op: Op::DynamicQuantizeLinear,
            inputs: vec![Some(x)],
            outputs: [q, scale, zero].map(Some).to_vec(),
        });
        let w_scale = graph.add_weight("w.scale", Tensor::scalar(0.01_f32));
        let factor = graph.add_node(Op::Binary(Binary::Mul), &[scale, w_scale], "factor");
        for i in 0..2 {
            let w = graph.add_weight(format!("w{i}"), signed(&[40, 6 + i], i));
            let y = graph.add_node(Op::MatMulInteger, &[q, w, zero], format!("y{i}"));
            let y = graph.add_node(Op::Cast { to: DataType::F32 }, &[y], format!("f{i}"));
            let y = graph.add_node(Op::Binary(Binary::Mul), &[y, factor], format!("s{i}"));
            graph.outputs.push(y);
        }
        if read {
            graph.outputs.push(q);
        }
        let found = kernels(&graph, &[("x", numbers(&[9, 40], 4, 0.0))]);
        assert_eq!(found.contains(&"dynamic rounding".to_owned()), !read, "{found:?}");
        assert_eq!(found.contains(&"DynamicQuantizeLinear".to_owned()), read, "{found:?}");
    }
}

/// As weights without sign leave them, which most files that are quantised dynamically have.
#[test]
fn sums_that_become_floats_at_once_are_made_in_one_part() {
    for (k, zero) in [(7, 130_u8), (40, 255), (3136, 100), (5200, 0)] {
        let mut graph = Graph::default();
        let a = graph.add_input("a", DataType::U8, [9, k].map(Dim::Fixed).to_vec());
        let w = graph.add_weight("w", bytes(&[k, 35], 3));
        let a_zero = graph.add_weight("a.zero", Tensor::scalar(3_u8));
        let w_zero = graph.add_weight("w.zero", Tensor::scalar(zero));
        let y = graph.add_node(Op::MatMulInteger, &[a, w, a_zero, w_zero], "y");
        let y = graph.add_node(Op::Cast { to: DataType::F32 }, &[y], "f");
        graph.outputs.push(y);
        let found = kernels(&graph, &[("a", bytes(&[9, k], 5))]);
        let one = found.len() == 2 && found[1].starts_with("gemm");
        assert!(one || !sums_bytes(1), "{k}: {found:?}");
    }
}
