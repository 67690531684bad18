//! What people see: tables that fit, names, hints, values.

use poda::formats::graph::Node;
use poda::formats::op::{Binary, Unary};
use poda::formats::{Dim, Op, Value, WriteOptions};
use poda::{DataType, Graph, Tensor, arrays};

use crate::program::{Dir, mlp};

/// The small MLP with names as exporters write them.
fn long_names() -> Graph {
    let mut graph = mlp();
    for value in &mut graph.values {
        if value.name != "x" {
            value.name = format!("/model/encoder/layers.0/attention/self/dense_projection/{}", value.name);
        }
    }
    for (index, node) in graph.nodes.iter_mut().enumerate() {
        node.name = format!("/model/encoder/layers.0/attention/self/dense_projection/node_{index}");
    }
    graph
}

#[test]
fn every_table_fits_80_columns() {
    let dir = Dir::new();
    poda::formats::write(&long_names(), dir.path("long.onnx"), &WriteOptions::default()).unwrap();
    std::fs::create_dir(dir.path("a_folder_with_a_long_name_in_which_models_are_kept")).unwrap();
    let copy = "a_folder_with_a_long_name_in_which_models_are_kept/long.onnx";
    std::fs::copy(dir.path("long.onnx"), dir.path(copy)).unwrap();
    for (args, tables) in [
        (&["inspect", "long.onnx", "--nodes", "--kernels"][..], "kernel"),
        (&["inspect", "long.onnx", "--passes"], "norm-parameters"),
        (&["tune", "long.onnx"], "kernel"),
        (&["prune", "long.onnx", "-o", "p.onnx", "--sparsity", "0.5"], "MACs"),
        (&["prune", "long.onnx", "--dry-run", "--sparsity", "0.5", "--granularity", "channel"], "units"),
        (&["convert", "long.onnx", "-o", "q.safetensors", "--values", "int8"], "relative RMS"),
        (&["run", "long.onnx", "--random", "--profile"], "of roof"),
        (&["bench", "long.onnx", copy, "--seconds", "0", "--profile"], "samples/s"),
    ] {
        let shown = dir.poda(args).ok();
        assert!(shown.contains(tables), "{args:?}: {shown}");
        // Sentences may be longer: a terminal breaks them.
        let sentence = |line: &str| {
            line.starts_with("note: ")
                || line.contains(": ")
                || line.contains(" -> ")
                || line.contains("kept in")
        };
        for line in shown.lines().filter(|line| !sentence(line)) {
            assert!(line.chars().count() <= 80, "{args:?}: {line}");
        }
        assert!(args[0] != "bench" || shown.contains("models_are_kept/long.onnx"), "{shown}");
    }
}

#[test]
fn passes_are_listed_and_left_out() {
    let dir = Dir::new();
    let mut graph = mlp();
    let y = graph.outputs[0];
    let half = graph.add_weight("half", Tensor::from_slice(&[], &[0.5_f32]));
    let root = graph.add_weight("root", Tensor::from_slice(&[], &[std::f32::consts::SQRT_2]));
    let one = graph.add_weight("one", Tensor::from_slice(&[], &[1.0_f32]));
    let scaled = graph.add_node(Op::Binary(Binary::Div), &[y, root], "scaled");
    let erf = graph.add_node(Op::Unary(Unary::Erf), &[scaled], "erf");
    let sum = graph.add_node(Op::Binary(Binary::Add), &[erf, one], "sum");
    let gated = graph.add_node(Op::Binary(Binary::Mul), &[y, sum], "gated");
    let gelu = graph.add_node(Op::Binary(Binary::Mul), &[gated, half], "gelu");
    graph.outputs = vec![gelu];
    poda::formats::write(&graph, dir.path("gelu.onnx"), &WriteOptions::default()).unwrap();
    let inspect = |more: &[&str]| {
        let args = [&["inspect", "gelu.onnx", "--passes", "--json"], more].concat();
        dir.poda(&args).json()["passes"].clone()
    };
    let all = inspect(&[]);
    let (nodes, steps) = (all["nodes"].as_u64().unwrap(), all["steps"].as_u64().unwrap());
    assert_eq!(all["optimized_nodes"].as_u64().unwrap(), nodes - 4, "{all}");
    let row = |passes: &serde_json::Value, name: &str| {
        let rows = passes["passes"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (row(&all, "activations")["changes"].as_u64(), &row(&all, "activations")["nodes"]),
        (Some(1), &(-4).into())
    );
    let without = inspect(&["--without-pass", "activations,chains"]);
    assert_eq!(without["optimized_nodes"].as_u64().unwrap(), nodes);
    assert_eq!(row(&without, "activations")["on"], false);
    assert!(without["steps"].as_u64().unwrap() > steps, "{without}");
    let run = |more: &[&str]| dir.poda(&[&["run", "gelu.onnx", "--random"], more].concat()).ok();
    assert!(run(&["--without-pass", "all"]).contains("gelu"));
    dir.poda(&["run", "gelu.onnx", "--random", "--without-pass", "gelus"]).exit(2);
}

#[test]
fn a_model_without_inputs_runs_and_one_array_feeds_one_input() {
    let dir = Dir::new();
    let mut graph = Graph::default();
    let w = graph.add_weight("w", Tensor::from_slice(&[7], &[0.0_f32, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    let y = graph.add_node(Op::Unary(Unary::Relu), &[w], "y");
    graph.outputs.push(y);
    poda::formats::write(&graph, dir.path("none.onnx"), &WriteOptions::default()).unwrap();
    let shown = dir.poda(&["run", "none.onnx", "-o", "y.npz"]).ok();
    assert!(shown.contains("greatest at 1: 9.0000, 6: 5.0000"), "{shown}");
    assert_eq!(arrays::read(dir.path("y.npz")).unwrap()["y"].len(), 7);
    dir.poda(&["run", "none.onnx", "--random"]).ok();
    dir.mlp();
    let one = [("whatever".into(), Tensor::from_slice(&[2, 16], &[0.5_f32; 32]))];
    arrays::write_npz(dir.path("one.npz"), &one).unwrap();
    let shown = dir.poda(&["run", "mlp.onnx", "--input", "one.npz"]).ok();
    assert!(shown.contains("[2, 4]") && shown.contains(", …"), "{shown}");
    let said = dir.poda(&["run", "mlp.onnx", "--input", "one.npz", "--json"]).json();
    assert_eq!(said["outputs"][0]["first"].as_array().unwrap().len(), 5);
}

#[test]
fn open_dimensions_are_the_same_to_every_command() {
    let dir = Dir::new();
    let symbol = |name: &str| Dim::Symbol(name.into());
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![symbol("batch"), symbol("steps"), Dim::Fixed(3)]);
    let w = graph.add_weight("w", Tensor::from_slice(&[3, 2], &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    poda::formats::write(&graph, dir.path("open.onnx"), &WriteOptions::default()).unwrap();
    for command in [&["run", "--random"][..], &["inspect"], &["tune"], &["bench", "--seconds", "0"]] {
        let with = |flags: &[&str]| dir.poda(&[command, flags, &["open.onnx", "--json"]].concat());
        let said = with(&[]).json().to_string();
        assert!(said.contains("steps = 128") && said.contains("--shape x=1x128x3"), "{command:?}: {said}");
        for flags in [&["--shape", "x=1x9x3"], &["--shape", "steps=9"]] {
            assert!(!with(flags).json().to_string().contains("steps = "), "{command:?} {flags:?}");
        }
        let line = with(&["--shape", "x=1x9"]).error();
        assert!(line.contains("3 dimensions, 2 given"), "{line}");
        let line = with(&["--shape", "z=9"]).error();
        assert!(line.contains("\"x\" [batch, steps, 3]"), "{line}");
        with(&["--shape", "z=nine"]).exit(2);
    }
    dir.poda(&["prune", "open.onnx", "--dry-run", "--sparsity", "0.5", "--shape", "steps=9"]).ok();
    dir.poda(&["prune", "open.onnx", "--dry-run", "--sparsity", "0.5", "--shape", "z=9"]).error();
}

#[test]
fn weights_in_bodies_are_counted() {
    let dir = Dir::new();
    let branch = |name: &str| {
        let mut body = mlp();
        // Values of the main graph come in as inputs; here the body feeds itself.
        let x = body.inputs.pop().unwrap();
        body.value_mut(x).weight = Some(Tensor::from_slice(&[1, 16], &[0.5_f32; 16]).into());
        body.name = name.into();
        body
    };
    let mut graph = Graph::default();
    let which = graph.add_input("which", DataType::Bool, vec![]);
    let y = graph.add_value(Value { name: "y".into(), ..Value::default() });
    let op = Op::If { then_branch: Box::new(branch("a")), else_branch: Box::new(branch("b")) };
    graph.nodes.push(Node { name: "if".into(), op, inputs: vec![Some(which)], outputs: vec![Some(y)] });
    graph.outputs.push(y);
    poda::formats::write(&graph, dir.path("if.onnx"), &WriteOptions::default()).unwrap();
    let said = dir.poda(&["inspect", "if.onnx", "--json"]).json();
    assert!(said["parameters"].as_u64().unwrap() >= 2 * (32 * 16 + 32 + 4 * 32), "{said}");
    assert_eq!(said["operators"]["Gemm"], 4);
    assert!(said["bodies"].as_str().unwrap().contains("outside of If and Loop"));
}

/// A kernel belongs to its product, whatever is fused after it.
#[test]
fn kernels_are_listed_by_their_products() {
    let dir = Dir::new();
    let mut graph = mlp();
    for (node, name) in graph.nodes.iter_mut().zip(["first", "relu", "second"]) {
        node.name = name.into();
    }
    poda::formats::write(&graph, dir.path("named.onnx"), &WriteOptions::default()).unwrap();
    let said = dir.poda(&["tune", "named.onnx", "--json"]).json();
    let names: Vec<_> =
        said["layers"].as_array().unwrap().iter().map(|layer| layer["name"].clone()).collect();
    assert_eq!(names, ["first", "second"]);
}
