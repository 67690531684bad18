//! Elementwise functions that become one step, in place where nobody else reads what they start from.

use poda_formats::op::{Binary, SoftmaxKind, Unary};
use poda_formats::{Op, Tensor};

use super::{Chain, check, numbers, prepare, views};

/// Checks a graph, and gives the kernels of its steps and the bytes of the arena.
fn kernels(c: Chain, feeds: &[(&str, Tensor)]) -> Vec<String> {
    let graph = c.finish();
    check(&graph, feeds);
    let profile = prepare(&graph, 1, true).profile(&views(feeds), 1).unwrap();
    profile.nodes.into_iter().map(|node| node.kernel).collect()
}

#[test]
fn functions_in_a_row_are_one_step() {
    for batch in [0, 1, 2, 300] {
        let feeds = [("x", numbers(&[batch, 3, 17], 1, 0.0))];
        // Sums with a scalar, a row, a column, and the value itself.
        let mut c = Chain::new(&[3, 17]);
        let x = c.at;
        let y = c.by(Binary::Mul, x, 1.5);
        let row = c.weight(numbers(&[17], 2, 0.0));
        let y = c.binary(Binary::Sub, row, y);
        let y = c.unary(Unary::Exp, y);
        let column = c.weight(numbers(&[3, 1], 3, 0.0));
        let y = c.binary(Binary::Add, y, column);
        let y = c.binary(Binary::Mul, x, y);
        let (low, high) = (c.scalar(-0.5), c.scalar(1.0));
        c.node(Op::Clip, &[y, low, high]);
        assert_eq!(kernels(c, &feeds), ["Mul+Sub+Exp+Add+Mul+Clip"]);
    }
}

#[test]
fn what_others_read_is_kept() {
    let feeds = [("x", numbers(&[2, 40], 1, 0.0))];
    // A value that two read, one of them late: neither may take its place before.
    let mut c = Chain::new(&[40]);
    let x = c.at;
    let a = c.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[x]);
    let b = c.by(Binary::Mul, a, 3.0);
    let d = c.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[b]);
    let e = c.binary(Binary::Add, a, d);
    c.binary(Binary::Mul, e, e);
    assert_eq!(kernels(c, &feeds).len(), 5);
    // A square of what nobody else reads; and a result inside of the chain.
    let mut c = Chain::new(&[40]);
    let x = c.at;
    let a = c.unary(Unary::Tanh, x);
    let b = c.binary(Binary::Mul, a, a);
    c.graph.outputs.push(b);
    c.by(Binary::Add, b, 1.0);
    assert_eq!(kernels(c, &feeds), ["Tanh", "Mul", "Add"]);
}

#[test]
fn steps_that_work_in_place_take_no_memory() {
    let feeds = [("x", numbers(&[1, 1000], 1, 0.0))];
    let softmax = |c: &mut Chain, x| c.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[x]);
    let graph = |chained: bool| {
        let mut c = Chain::new(&[1000]);
        let x = c.at;
        let mut y = softmax(&mut c, x);
        if chained {
            y = c.by(Binary::Mul, y, 3.0);
        }
        softmax(&mut c, y);
        c.finish()
    };
    let bytes = |chained: bool| {
        check(&graph(chained), &feeds);
        prepare(&graph(chained), 1, true).profile(&views(&feeds), 1).unwrap().arena_bytes
    };
    assert_eq!(bytes(true), bytes(false));
}

#[test]
fn quantising_and_back_is_one_step() {
    let feeds = [("x", numbers(&[2, 3, 50], 1, 0.0))];
    let mut c = Chain::new(&[3, 50]);
    let x = c.at;
    let relu = c.unary(Unary::Relu, x);
    let (scale, zero) = (c.scalar(0.02), c.weight(Tensor::from_slice(&[], &[100_u8])));
    let op = Op::QuantizeLinear { axis: 1, block_size: 0, saturate: true, to: None };
    let q = c.node(op, &[relu, scale, zero]);
    let y = c.node(Op::DequantizeLinear { axis: 1, block_size: 0 }, &[q, scale, zero]);
    c.by(Binary::Add, y, 1.0);
    assert_eq!(kernels(c, &feeds), ["Relu+activation+Add"]);
}
