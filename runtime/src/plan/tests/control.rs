//! Bodies of control flow run by plans of their own.

use poda_formats::op::{Binary, Unary};
use poda_formats::{Boolean, DataType, Dim, Graph, Op, Tensor, ValueId};

use super::{check, numbers, prepare, views};

/// Inputs: number, condition, state `[2, 20]`, weight `[20, 20]`. The state times the weight, and what it was.
fn body(grows: bool) -> Graph {
    let mut body = Graph { name: "body".into(), ..Graph::default() };
    body.add_input("number", DataType::I64, vec![]);
    let condition = body.add_input("condition", DataType::Bool, vec![]);
    let state = body.add_input("state", DataType::F32, vec![]);
    let weight = body.add_input("weight", DataType::F32, vec![]);
    let own = body.add_weight("own", numbers(&[20, 20], 4, 0.7));
    let y = body.add_node(Op::MatMul, &[state, weight], "product");
    let y = body.add_node(Op::Unary(Unary::Tanh), &[y], "tanh");
    let y = body.add_node(Op::MatMul, &[y, own], "again");
    let y = if grows { body.add_node(Op::Concat { axis: 0 }, &[y, state], "grown") } else { y };
    let going = body.add_node(Op::Identity, &[condition], "going");
    body.outputs.extend([going, y]);
    if !grows {
        body.outputs.push(state);
    }
    body
}

fn looped(grows: bool, trips: i64) -> Graph {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, [2, 20].map(Dim::Fixed).to_vec());
    let count = graph.add_weight("count", Tensor::scalar(trips));
    let condition = graph.add_weight("condition", Tensor::scalar(Boolean(1)));
    let weight = graph.add_weight("weight", numbers(&[20, 20], 3, 0.8));
    let op = Op::Loop { body: Box::new(body(grows)), carried: 1 };
    let last = graph.add_node(op, &[count, condition, x, weight], "last");
    graph.outputs.push(last);
    if !grows {
        let scan = graph.add_value(poda_formats::Value { name: "scan".into(), ..Default::default() });
        graph.nodes[0].outputs.push(Some(scan));
        graph.outputs.push(scan);
    }
    graph
}

#[test]
fn a_loop_packs_what_its_body_captures() {
    for trips in [0, 1, 5] {
        check(&looped(false, trips), &[("x", numbers(&[2, 20], 1, 0.0))]);
    }
    let mut sparse = looped(false, 5);
    assert!(sparse.store_sparse() > 0);
    check(&sparse, &[("x", numbers(&[2, 20], 1, 0.0))]);
}

#[test]
fn a_state_that_grows_runs_node_by_node() {
    check(&looped(true, 3), &[("x", numbers(&[2, 20], 1, 0.0))]);
}

#[test]
fn both_branches_are_planned() {
    let branch = |function: Unary| {
        let mut branch = Graph::default();
        let x = branch.add_input("x", DataType::F32, vec![]);
        let weight = branch.add_input("weight", DataType::F32, vec![]);
        let y = branch.add_node(Op::MatMul, &[x, weight], "y");
        let y = branch.add_node(Op::Unary(function), &[y], "z");
        branch.outputs.push(y);
        Box::new(branch)
    };
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, [3, 20].map(Dim::Fixed).to_vec());
    let condition = graph.add_input("condition", DataType::Bool, vec![]);
    let weight = graph.add_weight("weight", numbers(&[20, 7], 3, 0.8));
    let op = Op::If { then_branch: branch(Unary::Relu), else_branch: branch(Unary::Exp) };
    let y: ValueId = graph.add_node(op, &[condition, x, weight], "y");
    let sum = graph.add_node(Op::Binary(Binary::Add), &[y, y], "sum");
    graph.outputs.push(sum);
    for condition in [0, 1] {
        let feeds = [("x", numbers(&[3, 20], 1, 0.0)), ("condition", Tensor::scalar(Boolean(condition)))];
        check(&graph, &feeds);
        let executable = prepare(&graph, 2, true);
        for _ in 0..3 {
            executable.run(&views(&feeds)).unwrap();
        }
    }
}
