//! Model-local functions.

use super::*;
use crate::onnx::proto::FunctionProto;

pub(super) fn function(
    name: &str,
    inputs: &[&str],
    outputs: &[&str],
    nodes: Vec<NodeProto>,
) -> FunctionProto {
    FunctionProto {
        name: name.to_owned(),
        domain: "local".to_owned(),
        input: inputs.iter().map(|&n| n.to_owned()).collect(),
        output: outputs.iter().map(|&n| n.to_owned()).collect(),
        node: nodes,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
        ..FunctionProto::default()
    }
}

pub(super) fn with_functions(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> ModelProto {
    let mut model = model(13, graph(&["x"], None, nodes, &["y"]));
    model.opset_import.push(OperatorSetIdProto { domain: "local".into(), version: 1 });
    model.functions = functions;
    model
}

pub(super) fn reference(mut attribute: AttributeProto, to: &str) -> AttributeProto {
    attribute.ref_attr_name = to.to_owned();
    attribute
}

#[test]
fn a_call_is_replaced_by_the_nodes_of_the_function() {
    let scale = function(
        "Scale",
        &["a", "b"],
        &["out"],
        vec![
            node("Constant", &[], &["two"], vec![float("value_float", 2.0)]),
            node("Mul", &["a", "two"], &["t"], vec![]),
            node("Clip", &["t", "b"], &["out"], vec![]),
        ],
    );
    let nodes =
        vec![node("local::Scale", &["x"], &["h"], vec![]), node("local::Scale", &["h", "x"], &["y"], vec![])];
    let graph = read(&with_functions(nodes, vec![scale])).unwrap();
    assert_eq!(
        show(&graph),
        [
            "Binary(Mul)(x, [2.0]) -> Scale/t",
            "Clip(Scale/t) -> h",
            "Binary(Mul)(h, [2.0]) -> Scale/t_1",
            "Clip(Scale/t_1, x) -> y",
        ]
    );
}

#[test]
fn attributes_pass_through_calls() {
    let inner = FunctionProto {
        attribute_proto: vec![int("axis", 3)],
        attribute: vec!["shape".into()],
        ..function(
            "Inner",
            &["a"],
            &["out"],
            vec![
                node("Constant", &[], &["s"], vec![reference(ints("value_ints", &[]), "shape")]),
                node("Reshape", &["a", "s"], &["r"], vec![]),
                node("Softmax", &["r"], &["out"], vec![reference(int("axis", 0), "axis")]),
            ],
        )
    };
    let outer = function(
        "Outer",
        &["a"],
        &["out"],
        vec![node(
            "local::Inner",
            &["a"],
            &["out"],
            vec![reference(int("axis", 0), "dim"), ints("shape", &[2, 3])],
        )],
    );
    let read = |attributes| {
        let call = node("local::Outer", &["x"], &["y"], attributes);
        show(&read(&with_functions(vec![call], vec![inner.clone(), outer.clone()])).unwrap())
    };
    assert_eq!(read(vec![int("dim", 1)])[1], "Softmax { kind: Softmax, axis: 1 }(Outer/Inner/r) -> y");
    // Not set by the caller: the function's own default.
    assert_eq!(read(vec![])[1], "Softmax { kind: Softmax, axis: 3 }(Outer/Inner/r) -> y");
    assert_eq!(read(vec![])[0], "Reshape { allow_zero: false }(x, [2, 3]) -> Outer/Inner/r");
}

#[test]
fn outputs_may_be_inputs_or_constants() {
    let pair =
        function("Pair", &["a"], &["a", "c"], vec![node("Constant", &[], &["c"], vec![int("value_int", 7)])]);
    let nodes =
        vec![node("local::Pair", &["x"], &["p", "q"], vec![]), node("Add", &["p", "q"], &["y"], vec![])];
    let graph = read(&with_functions(nodes, vec![pair])).unwrap();
    assert_eq!(show(&graph), ["Identity(x) -> p", "Binary(Add)(p, [7]) -> y"]);
}

#[test]
fn bodies_inside_a_function_see_the_function_only() {
    let branch = |input: &str| graph(&[], None, vec![node("Relu", &[input], &["out"], vec![])], &["out"]);
    let choose = |input: &str| {
        let branches = vec![body("then_branch", branch(input)), body("else_branch", branch("a"))];
        function(
            "F",
            &["a"],
            &["r"],
            vec![node("Neg", &["a"], &["n"], vec![]), node("If", &["a"], &["r"], branches)],
        )
    };
    let nodes = || vec![node("Abs", &["x"], &["h"], vec![]), node("local::F", &["h"], &["y"], vec![])];
    let graph = read(&with_functions(nodes(), vec![choose("n")])).unwrap();
    let Op::If { then_branch, .. } = &graph.nodes[2].op else { panic!("{:?}", graph.nodes) };
    assert_eq!(show(then_branch), ["Unary(Relu)(F/n) -> F/out"]);
    let error = read(&with_functions(nodes(), vec![choose("x")])).unwrap_err();
    assert!(matches!(error, OnnxError::Undefined { .. }), "{error}");
}

#[test]
fn hostile_functions_give_errors() {
    let call = |name: &str, output: &str| node(&format!("local::{name}"), &["x"], &[output], vec![]);
    let read = |functions| read(&with_functions(vec![call("F0", "y")], functions)).unwrap_err().to_string();
    let recursive = function("F0", &["x"], &["y"], vec![call("F0", "y")]);
    assert_eq!(read(vec![recursive]), "functions and nested graphs are more than 64 deep at node \"\"");
    // Each calls the one before ten times: 10^12 nodes of a few hundred bytes.
    let mut exponential: Vec<FunctionProto> = (0..12)
        .map(|i| {
            let next = format!("F{}", i + 1);
            let calls = (0..10).map(|k| call(&next, &format!("y{k}"))).collect();
            function(&format!("F{i}"), &["x"], &["y0"], calls)
        })
        .collect();
    exponential.push(function("F12", &["x"], &["y"], vec![node("Relu", &["x"], &["y"], vec![])]));
    assert!(read(exponential).contains("expand to more than"));
    let missing = function("F0", &["x"], &["z"], vec![]);
    assert_eq!(read(vec![missing]), "graph \"F0\" has output \"z\", which nothing defines");
    let none = function("F0", &[], &["y"], vec![]);
    assert_eq!(read(vec![none]), "node \"\" calls function \"F0\" with 1 inputs, which has 0");
    let twice = function("F0", &["x", "x"], &["y"], vec![]);
    assert_eq!(read(vec![twice]), "value \"x\" is defined twice");
    let same = || function("F0", &["x"], &["x"], vec![]);
    assert_eq!(read(vec![same(), same()]), "function \"F0\" is defined twice");
}
