//! Reads each ONNX file given and prints what became of it: nodes, weights, and the operators that stay foreign.

use std::collections::BTreeMap;
use std::time::Instant;

use poda_formats::{Graph, Op, Weight, onnx};

fn foreign(graph: &Graph, found: &mut BTreeMap<String, usize>) {
    for node in &graph.nodes {
        match &node.op {
            Op::Foreign(op) => {
                *found
                    .entry(format!("{}.{}-{}: {}", op.domain, op.op_type, op.opset, op.reason))
                    .or_default() += 1;
            }
            Op::If { then_branch, else_branch } => {
                foreign(then_branch, found);
                foreign(else_branch, found);
            }
            Op::Loop { body, .. } => foreign(body, found),
            _ => {}
        }
    }
}

fn main() {
    for path in std::env::args().skip(1) {
        let start = Instant::now();
        match onnx::read(&path) {
            Ok(graph) => {
                let mut found = BTreeMap::new();
                foreign(&graph, &mut found);
                let weights: usize =
                    graph.values.iter().filter_map(|v| v.weight.as_ref()).map(Weight::bytes).sum();
                let ms = start.elapsed().as_secs_f64() * 1e3;
                println!(
                    "ok {path}: {} nodes, {weights} weight bytes, {ms:.1} ms {found:?}",
                    graph.nodes.len()
                );
            }
            Err(error) => println!("ERROR {path}: {error}"),
        }
    }
}
