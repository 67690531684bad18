//! Every product that [`Op::products`] lists runs by packed weights, dense, sparse, stored sparse and narrow, and computes
//! what the operator alone does.

use poda_formats::op::{ConvAttributes, Direction, Padding, RecurrentAttributes, RecurrentKind};
use poda_formats::{Dim, Graph, Op, Tensor, ValueType};
use proptest::prelude::*;

use super::{check, numbers, prepare, views};

/// A graph of one node.
fn one(op: Op, operands: &[Operand], outputs: usize) -> (Graph, Vec<(&'static str, Tensor)>) {
    let mut graph = Graph::default();
    let mut feeds = Vec::new();
    let mut inputs = Vec::new();
    for (i, operand) in operands.iter().enumerate() {
        let name = NAMES[i];
        inputs.push(match operand {
            Operand::None => None,
            Operand::Weight(shape, sparsity) => {
                Some(graph.add_weight(name, numbers(shape, i + 3, *sparsity)))
            }
            Operand::Input(tensor) => {
                let shape = tensor.shape().iter().map(|&d| Dim::Fixed(d)).collect();
                feeds.push((name, tensor.clone()));
                Some(graph.add_input(name, tensor.dtype(), shape))
            }
        });
    }
    let y = graph.add_node(op, &[], "y");
    graph.nodes[0].inputs = inputs;
    graph.outputs.push(y);
    for i in 1..outputs {
        let id = graph.add_value(poda_formats::Value { name: format!("y{i}"), ..Default::default() });
        graph.nodes[0].outputs.push(Some(id));
        graph.outputs.push(id);
    }
    (graph, feeds)
}

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[derive(Clone)]
enum Operand {
    None,
    Weight(Vec<usize>, f32),
    Input(Tensor),
}

fn input(shape: &[usize]) -> Operand {
    Operand::Input(numbers(shape, 1, 0.0))
}

/// Checks the graph as it is, stored sparse, and with narrow values; no weight may be left to the general form.
fn check_all(graph: &Graph, feeds: &[(&str, Tensor)], stored: usize) {
    check(graph, feeds);
    let executable = prepare(graph, 1, true);
    for step in executable.profile(&views(feeds), 1).unwrap().nodes {
        assert!(step.weight.is_some() || step.kernel == "Transpose", "{}: {}", step.op, step.kernel);
    }
    let mut sparse = graph.clone();
    assert_eq!(sparse.store_sparse(), stored);
    check(&sparse, feeds);
    for values in [ValueType::Bf16, ValueType::Int8] {
        let mut narrow = graph.clone();
        assert!(narrow.round_weights(values).unwrap() > 0);
        check(&narrow, feeds);
        narrow.store_sparse();
        check(&narrow, feeds);
    }
}

#[test]
fn matrices_on_either_side_and_in_batches() {
    let weight = |shape: &[usize], sparsity| Operand::Weight(shape.to_vec(), sparsity);
    let gemm = |trans_a, trans_b| Op::Gemm { alpha: 0.5, beta: 2.0, trans_a, trans_b };
    for (sparsity, stored) in [(0.0, 0), (0.8, 1)] {
        let cases = [
            (Op::MatMul, vec![input(&[3, 20]), weight(&[20, 17], sparsity)]),
            (Op::MatMul, vec![input(&[20]), weight(&[20, 17], sparsity)]),
            (Op::MatMul, vec![weight(&[17, 20], sparsity), input(&[20, 5])]),
            (Op::MatMul, vec![weight(&[17, 20], sparsity), input(&[2, 3, 20, 5])]),
            (Op::MatMul, vec![weight(&[17, 20], sparsity), input(&[20])]),
            (Op::MatMul, vec![input(&[3, 4, 20]), weight(&[3, 20, 17], sparsity)]),
            (Op::MatMul, vec![input(&[2, 3, 4, 20]), weight(&[3, 20, 17], sparsity)]),
            (Op::MatMul, vec![input(&[4, 20]), weight(&[3, 20, 17], sparsity)]),
            (Op::MatMul, vec![input(&[1, 4, 20]), weight(&[3, 20, 17], sparsity)]),
            (Op::MatMul, vec![input(&[4, 20]), weight(&[1, 20, 17], sparsity)]),
            (gemm(false, false), vec![input(&[4, 20]), weight(&[20, 17], sparsity), weight(&[17], 0.0)]),
            (gemm(true, true), vec![input(&[20, 4]), weight(&[17, 20], sparsity), weight(&[4, 1], 0.0)]),
            (gemm(false, false), vec![weight(&[17, 20], sparsity), input(&[20, 4]), weight(&[17, 1], 0.0)]),
            (gemm(true, false), vec![weight(&[20, 17], sparsity), input(&[20, 4]), weight(&[17, 1], 0.0)]),
            (gemm(true, true), vec![weight(&[20, 17], sparsity), input(&[4, 20])]),
        ];
        for (op, operands) in cases {
            let (graph, feeds) = one(op, &operands, 1);
            if graph.nodes[0].op == gemm(true, true) && operands.len() == 3 {
                // A bias of rows and not of columns is no epilogue.
                check(&graph, &feeds);
            } else {
                check_all(&graph, &feeds, stored);
            }
        }
    }
}

#[test]
fn transposed_convolutions() {
    let weight = |shape: &[usize], sparsity| Operand::Weight(shape.to_vec(), sparsity);
    let cases: [(&[usize], &[usize], usize, &[usize], &[i64]); 6] = [
        (&[1, 5, 7, 6], &[5, 4, 3, 3], 1, &[2, 2], &[1, 1, 1, 1]),
        (&[2, 6, 4, 5], &[6, 2, 2, 2], 2, &[2, 2], &[]),
        (&[2, 4, 9], &[4, 3, 4], 1, &[3], &[1, 0]),
        (&[1, 3, 3, 2, 4], &[3, 2, 2, 3, 2], 1, &[1, 2, 1], &[]),
        (&[1, 8, 1, 1], &[8, 4, 1, 1], 1, &[1, 1], &[]),
        (&[3, 8, 40, 40], &[8, 12, 3, 3], 1, &[2, 2], &[0, 0, 1, 1]),
    ];
    for (x, w, group, strides, pads) in cases {
        for (sparsity, stored) in [(0.0, 0), (0.85, 1)] {
            let conv = ConvAttributes {
                group,
                kernel: vec![],
                strides: strides.to_vec(),
                dilations: vec![],
                padding: Padding::Explicit(pads.to_vec()),
            };
            let op = Op::ConvTranspose { conv, output_padding: vec![], output_shape: vec![] };
            let operands = [input(x), weight(w, sparsity), weight(&[w[1] * group], 0.0)];
            let (mut graph, feeds) = one(op, &operands, 1);
            // What follows joins the product.
            let y = graph.outputs[0];
            let shape: Vec<usize> =
                (0..x.len()).map(|i| if i == 1 { w[1] * group } else { 1 }).skip(1).collect();
            let factor = graph.add_weight("factor", numbers(&shape, 77, 0.0));
            let scaled = graph.add_node(Op::Binary(poda_formats::op::Binary::Mul), &[y, factor], "scaled");
            let last = graph.add_node(Op::Unary(poda_formats::op::Unary::Relu), &[scaled], "last");
            graph.outputs = vec![last];
            check(&graph, &feeds);
            let steps = prepare(&graph, 1, true).profile(&views(&feeds), 1).unwrap().nodes;
            assert_eq!(steps.len(), 1, "{:?}", steps.iter().map(|s| &s.kernel).collect::<Vec<_>>());
            graph.nodes.truncate(1);
            graph.outputs = vec![y];
            check_all(&graph, &feeds, stored);
        }
    }
}

fn recurrent(kind: RecurrentKind, direction: Direction, clip: Option<f32>, batch_first: bool) -> Op {
    Op::Recurrent(RecurrentAttributes {
        kind,
        hidden_size: 19,
        direction,
        activations: vec![],
        activation_alpha: vec![],
        activation_beta: vec![],
        clip,
        batch_first,
    })
}

const KINDS: [(RecurrentKind, usize); 5] = [
    (RecurrentKind::Lstm { input_forget: false }, 4),
    (RecurrentKind::Lstm { input_forget: true }, 4),
    (RecurrentKind::Gru { linear_before_reset: false }, 3),
    (RecurrentKind::Gru { linear_before_reset: true }, 3),
    (RecurrentKind::Rnn, 1),
];

#[test]
fn recurrent_layers_are_stored_and_run_sparse() {
    for (kind, gates) in KINDS {
        for direction in [Direction::Forward, Direction::Bidirectional] {
            let d = if direction == Direction::Bidirectional { 2 } else { 1 };
            let operands = [
                input(&[6, 2, 23]),
                Operand::Weight(vec![d, gates * 19, 23], 0.8),
                Operand::Weight(vec![d, gates * 19, 19], 0.8),
                Operand::Weight(vec![d, 2 * gates * 19], 0.0),
            ];
            let (graph, feeds) = one(recurrent(kind, direction, None, false), &operands, 2);
            check_all(&graph, &feeds, 2);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn recurrent_layers_are_the_operator(
        (kind, gates) in prop::sample::select(&KINDS[..]),
        direction in prop::sample::select(vec![Direction::Forward, Direction::Reverse, Direction::Bidirectional]),
        [steps, batch, width] in [1_usize..7, 1_usize..5, 1_usize..40],
        sparsity in prop::sample::select(vec![0.0_f32, 0.9]),
        clip in prop::sample::select(vec![None, Some(0.3_f32)]),
        [batch_first, with_lengths, with_bias, with_states, with_peepholes] in any::<[bool; 5]>(),
    ) {
        let lstm = gates == 4;
        let d = if direction == Direction::Bidirectional { 2 } else { 1 };
        let x = if batch_first { [batch, steps, width] } else { [steps, batch, width] };
        let state = if batch_first { [batch, d, 19] } else { [d, batch, 19] };
        let lengths: Vec<i32> = (0..batch).map(|b| ((b * 5 + 2) % (steps + 1)) as i32).collect();
        let given = |with: bool, operand: Operand| if with { operand } else { Operand::None };
        let mut operands = vec![
            input(&x),
            Operand::Weight(vec![d, gates * 19, width], sparsity),
            Operand::Weight(vec![d, gates * 19, 19], sparsity),
            given(with_bias, Operand::Weight(vec![d, 2 * gates * 19], 0.0)),
            given(with_lengths, Operand::Input(Tensor::from_slice(&[batch], &lengths))),
            given(with_states, Operand::Input(numbers(&state, 8, 0.0))),
        ];
        if lstm {
            operands.push(given(with_states, Operand::Input(numbers(&state, 9, 0.0))));
            operands.push(given(with_peepholes, Operand::Weight(vec![d, 3 * 19], 0.0)));
        }
        let op = recurrent(kind, direction, clip, batch_first);
        let (graph, feeds) = one(op, &operands, if lstm { 3 } else { 2 });
        check_reference(&graph, &feeds);
    }
}

/// As [`check`], where operands may be left out.
fn check_reference(graph: &Graph, feeds: &[(&str, Tensor)]) {
    let operand = |id: &Option<poda_formats::ValueId>| {
        let value = graph.value((*id)?);
        let fed = feeds.iter().find(|(name, _)| *name == value.name).map(|(_, tensor)| tensor.clone());
        fed.or_else(|| Some(value.weight.as_ref()?.to_dense().unwrap()))
    };
    let node = &graph.nodes[0];
    let inputs: Vec<Option<Tensor>> = node.inputs.iter().map(operand).collect();
    let expected = crate::ops::testing::apply(&node.op, &inputs, node.outputs.len()).unwrap();
    for threads in [1, 2] {
        let executable = prepare(graph, threads, true);
        for _ in 0..2 {
            let found = executable.run(&views(feeds)).unwrap();
            for ((name, found), expected) in found.iter().zip(&expected) {
                assert!(super::close(found, expected), "{name}: {found:?} is not {expected:?}");
            }
        }
    }
}

#[test]
fn equations_with_a_constant_operand() {
    // Equation, shapes, whether it is one step, and whether the weight is of a product.
    let cases: [(&str, [&[usize]; 2], usize, bool); 16] = [
        ("bnc,cd->bnd", [&[2, 3, 20], &[20, 17]], 1, true),
        ("bnc,dc->bnd", [&[2, 3, 20], &[17, 20]], 1, true),
        ("...c,cd->...d", [&[2, 3, 20], &[20, 17]], 1, true),
        ("bct,oc->bot", [&[2, 20, 5], &[17, 20]], 1, true),
        ("nc,dc->dn", [&[3, 20], &[17, 20]], 1, true),
        ("bnc,dc->bdn", [&[2, 3, 20], &[17, 20]], 1, true),
        ("bcn,cd->bnd", [&[2, 20, 3], &[20, 17]], 1, true),
        ("bnc,chd->bnhd", [&[2, 3, 20], &[20, 4, 5]], 1, true),
        ("bnc,chd->bhnd", [&[2, 3, 20], &[20, 4, 5]], 2, true),
        ("bqc,hcd->bhqd", [&[2, 3, 20], &[4, 20, 5]], 2, true),
        ("bqhd,hde->bqe", [&[2, 3, 4, 5], &[4, 5, 17]], 1, true),
        ("bhqd,hde->bqe", [&[2, 4, 3, 5], &[4, 5, 17]], 2, true),
        ("bent,etm->benm", [&[2, 3, 4, 20], &[3, 20, 17]], 1, true),
        ("nbt,btm->bnm", [&[4, 3, 20], &[3, 20, 17]], 2, true),
        ("bnc,nc->bn", [&[2, 3, 20], &[3, 20]], 1, false),
        ("bnc,cd->bnd", [&[2, 3, 1], &[20, 17]], 1, false),
    ];
    for (equation, [x, w], steps, product) in cases {
        for (sparsity, stored) in [(0.0, 0), (0.8, 1)] {
            for swapped in [false, true] {
                let (left, right) = equation.split_once("->").unwrap();
                let (a, b) = left.split_once(',').unwrap();
                let mut operands = vec![input(x), Operand::Weight(w.to_vec(), sparsity)];
                let mut text = equation.to_owned();
                if swapped {
                    operands.reverse();
                    text = format!("{b},{a}->{right}");
                }
                let (graph, feeds) = one(Op::Einsum { equation: text }, &operands, 1);
                check(&graph, &feeds);
                let found = prepare(&graph, 1, true).profile(&views(&feeds), 1).unwrap().nodes;
                assert_eq!(
                    (found.len(), found.iter().any(|s| s.weight.is_some())),
                    (steps, product),
                    "{equation}"
                );
                if product {
                    check_all(&graph, &feeds, stored);
                }
            }
        }
    }
}
