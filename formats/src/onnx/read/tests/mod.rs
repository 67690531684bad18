//! Tests of the reader, over models built as messages.

mod damage;
mod external;
mod functions;
mod limits;
mod models;
mod normalize;
mod tensors;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use bytes::Bytes;
use prost::Message;

use crate::graph::{Graph, ValueId};
use crate::onnx::proto::{
    AttributeProto, AttributeType, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto,
};
use crate::onnx::{OnnxError, read_storage};
use crate::op::Op;
use crate::storage::{AlignedBytes, Storage};
use crate::weight::Weight;

fn read_bytes(bytes: &[u8]) -> Result<Graph, OnnxError> {
    read_storage(Storage::owned(AlignedBytes::copy_of(bytes)))
}

/// Reads a model, and leaves it in the folder `PODA_FUZZ_SEEDS`, if that is set, as a seed for the fuzzer.
fn read(model: &ModelProto) -> Result<Graph, OnnxError> {
    let bytes = model.encode_to_vec();
    if let Some(folder) = std::env::var_os("PODA_FUZZ_SEEDS") {
        let name = format!("{:016x}", BuildHasherDefault::<DefaultHasher>::default().hash_one(&bytes));
        std::fs::write(std::path::Path::new(&folder).join(name), &bytes).unwrap();
    }
    read_bytes(&bytes)
}

fn model(opset: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: [("", opset), ("ai.onnx.ml", 3)]
            .map(|(domain, version)| OperatorSetIdProto { domain: domain.to_owned(), version })
            .to_vec(),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// A graph whose inputs are f32 of rank `rank` and unknown size, or wholly unknown.
fn graph(inputs: &[&str], rank: Option<usize>, nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    let info = |rank: Option<usize>| {
        move |name: &&str| {
            let shape = rank.map(|rank| TensorShapeProto { dim: vec![Dimension::default(); rank] });
            let tensor = TypeValue::Tensor(TensorType { elem_type: 1, shape });
            let r#type = rank.map(|_| TypeProto { value: Some(tensor) });
            ValueInfoProto { name: (*name).to_owned(), r#type }
        }
    };
    GraphProto {
        node: nodes,
        input: inputs.iter().map(info(rank)).collect(),
        output: outputs.iter().map(info(None)).collect(),
        ..GraphProto::default()
    }
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let (domain, op_type) = op_type.rsplit_once("::").unwrap_or(("", op_type));
    let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        input: strings(inputs),
        output: strings(outputs),
        op_type: op_type.to_owned(),
        domain: domain.to_owned(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

fn attribute(name: &str, kind: AttributeType, set: impl FnOnce(&mut AttributeProto)) -> AttributeProto {
    let mut attribute =
        AttributeProto { name: name.to_owned(), r#type: kind as i32, ..AttributeProto::default() };
    set(&mut attribute);
    attribute
}

fn int(name: &str, value: i64) -> AttributeProto {
    attribute(name, AttributeType::Int, |a| a.i = Some(value))
}

fn float(name: &str, value: f32) -> AttributeProto {
    attribute(name, AttributeType::Float, |a| a.f = Some(value))
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    attribute(name, AttributeType::Ints, |a| a.ints = values.to_vec())
}

fn floats(name: &str, values: &[f32]) -> AttributeProto {
    attribute(name, AttributeType::Floats, |a| a.floats = values.to_vec())
}

fn string(name: &str, value: &str) -> AttributeProto {
    attribute(name, AttributeType::String, |a| a.s = Some(Bytes::copy_from_slice(value.as_bytes())))
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    attribute(name, AttributeType::Graph, |a| a.g = Some(Box::new(graph)))
}

fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    attribute(name, AttributeType::Tensor, |a| a.t = Some(Box::new(value)))
}

fn f32s(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: 1,
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

fn i64s(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: 7,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// Each node as `Op(inputs) -> outputs`; weights as their values, names otherwise, `_` for what is absent.
fn show(graph: &Graph) -> Vec<String> {
    let value = |id: &Option<ValueId>| {
        let Some(id) = *id else { return "_".to_owned() };
        match graph.weight(id) {
            Some(Weight::Tensor(tensor)) => {
                let ints = tensor.as_slice::<i64>().map(|v| format!("{v:?}"));
                let floats = tensor.as_slice::<f32>().map(|v| format!("{v:?}"));
                ints.or(floats).unwrap_or_else(|_| format!("{:?}", tensor.bytes()))
            }
            Some(other) => format!("{other:?}"),
            None => graph.value(id).name.clone(),
        }
    };
    let list = |ids: &[Option<ValueId>]| ids.iter().map(value).collect::<Vec<_>>().join(", ");
    let line = |op: &Op| match op {
        Op::Foreign(foreign) => format!("Foreign {}: {}", foreign.op_type, foreign.reason),
        op => format!("{op:?}"),
    };
    graph
        .nodes
        .iter()
        .map(|n| format!("{}({}) -> {}", line(&n.op), list(&n.inputs), list(&n.outputs)))
        .collect()
}
