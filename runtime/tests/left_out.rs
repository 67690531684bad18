//! A build without operators or kernels refuses by name what it leaves out, and runs the rest with the same numbers.
//!
//!     cargo test -p poda-runtime --no-default-features --test left_out

#![cfg(not(any(feature = "selection", feature = "types")))]

use poda_formats::op::Binary;
use poda_formats::{DataType, Dim, Graph, Op, Tensor};
use poda_runtime::{Model, Options};

/// `y = op(x, x…)` of a vector of 3 elements.
fn graph(op: Op, dtype: DataType, inputs: usize) -> Graph {
    let mut graph = Graph::default();
    let x = graph.add_input("x", dtype, vec![Dim::Fixed(3)]);
    let y = graph.add_node(op, &vec![x; inputs], "y");
    graph.outputs.push(y);
    graph
}

#[test]
fn what_is_left_out_is_refused_by_the_name_of_its_feature() {
    for (graph, feature) in [
        (graph(Op::NonZero, DataType::F32, 1), "selection"),
        (graph(Op::Binary(Binary::Add), DataType::F64, 2), "types"),
    ] {
        let prepared = Model::from_graph(graph).unwrap().prepare(Options::default());
        let error = prepared.expect_err(feature);
        assert!(error.is_unsupported(), "{error}");
        assert!(error.to_string().contains(&format!("without its feature {feature:?}")), "{error}");
    }
}

#[test]
fn pruned_weights_still_run() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(2), Dim::Fixed(64)]);
    let weight: Vec<f32> = (0..64 * 32).map(|i| if i % 7 == 0 { (i % 5) as f32 } else { 0.0 }).collect();
    let w = graph.add_weight("w", Tensor::from_slice(&[64, 32], &weight));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    let options = Options { tune: false, ..Options::default() };
    let executable = Model::from_graph(graph).unwrap().prepare(options).unwrap();
    let feed: Vec<f32> = (0..128).map(|i| (i % 3) as f32).collect();
    let outputs = executable.run(&[("x", Tensor::from_slice(&[2, 64], &feed).view())]).unwrap();
    for (i, &y) in outputs[0].1.as_slice::<f32>().unwrap().iter().enumerate() {
        let expected: f32 = (0..64).map(|k| feed[i / 32 * 64 + k] * weight[k * 32 + i % 32]).sum();
        assert_eq!(y, expected, "{i}");
    }
}
