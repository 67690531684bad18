//! Attention spelled out in the ways that exporters write it.

use poda_formats::op::{Binary, SoftmaxKind, Unary};
use poda_formats::{DataType, Op, Tensor, ValueId};

use super::{Chain, check, numbers, prepare, views};

/// How a case writes attention.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mask {
    None,
    Added,
    Chosen,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    mask: Mask,
    /// Scale both factors before the product, as `torch.export` does, instead of the scores.
    scale_first: bool,
    /// Transpose keys from `[b, s, h, d]` to `[b, h, d, s]` at once.
    one_transpose: bool,
    /// Guard against rows that are all NaN.
    guard: bool,
    /// Heads of keys and values: 3, or 1 for all.
    kv_heads: usize,
}

const SEQUENCE: usize = 5;
const HEADS: usize = 3;
const SIZE: usize = 4;

fn attention(case: Case) -> poda_formats::Graph {
    let mut c = Chain::new(&[SEQUENCE, HEADS * SIZE]);
    let x = c.at;
    let heads = |c: &mut Chain, seed: usize, heads: usize| {
        let w = c.weight(numbers(&[HEADS * SIZE, heads * SIZE], seed, 0.0));
        let y = c.node(Op::MatMul, &[x, w]);
        let shape = [0, 0, heads as i64, SIZE as i64];
        let shape = c.weight(Tensor::from_slice(&[4], &shape));
        c.node(Op::Reshape { allow_zero: false }, &[y, shape])
    };
    let transpose =
        |c: &mut Chain, y: ValueId, perm: [usize; 4]| c.node(Op::Transpose { perm: perm.to_vec() }, &[y]);
    let mut q = heads(&mut c, 1, HEADS);
    q = transpose(&mut c, q, [0, 2, 1, 3]);
    let mut k = heads(&mut c, 2, case.kv_heads);
    if case.one_transpose {
        k = transpose(&mut c, k, [0, 2, 3, 1]);
    } else {
        k = transpose(&mut c, k, [0, 2, 1, 3]);
        k = transpose(&mut c, k, [0, 1, 3, 2]);
    }
    let v = heads(&mut c, 3, case.kv_heads);
    let v = transpose(&mut c, v, [0, 2, 1, 3]);
    let scale = 1.0 / (SIZE as f32).sqrt();
    if case.scale_first {
        q = c.by(Binary::Mul, q, scale.sqrt());
        k = c.by(Binary::Mul, k, scale.sqrt());
    }
    let mut scores = c.node(Op::MatMul, &[q, k]);
    if !case.scale_first {
        scores = c.by(Binary::Div, scores, 1.0 / scale);
    }
    let shape = [1, 1, SEQUENCE, SEQUENCE];
    match case.mask {
        Mask::None => {}
        Mask::Added => {
            let mask = c.weight(numbers(&shape, 4, 0.0));
            scores = c.binary(Binary::Add, scores, mask);
        }
        Mask::Chosen => {
            let allowed: Vec<u8> =
                (0..SEQUENCE * SEQUENCE).map(|i| u8::from(i % SEQUENCE <= i / SEQUENCE)).collect();
            let view = poda_formats::TensorView::from_bytes(DataType::Bool, &shape, &allowed).unwrap();
            let mask = c.weight(view.to_tensor());
            let low = c.scalar(f32::NEG_INFINITY);
            scores = c.node(Op::Where, &[mask, scores, low]);
        }
    }
    let mut p = c.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[scores]);
    if case.guard {
        let nan = c.unary(Unary::IsNan, p);
        let zero = c.scalar(0.0);
        p = c.node(Op::Where, &[nan, zero, p]);
    }
    let y = c.node(Op::MatMul, &[p, v]);
    let y = transpose(&mut c, y, [0, 2, 1, 3]);
    let shape = c.weight(Tensor::from_slice(&[3], &[0, 0, (HEADS * SIZE) as i64]));
    c.node(Op::Reshape { allow_zero: false }, &[y, shape]);
    c.finish()
}

#[test]
fn every_spelling_becomes_one_step() {
    let base =
        Case { mask: Mask::None, scale_first: false, one_transpose: false, guard: false, kv_heads: HEADS };
    let cases = [
        base,
        Case { mask: Mask::Added, one_transpose: true, ..base },
        Case { mask: Mask::Chosen, scale_first: true, ..base },
        Case { guard: true, scale_first: true, one_transpose: true, ..base },
        Case { mask: Mask::Added, kv_heads: 1, ..base },
    ];
    for case in cases {
        let graph = attention(case);
        for batch in [1, 2] {
            let feeds = [("x", numbers(&[batch, SEQUENCE, HEADS * SIZE], 9, 0.0))];
            check(&graph, &feeds);
            let profile = prepare(&graph, 1, true).profile(&views(&feeds), 1).unwrap();
            // Three products and the attention.
            assert_eq!(profile.nodes.len(), 4, "{case:?}: {profile:?}");
            assert_eq!(profile.nodes[3].kernel, "attention");
        }
    }
}

#[test]
fn probabilities_that_are_wanted_are_kept() {
    let mut graph = attention(Case {
        mask: Mask::None,
        scale_first: false,
        one_transpose: false,
        guard: false,
        kv_heads: HEADS,
    });
    let softmax = graph.nodes.iter().find(|n| matches!(n.op, Op::Softmax { .. })).unwrap();
    graph.outputs.push(softmax.output(0).unwrap());
    check(&graph, &[("x", numbers(&[2, SEQUENCE, HEADS * SIZE], 9, 0.0))]);
}

/// `if condition { x + 1 } else { x · 2 }`, with a condition that the shape of `x` decides.
#[test]
fn a_branch_that_shapes_decide_is_inlined() {
    let branch = |f: Binary, constant: f32| {
        let mut c = Chain::new(&[4]);
        let x = c.at;
        c.by(f, x, constant);
        Box::new(c.finish())
    };
    let mut c = Chain::new(&[4]);
    let x = c.at;
    let shape = c.node(Op::Shape { start: 0, end: Some(1) }, &[x]);
    let two = c.weight(Tensor::from_slice(&[1], &[2_i64]));
    let condition = c.binary(Binary::Equal, shape, two);
    let op = Op::If { then_branch: branch(Binary::Add, 1.0), else_branch: branch(Binary::Mul, 2.0) };
    c.node(op, &[condition, x]);
    let executable = prepare(&c.finish(), 1, true);
    for (batch, expected) in [(2, 4.0_f32), (3, 6.0)] {
        let feeds = [("x", Tensor::from_slice(&[batch, 4], &vec![3.0_f32; batch * 4]))];
        let found = executable.run(&views(&feeds)).unwrap();
        assert_eq!(found[0].1.as_slice::<f32>().unwrap(), vec![expected; batch * 4]);
        assert_eq!(executable.profile(&views(&feeds), 1).unwrap().nodes.len(), 1);
    }
}

/// The weight of a product may be cut to the shape of an input; each plan then has its own.
#[test]
fn a_weight_that_depends_on_shapes_is_packed_for_each() {
    let mut c = Chain::new(&[4]);
    let x = c.at;
    let table = c.weight(numbers(&[6, 5], 1, 0.0));
    let zero = c.weight(Tensor::from_slice(&[1], &[0_i64]));
    let end = c.node(Op::Shape { start: 0, end: Some(1) }, &[x]);
    let w = c.node(Op::Slice, &[table, zero, end]);
    let t = c.node(Op::Transpose { perm: vec![1, 0] }, &[x]);
    c.node(Op::MatMul, &[t, w]);
    let graph = c.finish();
    for batch in [2, 3, 5, 2] {
        check(&graph, &[("x", numbers(&[batch, 4], batch, 0.0))]);
    }
    let executable = prepare(&graph, 1, true);
    for batch in [2, 3, 5, 2] {
        let feeds = [("x", numbers(&[batch, 4], batch, 0.0))];
        let found = executable.run(&views(&feeds)).unwrap();
        assert!(super::close(&found[0].1, &super::reference(&graph, &feeds)[0]));
    }
}
