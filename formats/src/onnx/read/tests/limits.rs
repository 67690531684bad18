//! Small files that would take much memory are refused.

use prost::encoding::{WireType, encode_key};

use super::functions::{function, reference, with_functions};
use super::*;
use crate::onnx::proto::{SparseTensorProto, StringStringEntryProto};

/// A name that is half of a file.
fn long() -> String {
    "s".repeat(300_000)
}

fn relu(input: &str, output: &str) -> NodeProto {
    node("Relu", &[input], &[output], vec![])
}

fn expands(model: &ModelProto) {
    let bytes = model.encode_to_vec();
    assert!(bytes.len() < 1 << 20, "{} bytes", bytes.len());
    let error = read_bytes(&bytes).unwrap_err();
    assert!(matches!(error, OnnxError::Expansion { .. }), "{error}");
}

#[test]
fn empty_messages_are_counted_before_they_are_made() {
    let small = || model(13, graph(&["x"], None, vec![relu("x", "y")], &["y"]));
    // A million empty ones of each field that holds messages of more than some bytes.
    let empty = |tag| {
        let mut one = Vec::new();
        encode_key(tag, WireType::LengthDelimited, &mut one);
        one.push(0);
        one.repeat(1 << 20)
    };
    let mut files: Vec<Vec<u8>> = vec![[small().encode_to_vec(), empty(25)].concat()];
    for tag in [1, 5, 15] {
        // Fields of a message that is there twice are merged.
        let graph = empty(tag);
        let mut bytes = small().encode_to_vec();
        encode_key(7, WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(graph.len() as u64, &mut bytes);
        files.push([bytes, graph].concat());
    }
    for bytes in files {
        let error = read_bytes(&bytes).unwrap_err();
        assert!(matches!(error, OnnxError::Messages { .. }), "{error}");
    }
}

#[test]
fn zeros_and_copies_are_counted_together() {
    let sparse = |k| SparseTensorProto {
        values: Some(TensorProto {
            data_type: 7,
            name: format!("w{k:x}"),
            dims: vec![0],
            ..TensorProto::default()
        }),
        indices: None,
        dims: vec![1 << 17],
    };
    let mut many = graph(&["x"], None, vec![relu("x", "y")], &["y"]);
    many.sparse_initializer = (0..1000).map(sparse).collect();
    let error = read(&model(13, many.clone())).unwrap_err().to_string();
    assert!(error.contains("would take 1048576 bytes for 0 values"), "{error}");
    many.sparse_initializer.truncate(100);
    assert_eq!(read(&model(13, many)).unwrap().values.iter().filter(|v| v.weight.is_some()).count(), 100);
    // Parts of a file beside the model that must be copied, because they are not aligned.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data"), vec![0; 1 << 20]).unwrap();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let copied = |k| TensorProto {
        name: format!("w{k:x}"),
        data_type: 1,
        dims: vec![200_000],
        data_location: 1,
        external_data: vec![entry("location", "data"), entry("offset", "1")],
        ..TensorProto::default()
    };
    let mut many = graph(&["x"], None, vec![relu("x", "y")], &["y"]);
    many.initializer = (0..1000).map(copied).collect();
    let path = folder.path().join("m.onnx");
    std::fs::write(&path, model(13, many).encode_to_vec()).unwrap();
    let error = crate::onnx::read(path).unwrap_err();
    assert!(matches!(error, OnnxError::Expansion { .. }), "{error}");
}

#[test]
fn many_small_nodes_are_fine() {
    let count = 200_000;
    let name = |k: usize| if k == 0 { "x".to_owned() } else { format!("{k:x}") };
    let nodes = (0..count).map(|k| relu(&name(k), &name(k + 1))).collect();
    let read = read_bytes(&model(13, graph(&["x"], None, nodes, &[&name(count)])).encode_to_vec()).unwrap();
    assert_eq!(read.nodes.len(), count);
}

#[test]
fn a_long_name_cannot_be_copied_by_every_call() {
    let calls = || (0..20_000).map(|k| node("local::F", &["x"], &[&format!("y{k:x}")], vec![])).collect();
    let long = long();
    let named = NodeProto { name: long.clone(), ..relu("a", "b") };
    let typed = node(&long, &["a"], &["b"], vec![]);
    let limits = vec![float("min", 0.0), float("max", 6.0)];
    let helped = NodeProto { name: long.clone(), ..node("Clip", &["a"], &["b"], limits) };
    for nodes in [vec![named], vec![typed], vec![helped], vec![relu("a", &long), relu(&long, "b")]] {
        let mut function = function("F", &["a"], &["b"], nodes);
        function.opset_import[0].version = 7;
        expands(&with_functions(calls(), vec![function]));
    }
    // The name of a size.
    let mut declared = function("F", &["a"], &["b"], vec![relu("a", "t"), relu("t", "b")]);
    let size = DimensionValue::DimParam(long.clone());
    let shape = TensorShapeProto { dim: vec![Dimension { value: Some(size) }] };
    let tensor = TypeValue::Tensor(TensorType { elem_type: 1, shape: Some(shape) });
    let r#type = Some(TypeProto { value: Some(tensor) });
    declared.value_info.push(ValueInfoProto { name: "t".into(), r#type });
    expands(&with_functions(calls(), vec![declared]));
    // A long name of the call, before each name of the function.
    let nodes = (0..20_000).map(|k| relu("a", &format!("t{k:x}"))).chain([relu("a", "b")]).collect();
    let call = NodeProto { name: long, ..node("local::F", &["x"], &["y"], vec![]) };
    expands(&with_functions(vec![call], vec![function("F", &["a"], &["b"], nodes)]));
}

#[test]
fn a_long_attribute_cannot_be_copied_by_every_node() {
    let transpose = |k| {
        let perm = reference(ints("perm", &[]), "order");
        node("Transpose", &["a"], &[&format!("t{k:x}")], vec![perm])
    };
    let nodes = (0..10_000).map(transpose).chain([relu("a", "b")]).collect();
    let call = node("local::F", &["x"], &["y"], vec![ints("order", &[1; 100_000])]);
    expands(&with_functions(vec![call], vec![function("F", &["a"], &["b"], nodes)]));
}

#[test]
fn a_long_shape_cannot_be_copied_by_every_body() {
    let branch = |name| body(name, graph(&[], None, vec![relu("x", "b")], &["b"]));
    let choice = |k| {
        let branches = vec![branch("then_branch"), branch("else_branch")];
        node("If", &["c"], &[&format!("y{k:x}")], branches)
    };
    let mut graph = graph(&["x", "c"], Some(1), (0..5_000).map(choice).collect(), &["y0"]);
    let Some(TypeValue::Tensor(x)) = graph.input[0].r#type.as_mut().and_then(|t| t.value.as_mut()) else {
        panic!("x has a type");
    };
    x.shape.as_mut().unwrap().dim[0].value = Some(DimensionValue::DimParam(long()));
    expands(&model(13, graph));
}
