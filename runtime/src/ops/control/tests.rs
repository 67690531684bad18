use poda_formats::dtype::Boolean;
use poda_formats::graph::{Node, Value};
use poda_formats::op::{Binary, Op, Unary};
use poda_formats::{DataType, Graph, Tensor};

use super::super::testing::{apply, floats, input};
use super::super::{OpError, infer};
use crate::info::Info;

/// Gives `function` of its one capture.
fn branch(function: Unary) -> Graph {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![]);
    let y = graph.add_node(Op::Unary(function), &[x], "y");
    graph.outputs.push(y);
    graph
}

/// Carries a sum, adds the capture to it, goes on while it is below a limit, and gives each sum.
fn counting(limit: f32) -> Graph {
    let mut graph = Graph::default();
    graph.add_input("i", DataType::I64, vec![]);
    graph.add_input("go", DataType::Bool, vec![]);
    let sum = graph.add_input("sum", DataType::F32, vec![]);
    let step = graph.add_input("step", DataType::F32, vec![]);
    let limit = graph.add_weight("limit", Tensor::scalar(limit));
    let next = graph.add_node(Op::Binary(Binary::Add), &[sum, step], "next");
    let go = graph.add_node(Op::Binary(Binary::Less), &[next, limit], "go_on");
    let scan = graph.add_node(Op::Identity, &[next], "scan");
    graph.outputs = vec![go, next, scan];
    graph
}

#[test]
fn the_condition_chooses_the_branch() {
    let op = Op::If { then_branch: Box::new(branch(Unary::Neg)), else_branch: Box::new(branch(Unary::Abs)) };
    for (condition, expected) in [(true, 3.0), (false, 3.0), (true, -2.0)] {
        let x = if condition { -expected } else { -3.0 };
        let inputs = [input(&[], &[Boolean::from(condition)]), input(&[1], &[x])];
        assert_eq!(floats(&apply(&op, &inputs, 1).unwrap()[0]), [expected]);
    }
    let two = [input(&[2], &[Boolean(1); 2]), input(&[1], &[1.0_f32])];
    assert!(apply(&op, &two, 1).is_err());
    assert!(apply(&op, &two[..1], 1).is_err());
}

#[test]
fn a_branch_that_does_not_fit_is_not_taken() {
    let mut squeeze = Graph::default();
    let x = squeeze.add_input("x", DataType::F32, vec![]);
    let axes = squeeze.add_weight("axes", Tensor::from_slice(&[1], &[1_i64]));
    let y = squeeze.add_node(Op::Squeeze, &[x, axes], "y");
    squeeze.outputs.push(y);
    let op = Op::If { then_branch: Box::new(squeeze), else_branch: Box::new(branch(Unary::Abs)) };
    let run = |condition| {
        apply(&op, &[input(&[], &[Boolean::from(condition)]), input(&[1, 2], &[-1.0_f32, 2.0])], 1)
    };
    assert_eq!(floats(&run(false).unwrap()[0]), [1.0, 2.0]);
    assert!(run(true).is_err());
}

#[test]
fn a_loop_carries_scans_and_stops() {
    let op = |limit| Op::Loop { body: Box::new(counting(limit)), carried: 1 };
    let run = |op: &Op, trips: Option<i64>, go: bool, step: f32| {
        let trips = trips.and_then(|t| input(&[], &[t]));
        let inputs = [trips, input(&[], &[Boolean::from(go)]), input(&[], &[0.0_f32]), input(&[], &[step])];
        apply(op, &inputs, 2)
    };
    let result = run(&op(2.5), None, true, 1.0).unwrap();
    assert_eq!((floats(&result[0]), floats(&result[1])), (&[3.0][..], &[1.0, 2.0, 3.0][..]));
    let result = run(&op(9.0), Some(2), true, 1.0).unwrap();
    assert_eq!((floats(&result[0]), result[1].shape()), (&[2.0][..], &[2][..]));
    for (trips, go) in [(Some(0), true), (Some(-1), true), (None, false)] {
        let result = run(&op(9.0), trips, go, 1.0).unwrap();
        assert_eq!((floats(&result[0]), result[1].shape()), (&[0.0][..], &[0][..]));
    }
}

#[test]
fn a_loop_that_never_ends_is_an_error() {
    let mut body = Graph::default();
    body.add_input("i", DataType::I64, vec![]);
    let go = body.add_input("go", DataType::Bool, vec![]);
    body.outputs = vec![go];
    let op = Op::Loop { body: Box::new(body), carried: 0 };
    let result = apply(&op, &[None, None], 0);
    assert!(matches!(result, Err(OpError::OutOfRange { name: "iteration", .. })), "{result:?}");
}

#[test]
fn shapes_that_change_are_not_known() {
    // Carries [x, x] joined: a shape that grows.
    let mut body = Graph::default();
    body.add_input("i", DataType::I64, vec![]);
    let go = body.add_input("go", DataType::Bool, vec![]);
    let x = body.add_input("x", DataType::F32, vec![]);
    let y = body.add_node(Op::Concat { axis: 0 }, &[x, x], "y");
    body.outputs = vec![go, y];
    let op = Op::Loop { body: Box::new(body), carried: 1 };
    let info = Info::new(DataType::F32, vec![1]);
    assert_eq!(infer(&op, &[None, None, Some(&info)], 1), Ok(vec![Info::dynamic(DataType::F32)]));
    let result = apply(&op, &[input(&[], &[3_i64]), None, input(&[1], &[1.0_f32])], 1).unwrap();
    assert_eq!(result[0].shape(), [8]);
    let ints = Info::new(DataType::I32, vec![1]);
    assert!(infer(&op, &[None, None, Some(&ints)], 2).is_err());
}

/// A body with `carried` values: the first grows, and each other takes the shape of the one before, so that their shapes
/// are lost one after the other. Runs `inner` a thousand times beside that.
fn shifting(inner: Option<Op>, carried: usize) -> Graph {
    let mut body = Graph::default();
    body.add_input("i", DataType::I64, vec![]);
    let go = body.add_input("go", DataType::Bool, vec![]);
    let values: Vec<_> =
        (0..carried).map(|k| body.add_input(format!("v{k}"), DataType::F32, vec![])).collect();
    let first = body.add_node(Op::Concat { axis: 0 }, &[values[0], values[0]], "first");
    body.outputs = [&[go, first], &values[..carried - 1]].concat();
    if let Some(op) = inner {
        let trips = body.add_weight("trips", Tensor::scalar(1000_i64));
        let starts =
            (0..carried).map(|k| body.add_weight(format!("w{k}"), Tensor::zeros(DataType::F32, &[0])));
        let inputs = [Some(trips), None].into_iter().chain(starts.map(Some).collect::<Vec<_>>()).collect();
        let mut result =
            || body.add_value(Value { name: format!("r{}", body.values.len()), ..Value::default() });
        let outputs = (0..carried).map(|_| Some(result())).collect();
        body.nodes.push(Node { name: String::new(), op, inputs, outputs });
    }
    body
}

/// Loops in one another, to this depth.
fn nested(depth: usize, carried: usize) -> Op {
    let around = |inner| Op::Loop { body: Box::new(shifting(inner, carried)), carried };
    (0..depth).fold(around(None), |inner, _| around(Some(inner)))
}

#[test]
fn loops_in_loops_share_a_limit() {
    let start = || input(&[0], &[0.0_f32; 0]);
    let result = apply(&nested(1, 1), &[input(&[], &[1000_i64]), None, start()], 1);
    let Err(OpError::Invalid(message)) = result else { panic!("{result:?}") };
    assert!(message.contains("iteration 10001 is out of range"), "{message}");
    // The next run starts anew.
    assert!(apply(&nested(1, 1), &[input(&[], &[5_i64]), None, start()], 1).is_ok());
}

#[test]
fn shapes_in_nested_loops_are_found_or_given_up_in_time() {
    let info = Info::new(DataType::F32, vec![1]);
    let inputs = [&[None, None][..], &[Some(&info); 6]].concat();
    let alone = infer(&nested(0, 6), &inputs, 6).unwrap();
    assert!(alone.iter().all(|info| info.shape.is_none()));
    // Seven passes at each of twelve levels.
    assert!(infer(&nested(11, 6), &inputs, 6).is_err());
}
