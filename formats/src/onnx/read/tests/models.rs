//! Whole models: names, constants, control flow, and models that are wrong.

use std::collections::HashSet;

use super::*;
use crate::graph::{Dim, GraphError};
use crate::onnx::proto::{Dimension, DimensionValue, SparseTensorProto, StringStringEntryProto};

fn relu(input: &str, output: &str) -> NodeProto {
    node("Relu", &[input], &[output], vec![])
}

#[test]
fn constants_become_weights() {
    let constant = |output: &str, a| node("Constant", &[], &[output], vec![a]);
    let nodes = vec![
        constant("a", tensor("value", f32s("", &[2], &[1.0, 2.0]))),
        constant("b", float("value_float", 3.0)),
        constant("c", ints("value_ints", &[4, 5])),
        constant("d", floats("value_floats", &[])),
        constant("e", int("value_int", 6)),
        constant("unused", string("value_string", "text")),
        node("Concat", &["a", "b", "c", "d", "e"], &["y"], vec![int("axis", 0)]),
    ];
    let graph = read(&model(13, graph(&[], None, nodes.clone(), &["y"]))).unwrap();
    assert_eq!(show(&graph), ["Concat { axis: 0 }([1.0, 2.0], [3.0], [4, 5], [], [6]) -> y"]);
    let mut text = nodes;
    text.push(relu("unused", "z"));
    let error = read(&model(13, super::graph(&[], None, text, &["z"]))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node \"\" uses \"unused\", a value of type STRING, which is not supported"
    );
}

#[test]
fn initializers_that_are_inputs_too_are_weights() {
    let mut proto = graph(&["x", "w"], Some(1), vec![node("Add", &["x", "w"], &["y"], vec![])], &["y"]);
    proto.initializer = vec![f32s("w", &[1], &[2.0])];
    let graph = read(&model(8, proto)).unwrap();
    assert_eq!(graph.inputs.len(), 1);
    assert_eq!(show(&graph), ["Binary(Add)(x, [2.0]) -> y"]);
}

#[test]
fn declared_shapes_and_metadata_are_kept() {
    let mut proto = graph(&["x"], Some(3), vec![relu("x", "y")], &["y"]);
    let Some(TypeValue::Tensor(x)) = proto.input[0].r#type.as_mut().and_then(|t| t.value.as_mut()) else {
        panic!()
    };
    let dim = |value| Dimension { value: Some(value) };
    x.shape.as_mut().unwrap().dim = vec![
        dim(DimensionValue::DimParam("batch".into())),
        dim(DimensionValue::DimValue(3)),
        dim(DimensionValue::DimValue(-1)),
    ];
    let mut model = model(13, proto);
    model.producer_name = "pytorch".into();
    model.metadata_props = vec![StringStringEntryProto { key: "task".into(), value: "ocr".into() }];
    let graph = read(&model).unwrap();
    let symbol = |name: &str| Dim::Symbol(name.to_owned());
    assert_eq!(graph.value(graph.inputs[0]).shape, Some(vec![symbol("batch"), Dim::Fixed(3), symbol("")]));
    let metadata: Vec<_> = graph.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("onnx.ir_version", "8"),
        ("onnx.opset", "13"),
        ("onnx.opset.ai.onnx.ml", "3"),
        ("onnx.producer_name", "pytorch"),
        ("task", "ocr"),
    ];
    assert_eq!(metadata, expected);
}

#[test]
fn nodes_in_any_order_without_names_or_with_the_same() {
    let mut nodes = vec![relu("a", "y"), relu("x", "a")];
    nodes[0].name = "same".into();
    nodes[1].name = "same".into();
    let graph = read(&model(13, graph(&["x"], None, nodes, &["y"]))).unwrap();
    assert_eq!(show(&graph), ["Unary(Relu)(x) -> a", "Unary(Relu)(a) -> y"]);
}

#[test]
fn bodies_take_what_they_capture_as_inputs() {
    let branch = |node| graph(&[], None, vec![node], &["out"]);
    let then_branch = branch(node("Add", &["x", "w"], &["out"], vec![]));
    let else_branch = branch(node("Mul", &["hidden", "x"], &["out"], vec![]));
    let attributes = vec![body("then_branch", then_branch), body("else_branch", else_branch)];
    let nodes = vec![node("If", &["c"], &["y"], attributes), relu("x", "hidden")];
    let mut proto = graph(&["c", "x"], None, nodes, &["y"]);
    proto.initializer = vec![f32s("w", &[1], &[2.0])];
    let graph = read(&model(13, proto)).unwrap();
    let Op::If { then_branch, else_branch } = &graph.nodes[1].op else { panic!("{:?}", graph.nodes) };
    // The weight is a weight inside; the others come in, to both branches alike.
    assert_eq!(show(then_branch), ["Binary(Add)(x, [2.0]) -> out"]);
    assert_eq!(show(else_branch), ["Binary(Mul)(hidden, x) -> out"]);
    let names =
        |g: &Graph, ids: &[ValueId]| ids.iter().map(|&id| g.value(id).name.clone()).collect::<Vec<_>>();
    assert_eq!(names(then_branch, &then_branch.inputs), ["x", "hidden"]);
    assert_eq!(names(else_branch, &else_branch.inputs), ["x", "hidden"]);
    let inputs: Vec<ValueId> = graph.nodes[1].inputs.iter().map(|id| id.unwrap()).collect();
    assert_eq!(names(&graph, &inputs), ["c", "x", "hidden"]);
}

#[test]
fn captures_pass_through_the_bodies_in_between() {
    let inner = graph(&[], None, vec![relu("x", "out")], &["out"]);
    let choose = |body_of: &GraphProto, output: &str| {
        let branches = vec![body("then_branch", body_of.clone()), body("else_branch", body_of.clone())];
        node("If", &["c"], &[output], branches)
    };
    let middle = graph(&[], None, vec![choose(&inner, "mid")], &["mid"]);
    let graph = read(&model(13, graph(&["c", "x"], None, vec![choose(&middle, "y")], &["y"]))).unwrap();
    assert_eq!(graph.nodes[0].inputs.len(), 3);
    let Op::If { then_branch, .. } = &graph.nodes[0].op else { panic!() };
    assert_eq!((then_branch.inputs.len(), then_branch.nodes[0].inputs.len()), (2, 2));
}

#[test]
fn loops_carry_values() {
    let nodes = vec![
        node("Add", &["v", "x"], &["v2"], vec![]),
        node("Identity", &["cond"], &["cond2"], vec![]),
        relu("v2", "scan"),
    ];
    let step = graph(&["i", "cond", "v"], None, nodes, &["cond2", "v2", "scan"]);
    let repeat = node("Loop", &["n", "", "x"], &["last", "all"], vec![body("body", step)]);
    let graph = read(&model(13, graph(&["n", "x"], None, vec![repeat], &["last", "all"]))).unwrap();
    let Op::Loop { body, carried: 1 } = &graph.nodes[0].op else { panic!("{:?}", graph.nodes) };
    assert_eq!((body.inputs.len(), body.outputs.len(), graph.nodes[0].inputs.len()), (4, 3, 4));
}

#[test]
fn a_scan_is_a_loop_that_gathers() {
    let scan = |attributes: Vec<AttributeProto>| {
        let nodes = vec![node("Add", &["s", "e"], &["s2"], vec![]), relu("s2", "r")];
        let mut all =
            vec![body("body", graph(&["s", "e"], None, nodes, &["s2", "r"])), int("num_scan_inputs", 1)];
        all.extend(attributes);
        let scan = node("Scan", &["start", "x"], &["last", "all"], all);
        read(&model(13, graph(&["start", "x"], None, vec![scan], &["last", "all"]))).unwrap()
    };
    let forward = scan(vec![ints("scan_input_axes", &[-1])]);
    assert_eq!(show(&forward)[0], "Shape { start: -1, end: None }(x) -> Scan_length");
    let looped = forward.nodes.last().unwrap();
    let Op::Loop { body, carried: 1 } = &looped.op else { panic!("{:?}", forward.nodes) };
    let names: Vec<_> = body.inputs.iter().map(|&id| body.value(id).name.as_str()).collect();
    assert_eq!(names, ["step", "condition", "s", "x"]);
    assert!(show(body).contains(&"Gather { axis: -1 }(x, step) -> e".to_owned()), "{:?}", show(body));
    let backward = scan(vec![ints("scan_input_directions", &[1])]);
    let Op::Loop { body, .. } = &backward.nodes.last().unwrap().op else { panic!("{:?}", backward.nodes) };
    assert!(show(body).contains(&"Gather { axis: 0 }(x, backwards) -> e".to_owned()), "{:?}", show(body));
    let other = scan(vec![ints("scan_output_axes", &[1])]);
    let Op::Foreign(foreign) = &other.nodes[0].op else { panic!("{:?}", other.nodes) };
    assert_eq!(foreign.reason, "[1] for attribute \"scan_output_axes\" is not supported");
}

#[test]
fn sparse_initializers_are_csr() {
    let sparse = |dims: &[i64], indices: TensorProto, values: &[f32]| SparseTensorProto {
        dims: dims.to_vec(),
        indices: Some(indices),
        values: Some(f32s("w", &[values.len() as i64], values)),
    };
    let read = |sparse| {
        let mut proto = graph(&["x"], None, vec![node("MatMul", &["x", "w"], &["y"], vec![])], &["y"]);
        proto.sparse_initializer = vec![sparse];
        let graph = read(&model(13, proto))?;
        Ok::<_, OnnxError>(graph.weight(graph.find("w").unwrap()).unwrap().clone())
    };
    let values = [1.0, 2.0, 3.0];
    for indices in [i64s("", &[3], &[1, 3, 5]), i64s("", &[3, 2], &[0, 1, 1, 0, 1, 2])] {
        let weight = read(sparse(&[2, 3], indices, &values)).unwrap();
        assert!(weight.is_sparse());
        assert_eq!(weight.to_dense().unwrap().as_slice::<f32>().unwrap(), [0.0, 1.0, 0.0, 2.0, 0.0, 3.0]);
    }
    let vector = read(sparse(&[6], i64s("", &[3], &[0, 1, 4]), &values)).unwrap();
    assert_eq!(vector.to_dense().unwrap().as_slice::<f32>().unwrap(), [1.0, 2.0, 0.0, 0.0, 3.0, 0.0]);
    for (dims, indices) in [
        (&[2, 3][..], i64s("", &[3], &[1, 1, 5])),
        (&[2, 3], i64s("", &[3], &[1, 3, 6])),
        (&[2, 3], i64s("", &[3], &[-1, 3, 5])),
        (&[2, 3], i64s("", &[3, 2], &[0, 1, 1, 3, 1, 2])),
        (&[2, 3], i64s("", &[2], &[1, 3])),
        (&[2, 3], i64s("", &[3, 1], &[1, 3, 5])),
        (&[2, -3], i64s("", &[3], &[1, 3, 5])),
        (&[1 << 40, 1 << 40], i64s("", &[3], &[1, 3, 5])),
        (&[1 << 30, 3], i64s("", &[3], &[1, 3, 5])),
        (&[1 << 50], i64s("", &[3], &[1, 3, 5])),
    ] {
        let error = read(sparse(dims, indices, &values)).unwrap_err();
        assert!(matches!(error, OnnxError::Tensor { .. }), "{error}");
    }
}

#[test]
fn wrong_models_give_errors() {
    let good = || graph(&["x"], None, vec![relu("x", "y")], &["y"]);
    let error = |opset, proto: GraphProto| read(&model(opset, proto)).unwrap_err().to_string();
    let with = |change: &dyn Fn(&mut GraphProto)| {
        let mut proto = good();
        change(&mut proto);
        error(13, proto)
    };
    assert_eq!(error(29, good()), "the model is of ONNX operator set 29; 1 to 28 are supported");
    assert_eq!(error(0, good()), "the model is of ONNX operator set 0; 1 to 28 are supported");
    assert_eq!(read_bytes(&[]).unwrap_err().to_string(), "not an ONNX model: it has no graph");
    let undefined = with(&|g| g.node[0].input[0] = "z\u{1b}[2J".into());
    assert_eq!(undefined, "node \"\" (\"Relu\") uses \"z\\u{1b}[2J\", which nothing defines before");
    assert_eq!(
        with(&|g| g.output[0].name = "z".into()),
        "graph \"\" has output \"z\", which nothing defines"
    );
    assert_eq!(with(&|g| g.node.push(relu("x", "y"))), "value \"y\" is defined twice");
    assert_eq!(with(&|g| g.node[0].output[0] = "x".into()), "value \"x\" is defined twice");
    assert_eq!(
        with(&|g| g.input[0].name = String::new()),
        "an input or initializer of graph \"\" has no name"
    );
    let cycle = with(&|g| g.node = vec![relu("b", "a"), relu("a", "b"), relu("x", "y")]);
    assert_eq!(cycle, "nodes form a cycle through \"a\"");
    assert!(with(&|g| g.node[0].input.clear()).contains("lacks input 0"));
    assert!(with(&|g| g.node[0].output.push("z".into())).contains("2 outputs, 1 at most"));
    let mut no_opset = model(13, good());
    no_opset.opset_import.clear();
    let no_opset = read(&no_opset).unwrap_err().to_string();
    assert!(no_opset.contains("does not say which operator set of domain \"\""), "{no_opset}");
    let outside = with(&|g| {
        let mut reference = int("axis", 0);
        reference.ref_attr_name = "axis".into();
        g.node[0].attribute.push(reference);
    });
    assert_eq!(
        outside,
        "attribute \"axis\" of node \"\" refers to a function's attribute outside a function"
    );
}

#[test]
fn foreign_operators_keep_what_their_bodies_capture() {
    let step = graph(&["in"], None, vec![node("Add", &["in", "hidden"], &["out"], vec![])], &["out"]);
    let scan = node("SequenceMap", &["x"], &["y"], vec![int("other", 1), body("body", step)]);
    let mut graph = read(&model(13, graph(&["x"], None, vec![relu("x", "hidden"), scan], &["y"]))).unwrap();
    graph.remove_unused();
    let Op::Foreign(foreign) = &graph.nodes[1].op else { panic!("{:?}", graph.nodes) };
    assert_eq!((foreign.captures, foreign.attributes.len(), graph.nodes[1].inputs.len()), (1, 2, 2));
    let attribute = AttributeProto::decode(foreign.attributes[1].as_slice()).unwrap();
    assert_eq!(attribute.name, "body");
}

#[test]
fn nesting_has_a_limit() {
    let mut inner = graph(&[], None, vec![relu("x", "y")], &["y"]);
    for _ in 0..40 {
        let branches = vec![body("then_branch", inner.clone()), body("else_branch", GraphProto::default())];
        inner = graph(&[], None, vec![node("If", &["x"], &["y"], branches)], &["y"]);
    }
    inner.input = graph(&["x"], None, vec![], &[]).input;
    let error = read(&model(13, inner)).unwrap_err();
    assert!(error.to_string().contains("recursion limit"), "{error}");
}

#[test]
fn many_nodes_take_linear_time() {
    let count = 20_000;
    let nodes = (0..count).map(|i| relu(&format!("v{i}"), &format!("v{}", i + 1))).collect();
    let graph = read(&model(13, graph(&["v0"], None, nodes, &[&format!("v{count}")]))).unwrap();
    assert_eq!(graph.nodes.len(), count);
    let names: HashSet<&str> = graph.values.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names.len(), count + 1);
}

#[test]
fn graph_errors_come_through() {
    let proto = graph(&["x"], None, vec![node("Add", &["x"], &["y"], vec![])], &["y"]);
    let error = read(&model(13, proto)).unwrap_err();
    assert!(matches!(error, OnnxError::Graph(GraphError::MissingInput { input: 1, .. })), "{error}");
}
