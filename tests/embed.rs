//! The library as a program that embeds it uses it.

use poda::formats::graph::{Node, Value};
use poda::formats::op::ForeignOp;
use poda::formats::{Dim, Op, WriteOptions};
use poda::{DataType, Graph, Model, Options, Tensor, TensorViewMut};

/// `y = x · W`, `[batch, 2]` to `[batch, 3]`.
fn graph() -> Graph {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]);
    let w = graph.add_weight("w", Tensor::from_slice(&[2, 3], &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    graph
}

#[test]
fn a_model_comes_from_bytes_and_tells_what_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["m.onnx", "m.safetensors"] {
        let path = folder.path().join(name);
        poda::formats::write(&graph(), &path, &WriteOptions::default()).unwrap();
        let model = Model::from_bytes(&std::fs::read(path).unwrap()).unwrap();
        let [input] = &model.inputs()[..] else { panic!("{:?}", model.inputs()) };
        assert_eq!((input.name.as_str(), input.dtype), ("x", Some(DataType::F32)));
        assert_eq!(input.shape, Some(vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]));
        assert_eq!(model.outputs()[0].name, "y");
        let executable = model.prepare(Options { threads: Some(1), ..Options::default() }).unwrap();
        let x = Tensor::from_slice(&[1, 2], &[1.0_f32, 10.0]);
        let mut y = [f32::NAN; 3];
        let mut outputs = [("y", TensorViewMut::from_slice(&[1, 3], &mut y))];
        executable.run_into(&[("x", x.view())], &mut outputs).unwrap();
        assert_eq!(y, [41.0, 52.0, 63.0]);
    }
    assert!(Model::from_bytes(b"").is_err());
}

#[test]
fn errors_say_what_kind_they_are() {
    let executable = Model::from_graph(graph()).unwrap().prepare(Options::default()).unwrap();
    let wrong = Tensor::from_slice(&[1, 3], &[0.0_f32; 3]);
    let error = executable.run(&[("x", wrong.view())]).unwrap_err();
    assert!(error.is_input() && !error.is_stopped() && !error.is_memory(), "{error}");

    let mut foreign = graph();
    let z = foreign.add_value(Value { name: "z".into(), ..Value::default() });
    let op = Op::Foreign(ForeignOp {
        domain: "opera".into(),
        op_type: "Sing".into(),
        opset: 1,
        reason: "no voice".into(),
        attributes: Vec::new(),
        captures: 0,
    });
    let y = foreign.outputs[0];
    foreign.nodes.push(Node { name: "sing".into(), op, inputs: vec![Some(y)], outputs: vec![Some(z)] });
    foreign.outputs = vec![z];
    let error = Model::from_graph(foreign).unwrap().prepare(Options::default()).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("Sing"), "{error}");
}
